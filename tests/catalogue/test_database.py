"""The database: commits in groups, each job for itself, and what happens when a commit fails."""

import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from appliance import work
from appliance.catalogue import database as module
from appliance.catalogue import schema
from appliance.catalogue.database import Database
from appliance.catalogue.schema import STEPS, SchemaTooNewError, check_version
from appliance.oci.errors import BLOB_UNKNOWN, STORE_FULL, STORE_UNAVAILABLE
from tests.refused import refused

Writing = Callable[[sqlite3.Connection], object]


def add(name: str) -> Writing:
    def writing(connection: sqlite3.Connection) -> str:
        connection.execute("INSERT INTO repository (name) VALUES (?)", (name,))
        return name

    return writing


def fail_after(first: Writing, error: Exception) -> Writing:
    def writing(connection: sqlite3.Connection) -> None:
        first(connection)
        raise error

    return writing


def names(database: Database) -> list[str]:
    return [name for (name,) in database.read("SELECT name FROM repository ORDER BY name")]


def names_in(path: Path) -> list[str]:
    """What a process that opened the file now would find."""
    with closing(sqlite3.connect(path)) as connection:
        return [name for (name,) in connection.execute("SELECT name FROM repository ORDER BY name")]


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@asynccontextmanager
async def one_group(database: Database) -> AsyncIterator[Callable[[Writing], list[object]]]:
    """Give a verb that queues writings; they run together, once this is left.

    The list that the verb returns gets what became of the writing: a value or an exception.
    """
    running, go = threading.Event(), threading.Event()

    def hold(connection: sqlite3.Connection) -> None:
        running.set()
        assert go.wait(60)

    async def write(writing: Writing, outcome: list[object]) -> None:
        try:
            outcome.append(await database.write(writing))
        except Exception as error:  # noqa: BLE001  whatever it is, the test looks at it
            outcome.append(error)

    def queue(writing: Writing) -> list[object]:
        outcome: list[object] = []
        nursery.start_soon(write, writing, outcome)
        return outcome

    async with trio.open_nursery() as nursery:
        nursery.start_soon(database.write, hold)
        await work.disk(running.wait)
        try:
            yield queue
            await wait_all_tasks_blocked()
        finally:
            go.set()


@contextmanager
def traced(database: Database) -> Iterator[list[str]]:
    """Record the statements that the writer runs."""
    statements: list[str] = []
    database._writer.set_trace_callback(statements.append)
    yield statements
    database._writer.set_trace_callback(None)


# --- a file


async def test_an_empty_file_gets_todays_tables(database: Database) -> None:
    assert database.read("PRAGMA user_version") == [(len(STEPS),)]
    tables = {
        name for (name,) in database.read("SELECT name FROM sqlite_schema WHERE type='table'")
    }
    assert tables == {
        "repository",
        "blob",
        "link",
        "manifest",
        "tag",
        "edge",
        "session",
        "absent",
        "quarantine",
        "history",
        "chore",
    }


async def test_commits_are_durable_and_references_hold(database: Database) -> None:
    def look(connection: sqlite3.Connection) -> list[object]:
        return [
            connection.execute(f"PRAGMA {pragma}").fetchone()[0]
            for pragma in ("journal_mode", "synchronous", "foreign_keys")
        ]

    assert await database.write(look) == ["wal", 2, 1]


async def test_what_was_written_is_there_when_opened_again(tmp_path: Path) -> None:
    for number in range(3):
        database = Database.open(tmp_path / "file")
        assert await database.write(add(f"name{number}")) == f"name{number}"
        assert names(database) == [f"name{n}" for n in range(number + 1)]
        await database.aclose()


async def test_what_a_crash_left_in_the_journal_is_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    database = Database.open(path)
    await database.write(add("a"))
    copied = tmp_path / "copied"
    copied.mkdir()
    for part in ("file", "file-wal"):  # the state of the disk, had the process died here
        (copied / part).write_bytes((tmp_path / part).read_bytes())
    await database.aclose()
    again = Database.open(copied / "file")
    assert names(again) == ["a"]
    await again.aclose()


def test_a_file_of_a_later_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {len(STEPS) + 1}")
    with pytest.raises(SchemaTooNewError):
        Database.open(path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,)


@pytest.mark.parametrize(
    "content", [b"this is not a database" * 100, b"SQLite format 3\0" + bytes(99)]
)
def test_a_file_that_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(sqlite3.DatabaseError):
        Database.open(path)


def test_a_version_is_looked_up_while_the_rest_is_in_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "file"
    Database.open(path).close()
    header = path.read_bytes()[:100]
    # As a crash within a checkpoint leaves it: the first page is new, and others are still missing.
    path.write_bytes(header)
    check_version(path)
    path.write_bytes(header[:60] + (len(STEPS) + 1).to_bytes(4, "big") + header[64:])
    with pytest.raises(SchemaTooNewError):
        check_version(path)
    path.write_bytes(b"")
    check_version(path)
    for content in (b"this is no database" * 10, header[:50]):
        path.write_bytes(content)
        with pytest.raises(sqlite3.DatabaseError):
            check_version(path)


def test_a_file_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.OperationalError):
        Database.open(tmp_path / "no such folder" / "file")


async def test_a_new_step_is_taken_on_an_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    database = Database.open(path)
    await database.write(add("a"))
    await database.aclose()
    monkeypatch.setattr(schema, "STEPS", (*STEPS, "ALTER TABLE repository ADD COLUMN more TEXT;"))
    database = Database.open(path)
    assert database.read("SELECT name, more FROM repository") == [("a", None)]
    assert database.read("PRAGMA user_version") == [(len(STEPS) + 1,)]
    await database.aclose()


async def test_a_step_that_fails_leaves_the_file_at_the_step_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    broken = "CREATE TABLE more (id INTEGER); CREATE TABLE repository (id INTEGER);"
    with monkeypatch.context() as patch:
        patch.setattr(schema, "STEPS", (*STEPS, broken))
        with pytest.raises(sqlite3.OperationalError, match="already exists"):
            Database.open(path)
    database = Database.open(path)
    assert database.read("PRAGMA user_version") == [(len(STEPS),)]
    assert database.read("SELECT count(*) FROM sqlite_schema WHERE name = 'more'") == [(0,)]
    await database.aclose()


async def test_repositories_of_the_first_step_are_counted_by_the_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    with monkeypatch.context() as patch:
        patch.setattr(schema, "STEPS", STEPS[:1])
        database = Database.open(path)

        def fill(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT INTO repository (id, name) VALUES (1, 'empty'), (2, 'full')")
            connection.execute(
                "INSERT INTO blob (id, digest, size) VALUES (1, 'a', 1), (2, 'b', 1)"
            )
            connection.execute(
                "INSERT INTO manifest (repository, blob, media_type) VALUES (2, 1, 'x'), (2, 2, 'x')"
            )

        await database.write(fill)
        await database.aclose()
    database = Database.open(path)
    assert database.read("SELECT name, manifests FROM repository ORDER BY id") == [
        ("empty", 0),
        ("full", 2),
    ]
    await database.write(lambda connection: connection.execute("DELETE FROM manifest"))
    assert database.read("SELECT sum(manifests) FROM repository") == [(0,)]
    await database.aclose()


# --- reading


async def test_reading_cannot_write(database: Database) -> None:
    with refused(STORE_UNAVAILABLE):
        database.read("DELETE FROM repository")


async def test_a_write_can_be_read_at_once(database: Database) -> None:
    for number in range(20):
        await database.write(add(f"{number:02}"))
        assert names(database)[-1] == f"{number:02}"


# --- writing


async def test_a_write_returns_what_it_found(database: Database) -> None:
    assert await database.write(lambda connection: connection.execute("SELECT 7").fetchone()) == (
        7,
    )


async def test_a_write_that_fails_leaves_nothing_and_says_why(database: Database) -> None:
    with pytest.raises(ZeroDivisionError):
        await database.write(fail_after(add("a"), ZeroDivisionError()))
    with refused(BLOB_UNKNOWN):
        await database.write(fail_after(add("a"), BLOB_UNKNOWN.error()))
    with pytest.raises(sqlite3.IntegrityError):
        await database.write(fail_after(add("a"), sqlite3.IntegrityError()))
    assert names(database) == []
    await database.write(add("a"))
    assert names(database) == ["a"]


async def test_a_statement_that_fails_says_that_the_store_does(database: Database) -> None:
    with refused(STORE_UNAVAILABLE) as caught:
        await database.write(lambda connection: connection.execute("SELECT * FROM nothing"))
    assert isinstance(caught.value.__cause__, sqlite3.OperationalError)


async def test_many_concurrent_writes_are_all_durable_in_few_transactions(
    database: Database, tmp_path: Path
) -> None:
    with traced(database) as statements:
        async with one_group(database) as queue:
            outcomes = [queue(add(f"{number:04}")) for number in range(1000)]
    expected = [f"{number:04}" for number in range(1000)]
    assert outcomes == [[name] for name in expected]
    assert names_in(tmp_path / "catalogue.sqlite3") == expected
    assert statements.count("COMMIT") == 1 + 4  # the one that held the others, and theirs


async def test_one_failing_write_does_not_undo_its_neighbours(
    database: Database, tmp_path: Path
) -> None:
    await database.write(add("taken"))
    with traced(database) as statements:
        async with one_group(database) as queue:
            before = queue(add("before"))
            own = queue(fail_after(add("own"), ZeroDivisionError()))
            refusal = queue(fail_after(add("refusal"), BLOB_UNKNOWN.error()))
            foreign = queue(add("taken"))
            broken = queue(lambda connection: connection.execute("nonsense"))
            after = queue(add("after"))
    assert statements.count("COMMIT") == 2
    assert (before, after) == (["before"], ["after"])
    assert isinstance(own[0], ZeroDivisionError)
    assert getattr(refusal[0], "row", None) is BLOB_UNKNOWN
    assert isinstance(foreign[0], sqlite3.IntegrityError)
    assert getattr(broken[0], "row", None) is STORE_UNAVAILABLE
    assert names_in(tmp_path / "catalogue.sqlite3") == ["after", "before", "taken"]


async def test_a_commit_that_fails_fails_everybody(database: Database, tmp_path: Path) -> None:
    def break_the_commit(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA defer_foreign_keys = ON")
        connection.execute("INSERT INTO link (repository, blob) VALUES (4711, 4711)")

    async with one_group(database) as queue:
        outcomes = [
            queue(add("before")),
            queue(break_the_commit),
            queue(fail_after(add("own"), ZeroDivisionError())),
            queue(add("after")),
        ]
    kinds = [type(outcome) for (outcome,) in outcomes]
    other = sqlite3.IntegrityError
    assert kinds == [other, other, ZeroDivisionError, other]
    assert names_in(tmp_path / "catalogue.sqlite3") == []
    await database.write(add("later"))
    assert names_in(tmp_path / "catalogue.sqlite3") == ["later"]


async def test_a_file_that_somebody_else_has_locked_is_unavailable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BUSY_SECONDS", 0.01)
    path = tmp_path / "file"
    database = Database.open(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(expect_unavailable, database, add(f"{number}"))
        assert names(database) == []  # reading goes on meanwhile
        other.execute("ROLLBACK")
    await database.write(add("a"))
    assert names(database) == ["a"]
    await database.aclose()


async def expect_unavailable(database: Database, writing: Writing) -> None:
    with refused(STORE_UNAVAILABLE):
        await database.write(writing)


async def test_a_full_disk_is_told_apart_and_nobody_is_told_of_rows_that_are_not_there(
    database: Database, tmp_path: Path
) -> None:
    def too_much(connection: sqlite3.Connection) -> None:
        connection.execute(
            "INSERT INTO blob (digest, size, content) VALUES ('a', 1, zeroblob(?))", (1 << 20,)
        )

    await database.write(add("earlier"))
    (pages,) = database._writer.execute("PRAGMA page_count").fetchone()
    database._writer.execute(f"PRAGMA max_page_count = {pages + 5}")
    async with one_group(database) as queue:
        small = {name: queue(add(name)) for name in ("a", "b")}
        large = queue(too_much)
        small |= {name: queue(add(name)) for name in ("c", "d")}
    assert getattr(large[0], "row", None) is STORE_FULL
    told = [name for name, outcome in small.items() if outcome == [name]]
    assert names_in(tmp_path / "catalogue.sqlite3") == [*told, "earlier"]
    database._writer.execute("PRAGMA max_page_count = 1000000")
    await database.write(too_much)
    await database.write(add("e"))
    assert names_in(tmp_path / "catalogue.sqlite3") == [*told, "e", "earlier"]


async def test_a_write_cannot_be_cancelled_half_way(database: Database, tmp_path: Path) -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        assert await database.write(add("a")) == "a"
    assert names_in(tmp_path / "catalogue.sqlite3") == ["a"]


# --- the end


async def test_closing_finishes_what_is_queued(tmp_path: Path) -> None:
    path = tmp_path / "file"
    database = Database.open(path)
    async with trio.open_nursery() as nursery, one_group(database) as queue:
        outcomes = [queue(add(f"{number:03}")) for number in range(300)]
        await wait_all_tasks_blocked()
        nursery.start_soon(database.aclose)
        await wait_all_tasks_blocked()
    assert outcomes == [[f"{number:03}"] for number in range(300)]
    assert names_in(path) == [f"{number:03}" for number in range(300)]


async def test_closing_ends_the_thread_and_tidies_up(tmp_path: Path) -> None:
    path = tmp_path / "file"
    database = Database.open(path)
    await database.write(add("a"))
    assert database._thread.is_alive()
    await database.aclose()
    assert not database._thread.is_alive()
    assert files_in(tmp_path) == ["file", "file.sums"]
