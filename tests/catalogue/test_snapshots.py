"""Snapshots: whole, durable before they are visible, taken while others write; the last few stay."""

import os
import sqlite3
import stat
import threading
from datetime import date
from pathlib import Path

import pytest
import trio

from appliance.catalogue.database import Database
from appliance.catalogue.integrity import fault_of, is_whole
from appliance.catalogue.schema import STEPS
from appliance.catalogue.snapshots import BACKUP, Snapshots, daily
from appliance.oci.errors import RegistryError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "snapshots"


@pytest.fixture
def snapshots(database: Database, folder: Path) -> Snapshots:
    return Snapshots(database, folder)


async def add(database: Database, name: str) -> None:
    await database.write(
        lambda connection: connection.execute("INSERT INTO repository (name) VALUES (?)", (name,))
    )


def names(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    try:
        return [name for (name,) in connection.execute("SELECT name FROM repository ORDER BY name")]
    finally:
        connection.close()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def old(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"")
    os.utime(path, (0, 0))
    return path


async def test_a_snapshot_is_a_whole_catalogue_of_its_own(
    database: Database, snapshots: Snapshots, folder: Path
) -> None:
    await add(database, "a")
    taken = await snapshots.take(BACKUP)
    await add(database, "b")
    assert taken == folder / BACKUP
    assert os.listdir(folder) == [BACKUP]  # noqa: PTH208
    assert mode(taken) == 0o600
    assert mode(folder) == 0o700
    assert fault_of(taken) is None
    assert names(taken) == ["a"]
    await snapshots.take(BACKUP)
    assert names(taken) == ["a", "b"]
    connection = sqlite3.connect(taken)
    assert connection.execute("PRAGMA user_version").fetchone() == (len(STEPS),)
    connection.close()


async def test_writes_go_on_while_a_snapshot_is_taken(
    database: Database,
    snapshots: Snapshots,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The copy is held up at its end, when it has its view of the catalogue."""
    go_on, copied = threading.Event(), trio.Event()
    token = trio.lowlevel.current_trio_token()
    copy = database._copy_into

    def held(target: Path) -> None:
        copy(target)
        token.run_sync_soon(copied.set)
        assert go_on.wait(30)

    monkeypatch.setattr(database, "_copy_into", held)
    await add(database, "before")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(snapshots.take, BACKUP)
        await copied.wait()
        await add(database, "meanwhile")
        assert database.read("SELECT count(*) FROM repository") == [(2,)]
        go_on.set()
    assert names(snapshots._folder / BACKUP) == ["before"]


async def test_writes_go_on_while_sqlite_copies(database: Database, snapshots: Snapshots) -> None:
    def fill(connection: sqlite3.Connection) -> None:
        connection.executemany(
            "INSERT INTO repository (name) VALUES (?)", [(f"r{n:05}",) for n in range(20_000)]
        )

    await database.write(fill)
    begun, ended = trio.Event(), trio.Event()

    async def write() -> None:
        written = 0
        while not ended.is_set():
            await add(database, f"while/{written}")
            written += 1
            begun.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await begun.wait()
        for _ in range(5):
            assert fault_of(await snapshots.take(BACKUP)) is None
        ended.set()
    seen = names(snapshots._folder / BACKUP)
    assert len([name for name in seen if name.startswith("r")]) == 20_000
    later = sorted(int(name[6:]) for name in seen if name.startswith("while/"))
    assert later == list(range(len(later)))  # a state that there was


async def test_a_snapshot_opened_as_a_catalogue_raises_no_false_alarm(
    database: Database, snapshots: Snapshots, tmp_path: Path
) -> None:
    for number in range(300):
        await add(database, f"r{number}")
    path = tmp_path / "restored" / "catalogue.sqlite3"
    path.parent.mkdir()
    (await snapshots.take(BACKUP)).rename(path)
    for _ in range(3):
        opened = Database.open(path)
        assert opened.small_damage() is None
        assert (await opened.check_pages(1)).damaged == []
        assert await opened.damage() is None
        await add(opened, os.urandom(4).hex())
        await opened.aclose()


async def test_one_a_day_is_kept_for_some_days(
    database: Database, snapshots: Snapshots, folder: Path
) -> None:
    days = [date(2026, 1, day) for day in range(28, 32)] + [date(2026, 2, 1)]
    for day in days:
        assert snapshots.lacks(day)
        await add(database, day.isoformat())
        await snapshots.take_daily(day, 3)
        assert not snapshots.lacks(day)
    kept = daily(folder)
    assert [path.name for path in kept] == [
        "catalogue-2026-02-01.sqlite3",
        "catalogue-2026-01-31.sqlite3",
        "catalogue-2026-01-30.sqlite3",
    ]
    assert [len(names(path)) for path in kept] == [5, 4, 3]


async def test_what_a_crash_left_goes_after_a_day_and_nothing_else_does(
    snapshots: Snapshots, folder: Path
) -> None:
    for name in (".backup.sqlite3.1", "mine"):
        old(folder / name)
    os.utime(old(folder / BACKUP))
    await snapshots.take_daily(date(2026, 1, 1), 1)
    assert sorted(os.listdir(folder)) == [  # noqa: PTH208
        BACKUP,
        "catalogue-2026-01-01.sqlite3",
        "mine",
    ]


async def test_a_snapshot_that_fails_leaves_nothing_and_keeps_the_last(
    database: Database,
    snapshots: Snapshots,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await add(database, "a")
    await snapshots.take(BACKUP)

    def fail(target: Path) -> None:
        target.write_bytes(b"half of it")
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(database, "_copy_into", fail)
    with pytest.raises(RegistryError, match="cannot reach its storage"):
        await snapshots.take(BACKUP)
    assert os.listdir(folder) == [BACKUP]  # noqa: PTH208
    assert names(folder / BACKUP) == ["a"]


async def test_where_none_can_be_made_it_is_told(database: Database, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RegistryError, match="the catalogue cannot be copied"):
        await Snapshots(database, tmp_path / "file" / "snapshots").take(BACKUP)


async def test_a_whole_one_is_told_from_others(snapshots: Snapshots, tmp_path: Path) -> None:
    path = await snapshots.take(BACKUP)
    assert is_whole(path)
    content = bytearray(path.read_bytes())
    (tmp_path / "torn").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_bytes(b"text" * 1000)
    content[60:64] = (len(STEPS) + 1).to_bytes(4, "big")
    (tmp_path / "later").write_bytes(content)
    for name in ("torn", "empty", "text", "later", "none"):
        assert not is_whole(tmp_path / name), name
