"""What a scrub asks of the catalogue: in bounded batches, and from one that may be damaged."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import trio

from appliance.catalogue import database as database_module
from appliance.catalogue import images, soundness
from appliance.catalogue.database import Database
from appliance.catalogue.inspection import Inspection
from appliance.oci.digest import Digest
from appliance.oci.errors import STORE_UNAVAILABLE
from tests.refused import refused


@pytest.fixture
def inspection(database: Database) -> Inspection:
    return Inspection(database)


def digest(number: int) -> Digest:
    return Digest.of(str(number).encode())


async def fill(database: Database, blobs: int) -> None:
    """Make that many blobs, all in `many`, the odd ones in `odd` as well, without counts."""

    def writing(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO repository (id, name) VALUES (1, 'many'), (2, 'odd')")
        connection.executemany(
            "INSERT INTO blob (id, digest, size) VALUES (?, ?, 10)",
            [(number, str(digest(number))) for number in range(1, blobs + 1)],
        )
        connection.execute("INSERT INTO link (repository, blob) SELECT 1, id FROM blob")
        connection.execute(
            "INSERT INTO link (repository, blob) SELECT 2, id FROM blob WHERE id % 2"
        )

    await database.write(writing)


async def write(database: Database, *queries: str) -> None:
    def writing(connection: sqlite3.Connection) -> None:
        for query in queries:
            connection.execute(query)

    await database.write(writing)


# --- blobs


@pytest.mark.parametrize(("name", "count"), [(None, 100), ("many", 100), ("odd", 50), ("no", 0)])
async def test_blobs_are_listed_once_each_in_batches(
    database: Database, inspection: Inspection, name: str | None, count: int
) -> None:
    await fill(database, 100)
    assert await inspection.extent(name, 0) == (count, count * 10)
    seen: list[Digest] = []
    after = 0
    while True:
        held, faults, last = await inspection.blobs(name, after, 7, 1 << 30)
        assert (len(held) <= 7, faults) == (True, [])
        if last == after:
            break
        after = last
        seen += [one.digest for one in held]
        assert await inspection.extent(name, after) == (count - len(seen), 10 * (count - len(seen)))
    assert len(seen) == len(set(seen)) == count


async def test_a_batch_ends_where_its_bytes_are_many(
    database: Database, inspection: Inspection
) -> None:
    await fill(database, 10)
    held, _, last = await inspection.blobs(None, 0, 10, 25)
    assert (len(held), last) == (3, 3)


async def test_a_row_without_a_digest_is_told_and_passed_over(
    database: Database, inspection: Inspection
) -> None:
    await fill(database, 3)
    await write(database, "UPDATE blob SET digest = 'sha256:zz' WHERE id = 2")
    held, faults, last = await inspection.blobs(None, 0, 10, 1000)
    assert [one.digest for one in held] == [digest(1), digest(3)]
    assert last == 3
    assert "row 2 of table blob has no digest" in faults[0].fault
    assert "registry restore" in faults[0].fault


async def test_damage_is_marked_once_and_healed(database: Database, inspection: Inspection) -> None:
    await fill(database, 3)
    assert await inspection.condemn(digest(1))
    assert not await inspection.condemn(digest(1))
    assert not await inspection.condemn(digest(99))
    assert await inspection.damaged(10) == [digest(1)]
    await inspection.note_quarantine(digest(1), 10)
    await inspection.heal(digest(1))
    assert await inspection.damaged(10) == []
    assert await inspection.in_quarantine("", 10) == []


async def test_only_bytes_that_were_recorded_are_recorded_anew(
    database: Database, inspection: Inspection
) -> None:
    await fill(database, 3)
    await write(database, "UPDATE blob SET content = x'00' WHERE id = 2")
    for number in (1, 2):
        await inspection.mend(digest(number), 7, b"content")
    assert database.read("SELECT size, content FROM blob ORDER BY id") == [
        (7, None),
        (7, b"content"),
        (10, None),
    ]


async def test_images_are_found_through_indexes_and_are_bounded(
    database: Database, inspection: Inspection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(database, 20)

    def writing(connection: sqlite3.Connection) -> None:
        for number in range(2, 21):  # each needs the one before it
            connection.execute(
                "INSERT INTO manifest (repository, blob, media_type) VALUES (1, ?, '')", (number,)
            )
            connection.execute(
                "INSERT INTO edge (repository, manifest, target) VALUES (1, ?, ?)",
                (number, number - 1),
            )
            connection.execute(
                "INSERT INTO tag (repository, name, manifest) VALUES (1, ?, ?)",
                (f"t{number:02}", number),
            )
        connection.execute("DELETE FROM tag WHERE name IN ('t05', 't20')")

    await database.write(writing)
    found = await inspection.images(digest(1), 3)
    assert (found.names, found.count) == (("many:t02", "many:t03", "many:t04"), 18)
    found = await inspection.images(digest(19), 3)
    assert found.names == ("many:t19", f"many@{digest(20)}")
    assert (await inspection.images(digest(99), 3)).names == ()
    monkeypatch.setattr(images, "WALKED_MAX", 5)
    assert (await inspection.images(digest(1), 3)).count <= 5


# --- counts


@pytest.mark.parametrize("table", ["blob", "link", "manifest", "repository"])
@pytest.mark.parametrize("name", [None, "odd"])
async def test_counts_are_compared_in_batches_and_set_right(
    database: Database,
    inspection: Inspection,
    monkeypatch: pytest.MonkeyPatch,
    table: str,
    name: str | None,
) -> None:
    monkeypatch.setattr(soundness, "_ROWS", 7)
    await fill(database, 50)
    await write(
        database,
        "INSERT INTO manifest (repository, blob, media_type) SELECT repository, blob, '' FROM link",
    )

    async def recount(*, mending: bool) -> list[str]:
        after: tuple[int, int] | None = (-1, -1)
        found: list[str] = []
        steps = 0
        while after is not None:
            after, findings = await inspection.recount(table, name, after, mending=mending)
            found += [finding.state for finding in findings]
            steps += 1
            assert steps < 100
        return found

    assert await recount(mending=True) == []
    column = {"blob": "holders", "repository": "size"}.get(table, "uses")
    await write(database, f"UPDATE {table} SET {column} = {column} + 1")  # noqa: S608  fixed words
    assert set(await recount(mending=False)) == {"damaged"}
    assert set(await recount(mending=True)) == {"mended"}
    assert await recount(mending=True) == []


# --- the catalogue itself


async def test_damaged_pages_are_told_by_what_is_in_them(
    database: Database, inspection: Inspection
) -> None:
    await fill(database, 2000)
    roots: dict[str, int] = dict(
        database.read("SELECT name, rootpage FROM sqlite_schema WHERE rootpage > 0")
    )
    pages = [roots["link"], roots["link_blob"], roots["blob"]]
    found = {one.what: one.fault for one in await inspection.describe_pages(pages, 3)}
    assert found.keys() == {
        "catalogue, table link",
        "catalogue, index link_blob",
        "catalogue, table blob",
    }
    assert str(roots["blob"]) in found["catalogue, table blob"]
    many = await inspection.describe_pages(list(range(10_000, 10_020)), 3)
    assert [one.what for one in many] == ["catalogue, a page that is not in use"]
    assert "and 10 more" in many[0].fault


def test_without_help_of_sqlite_pages_are_told_by_their_numbers() -> None:
    def refusing(action: int, table: str | None, *_: str | None) -> int:
        return sqlite3.SQLITE_DENY if table == "dbstat" else sqlite3.SQLITE_OK

    with closing(sqlite3.connect(":memory:")) as connection:
        connection.set_authorizer(refusing)
        [found] = soundness.describe_pages(connection, [7], 3)
    assert found.what == "catalogue"
    assert "its page has changed on the disk: 7" in found.fault


async def test_a_structure_that_does_not_hold_is_told(database: Database, tmp_path: Path) -> None:
    await fill(database, 2000)
    assert await Inspection(database).check_structure() == []
    path = tmp_path / "copy.sqlite3"
    await database.copy_into(path)
    with sqlite3.connect(path) as connection:
        ((root,),) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'blob'")
    connection.close()
    content = bytearray(path.read_bytes())
    content[(root - 1) * 4096 : root * 4096] = bytes(4096)
    path.write_bytes(content)
    connection = sqlite3.connect(path)
    faults = soundness.check_structure(connection)
    connection.close()
    assert faults
    assert all("registry rebuild" in one.fault and "\n" not in one.fault for one in faults)


async def test_a_study_ends_when_nobody_wants_it_any_more(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "_STEPS", 100)

    def endless(connection: sqlite3.Connection) -> None:
        connection.execute(
            "WITH RECURSIVE number (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM number)"
            " SELECT count(*) FROM number"
        ).fetchone()

    with trio.move_on_after(0.2) as scope:
        await database.study(endless)
    assert scope.cancelled_caught
    assert database.read("SELECT 1") == [(1,)]

    def failing(connection: sqlite3.Connection) -> None:
        connection.execute("SELECT * FROM nowhere")

    with refused(STORE_UNAVAILABLE):
        await database.study(failing)
