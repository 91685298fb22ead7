# The files of an installed registry below a root, as .deb and .rpm have them.
#
# /usr/lib/registry-appliance is a virtual environment on the system's own Python, without pip: whatever is
# installed with pip elsewhere changes nothing in it. Its bytecode is compiled in such a way that Python never
# writes it anew, so that packages stay verifiable.
#
# One tree serves several versions of Python, and so one package several releases of a system: compiled modules
# and bytecode have the version in their names, and lie side by side. Bytecode is there for the version that
# builds; a package makes that of another one when it is installed.

readonly home=/usr/lib/registry-appliance
# Debian 12 has 3.11, Ubuntu 24.04 has 3.12, Debian 13 has 3.13, Ubuntu 26.04 has 3.14.
readonly minors="11 12 13 14"

# make_tree ROOT: needs take_source and make_pip.
make_tree() {
  local root=$1 environment=$1$home site
  need strip binutils
  mkdir -p "$environment"
  /usr/bin/python3 -m venv --without-pip --symlinks "$environment"
  site=$environment/lib/python3.$python_minor/site-packages
  install_packages "$environment" "$site"
  other_minors "$environment" "$site"
  shared_data "$root" "$environment"
  thin_out "$environment" "$site"
  find "$environment" -name '*.so' -exec strip --strip-unneeded {} +
  find "$environment" -name '*.so' -exec chmod 644 {} +
  printf '#!%s/bin/python3 -I\nfrom appliance.cli import main\n\nmain()\n' "$home" >"$environment/bin/registry"
  chmod 755 "$environment/bin/registry"
  install -m 755 "$here/steps/handover" "$environment/bin/handover"
  mkdir -p "$root/usr/bin"
  ln -s ../lib/registry-appliance/bin/registry "$root/usr/bin/registry"
  ln -sf ../../../bin/python3 "$environment/bin/python3"
  /usr/bin/python3 -m compileall -q -f -j 0 --invalidation-mode unchecked-hash -s "$root" \
    "$environment/lib/python3.$python_minor"
  find "$root" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
}

# What we need goes in first: the wheel is built by its help, since pages are made from the commands.
install_packages() {
  local environment=$1 site=$2
  local into=("${pip[@]}" --python "$environment/bin/python" install --no-compile --only-binary :all:)
  "${pip[@]}" install 'hatchling>=1.27'
  /usr/bin/python3 -c 'import sys, tomllib
print(*tomllib.load(sys.stdin.buffer)["project"]["dependencies"], sep="\n")' <"$source/pyproject.toml" >"$work/needed"
  "${into[@]}" --requirement "$work/needed"
  PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=$site make_wheel "$work" --no-build-isolation
  "${into[@]}" --no-deps "$wheel"
}

# The compiled modules for the other versions of Python, of just the packages that have any.
other_minors() {
  local environment=$1 site=$2 minor
  PYTHONPATH=$site "$environment/bin/python" -c 'import importlib.metadata as have
for one in have.distributions():
    if any(".cpython-" in file.name and file.suffix == ".so" for file in one.files or ()):
        print(f"{one.name}=={one.version}")' | sort -u >"$work/compiled"
  for minor in $minors; do
    [ "$minor" != "$python_minor" ] || continue
    "${pip[@]}" install --no-compile --only-binary :all: --no-deps --python-version "3.$minor" \
      --target "$work/3.$minor" --requirement "$work/compiled"
    (cd "$work/3.$minor" && find . -name "*.cpython-3$minor-*.so" -exec cp --parents {} "$site" \;)
    ln -s "python3.$python_minor" "$environment/lib/python3.$minor"
  done
}

# Units, the settings file, manual pages and completions go where the system looks for them.
shared_data() {
  local root=$1 environment=$2
  mkdir -p "$root/lib/systemd" "$root/usr/lib" "$root/usr/share/zsh" "$root/etc"
  mv "$environment/lib/systemd/system" "$root/lib/systemd/system"
  mv "$environment/lib/sysusers.d" "$root/usr/lib/sysusers.d"
  mv "$environment/share/registry-appliance/registry.toml" "$root/etc/registry.toml"
  mv "$environment/share/man" "$environment/share/bash-completion" "$environment/share/fish" "$root/usr/share"
  mv "$environment/share/zsh/site-functions" "$root/usr/share/zsh"
  gzip --best --no-name "$root"/usr/share/man/man?/*
  rm -r "$environment/share" "$environment/lib/systemd"
}

# What only developers want, what only pip reads, and what would name the folder of this build.
thin_out() {
  local environment=$1 site=$2
  rm -rf "$environment/include" "$environment/lib64"
  find "$environment/bin" -mindepth 1 ! -name 'python*' -delete
  sed -i '/^command = /d' "$environment/pyvenv.cfg"
  find "$site" -depth -type d \( -name tests -o -name _tests -o -name testing -path '*/trio/*' \) -exec rm -rf {} +
  find "$site" -path '*.dist-info/*' \( -name RECORD -o -name INSTALLER -o -name REQUESTED -o -name direct_url.json \) -delete
  find "$site" \( -name '*.c' -o -name '*.h' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.pyi' -o -name py.typed \) -delete
  # Python takes the other of the two backends.
  rm -f "$site"/zstandard/_cffi.*.so
}

# The units that run while the registry does, as one line; they are below lib/systemd of a folder.
units_of() {
  (cd "$1/lib/systemd/system" && echo registry.*)
}

# The oldest C library that every compiled module accepts.
libc_of() {
  find "$1" -name '*.so' -exec objdump --dynamic-syms {} + | sed -n 's/.*GLIBC_\(2[0-9.]*\).*/\1/p' |
    sort --version-sort | tail -n 1
}
