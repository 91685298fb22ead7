# The package for Debian: the tree of an installed registry, and what happens when it comes, changes and goes.

build_deb() {
  need dpkg-deb dpkg
  maintainer="${DEBFULLNAME:-Whoever built this} <${DEBEMAIL:-registry@localhost.localdomain}>"
  make_pip
  take_source
  local root=$work/root
  make_tree "$root"
  # Where Debian's zsh looks.
  mv "$root/usr/share/zsh/site-functions" "$root/usr/share/zsh/vendor-completions"
  documentation "$root"
  control "$root"
  find "$root" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
  local made
  made=$target/registry-appliance_${version}_$(dpkg --print-architecture).deb
  dpkg-deb --root-owner-group -Zxz --build "$root" "$made"
  echo "$made" >&3
}

documentation() {
  local folder=$1/usr/share/doc/registry-appliance overrides=$1/usr/share/lintian/overrides
  local site=$home/lib/python3.$python_minor/site-packages
  mkdir -p "$folder" "$overrides"
  /usr/bin/python3 "$here/copyright.py" "$1$site" "$site" >"$folder/copyright"
  printf 'registry-appliance (%s) stable; urgency=medium\n\n  * See https://pypi.org/project/registry-appliance/.\n\n -- %s  %s\n' \
    "$version" "$maintainer" "$(date --utc --rfc-email --date="@$SOURCE_DATE_EPOCH")" |
    gzip --best --no-name >"$folder/changelog.gz"
  cp "$here/deb/lintian-overrides" "$overrides/registry-appliance"
}

control() {
  local root=$1 folder=$1/DEBIAN size file
  size=$(du --summarize --apparent-size --block-size=1024 "$root" | cut -f1)
  mkdir "$folder"
  sed -e "s/@VERSION@/$version/; s/@ARCHITECTURE@/$(dpkg --print-architecture)/; s/@SIZE@/$size/; s/@LIBC@/$(libc_of "$root")/" \
    -e "s/@MAINTAINER@/${maintainer//[\/&]/}/" \
    -e "s/@MINOR@/${minors%% *}/; s/@NEXT@/$((${minors##* } + 1))/" "$here/deb/control" >"$folder/control"
  for file in config postinst prerm postrm; do
    sed "s/@UNITS@/$(units_of "$root")/; s/@BUILT_MINOR@/$python_minor/" "$here/deb/$file" >"$folder/$file"
    chmod 755 "$folder/$file"
  done
  cp "$here/deb/templates" "$folder/templates"
  echo /etc/registry.toml >"$folder/conffiles"
  (cd "$root" && find . -path ./DEBIAN -prune -o -type f ! -path ./etc/registry.toml -printf '%P\n' |
    LC_ALL=C sort | xargs -d '\n' md5sum) >"$folder/md5sums"
}
