# Saying no, and having the tools that a build needs.

refuse() {
  printf 'packaging/build: %s.\n' "$*" >&2
  exit 2
}

# need PROGRAM PACKAGE: have a program, which that package of Debian brings.
need() {
  if command -v "$1" >/dev/null; then return; fi
  install_debian "$2"
  command -v "$1" >/dev/null || refuse "$1 is missing; install it (on Debian: apt install $2)"
}

# need_file FILE PACKAGE: the same for what is no program.
need_file() {
  if [ -e "$1" ]; then return; fi
  install_debian "$2"
  [ -e "$1" ] || refuse "$1 is missing; install it (on Debian: apt install $2)"
}

install_debian() {
  if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then return; fi
  echo "packaging/build: installing $1"
  apt_install "$1" || { apt-get -q update && apt_install "$1"; } || true
}

apt_install() {
  DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install "$1" </dev/null
}

# The system's own Python, for which packages are made.
need_python() {
  [ -x /usr/bin/python3 ] || need /usr/bin/python3 python3
  /usr/bin/python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    refuse "/usr/bin/python3 is older than 3.11; build on a system that has a newer one"
  /usr/bin/python3 -c 'import ensurepip, venv' 2>/dev/null || install_debian python3-venv
  /usr/bin/python3 -c 'import ensurepip, venv' 2>/dev/null ||
    refuse "/usr/bin/python3 makes no virtual environments; install what does (on Debian: apt install python3-venv)"
  python_minor=$(/usr/bin/python3 -c 'import sys; print(sys.version_info[1])')
}

# A pip to build and install with, kept out of everything that is made: $pip.
make_pip() {
  need_python
  /usr/bin/python3 -m venv "$work/tools"
  pip=("$work/tools/bin/python" -m pip --quiet --disable-pip-version-check)
}
