# The package for rpm: the same tree, with units where every distribution of that family has them.

build_rpm() {
  need rpmbuild rpm
  make_pip
  take_source
  local root=$work/root site=$home/lib/python3.$python_minor/site-packages
  make_tree "$root"
  mv "$root/lib/systemd" "$root/usr/lib/systemd"
  rmdir "$root/lib"
  mkdir -p "$root/usr/share/licenses/registry-appliance"
  /usr/bin/python3 "$here/copyright.py" "$root$site" "$site" >"$root/usr/share/licenses/registry-appliance/copyright"
  cp "$source/LICENSE" "$root/usr/share/licenses/registry-appliance"
  list_files "$root" >"$work/files"
  sed -e "s/@VERSION@/$version/; s/@MINOR@/$python_minor/; s/@LIBC@/$(libc_of "$root")/" \
    -e "s|@TREE@|$root|; s|@FILES@|$work/files|; s/@UNITS@/$(units_of "$root/usr")/" \
    "$here/rpm/registry-appliance.spec" >"$work/registry-appliance.spec"
  rpmbuild -bb --quiet --nodeps --define "_topdir $work/rpm" --define "_rpmdir $work/made" \
    --define '_binary_payload w6.xzdio' --define '_buildhost localhost' "$work/registry-appliance.spec"
  local made
  made=$(basename "$work"/made/*/*.rpm)
  mv "$work"/made/*/*.rpm "$target/$made"
  echo "$target/$made" >&3
}

# The files with their modes and owners, and those folders that are ours alone.
list_files() {
  echo '%defattr(-, root, root)'
  (cd "$1" && find . \( -type f -o -type l \) ! -path ./etc/registry.toml ! -path './usr/share/man/*' -printf '"/%P"\n')
  (cd "$1" && find usr/lib/registry-appliance usr/share/licenses/registry-appliance -type d -printf '%%dir "/%p"\n')
  (cd "$1" && find usr/share/man -type f -printf '%%doc "/%p"\n')
  echo '%config(noreplace) /etc/registry.toml'
}
