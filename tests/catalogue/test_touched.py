"""A damaged page of the catalogue names the images that have rows on it, whatever it says itself.

Which rows lie on a page is learnt from SQLite: a leaf that claims to have no cells takes them away.
"""

import random
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from appliance.catalogue.schema import migrate
from appliance.catalogue.soundness import describe_pages
from appliance.oci.digest import Digest

CHANCE = random.Random(5)  # noqa: S311 - repeatable on purpose
PAGE = 4096
REPOSITORIES = 400
IMAGES = 4  # of each
AT_ONCE = 2  # pages that a test damages, one after the other
LONG = 6000  # bytes of a manifest that needs a page of its own

Row = tuple[object, ...]


class Tree(NamedTuple):
    table: str
    by: str = ""
    condition: str = "1"

    @property
    def columns(self) -> str:
        return {
            "absent": "repository, manifest",
            "blob": "id",
            "edge": "repository, manifest",
            "link": "repository, blob",
            "manifest": "repository, blob",
            "repository": "id",
            "tag": "repository, name",
        }[self.table]

    def read(self, catalogue: Path) -> set[Row]:
        """All rows that this tree itself has."""
        how = f"INDEXED BY {self.by}"
        if not self.by:
            with_rowid = self.table in {"blob", "repository"}
            how = "NOT INDEXED" if with_rowid else f"INDEXED BY sqlite_autoindex_{self.table}_1"
        with closing(sqlite3.connect(f"file:{catalogue}?immutable=1", uri=True)) as connection:
            return set(
                connection.execute(
                    f"SELECT {self.columns} FROM {self.table} {how} WHERE {self.condition}"  # noqa: S608
                )
            )


TREES = (
    Tree("absent"),
    Tree("absent", "absent_manifest"),
    Tree("blob"),
    Tree("blob", "sqlite_autoindex_blob_1"),
    Tree("edge"),
    Tree("edge", "edge_target"),
    Tree("link"),
    Tree("link", "link_blob"),
    Tree("link", "link_idle", "uses = 0"),
    Tree("manifest"),
    Tree("manifest", "manifest_blob"),
    Tree("manifest", "manifest_idle", "tags = 0 AND uses = 0 AND bound = 0"),
    Tree("manifest", "manifest_subject", "subject IS NOT NULL"),
    Tree("repository"),
    Tree("repository", "repository_listed", "manifests > 0"),
    Tree("repository", "repository_size"),
    Tree("repository", "sqlite_autoindex_repository_1"),
    Tree("tag"),
    Tree("tag", "tag_manifest"),
)


class World(NamedTuple):
    catalogue: Path
    images: dict[tuple[str, Row], set[str]]
    """The images that a row touches, by its table and what it has in the columns of `Tree`."""

    def touched(self, tree: Tree, rows: set[Row]) -> set[str]:
        return set[str]().union(*(self.images.get((tree.table, row), ()) for row in rows))

    def pages(self, tree: Tree, kind: str) -> list[int]:
        """Those of a kind that have several cells."""
        query = "SELECT pageno FROM dbstat WHERE name = ? AND pagetype = ? AND ncell > 1"
        with closing(sqlite3.connect(self.catalogue)) as connection:
            found = connection.execute(query, (tree.by or tree.table, kind))
            return [page for (page,) in found]


def digest(number: int) -> str:
    return str(Digest.of(b"%d" % number))


def fill(connection: sqlite3.Connection) -> dict[tuple[str, Row], set[str]]:
    """Push images, in each repository one without a tag, one of a long manifest, an idle layer."""
    images: dict[tuple[str, Row], set[str]] = defaultdict(set)
    numbers = list(range(1, REPOSITORIES * (2 * IMAGES + 1) + 1))
    CHANCE.shuffle(numbers)
    for number in range(len(numbers)):
        connection.execute(
            "INSERT INTO blob (id, digest, size) VALUES (?, ?, 7)", (number + 1, digest(number + 1))
        )
    for repository in range(1, REPOSITORIES + 1):
        name = f"some/where/or/other/{CHANCE.randrange(10**6):06}-{repository}"
        connection.execute("INSERT INTO repository (id, name) VALUES (?, ?)", (repository, name))
        link = "INSERT INTO link (repository, blob) VALUES (?, ?)"
        connection.execute(link, (repository, numbers.pop()))
        for number in range(IMAGES):
            manifest, layer = numbers.pop(), numbers.pop()
            tag = f"release-{CHANCE.randrange(10**6):06}-{number}"
            connection.execute(link, (repository, layer))
            connection.execute(
                "UPDATE blob SET content = zeroblob(?) WHERE id = ?",
                (0 if number else LONG, manifest),
            )
            connection.execute(
                "INSERT INTO manifest (repository, blob, media_type, subject) VALUES (?, ?, ?, ?)",
                (repository, manifest, "type", digest(layer)),
            )
            connection.execute("INSERT INTO edge VALUES (?, ?, ?)", (repository, manifest, layer))
            connection.execute(
                "INSERT INTO absent (repository, manifest, digest) VALUES (?, ?, ?)",
                (repository, manifest, digest(-manifest)),
            )
            keys: list[tuple[str, Row]] = [
                ("blob", (manifest,)),
                ("blob", (layer,)),
                ("link", (repository, layer)),
                ("manifest", (repository, manifest)),
                ("edge", (repository, manifest)),
                ("absent", (repository, manifest)),
            ]
            if number:
                connection.execute(
                    "INSERT INTO tag (repository, name, manifest) VALUES (?, ?, ?)",
                    (repository, tag, manifest),
                )
                keys += [("tag", (repository, tag)), ("repository", (repository,))]
            for key in keys:
                images[key].add(f"{name}:{tag}" if number else f"{name}@{digest(manifest)}")
    return images


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    path = tmp_path_factory.mktemp("touched") / "catalogue.sqlite3"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        migrate(connection)
        connection.execute("BEGIN")
        images = fill(connection)
        connection.execute("COMMIT")
    return World(path, images)


@contextmanager
def changed(world: World, page: int, content: bytes) -> Iterator[Path]:
    """The catalogue with other bytes on a page."""
    before = content_of(world, page)
    write(world, page, content)
    try:
        yield world.catalogue
    finally:
        write(world, page, before)


def content_of(world: World, page: int) -> bytes:
    with world.catalogue.open("rb") as file:
        file.seek((page - 1) * PAGE)
        return file.read(PAGE)


def write(world: World, page: int, content: bytes) -> None:
    with world.catalogue.open("r+b") as file:
        file.seek((page - 1) * PAGE)
        file.write(content)


def told(catalogue: Path, page: int) -> set[str]:
    """The images that are named where a page is damaged."""
    with closing(sqlite3.connect(f"file:{catalogue}?immutable=1", uri=True)) as connection:
        [finding] = describe_pages(connection, [page], 10_000)
    assert finding.images.count == len(finding.images.names)
    return set(finding.images.names)


def without_cells(leaf: bytes) -> Iterator[bytes]:
    """A page without its first cell, and one with that alone; SQLite lets none have no cell."""
    cells = int.from_bytes(leaf[3:5], "big")
    pointers = slice(8, 8 + 2 * cells)
    others = leaf[pointers][2:] + bytes(2)
    yield leaf[:3] + (cells - 1).to_bytes(2, "big") + leaf[5:8] + others + leaf[pointers.stop :]
    yield leaf[:3] + (1).to_bytes(2, "big") + leaf[5:]


def flipped(content: bytes, at: int, bit: int) -> bytes:
    return content[:at] + bytes([content[at] ^ (1 << bit)]) + content[at + 1 :]


def damages(content: bytes) -> dict[str, bytes]:
    at = CHANCE.randrange(PAGE)
    return {
        "a bit": content[:at]
        + bytes([content[at] ^ (1 << CHANCE.randrange(8))])
        + content[at + 1 :],
        "the bit of its kind": flipped(content, 0, 3),
        "a bit of its pointers": flipped(content, 8 + CHANCE.randrange(8), CHANCE.randrange(8)),
        "no cells": content[:3] + bytes(2) + content[5:],
        "zeros": bytes(PAGE),
        "ones": b"\xff" * PAGE,
        "noise": CHANCE.randbytes(PAGE),
    }


@pytest.mark.parametrize("tree", TREES, ids=str)
def test_the_rows_of_a_leaf_are_told(world: World, tree: Tree) -> None:
    pages = world.pages(tree, "leaf")
    assert len(pages) > 1
    everything = tree.read(world.catalogue)
    for page in CHANCE.sample(pages, AT_ONCE):
        content = content_of(world, page)
        rows = set[Row]()
        for fewer in without_cells(content):
            with changed(world, page, fewer) as catalogue:
                rows |= everything - tree.read(catalogue)
        expected = world.touched(tree, rows)
        for what, damaged in damages(content).items():
            with changed(world, page, damaged) as catalogue:
                found = told(catalogue, page)
            assert found >= expected, (page, what)
            if "bit" not in what:  # which may keep SQLite from telling what comes after it
                assert found == expected, (page, what)
        assert expected or tree.by == "link_idle"  # what nobody needs


@pytest.mark.parametrize("tree", TREES, ids=str)
def test_all_that_is_below_a_page_is_told(world: World, tree: Tree) -> None:
    pages = world.pages(tree, "internal")
    rows = tree.read(world.catalogue)
    for page in CHANCE.sample(pages, min(AT_ONCE, len(pages))):
        content = content_of(world, page)
        for damaged in damages(content).values():
            with changed(world, page, damaged) as catalogue:
                found = told(catalogue, page)
            assert found <= world.touched(tree, rows)
            assert found == world.touched(tree, rows) or len(pages) > 1


def test_the_rest_of_a_long_row_belongs_to_that_row(world: World) -> None:
    query = "SELECT pageno FROM dbstat WHERE name = 'blob' AND pagetype = 'overflow'"
    with closing(sqlite3.connect(world.catalogue)) as connection:
        overflow = connection.execute(query).fetchall()
    assert len(overflow) == REPOSITORIES
    images = [told(world.catalogue, page) for (page,) in CHANCE.sample(overflow, 20)]
    assert [len(one) for one in images] == [1] * 20
    long = {image for names in world.images.values() for image in names if "@" in image}
    assert len(set[str]().union(*images) & long) == 20


def test_images_on_several_pages_are_told_once_and_counted(world: World) -> None:
    pages = world.pages(Tree("tag"), "leaf")
    with closing(sqlite3.connect(world.catalogue)) as connection:
        [finding] = describe_pages(connection, pages, 3)
    assert len(finding.images.names) == 3
    assert finding.images.count > 0.9 * REPOSITORIES * (IMAGES - 1)
    assert len(set().union(*(told(world.catalogue, page) for page in pages))) == (
        finding.images.count
    )


def test_a_page_that_no_image_needs_touches_none(world: World) -> None:
    history = world.pages(Tree("history"), "leaf")
    assert told(world.catalogue, history[0]) == set()
    assert told(world.catalogue, 1) == set()
