"""Sums of pages: every flipped bit of the catalogue's file is noticed, and nothing else is."""

import errno
import os
import random
import shutil
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from appliance.catalogue.database import Database
from appliance.catalogue.seals import CHECKPOINT_PAGES, Checked, Seals

CHANCE = random.Random("sums")  # noqa: S311  repeatable on purpose


class Opened:
    """A database of one table, and its file."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "catalogue.sqlite3"
        self.sums = folder / "catalogue.sums"
        self.database = Database.open(self.path)
        self.database._writer.execute("CREATE TABLE IF NOT EXISTS noise (id INTEGER, content BLOB)")

    async def write(self, rows: int, size: int = 1000) -> None:
        def writing(connection: sqlite3.Connection) -> None:
            for number in range(rows):
                connection.execute(
                    "INSERT INTO noise VALUES (?, ?)", (number, CHANCE.randbytes(size))
                )

        await self.database.write(writing)

    async def damaged(self) -> list[int]:
        return (await self._check())[0]

    async def unknown(self) -> int:
        """How many pages have no sum; they have one afterwards."""
        return (await self._check())[1]

    async def _check(self) -> tuple[list[int], int]:
        first, damaged, unknown = 1, [], 0
        while (checked := await self.database.check_pages(first)).pages:
            first += checked.pages
            damaged += checked.damaged
            unknown += len(checked.unknown)
        assert first - 1 == self.path.stat().st_size // 4096
        return damaged, unknown

    async def reopen(self) -> None:
        await self.database.aclose()
        self.database = Database.open(self.path)


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Opened]:
    found = Opened(tmp_path)
    yield found
    await found.database.aclose()


def flip(path: Path, offset: int, bit: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ (1 << bit)]))


async def test_any_flipped_bit_is_found(opened: Opened) -> None:
    await opened.write(200)
    await opened.reopen()
    pages = opened.path.stat().st_size // 4096
    assert pages > 50
    for page in range(1, pages + 1):
        offset, bit = (page - 1) * 4096 + CHANCE.randrange(4096), CHANCE.randrange(8)
        flip(opened.path, offset, bit)
        assert await opened.damaged() == [page]
        flip(opened.path, offset, bit)
    assert await opened.damaged() == []


async def test_sums_are_known_however_the_file_has_come_to_be(opened: Opened) -> None:
    assert await opened.unknown() == 0  # only the tables so far
    for _ in range(4):
        await opened.write(CHECKPOINT_PAGES)  # a few thousand pages: carried over at once
        assert await opened.unknown() == 0
    await opened.write(10)
    await opened.reopen()
    assert await opened.unknown() == 0
    assert await opened.damaged() == []


async def test_a_reader_that_holds_a_checkpoint_up_does_no_harm(opened: Opened) -> None:
    release = trio.Event()
    began = trio.Event()

    async def study() -> None:
        def reading(connection: sqlite3.Connection) -> None:
            connection.execute("SELECT count(*) FROM noise").fetchone()
            trio.from_thread.run_sync(began.set)
            trio.from_thread.run(release.wait)

        await opened.database.study(reading)

    async with trio.open_nursery() as nursery:
        await opened.write(10)
        nursery.start_soon(study)
        await began.wait()
        for _ in range(3):
            await opened.write(CHECKPOINT_PAGES)
            assert await opened.damaged() == []
        release.set()
    for _ in range(3):
        await opened.write(CHECKPOINT_PAGES)
    assert await opened.damaged() == []
    await opened.reopen()
    assert await opened.unknown() == 0
    assert opened.path.stat().st_size > 4 * CHECKPOINT_PAGES * 1000


@pytest.mark.parametrize("step", ["before", "wiped", "carried over"])
async def test_a_crash_at_any_step_of_a_checkpoint_raises_no_false_alarm(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    await opened.write(50)
    await opened.reopen()
    await opened.write(50)
    await opened.database.write(lambda connection: connection.execute("DELETE FROM noise"))
    after = tmp_path / "after"

    def crash(*_: object) -> None:
        shutil.copytree(tmp_path, after, ignore=shutil.ignore_patterns("after", "*-shm"))

    if step == "before":
        crash()
    elif step == "wiped":
        monkeypatch.setattr(os, "fdatasync", crash)
    else:
        monkeypatch.setattr(Seals, "seal", crash)
    await opened.database.aclose()
    monkeypatch.undo()
    crashed = Opened(after)
    try:
        assert await crashed.damaged() == []
        await crashed.reopen()
        assert await crashed.unknown() == 0
        assert await crashed.damaged() == []
        assert crashed.database.read("SELECT count(*) FROM noise") == [(0,)]
    finally:
        await crashed.database.aclose()
        opened.database = Database.open(opened.path)


async def test_a_checkpoint_that_fails_when_closing_leaves_nothing_known(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    await opened.write(50)
    await opened.reopen()
    await opened.write(50)

    def fail(*_: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(os, "fdatasync", fail)
    await opened.database.aclose()
    monkeypatch.undo()
    assert opened.sums.stat().st_size == 0
    opened.database = Database.open(opened.path)
    assert await opened.damaged() == []


async def test_pages_are_checked_while_others_write(opened: Opened) -> None:
    async def write() -> None:
        for _ in range(20):
            await opened.write(200)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        for _ in range(20):
            assert (await opened.database.check_pages(1)).damaged == []


async def test_without_sums_all_are_taken_for_right_once(opened: Opened) -> None:
    await opened.write(100)
    await opened.database.aclose()
    opened.sums.unlink()
    opened.database = Database.open(opened.path)
    assert await opened.unknown() > 20
    assert await opened.unknown() == 0
    flip(opened.path, 20 * 4096 + 17)
    assert await opened.damaged() == [21]
    flip(opened.path, 20 * 4096 + 17)


def test_a_page_at_the_place_of_another_is_noticed(tmp_path: Path) -> None:
    opened = Opened(tmp_path)
    opened.database._writer.execute("INSERT INTO noise VALUES (1, zeroblob(100000))")
    opened.database.close()
    content = bytearray(opened.path.read_bytes())
    last = len(content) - 4096
    content[last - 4096 : last], content[last:] = content[last:], content[last - 4096 : last]
    opened.path.write_bytes(content)
    connection = sqlite3.connect(opened.path)
    seals = Seals(opened.path)
    try:
        assert seals.check(1) == Checked(last // 4096 + 1, [last // 4096, last // 4096 + 1], [])
    finally:
        connection.close()
        seals.close()


async def test_an_opening_that_fails_after_a_crash_raises_no_false_alarm_later(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await opened.write(50)
    await opened.reopen()
    await opened.database.write(lambda connection: connection.execute("DELETE FROM noise"))
    crashed = tmp_path / "crashed"
    shutil.copytree(tmp_path, crashed, ignore=shutil.ignore_patterns("crashed", "*-shm"))

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Seals, "_note", fail)
    with pytest.raises(OSError, match="No space left"):
        Database.open(crashed / opened.path.name)
    monkeypatch.undo()
    again = Opened(crashed)
    try:
        assert await again.damaged() == []
    finally:
        await again.database.aclose()


async def test_what_sqlite_carries_over_when_it_closes_raises_no_false_alarm(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    await opened.write(50)
    await opened.reopen()
    await opened.write(1)
    other = sqlite3.connect(opened.path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN")
    other.execute("SELECT count(*) FROM noise").fetchone()
    await opened.database.write(lambda connection: connection.execute("DELETE FROM noise"))
    carry_over = Seals.carry_over

    def carrying(seals: Seals, writer: sqlite3.Connection) -> None:
        try:
            carry_over(seals, writer)
        finally:
            other.close()  # and SQLite makes a checkpoint when the last one closes

    monkeypatch.setattr(Seals, "carry_over", carrying)
    await opened.database.aclose()
    monkeypatch.undo()
    opened.database = Database.open(opened.path)
    assert await opened.damaged() == []


async def test_a_reader_that_holds_a_checkpoint_up_does_not_hold_writes_up(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    await opened.write(10)
    other = sqlite3.connect(opened.path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN")
    other.execute("SELECT count(*) FROM noise").fetchone()
    attempts = 0
    carry_over = Seals.carry_over

    def carrying(seals: Seals, writer: sqlite3.Connection) -> None:
        nonlocal attempts
        attempts += 1
        carry_over(seals, writer)

    monkeypatch.setattr(Seals, "carry_over", carrying)
    await opened.write(4 * CHECKPOINT_PAGES)
    for _ in range(20):
        await opened.write(1)
    assert attempts == 1
    await opened.write(4 * CHECKPOINT_PAGES)
    await opened.write(1)  # the attempt comes after whoever waits has been told
    assert attempts == 2
    other.close()


async def test_two_processes_at_work_carry_nothing_over_until_one_is_alone(opened: Opened) -> None:
    await opened.write(200)
    await opened.reopen()
    before = opened.path.read_bytes()
    await opened.database.leave_checkpoints()
    other = Database.open(opened.path, as_it_is=True)

    def writing(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO noise VALUES (1, ?)", (CHANCE.randbytes(1000),))

    for _ in range(CHECKPOINT_PAGES):
        await opened.database.write(writing)
        await other.write(writing)
    assert opened.path.read_bytes() == before
    await opened.database.abandon()
    other.take_checkpoints()
    await other.write(writing)
    await other.aclose()
    opened.database = Database.open(opened.path)
    assert opened.path.read_bytes() != before
    assert await opened.damaged() == []
