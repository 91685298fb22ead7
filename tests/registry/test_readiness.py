"""Readiness: what it says, and how often it looks."""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from appliance.catalogue.records import Catalogue
from appliance.oci.errors import STORE_FULL, STORE_UNAVAILABLE
from appliance.registry.readiness import Readiness
from appliance.registry.space import Space
from appliance.storage.memory import MemoryStore


class Watched(MemoryStore):
    """A store that counts how often it is asked, fails on demand and can be slow."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.fault: Exception | None = None
        self.seconds = 0.0

    async def check_writable(self) -> None:
        self.asked += 1
        await trio.sleep(self.seconds)
        if self.fault is not None:
            raise self.fault


@pytest.fixture
def watched() -> Watched:
    return Watched()


@pytest.fixture
def readiness(watched: Watched, catalogue: Catalogue) -> Readiness:
    return Readiness(store=watched, records=catalogue, space=Space(watched))


async def test_a_registry_that_works_has_no_fault(readiness: Readiness) -> None:
    assert await readiness.fault() is None


async def test_a_fault_is_told_as_a_sentence(readiness: Readiness, watched: Watched) -> None:
    watched.fault = STORE_FULL.error()
    assert await readiness.fault() == STORE_FULL.message


async def test_a_fault_of_the_records_counts_as_well(
    readiness: Readiness, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail() -> None:
        raise STORE_UNAVAILABLE.error()

    monkeypatch.setattr(catalogue, "check_readable", fail)
    assert await readiness.fault() == STORE_UNAVAILABLE.message


async def test_a_database_that_is_damaged_is_a_fault(
    readiness: Readiness, catalogue: Catalogue, tmp_path: Path
) -> None:
    damage(catalogue, tmp_path / "catalogue.sqlite3")
    assert await readiness.fault() is not None


def damage(catalogue: Catalogue, path: Path) -> None:
    catalogue._database._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        file.write(b"\xff" * path.stat().st_size)


async def test_it_looks_once_a_second_at_most(
    readiness: Readiness, watched: Watched, mock_clock: MockClock
) -> None:
    for _ in range(100):
        assert await readiness.fault() is None
    assert watched.asked == 1
    mock_clock.jump(0.9)
    await readiness.fault()
    assert watched.asked == 1
    mock_clock.jump(0.2)
    await readiness.fault()
    assert watched.asked == 2


async def test_what_has_changed_is_told_within_a_second(
    readiness: Readiness, watched: Watched, mock_clock: MockClock
) -> None:
    assert await readiness.fault() is None
    watched.fault = STORE_FULL.error()
    assert await readiness.fault() is None
    mock_clock.jump(1.1)
    assert await readiness.fault() == STORE_FULL.message
    watched.fault = None
    assert await readiness.fault() == STORE_FULL.message
    mock_clock.jump(1.1)
    assert await readiness.fault() is None


async def test_many_who_ask_at_once_share_one_look(
    readiness: Readiness, watched: Watched, autojump_clock: MockClock
) -> None:
    watched.seconds = 30
    found: list[str | None] = []

    async def ask() -> None:
        found.append(await readiness.fault())

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(ask)
    assert found == [None] * 50
    assert watched.asked == 1
    assert trio.current_time() < 31


async def test_who_leaves_while_it_looks_does_not_keep_others_from_looking(
    readiness: Readiness, watched: Watched, autojump_clock: MockClock
) -> None:
    watched.seconds = 30
    async with trio.open_nursery() as nursery:
        nursery.start_soon(readiness.fault)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert await readiness.fault() is None
    assert watched.asked == 2


async def test_damage_once_told_is_a_fault_for_good(
    readiness: Readiness, watched: Watched, mock_clock: MockClock
) -> None:
    readiness.tell_damage("the catalogue is damaged.")
    mock_clock.jump(100)
    assert await readiness.fault() == "the catalogue is damaged."
    assert watched.asked == 0
