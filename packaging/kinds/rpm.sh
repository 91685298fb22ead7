# The package for rpm: the files of the one for Debian, with each where that family has it.

build_rpm() {
  need rpmbuild rpm
  need dpkg-deb dpkg
  need objdump binutils
  local root=$work/root version minor made
  [ "$package" ] || package=$("$here/build" deb "$work" ${suffix:+--version-suffix "$suffix"})
  version=$(dpkg-deb --field "$package" Version)
  dpkg-deb --extract "$package" "$root"
  minor=$(find "$root$home/lib" -mindepth 1 -maxdepth 1 -type d)
  relocate "$root"
  list_files "$root" >"$work/files"
  sed -e "s/@VERSION@/$version/; s/@MINOR@/${minor##*.}/g; s/@FIRST@/${minors%% *}/; s/@NEXT@/$((${minors##* } + 1))/" \
    -e "s/@LIBC@/$(libc_of "$root")/" \
    -e "s|@TREE@|$root|; s|@FILES@|$work/files|; s/@UNITS@/$(units_of "$root/usr")/" \
    "$here/rpm/registry-appliance.spec" >"$work/registry-appliance.spec"
  rpmbuild -bb --quiet --nodeps --define "_topdir $work/rpm" --define "_rpmdir $work/made" \
    --define '_binary_payload w10.zstdio' --define '_buildhost localhost' "$work/registry-appliance.spec"
  made=$(basename "$work"/made/*/*.rpm)
  mv "$work"/made/*/*.rpm "$target/$made"
  echo "$target/$made" >&3
}

relocate() {
  local share=$1/usr/share
  mv "$1/lib/systemd" "$1/usr/lib/systemd"
  rmdir "$1/lib"
  mv "$share/zsh/vendor-completions" "$share/zsh/site-functions"
  mkdir "$share/licenses"
  mv "$share/doc/registry-appliance" "$share/licenses/registry-appliance"
  rm -r "$share/doc" "$share/lintian" "$share/licenses/registry-appliance/changelog.gz"
  cp "$checkout/LICENSE" "$share/licenses/registry-appliance"
}

# The files with their modes and owners, and those folders that are ours alone.
list_files() {
  echo '%defattr(-, root, root)'
  (
    cd "$1"
    find . \( -type f -o -type l \) ! -path ./etc/registry.toml ! -path './usr/share/man/*' -printf '"/%P"\n'
    find usr/lib/registry-appliance usr/share/licenses/registry-appliance -type d -printf '%%dir "/%p"\n'
    find usr/share/man -type f -printf '%%doc "/%p"\n'
  )
  echo '%config(noreplace) /etc/registry.toml'
}
