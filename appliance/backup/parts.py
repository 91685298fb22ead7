"""What every backup consists of, and what is told of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from appliance.catalogue.contents import Lost
from appliance.catalogue.snapshots import BACKUP, FOLDER
from appliance.control import Operator
from appliance.owner import acting_as
from appliance.registry.progress import Report
from appliance.settings import Settings

VERSION = 1
"""The format of backups; a later version of this program may have another."""

LABEL = "backup.json"
TLS = "tls"
ETC = "etc"
PASSWORDS = "registry.htpasswd"
SETTINGS = "registry.toml"


class BackupError(Exception):
    """A backup that cannot be made or used: one sentence, without its final stop."""


class Label(msgspec.Struct, frozen=True):
    """What a backup says of itself."""

    format: int = VERSION
    made_at: str = ""
    """When; empty while the first backup into a folder is being made."""
    blobs: int = 0
    size: int = 0


@dataclass(slots=True)
class Outcome:
    """What a backup, or what was restored of one, holds."""

    blobs: int = 0
    size: int = 0
    added: int = 0
    """Those of the blobs that were not there before."""
    added_size: int = 0
    lost: list[Lost] = field(default_factory=list)


UNMADE = msgspec.json.encode(Label()) + b"\n"
"""The label of a folder into which the first backup is being made."""


def label_of(blobs: int, size: int) -> bytes:
    """Write the label of a backup that is made now."""
    made_at = datetime.now(UTC).isoformat(timespec="seconds")
    return msgspec.json.encode(Label(made_at=made_at, blobs=blobs, size=size)) + b"\n"


def read_label(content: bytes, place: Path) -> Label:
    """Read the label of a backup; raises BackupError."""
    try:
        label = msgspec.json.decode(content, type=Label)
    except msgspec.DecodeError as error:
        raise BackupError(f"{place} is no backup: its {LABEL} cannot be read: {error}") from error
    if label.format != VERSION:
        raise BackupError(
            f"{place} was written by a later version of this program; install that version"
        )
    return label


def beside_the_blobs(settings: Settings, source: Path) -> Iterator[tuple[str, Path]]:
    """List what else belongs to a backup, as its name there and where it is."""
    try:
        keys = sorted((settings.data / TLS).iterdir())
    except FileNotFoundError:
        keys = []
    for path in keys:
        if path.is_file() and not path.is_symlink() and not path.name.startswith("."):
            yield f"{TLS}/{path.name}", path
    for name, path in ((PASSWORDS, settings.htpasswd), (SETTINGS, source)):
        if path.is_file():
            yield f"{ETC}/{name}", path


def check_outside(settings: Settings, target: Path) -> None:
    """Raise BackupError where a backup would lie in the data folder, or the other way round."""
    data, place = settings.data.resolve(), target.resolve()
    if data in (place, *place.parents) or place in data.parents:
        raise BackupError(
            f"{target} and the data folder {settings.data} lie in one another; name a place"
            " outside of it, better on another disk"
        )


@contextmanager
def snapshot(operator: Operator, settings: Settings, report: Report) -> Iterator[Path]:
    """Have the registry take a snapshot of its catalogue, which goes again."""
    # Not where the registry says it is: its user is not to choose what root opens and removes.
    path = settings.data / FOLDER / BACKUP
    operator.operate("snapshot", {}, str, report=report)
    try:
        yield path
    finally:
        with acting_as(settings.data.stat()):
            path.unlink(missing_ok=True)
