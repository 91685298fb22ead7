"""What this installation brought for the system, and whether a confined service can run it.

pip puts units, the system user and the settings file below the prefix it installs to. In a virtual
environment nobody looks for them there; where they are, pip has written down.
"""

import os
import stat
import sys
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path

DISTRIBUTION = "registry-appliance"

_BOOTED = Path("/run/systemd/system")
"""What sd_booted(3) looks at."""

_HIDDEN = {
    "/home": "ProtectHome",
    "/root": "ProtectHome",
    "/run/user": "ProtectHome",
    "/tmp": "PrivateTmp",  # noqa: S108  a place that is refused
    "/var/tmp": "PrivateTmp",  # noqa: S108  likewise
}
_REMEDY = "make the virtual environment elsewhere, as in /opt/registry"


class SetupError(Exception):
    """Why an installation is not set up: one sentence, without its final stop."""


@dataclass(frozen=True)
class Installation:
    """The files of an installation that setup is about."""

    program: Path
    """The command `registry`."""
    units: tuple[Path, ...]
    sysusers: Path
    """What describes the system user."""
    settings: Path
    """The settings file in which everything is a comment."""

    @classmethod
    def find(cls) -> "Installation":
        """Find those of the package that runs now; raises SetupError where there are none."""
        try:
            listed = Distribution.from_name(DISTRIBUTION).files or []
        except PackageNotFoundError:
            listed = []
        # The folders between may be links; the service is to be given the path that people know.
        paths = [Path(os.path.normpath(str(file.locate()))) for file in listed]
        units = tuple(sorted(path for path in paths if path.parts[-3:-1] == ("systemd", "system")))
        try:
            return cls(
                program=_one(paths, "bin", "registry"),
                units=units,
                sysusers=_one(paths, "sysusers.d", "registry.conf"),
                settings=_one(paths, DISTRIBUTION, "registry.toml"),
            )
        except LookupError:
            raise SetupError(
                "this installation has no systemd units: a package of the system has put its own in"
                " place already (systemctl enable --now registry), and a checkout has none until it"
                " is installed with pip install ."
            ) from None

    def check(self) -> None:
        """Raise SetupError where the service, confined as it is, could not run this."""
        for path in (self.program, Path(sys.executable).resolve(), Path(__file__).resolve()):
            check_place(path)
            check_readable(path)


def check_system(*, dry_run: bool) -> None:
    """Raise SetupError where there is no systemd to set up, or nobody who may."""
    if not _BOOTED.is_dir():
        raise SetupError("systemd does not run this system; start registry serve by other means")
    if not dry_run and os.geteuid() != 0:
        raise SetupError("only root may set up the system; use sudo, or look with --dry-run")


def check_place(path: Path) -> None:
    """Raise SetupError for a path that the unit hides from the service."""
    for folder, setting in _HIDDEN.items():
        if path.is_relative_to(folder):
            raise SetupError(
                f"{path} is below {folder}, which the service does not see ({setting}= of its unit);"
                f" {_REMEDY}"
            )


def check_readable(path: Path) -> None:
    """Raise SetupError for a path that is not for every user to read, or to get to."""
    for one in (path, *path.parents):
        wanted = stat.S_IXOTH if one.is_dir() else stat.S_IROTH
        if not one.stat().st_mode & wanted:
            raise SetupError(f"{one} is closed to the user registry; chmod -R o+rX {one}")


def _one(paths: list[Path], folder: str, name: str) -> Path:
    for path in paths:
        if path.parts[-2:] == (folder, name) and path.exists():
            return path
    raise LookupError(name)
