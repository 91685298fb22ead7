"""What an earlier catalogue leaves in a data folder, for the next one to go on from."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from appliance.durable import sync_folder
from appliance.lock import FolderLock, HeldError
from appliance.oci.digest import Digest
from appliance.oci.errors import RegistryError
from appliance.owner import acting_as
from appliance.wholeness import CATALOGUE

DRAFT = f".{CATALOGUE}"
"""The catalogue that is to come, while it is being made."""

_JOURNAL = ("-wal", "-shm")


class BusyError(Exception):
    """A registry has the data folder: one sentence, without its final stop."""


@contextmanager
def taken_over(data: Path, owner: os.stat_result) -> Iterator[None]:
    """Have a data folder; afterwards it counts as one whose registry has just stopped.

    With that, whatever clients were told when its next catalogue was written, they were told now.
    Raises BusyError, and OSError.
    """
    try:
        with acting_as(owner):
            lock = FolderLock(data)
    except HeldError as error:
        by = f" (process {error.note.pid})" if error.note and error.note.pid else ""
        raise BusyError(f"{data} is in use by a registry{by}; stop it first") from None
    try:
        yield
    finally:
        lock.release(stopped=True)


def put_aside(catalogue: Path) -> Path | None:
    """Give a catalogue another name, with its journal; return it, or None where nothing was there.

    A journal that stayed would be taken for that of the next catalogue, and so would the sums.
    """
    aside = _free_name(catalogue)
    journal = [catalogue.with_name(f"{catalogue.name}{end}") for end in _JOURNAL]
    here = [path for path in (*journal, catalogue) if path.exists()]
    for path in here:
        path.rename(aside.with_name(path.name.replace(catalogue.name, aside.name)))
    catalogue.with_suffix(".sums").unlink(missing_ok=True)
    sync_folder(catalogue.parent)
    return aside if here else None


def _free_name(catalogue: Path) -> Path:
    moment = datetime.now(UTC).strftime("%Y-%m-%dT%H%M%S")
    number = 0
    while True:
        end = f"-{number}" if number else ""
        path = catalogue.with_name(f"{catalogue.stem}-aside-{moment}{end}{catalogue.suffix}")
        if not any(path.parent.glob(f"{path.name}*")):
            return path
        number += 1


def quarantined(data: Path) -> list[tuple[Digest, int]]:
    """List the blobs in a data folder's quarantine, and their sizes."""
    found = []
    with os.scandir(data / "quarantine") as entries:
        for entry in entries:
            algorithm, _, name = entry.name.partition("-")
            try:
                found.append((Digest.parse(f"{algorithm}:{name}"), entry.stat().st_size))
            except RegistryError:
                continue  # nothing of ours
    return found
