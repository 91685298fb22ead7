"""How little room is put into words."""

import pytest
import trio

from appliance.oci.errors import STORE_UNAVAILABLE
from appliance.registry.space import Space
from appliance.storage.memory import MemoryStore


class Store(MemoryStore):
    """A store of which the room is what a test says; None for one that cannot tell."""

    def __init__(self) -> None:
        super().__init__()
        self.free: int | None = 0
        self.total = 100 << 40
        self.asked = 0

    async def room(self) -> tuple[int, int] | None:
        await trio.lowlevel.checkpoint()
        self.asked += 1
        if self.free is None:
            raise STORE_UNAVAILABLE.error()
        return self.free, self.total


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
    assert await Space(MemoryStore()).shortage() is None


async def test_it_is_looked_at_once_in_a_while(autojump_clock: trio.testing.MockClock) -> None:
    store = Store()
    space = Space(store)
    for _ in range(5):
        assert await space.shortage()
    assert store.asked == 1
    store.free = store.total
    await trio.sleep(11)
    assert await space.shortage() is None


async def test_trouble_with_the_disk_is_told_by_whoever_meets_it() -> None:
    store = Store()
    store.free = None
    assert await Space(store).shortage() is None
