# The wheel, which pip installs: as root below /usr/local, where systemd finds the units at once.

build_wheel() {
  make_pip
  take_source
  make_wheel "$target"
  echo "$wheel" >&3
}
