"""What a damaged catalogue still yields: tags, as far as they can be read."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from appliance.catalogue.integrity import integrity_fault
from appliance.catalogue.schema import check_version
from appliance.catalogue.seals import Seals
from appliance.oci.digest import Digest
from appliance.oci.errors import RegistryError
from appliance.oci.names import parse_name, parse_tag

_TAGS = """
    SELECT tag.name, blob.digest, manifest.media_type, tag.moved_at
    FROM tag JOIN blob ON blob.id = tag.manifest
    JOIN manifest ON manifest.repository = tag.repository AND manifest.blob = tag.manifest
    WHERE tag.repository = ?
"""


@dataclass(frozen=True, slots=True)
class SavedTag:
    """A tag out of a damaged catalogue."""

    repository: str
    name: str
    digest: Digest
    media_type: str
    moved_at: int


def damage_of(catalogue: Path) -> str | None:
    """Say what is wrong with a catalogue that may have a journal; None where it is whole.

    Raises SchemaTooNewError, and OSError.
    """
    try:
        check_version(catalogue)
        with closing(_open(catalogue)) as connection:
            seals = Seals(catalogue)
            try:
                return integrity_fault(connection) or seals.damage()
            finally:
                connection.close()  # before the other descriptor of the file is, see Seals
                seals.close()
    except sqlite3.Error as error:
        return str(error)


def saved_tags(catalogue: Path) -> Iterator[SavedTag]:
    """Read the tags of a damaged catalogue; what cannot be read, or cannot be, is left out."""
    try:
        connection = _open(catalogue)
    except sqlite3.Error:
        return
    with closing(connection):
        for number, repository in _rows(connection, "SELECT id, name FROM repository"):
            for name, digest, media_type, moved_at in _rows(connection, _TAGS, number):
                try:
                    yield SavedTag(
                        parse_name(str(repository)),
                        parse_tag(str(name)),
                        Digest.parse(str(digest)),
                        str(media_type),
                        int(str(moved_at)),
                    )
                except (RegistryError, ValueError):
                    continue


def _open(catalogue: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(catalogue))}?mode=ro", uri=True, isolation_level=None)


def _rows(
    connection: sqlite3.Connection, query: str, *parameters: object
) -> Iterator[tuple[object, ...]]:
    """Return rows until one cannot be read."""
    try:
        yield from connection.execute(query, parameters)
    except sqlite3.DatabaseError:
        return
