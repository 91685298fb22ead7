# One executable file that brings its own Python, for a machine on which nothing can be installed.
#
# It unpacks itself into TMPDIR at each start, which a hardened unit does not like, and what it unpacked goes as
# soon as the process ends that it began as, so that no other daemon can take over from it (SIGUSR2): it says so
# and serves on. Packages are the better way where there is one.

build_onefile() {
  make_pip
  need objdump binutils
  local library
  library=$(/usr/bin/python3 -c 'from sysconfig import get_config_var as of; print(of("LIBDIR"), of("INSTSONAME"), sep="/")')
  need_file "$library" "libpython3.$python_minor"
  take_source
  local environment=$work/environment made
  /usr/bin/python3 -m venv --without-pip "$environment"
  install_packages "$environment" "$environment/lib/python3.$python_minor/site-packages"
  "${pip[@]}" --python "$environment/bin/python" install 'pyinstaller>=6.16,<7'
  made=registry-$version-linux-$(uname -m)
  cat >"$work/registry.py" <<'PYTHON'
import os

# What this starts is not to use the files that this has unpacked: they go when this ends.
os.environ["PYINSTALLER_RESET_ENVIRONMENT"] = "1"
from appliance.cli import main

main()
PYTHON
  # What is imported only once it is needed is told here: all of ours, and all kinds of password hashes.
  (cd "$work" && "$environment/bin/python" -m PyInstaller --onefile --name "$made" --log-level WARN --strip \
    --collect-submodules appliance --collect-submodules passlib.handlers --collect-submodules hypercorn.trio \
    --collect-submodules hypercorn.protocol --collect-submodules structlog --collect-submodules zstandard \
    --hidden-import _cffi_backend --copy-metadata registry-appliance \
    --exclude-module tkinter --distpath "$work/made" "$work/registry.py")
  mv "$work/made/$made" "$target/$made"
  echo "$target/$made" >&3
}
