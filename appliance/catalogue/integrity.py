"""Whether a catalogue is whole, as SQLite sees it, and where it is not a catalogue at all."""

import sqlite3
from pathlib import Path
from urllib.parse import quote

from appliance.catalogue.schema import SchemaTooNewError, check_version

SMALL = 32 << 20
"""Bytes of a catalogue that is looked through before it is served; a larger one is while it is."""


def quick_look(connection: sqlite3.Connection) -> str | None:
    """Say what makes no sense in the tables; None for nothing. It costs a read of all of it."""
    return _first_fault(connection, "quick_check")


def integrity_fault(connection: sqlite3.Connection) -> str | None:
    """Say what is wrong with the tables or their indexes; None for nothing. It takes its time."""
    return _first_fault(connection, "integrity_check")


def fault_of(path: Path) -> str | None:
    """Say what is wrong with a catalogue that nobody has open, its indexes included.

    Raises SchemaTooNewError, and OSError where it cannot be read.
    """
    try:
        check_version(path)
        connection = read_only(path)
    except sqlite3.Error as error:
        return str(error)
    try:
        return integrity_fault(connection)
    finally:
        connection.close()


def is_whole(path: Path) -> bool:
    """Tell whether a file is a catalogue that this program can use, and whole."""
    try:
        return bool(path.stat().st_size) and fault_of(path) is None
    except (OSError, SchemaTooNewError):
        return False


def read_only(path: Path) -> sqlite3.Connection:
    """Open a catalogue that has no journal and that nobody changes; nothing is made beside it."""
    return sqlite3.connect(f"file:{quote(str(path))}?immutable=1", uri=True, isolation_level=None)


def _first_fault(connection: sqlite3.Connection, check: str) -> str | None:
    try:
        ((found,),) = connection.execute(f"PRAGMA {check}(1)").fetchall()
    except sqlite3.DatabaseError as error:
        return str(error)
    if found == "ok":
        return None
    return " ".join(str(found).replace("*** in database main ***", "").split())
