"""Debian as an operator has it: a fresh system to install into, and our packages to install there."""

import itertools
import os
import time
from contextlib import suppress
from pathlib import Path

from tests.system.tools import attempt, environment, run

ROOT = Path(__file__).parents[2]
"""The checkout."""

INCLUDED = "systemd,systemd-sysv,dbus,python3,python3-venv,ca-certificates,curl,iproute2,skopeo,debconf,openssl"
"""systemd, Python and a few clients."""

# systemd starts whatever it starts in groups below that of its first process.
_HIERARCHIES = (Path("/sys/fs/cgroup/systemd"), Path("/sys/fs/cgroup/unified"))
_IN_A_GROUP_OF_ITS_OWN = """
for hierarchy in /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
  [ ! -d $hierarchy ] || { mkdir -p $hierarchy/$0 && echo $$ >$hierarchy/$0/cgroup.procs; }
done
exec "$@"
"""
_UNIT = """
[Unit]
SuccessAction=exit-force
FailureAction=exit-force

[Service]
Type=oneshot
ExecStart=/bin/sh -eux /outside/script
"""
_numbers = itertools.count()
_FRESH_SECONDS = 7 * 24 * 3600
_BUILD_SECONDS = 300


def debian_root(folder: Path, suite: str = "bookworm", included: str = INCLUDED) -> Path:
    """A release of Debian with some packages, as an archive in that folder.

    Making it takes the better part of a minute; one that is there already and not a week old is taken
    as it is.
    """
    archive = folder / f"{suite}.tar"
    if archive.exists() and time.time() - archive.stat().st_mtime < _FRESH_SECONDS:
        return archive
    draft = folder / f"{os.getpid()}.tar"
    try:
        options = ("--variant=minbase", f"--include={included}")
        run("mmdebstrap", *options, suite, draft, within=_BUILD_SECONDS)
        draft.rename(archive)
    finally:
        draft.unlink(missing_ok=True)
    return archive


def unpacked(archive: Path, folder: Path) -> Path:
    """Unpack such an archive into a folder of its own, which is then the root of a system."""
    folder.mkdir(parents=True)
    run("tar", "--extract", "--numeric-owner", "--file", archive, "--directory", folder)
    return folder


def inside(root: Path, script: str, *options: str | Path, within: float = 120) -> str:
    """Run a script in a system that is not booted, without a network; what it said."""
    container = ("systemd-nspawn", "--quiet", f"--directory={root}", "--register=no", "--keep-unit")
    apart = ("--private-network", "--resolv-conf=off", f"--machine={_machine()}", "--pipe")
    shell = ("/bin/sh", "-euc", script)
    return run(*container, *apart, *options, *shell, within=within)


def booted(root: Path, folder: Path, script: str, *options: str | Path, within: float = 180) -> str:
    """Boot a system, run a script there once it is up, and switch it off; what the script said.

    The system is left as it was: changes are kept in memory. The script finds `folder` as /outside.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "script").write_text(f"exec >/outside/said 2>&1\n{script}\n")
    unit = folder / "script.service"
    unit.write_text(_UNIT)
    machine = _machine()
    container = ("systemd-nspawn", "--quiet", f"--directory={root}", "--register=no", "--keep-unit")
    apart = ("--private-network", "--resolv-conf=off", f"--machine={machine}", "--console=pipe")
    boot = ("--volatile=overlay", "--boot", f"--bind={folder}:/outside")
    mine = (f"--bind-ro={unit}:/etc/systemd/system/script.service", *options)
    wanted = ("systemd.unit=multi-user.target", "systemd.wants=script.service")
    try:
        done = attempt(
            *("/bin/sh", "-c", _IN_A_GROUP_OF_ITS_OWN, machine),
            *(*container, *apart, *boot, *mine, *wanted),
            within=within,
        )
    finally:
        for hierarchy in _HIERARCHIES:
            with suppress(OSError):
                (hierarchy / machine).rmdir()
    said = folder / "said"
    told = said.read_text(errors="replace") if said.exists() else "nothing"
    assert done.returncode == 0, f"the script failed and said\n{told}\n{done.stdout[-3000:]}"
    return told


def build(kind: str, folder: Path, *options: str) -> Path:
    """Build a package of that kind into a folder with the command that people use; where it is."""
    command = ROOT / "packaging" / "build"
    told = run(command, kind, folder, *options, within=_BUILD_SECONDS, env=builder())
    return Path(told.splitlines()[-1])


def deb(folder: Path, suffix: str = "") -> Path:
    """Build the Debian package into a folder, of a version that ends with the suffix, as in `+test1`."""
    return build("deb", folder, *(("--version-suffix", suffix) if suffix else ()))


def _machine() -> str:
    return f"registry-test-{os.getpid()}-{next(_numbers)}"


def builder() -> dict[str, str]:
    """The environment of what fetches packages."""
    # pip finds its index, and the authorities to trust there, by these.
    settings = {
        name: value
        for name, value in os.environ.items()
        if name.startswith("PIP_") or name in ("SSL_CERT_FILE", "HOME")
    }
    return environment(**settings)
