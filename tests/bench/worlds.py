"""Registries that hold very many names, made where they lie: pushing them all would take an hour.

Each server gets two folders of data beside its own, and serves them while their pages are measured.
Ours has few names in one and many in the other; the others, which walk their folders at each page,
have the same number in both, and not so many.
"""

import shutil
import sqlite3
from pathlib import Path
from typing import NamedTuple

import trio

from appliance.catalogue.database import Database
from appliance.oci.mediatypes import OCI_INDEX
from tests.bench.content import REPOSITORY, TAG

WORLDS = ("few", "many")
TAGGED = "bench/tagged"

_DIGEST = "sha256:" + "0" * 64


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
