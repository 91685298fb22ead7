"""Little room is put into words, and the last of it kept back."""

import pytest
import structlog.testing
import trio

from appliance import work
from appliance.oci.errors import STORE_FULL, STORE_UNAVAILABLE
from appliance.registry.readiness import Readiness
from appliance.registry.space import RESERVE, ReserveReachedError, Space, reserve_of
from appliance.storage.memory import MemoryStore
from tests.refused import refused

GIBIBYTE = 1 << 30


class Store(MemoryStore):
    """A store of which the room is what a test says; None for one that cannot tell."""

    def __init__(self) -> None:
        super().__init__()
        self.free: int | None = 0
        self.total = 100 << 40
        self.asked = 0

    def room(self) -> tuple[int, int] | None:
        self.asked += 1
        if self.free is None:
            raise STORE_UNAVAILABLE.error()
        return self.free, self.total


class World:
    """A disk of 100 GiB of which 10 are to stay free, and the time."""

    def __init__(self, free: int) -> None:
        self.now = 0.0
        self.store = Store()
        self.store.total = 100 * GIBIBYTE
        self.store.free = free
        self.space = Space(self.store, lambda: self.now)
        self.space.keep_free(10 * GIBIBYTE)

    async def take(self, size: int) -> None:
        """Let bytes of an upload in, as worker threads do."""
        await work.receiving(self.space.take, size)


@pytest.fixture
def world() -> World:
    return World(free=15 * GIBIBYTE)


# --- nearly full


@pytest.mark.parametrize(
    ("free", "amount"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.977 KiB"),
        (1010 << 20, "0.986 GiB"),
        (999 << 20, "999 MiB"),
        (3 << 40, "3 TiB"),
    ],
)
async def test_an_amount_has_three_digits_and_a_unit(free: int, amount: str) -> None:
    store = Store()
    store.free = free
    assert await Space(store).shortage() == (
        f"the registry's disk is nearly full: {amount} of 100 TiB are free; tell its operator"
    )


async def test_a_store_without_bounds_is_never_full() -> None:
    space = Space(MemoryStore())
    space.keep_free(1 << 60)
    assert await space.shortage() is None
    assert await space.fault() is None
    await space.check(1 << 62)
    space.take(1 << 62)


async def test_it_is_looked_at_once_in_a_while(world: World) -> None:
    world.store.free = 1
    for _ in range(5):
        assert await world.space.shortage()
        assert await world.space.fault()
    assert world.store.asked == 1
    world.store.free = world.store.total
    world.now += 2
    assert await world.space.shortage() is None
    assert await world.space.fault() is None


async def test_who_comes_while_it_is_looked_at_does_not_look_as_well(world: World) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(world.space.check)
            nursery.start_soon(world.take, 1)
    assert world.store.asked == 1


async def test_trouble_with_the_disk_is_told_by_whoever_meets_it(world: World) -> None:
    world.store.free = None
    assert await world.space.shortage() is None
    assert await world.space.fault() is None
    await world.space.check(1 << 62)
    await world.take(1 << 62)


# --- the reserve


def test_a_reserve_that_nobody_set_fits_the_disk() -> None:
    assert reserve_of(None, 4 << 40) == reserve_of(None, 50 * GIBIBYTE) == RESERVE
    assert reserve_of(None, 10 * GIBIBYTE) == GIBIBYTE // 5
    assert reserve_of(None, 64 << 20) < 2 << 20


def test_a_reserve_that_was_set_counts_as_it_stands() -> None:
    assert reserve_of(0, 1) == 0
    assert reserve_of(1 << 40, 1) == 1 << 40


async def test_what_would_reach_the_reserve_is_refused_before_it_begins(world: World) -> None:
    await world.space.check(5 * GIBIBYTE)
    with refused(
        STORE_FULL,
        r"DENIED: the registry's disk has no room for these 5 GiB: 15 GiB of 100 GiB are free, and"
        r" storage\.reserve keeps 10 GiB free; pulls, deletions and garbage collection \(gc\) go"
        r" on$",
    ):
        await world.space.check(5 * GIBIBYTE + 1)
    await world.space.check()


@pytest.mark.parametrize("free", [0, 10 * GIBIBYTE - 1, 10 * GIBIBYTE])
async def test_once_the_reserve_is_reached_nothing_is_taken(free: int) -> None:
    world = World(free)
    sentence = "DENIED: the registry's disk is full: "
    with refused(STORE_FULL, sentence) as caught:
        await world.space.check()
    assert isinstance(caught.value, ReserveReachedError)
    with refused(STORE_FULL, sentence):
        await world.space.claim(1)
    with refused(STORE_FULL, sentence):
        await world.take(1)
    assert await world.space.fault() == caught.value.message


async def test_what_has_been_let_in_counts_before_the_disk_is_asked_again(world: World) -> None:
    for _ in range(5):
        await world.take(GIBIBYTE)
    with refused(STORE_FULL, "10 GiB of 100 GiB are free"):
        await world.take(1)
    assert world.store.asked == 1
    world.now += 2
    world.store.free = 12 * GIBIBYTE  # the disk compresses, or something was deleted
    await world.space.claim(2 * GIBIBYTE)
    with refused(STORE_FULL):
        await world.space.claim(1)
    assert world.store.asked == 2


async def test_a_burst_goes_over_the_edge_by_its_last_piece_alone(world: World) -> None:
    piece, taken = 256 << 20, 0

    async def upload() -> None:
        nonlocal taken
        with refused(STORE_FULL):
            for _ in range(100):
                await world.take(piece)
                taken += piece

    async with trio.open_nursery() as nursery:
        for _ in range(30):
            nursery.start_soon(upload)
    assert 5 * GIBIBYTE <= taken < 5 * GIBIBYTE + piece


async def test_bytes_that_come_while_it_is_looked_at_are_not_forgotten(world: World) -> None:
    # They may have been written after the look.
    await world.take(2 * GIBIBYTE)
    room = world.store.room

    def slow() -> tuple[int, int] | None:
        found = room()
        world.space.take(3 * GIBIBYTE)
        return found

    world.now += 2
    world.store.room = slow  # type: ignore[method-assign]
    await world.space.check(2 * GIBIBYTE)
    with refused(STORE_FULL, "12 GiB of 100 GiB are free"):
        await world.space.check(2 * GIBIBYTE + 1)


async def test_a_stream_that_was_cut_off_does_not_begin_again_before_there_is_more_room(
    world: World,
) -> None:
    async def begin(account: str = "alice") -> None:
        await world.space.check_stream("here/app", account)

    await begin()
    world.space.cut_off("here/app", "alice", 6 * GIBIBYTE)
    with refused(STORE_FULL, "has no room for these 6 GiB: "):
        await begin()
    await begin("bob")
    await world.space.check_stream("there/app", "alice")
    world.store.free = 16 * GIBIBYTE
    world.now += 2
    await begin()
    world.store.free = 15 * GIBIBYTE
    world.now += 2
    with refused(STORE_FULL):
        await begin()
    world.now += 60
    await begin()


async def test_of_those_that_were_cut_off_not_too_many_are_remembered(world: World) -> None:
    for number in range(5000):
        world.space.cut_off("here/app", str(number), 6 * GIBIBYTE)
    await world.space.check_stream("here/app", "0")
    with refused(STORE_FULL):
        await world.space.check_stream("here/app", "4999")


async def test_without_a_reserve_the_disk_alone_says_when_it_is_full(world: World) -> None:
    world.space.keep_free(0)
    world.store.free = 0
    await world.space.check(1 << 62)
    await world.take(1 << 62)
    assert await world.space.fault() is None
    assert await world.space.shortage() is not None


async def test_another_reserve_counts_at_once(world: World) -> None:
    await world.space.check()
    world.space.keep_free(15 * GIBIBYTE)
    with refused(STORE_FULL):
        await world.space.check()
    world.space.keep_free(0)
    await world.space.check()
    world.space.keep_free(None)
    await world.space.check(14 * GIBIBYTE)


async def test_a_registry_that_takes_nothing_is_not_ready_and_says_why(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Records:
        async def check_readable(self) -> None:
            await trio.lowlevel.checkpoint()

    async def full() -> None:
        await trio.lowlevel.checkpoint()
        raise STORE_FULL.error()

    readiness = Readiness(store=world.store, records=Records(), space=world.space)  # type: ignore[arg-type]
    world.store.free = 0
    fault = await readiness._look()
    assert fault == await world.space.fault()
    assert fault is not None
    monkeypatch.setattr(world.store, "check_writable", full)  # which has less to say
    assert await readiness._look() == fault
    world.now += 2
    world.store.free = 20 * GIBIBYTE
    assert await readiness._look() == STORE_FULL.message
    monkeypatch.undo()
    assert await readiness._look() is None


# --- what the log says


async def test_the_log_says_once_that_the_state_has_changed(world: World) -> None:
    with structlog.testing.capture_logs() as events:
        await world.space.check()
        with refused(STORE_FULL):  # which concerns this one alone
            await world.space.check(20 * GIBIBYTE)
        assert events == []
        await world.take(5 * GIBIBYTE)
        for _ in range(10):
            with refused(STORE_FULL):
                await world.space.check()
            with refused(STORE_FULL):
                await world.take(1)
            world.store.free = 10 * GIBIBYTE
            world.now += 2
        (event,) = events
        assert (event["log_level"], event["event"]) == ("error", "pushes are refused")
        assert event["reason"] == await world.space.fault()
        world.store.free = 11 * GIBIBYTE
        world.now += 2
        for _ in range(10):
            await world.space.check()
        assert [entry["event"] for entry in events[1:]] == ["pushes are taken again"]
