"""Finding and removing garbage costs the garbage, however much else there is."""

import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from appliance.catalogue.database import Database
from appliance.catalogue.garbage import Garbage
from tests.bench.worlds import Littered, fill_littered

_MOMENT = 1_000_000_000
_FOR_EVER = 1 << 40
_COUNTS = {
    "repository": "id, manifests, size",
    "history": "repository, tag, digest",
    "blob": "id, holders",
    "link": "repository, blob, uses",
    "manifest": "repository, blob, uses, tags, bound, orphan",
}


async def littered(database: Database, size: Littered) -> Database:
    await database.write(lambda connection: fill_littered(connection, size))
    return database


@contextmanager
def statements(database: Database) -> Iterator[list[str]]:
    """Note the statements that run, but for those that triggers run."""
    found: list[str] = []

    def note(statement: str) -> None:
        if not statement.startswith("--"):
            found.append(statement)

    for connection in (database._reader, database._writer):
        connection.set_trace_callback(note)
    try:
        yield found
    finally:
        for connection in (database._reader, database._writer):
            connection.set_trace_callback(None)


def plan(database: Database, statement: str) -> list[str]:
    return [row[3] for row in database.read(f"EXPLAIN QUERY PLAN {statement}")]


async def lists(garbage: Garbage) -> None:
    await garbage.orphans(_MOMENT, None, 10)
    await garbage.untagged(_MOMENT, None, 10)
    links = await garbage.idle_links(_MOMENT, None, 10)
    await garbage.idle_links(_MOMENT, links[-1].place, 10)
    await garbage.remove_links(await garbage.idle_links(_MOMENT, None, 100))
    await garbage.idle_blobs(10)
    await garbage.put_away(await garbage.idle_blobs(100))
    await garbage.quarantined(_FOR_EVER, 10)
    await garbage.forget_changes(_FOR_EVER, 10)


async def test_what_is_idle_is_found_through_indexes_of_what_is_idle(database: Database) -> None:
    await littered(database, Littered(repositories=3, images=30, garbage=30))
    with statements(database) as found:
        await lists(Garbage(database))
    listing = [statement for statement in found if statement.lstrip().startswith("SELECT")]
    first = [plan(database, statement)[0] for statement in listing]
    for step, index in zip(
        first,
        (
            "manifest_orphan",
            "manifest_idle",
            "link_idle",
            "link_idle",
            "link_idle",
            "blob_idle",
            "blob_idle",
            "quarantine_age",
        ),
        strict=True,
    ):
        assert f"INDEX {index}" in step
    for statement in found:
        for step in plan(database, statement):
            assert "B-TREE" not in step, statement
            # An index of nothing but garbage may be read from its beginning.
            scanned = step.startswith("SCAN") and not step.endswith("INDEX blob_idle")
            scanned = scanned and "json_each" not in step  # a batch that was handed over
            assert not scanned, (statement, step)


@contextmanager
def counted(database: Database) -> Iterator[Counter[str]]:
    """Count the steps that SQLite's machine makes."""
    made: Counter[str] = Counter()

    def count() -> int:
        made["steps"] += 1
        return 0

    connections = (database._reader, database._writer)
    for connection in connections:
        connection.set_progress_handler(count, 1)
    try:
        yield made
    finally:
        for connection in connections:
            connection.set_progress_handler(None, 0)


async def whole_sweep(database: Database) -> None:
    garbage = Garbage(database)
    links = await garbage.idle_links(_MOMENT, None, 100)
    assert len(links) == await garbage.remove_links(links) == 30
    assert not await garbage.idle_links(_MOMENT, None, 100)
    assert not await garbage.orphans(_MOMENT, None, 100)
    assert not await garbage.untagged(_MOMENT, None, 100)
    assert len(await garbage.put_away(await garbage.idle_blobs(100))) == 30
    assert not await garbage.idle_blobs(100)
    away = await garbage.quarantined(_FOR_EVER, 100)
    assert len(away) == 30
    await garbage.forget([blob.digest for blob in away])
    assert not await garbage.forget_changes(_MOMENT, 100)


async def test_a_sweep_takes_as_many_steps_whatever_else_there_is(tmp_path: Path) -> None:
    taken = []
    for images in (20, 2000):
        database = Database.open(tmp_path / f"{images}.sqlite3")
        await littered(database, Littered(repositories=10, images=images, garbage=30))
        with counted(database) as made:
            await whole_sweep(database)
        taken.append(made["steps"])
        await database.aclose()
    assert taken[0] > 1000
    assert taken[1] < 1.1 * taken[0]


async def test_what_a_bench_counts_is_what_triggers_count(
    database: Database, tmp_path: Path
) -> None:
    await littered(database, Littered(repositories=4, images=25, garbage=10))
    other = Database.open(tmp_path / "other.sqlite3")
    copied: dict[str, tuple[str, list[tuple[Any, ...]]]] = {
        table: (columns, database.read(f"SELECT {columns} FROM {table}"))  # noqa: S608 - fixed words
        for table, columns in (
            ("repository", "id, name"),
            ("blob", "id, digest, size, content"),
            ("manifest", "repository, blob, media_type"),
            ("tag", "repository, name, manifest"),
            ("link", "repository, blob"),
            ("edge", "repository, manifest, target"),
        )
    }

    def copy(connection: sqlite3.Connection) -> None:
        for table, (columns, rows) in copied.items():
            places = ", ".join("?" * (columns.count(",") + 1))
            connection.executemany(f"INSERT INTO {table} ({columns}) VALUES ({places})", rows)  # noqa: S608

    await other.write(copy)
    for table, columns in _COUNTS.items():
        query = f"SELECT {columns} FROM {table} ORDER BY {columns}"  # noqa: S608 - fixed words
        assert database.read(query) == other.read(query), table
    assert triggers(database) == triggers(other)
    await other.aclose()


def triggers(database: Database) -> Sequence[tuple[str, str]]:
    rows = database.read("SELECT name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY name")
    return [(name, sql) for name, sql in rows]


def test_a_world_has_as_many_rows_as_it_says(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.sqlite3"
    database = Database.open(path)
    database.close()
    size = Littered(repositories=3, images=20, garbage=7)
    with sqlite3.connect(path) as connection:
        fill_littered(connection, size)
        tables = ("link", "blob", "manifest", "edge")
        counts = [
            connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # noqa: S608 - fixed words
            for table in tables
        ]
    connection.close()
    assert sum(counts) == size.rows
