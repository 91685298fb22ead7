"""What a data folder must not be served with: no catalogue, half of a backup, or a damaged one.

A catalogue that is not there is made, an empty one. Where blobs are, that would tell every client
that nothing is here, and the next sweep and check that none of them is needed.
"""

import os
import sqlite3
from pathlib import Path

from appliance.catalogue.schema import check_version, is_blank

CATALOGUE = "catalogue.sqlite3"
"""The catalogue's name in a data folder, and in a backup."""

MARKER = "restoring"
"""The file that says, while a backup is being restored, which one it is."""

_REMEDY = (
    "restore a backup with registry restore DIR, or make it anew from its files with"
    " registry rebuild"
)


def fault_of_folder(data: Path) -> str | None:
    """Say in a sentence why a data folder cannot be served; None where nothing speaks against it.

    Little is read. Raises SchemaTooNewError, and OSError.
    """
    path = data / CATALOGUE
    if is_there(data / MARKER):
        return (
            f"{data} is restored by half; go on with registry restore"
            f" {os.fsdecode((data / MARKER).read_bytes())}."
        )
    try:
        if is_missing(path) and holds_blobs(data):
            return f"{path} is missing, though {data / 'blobs'} holds files: {_REMEDY}."
        if is_there(path):
            check_version(path)
    except sqlite3.Error as error:
        return sentence_of_damage(path, str(error))
    return None


def sentence_of_damage(path: Path, reason: str) -> str:
    """Say that a catalogue is damaged, and what to do."""
    return f"{path} is damaged ({reason}): {_REMEDY}."


def is_there(path: Path) -> bool:
    """Tell whether a path is there; one in a folder that is closed to this user is not."""
    return os.access(path, os.F_OK)


def holds_blobs(data: Path) -> bool:
    """Tell whether there is a single file of a blob."""
    return any(files for _, _, files in os.walk(data / "blobs"))


def is_missing(path: Path) -> bool:
    """Tell whether there are no records: no file, or an empty one without a journal."""
    if not is_there(path):
        return True
    journal = path.with_name(f"{path.name}-wal")
    return is_blank(path) and not (is_there(journal) and journal.stat().st_size)
