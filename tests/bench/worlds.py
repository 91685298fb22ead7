"""Registries that hold very much, made where they lie: pushing it all would take an hour or a day.

For lists each server gets two folders of data beside its own, and serves them while their pages are
measured. Ours has few names in one and many in the other; the others, which walk their folders at
each page, have the same number in both, and not so many.

For garbage ours gets one more, of images and of blobs that no manifest needs. Of the former there
are records alone, of the latter there are files, too, for a sweep has to remove these.
"""

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import trio

from appliance.catalogue.database import Database
from appliance.oci.mediatypes import OCI_INDEX, OCI_MANIFEST
from tests.bench.content import REPOSITORY, TAG

WORLDS = ("few", "many")
GARBAGE = "garbage"
TAGGED = "bench/tagged"

_DIGEST = "sha256:" + "0" * 64
_SIZE = 1 << 20

# What triggers keep beside the counts of single rows.
_COUNTED = """
    UPDATE repository SET
        manifests = (SELECT count(*) FROM manifest WHERE manifest.repository = repository.id),
        size = (
            SELECT coalesce(sum(blob.size), 0) FROM (
                SELECT blob FROM link WHERE link.repository = repository.id
                UNION ALL SELECT blob FROM manifest WHERE manifest.repository = repository.id
            ) AS held JOIN blob ON blob.id = held.blob
        )
"""
_REMEMBERED = """
    INSERT INTO history (repository, tag, digest)
    SELECT repository.name, tag.name, blob.digest
    FROM tag JOIN repository ON repository.id = tag.repository JOIN blob ON blob.id = tag.manifest
"""

_AT_ONCE = """
[gc]
grace = "1ms"
lease = "1ms"
quarantine = "1ms"
"""

_PARTS = 5  # of an image: a manifest, a configuration and three layers
_ROWS_OF_AN_IMAGE = _PARTS + 1 + 2 * (_PARTS - 1)
_ROWS_OF_GARBAGE = 2
_IMAGES_OF_A_REPOSITORY = 50


class Size(NamedTuple):
    """How many repositories there are, and how many tags one of them has."""

    repositories: int
    tags: int


def repository(number: int) -> str:
    """Name one of the repositories, in the order that lists have."""
    return f"team{number // 1000:04}/app{number % 1000:03}"


def tag(number: int) -> str:
    """Name one of the tags, in the order that lists have."""
    return f"v{number:06}"


def make_ours(data: Path, size: Size) -> None:
    """Make a data folder for our daemon: one manifest, known in every repository."""
    data.mkdir(mode=0o700)
    trio.run(_fill, data / "catalogue.sqlite3", size)


async def _fill(path: Path, size: Size) -> None:
    database = Database.open(path)

    def filling(connection: sqlite3.Connection) -> None:
        names = [*map(repository, range(size.repositories - 1)), TAGGED]
        connection.executemany(
            "INSERT INTO repository (name) VALUES (?)", [(name,) for name in names]
        )
        connection.execute("INSERT INTO blob (id, digest, size) VALUES (1, ?, 1)", (_DIGEST,))
        connection.execute(
            "INSERT INTO manifest (repository, blob, media_type) SELECT id, 1, ? FROM repository",
            (OCI_INDEX,),
        )
        connection.executemany(
            "INSERT INTO tag (repository, name, manifest)"
            " SELECT id, ?, 1 FROM repository WHERE name = ?",
            [(tag(number), TAGGED) for number in range(size.tags)],
        )

    await database.write(filling)
    await database.aclose()


def make_theirs(data: Path, world: Path, size: Size) -> None:
    """Make a data folder for docker-registry out of the repository that has been pushed."""
    below = Path("docker/registry/v2/repositories")
    pushed = data / below / REPOSITORY
    for name in map(repository, range(size.repositories - 1)):
        shutil.copytree(pushed, world / below / name)
    shutil.copytree(pushed, world / below / TAGGED)
    tags = world / below / TAGGED / "_manifests/tags"
    for number in range(size.tags):
        shutil.copytree(tags / TAG, tags / tag(number))
    shutil.rmtree(tags / TAG)


class Littered(NamedTuple):
    """How many images there are, in how many repositories, and how many blobs nothing needs."""

    repositories: int
    images: int
    garbage: int

    @property
    def rows(self) -> int:
        """Links, blobs, manifests and edges of all of them."""
        return self.images * _ROWS_OF_AN_IMAGE + self.garbage * _ROWS_OF_GARBAGE


def littered(rows: int, garbage: int) -> Littered:
    """Say what makes so many rows, or a few less."""
    images = (rows - garbage * _ROWS_OF_GARBAGE) // _ROWS_OF_AN_IMAGE
    return Littered(max(1, images // _IMAGES_OF_A_REPOSITORY), images, garbage)


def make_littered(data: Path, size: Littered) -> None:
    """Make a data folder for our daemon out of images and garbage, anew where there is one."""
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(mode=0o700)
    trio.run(_litter, data / "catalogue.sqlite3", size)
    for number in range(size.garbage):
        file = data / "blobs" / "sha256" / _hex("garbage", number)[:2] / _hex("garbage", number)
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.write_bytes(_content("garbage", number))


@contextmanager
def sweeping_at_once(settings: Path) -> Iterator[None]:
    """Let our daemon take for garbage whatever nothing needs, if it starts meanwhile."""
    before = settings.read_text()
    settings.write_text(before + _AT_ONCE)
    try:
        yield
    finally:
        settings.write_text(before)


def littered_manifest(size: Littered, number: int) -> str:
    """Where one of the images is, as a request target."""
    return f"/v2/{repository(number % size.repositories)}/manifests/{tag(number)}"


async def _litter(path: Path, size: Littered) -> None:
    database = Database.open(path)
    await database.write(lambda connection: fill_littered(connection, size))
    await database.aclose()


def fill_littered(connection: sqlite3.Connection, size: Littered) -> None:
    """Write the records with all that triggers would count; without these it takes seconds."""
    with _without_triggers(connection):
        names = ((number + 1, repository(number)) for number in range(size.repositories))
        connection.executemany("INSERT INTO repository (id, name) VALUES (?, ?)", names)
        connection.executemany(
            "INSERT INTO blob (id, digest, size, content, holders) VALUES (?, ?, ?, ?, 1)",
            _blobs(size),
        )
        # Every image is its manifest and then the blobs of it, one id after the other.
        images = "WITH RECURSIVE image (number) AS (SELECT 0 UNION ALL SELECT number + 1 FROM image"
        images += f" WHERE number + 1 < {size.images})"
        parts = ", part (place) AS (VALUES " + ", ".join(f"({n})" for n in range(1, _PARTS)) + ")"
        owner, top = f"number % {size.repositories} + 1", f"number * {_PARTS} + 1"
        connection.execute(
            "INSERT INTO manifest (repository, blob, media_type, tags)"  # noqa: S608 - numbers alone
            f" {images} SELECT {owner}, {top}, ?, 1 FROM image",
            (OCI_MANIFEST,),
        )
        connection.execute(
            f"INSERT INTO tag (repository, name, manifest) {images}"  # noqa: S608 - likewise
            f" SELECT {owner}, printf('v%06d', number), {top} FROM image"
        )
        connection.execute(
            f"INSERT INTO link (repository, blob, uses) {images}{parts}"  # noqa: S608 - likewise
            f" SELECT {owner}, {top} + place, 1 FROM image, part"
        )
        connection.execute(
            f"INSERT INTO edge (repository, manifest, target) {images}{parts}"  # noqa: S608 - likewise
            f" SELECT {owner}, {top}, {top} + place FROM image, part"
        )
        first = size.images * _PARTS + 1
        connection.executemany(
            "INSERT INTO link (repository, blob) VALUES (?, ?)",
            ((n % size.repositories + 1, first + n) for n in range(size.garbage)),
        )
        connection.execute(_COUNTED)
        connection.execute(_REMEMBERED)


@contextmanager
def _without_triggers(connection: sqlite3.Connection) -> Iterator[None]:
    triggers = connection.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
    ).fetchall()
    for name, _ in triggers:
        connection.execute(f"DROP TRIGGER {name}")
    yield
    for _, creating in triggers:
        connection.execute(creating)


def _blobs(size: Littered) -> Iterator[tuple[int, str, int, bytes | None]]:
    for number in range(size.images):
        parts = [(f"sha256:{_hex(f'part {n}', number)}", _SIZE) for n in range(1, _PARTS)]
        content = _manifest(parts)
        top = number * _PARTS + 1
        yield top, f"sha256:{hashlib.sha256(content).hexdigest()}", len(content), content
        for place, (digest, length) in enumerate(parts, start=1):
            yield top + place, digest, length, None
    for number in range(size.garbage):
        identity = size.images * _PARTS + 1 + number
        yield identity, f"sha256:{_hex('garbage', number)}", len(_content("garbage", number)), None


def _content(kind: str, number: int) -> bytes:
    return f"{kind} {number}\n".encode()


def _hex(kind: str, number: int) -> str:
    return hashlib.sha256(_content(kind, number)).hexdigest()


def _manifest(parts: list[tuple[str, int]]) -> bytes:
    described = [
        {"mediaType": "application/octet-stream", "digest": digest, "size": size}
        for digest, size in parts
    ]
    config, *layers = described
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers}
    return json.dumps(document).encode()
