"""Debian as an operator has it: a fresh system to install into, and our packages to install there."""

import os
import time
from pathlib import Path

from tests.system.tools import environment, run

ROOT = Path(__file__).parents[2]
"""The checkout."""

_INCLUDED = "systemd,systemd-sysv,dbus,python3,python3-venv,ca-certificates,curl,iproute2,skopeo,debconf,openssl"
_FRESH_SECONDS = 7 * 24 * 3600
_BUILD_SECONDS = 300


def debian_root(folder: Path) -> Path:
    """Debian 12 with systemd, Python and a few clients, as the archive `rootfs.tar` in that folder.

    Making it takes the better part of a minute; one that is there already and not a week old is taken
    as it is.
    """
    archive = folder / "rootfs.tar"
    if archive.exists() and time.time() - archive.stat().st_mtime < _FRESH_SECONDS:
        return archive
    draft = folder / f"{os.getpid()}.tar"
    try:
        options = ("--variant=minbase", f"--include={_INCLUDED}")
        run("mmdebstrap", *options, "bookworm", draft, within=_BUILD_SECONDS)
        draft.rename(archive)
    finally:
        draft.unlink(missing_ok=True)
    return archive


def unpacked(archive: Path, folder: Path) -> Path:
    """Unpack such an archive into a folder of its own, which is then the root of a system."""
    folder.mkdir(parents=True)
    run("tar", "--extract", "--numeric-owner", "--file", archive, "--directory", folder)
    return folder


def build(kind: str, folder: Path, *options: str) -> Path:
    """Build a package of that kind into a folder with the command that people use; where it is."""
    command = ROOT / "packaging" / "build"
    told = run(command, kind, folder, *options, within=_BUILD_SECONDS, env=_builder())
    return Path(told.splitlines()[-1])


def deb(folder: Path, suffix: str = "") -> Path:
    """Build the Debian package into a folder, of a version that ends with the suffix, as in `+test1`."""
    return build("deb", folder, *(("--version-suffix", suffix) if suffix else ()))


def _builder() -> dict[str, str]:
    # pip finds its index, and the authorities to trust there, by these.
    settings = {
        name: value
        for name, value in os.environ.items()
        if name.startswith("PIP_") or name in ("SSL_CERT_FILE", "HOME")
    }
    return environment(**settings)
