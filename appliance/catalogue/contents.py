"""What a snapshot of the catalogue says is in a registry; and making it say what is."""

import os
import sqlite3
import stat
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from appliance.catalogue.images import images_with
from appliance.catalogue.integrity import read_only
from appliance.catalogue.schema import migrate
from appliance.oci.digest import Digest

_IMAGES_SHOWN = 20


@dataclass(frozen=True, slots=True)
class BlobRow:
    """A blob as a snapshot knows it."""

    digest: Digest
    size: int
    is_damaged: bool


@dataclass(frozen=True, slots=True)
class Lost:
    """A blob that is known and not here as it should be."""

    digest: Digest
    reason: str
    """What is wrong with it, as in "its file is missing"."""
    images: list[str]
    """Some of those that need it."""


class Contents:
    """An open snapshot; used as a context."""

    def __init__(self, path: Path) -> None:
        """Open a snapshot; raises sqlite3.Error."""
        self._connection = read_only(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def totals(self) -> tuple[int, int]:
        """Count the blobs, and their bytes."""
        ((count, size),) = self._connection.execute(
            "SELECT count(*), coalesce(sum(size), 0) FROM blob"
        )
        return int(count), int(size)

    def manifests(self) -> int:
        """Count the manifests, once for each repository that has them."""
        ((count,),) = self._connection.execute("SELECT count(*) FROM manifest")
        return int(count)

    def blobs(self) -> Iterator[BlobRow]:
        """List all blobs, in the order in which they came to be known."""
        query = "SELECT digest, size, damaged FROM blob ORDER BY id"
        for digest, size, is_damaged in self._connection.execute(query):
            yield BlobRow(Digest.parse(digest), size, bool(is_damaged))

    def find(self, digest: Digest) -> BlobRow | None:
        """Look a blob up."""
        query = "SELECT size, damaged FROM blob WHERE digest = ?"
        row = self._connection.execute(query, (str(digest),)).fetchone()
        return BlobRow(digest, row[0], bool(row[1])) if row else None

    def content(self, digest: Digest) -> bytes | None:
        """Return the bytes of a manifest that the catalogue holds itself, if they are right."""
        query = "SELECT content FROM blob WHERE digest = ?"
        row = self._connection.execute(query, (str(digest),)).fetchone()
        if row is None or row[0] is None or Digest.of(row[0], digest.algorithm) != digest:
            return None
        return bytes(row[0])

    def images(self, digest: Digest) -> list[str]:
        """Name images that need a blob: by their tags, or by digest where they have none."""
        return list(images_with(self._connection, digest, _IMAGES_SHOWN).names)


def fault_of_file(path: Path, size: int) -> str | None:
    """Say what is wrong with the file of a blob of that size, without reading it."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return "its file is missing"
    if not stat.S_ISREG(found.st_mode):
        return "its file is none"
    if found.st_size != size:
        return f"its file has {found.st_size} bytes instead of {size}"
    return None


@contextmanager
def revised(path: Path) -> Iterator[sqlite3.Connection]:
    """Change a catalogue that nobody else knows of yet; it is durable once this has ended well.

    Raises sqlite3.Error, OSError, and SchemaTooNewError.
    """
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        # All or nothing is whether the file is put in its place, not what a journal holds.
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA foreign_keys = ON")
        migrate(connection)
        connection.execute("BEGIN")
        yield connection
        connection.execute("COMMIT")
    finally:
        connection.close()
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def begin_anew(connection: sqlite3.Connection, put_away: Sequence[tuple[Digest, int]]) -> None:
    """Forget what a registry was in the midst of; `put_away` is what is in its quarantine now.

    Uploads have ended. What is idle has been so since now: its grace begins once more.
    """
    connection.execute("DELETE FROM session")
    connection.execute("DELETE FROM quarantine")
    connection.executemany(
        "INSERT INTO quarantine (digest, size) VALUES (?, ?)",
        [(str(digest), size) for digest, size in put_away],
    )
    connection.execute("UPDATE link SET idle_since = unixepoch() WHERE uses = 0")
    connection.execute("UPDATE manifest SET idle_since = unixepoch() WHERE tags = 0 AND uses = 0")


def mark(connection: sqlite3.Connection, digests: Collection[Digest], *, damaged: bool) -> None:
    """Note of blobs whether they are damaged, which counts as not being here."""
    connection.executemany(
        "UPDATE blob SET damaged = ? WHERE digest = ?",
        [(damaged, str(digest)) for digest in digests],
    )
