# A container image that has the package for Debian in it, as an OCI archive.
#
# buildah keeps it as localhost/registry-appliance:VERSION as well, where it keeps all images.

build_image() {
  need buildah buildah
  need dpkg-deb dpkg
  local context=$work/context version name made
  mkdir "$context"
  [ "$package" ] || package=$("$here/build" deb "$work" ${suffix:+--version-suffix "$suffix"})
  version=$(dpkg-deb --field "$package" Version)
  cp "$package" "$context/registry-appliance.deb"
  cp "$here/Containerfile" "$here"/image/* "$context"
  name=localhost/registry-appliance:$version
  buildah build --isolation chroot --format oci --build-arg "BASE=$base" --tag "$name" "$context"
  made=$target/registry-appliance-$version.oci.tar
  rm -f "$made"
  buildah push --quiet "$name" "oci-archive:$made:$name"
  echo "$made" >&3
}
