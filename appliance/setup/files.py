"""The files that setup writes, what would become of each, and taking them away again.

Those that are ours say so in their first line, and no other is ever replaced or removed. The settings
file is somebody else's from the moment that it is there.
"""

import re
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from appliance.durable import make_folder, replace_file
from appliance.setup.installation import Installation, SetupError

_MARK = b"# Made by registry setup; registry setup --remove takes it away.\n"
_COMMAND = re.compile(r"^(Exec\w+=[-@:+!|]*)(?:/\S*/)?registry(?=\s)", re.MULTILINE)
_SEEN = ("/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
"""Where systemd finds units by itself."""


class State(Enum):
    """What stands where a file is to be."""

    MISSING = "to be made"
    OTHER = "to be brought up to date"
    SAME = "as it should be"
    FOREIGN = "not from registry setup"


@dataclass(frozen=True)
class File:
    """A file of the system."""

    path: Path
    content: bytes
    ours: bool = True
    """Whether it is written anew and removed; otherwise it is made once."""

    @property
    def state(self) -> State:
        """What stands there now; raises OSError."""
        try:
            found = self.path.read_bytes()
        except FileNotFoundError:
            return State.MISSING
        if not self.ours or found == self.content:
            return State.SAME
        return State.OTHER if found.startswith(_MARK) else State.FOREIGN

    def write(self) -> None:
        """Write it if need be, whole and durably; raises OSError."""
        if self.state in (State.MISSING, State.OTHER):
            make_folder(self.path.parent, mode=0o755)
            replace_file(self.path, self.content, mode=0o644)

    def remove(self) -> None:
        """Remove it if it is ours and there; raises OSError."""
        if self.ours and self.state in (State.SAME, State.OTHER):
            self.path.unlink()


def files(installation: Installation, etc: Path) -> list[File]:
    """List what setup writes below /etc for an installation; raises OSError."""
    found = []
    if str(installation.units[0].parent) not in _SEEN:
        for unit in installation.units:
            text = naming(unit.read_text(encoding="utf-8"), installation.program)
            path = etc / "systemd" / "system" / unit.name
            found.append(File(path, _MARK + text.encode()))
        user = installation.sysusers.read_bytes()
        found.append(File(etc / "sysusers.d" / "registry.conf", _MARK + user))
    settings = installation.settings.read_bytes()
    return [*found, File(etc / "registry.toml", settings, ours=False)]


def naming(unit: str, program: Path) -> str:
    """Return the text of a unit that starts this program whenever it starts `registry`."""
    path = str(program).replace("%", "%%")
    if re.search(r"[\s\"'\\]", path):
        raise SetupError(f"{program} has a blank or a quotation mark in it; install without any")
    return _COMMAND.sub(lambda found: f"{found[1]}{path}", unit)


def check(found: list[File]) -> None:
    """Raise SetupError where a file is in the way; OSError."""
    for file in found:
        if file.state is State.FOREIGN:
            raise SetupError(f"{file.path} is there and not from registry setup; move it away")


def left_over(etc: Path) -> list[File]:
    """List the files that a setup has left below /etc, whichever installation it was of."""
    found = []
    folder = etc / "systemd" / "system"
    for path in (*sorted(folder.glob("registry*")), etc / "sysusers.d" / "registry.conf"):
        with suppress(FileNotFoundError, IsADirectoryError):
            if path.read_bytes().startswith(_MARK):
                found.append(File(path, path.read_bytes()))
    return found
