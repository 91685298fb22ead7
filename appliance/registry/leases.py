"""Leases: whoever was told that content is here may rely on it for a while.

Clients ask whether a blob is there, skip its upload if it is, and push the manifest that needs it
minutes later. So each answer that says "I have it" takes a lease on that content in that
repository, and a sweep passes over what is leased. Leases are in memory alone: after a start
everything counts as leased once.

Everything here happens on the loop, so that what is read and leased without waiting in between
cannot be removed in between. A sweep claims what it is about to remove; who asks for it then waits
until that is settled, and looks again.
"""

from collections.abc import Callable, Iterable
from math import inf

import msgspec
import trio

from appliance.oci.digest import Digest

Pair = tuple[str, Digest]

LEASE_SECONDS = 3600.0
"""How long a lease lasts where nothing else is said."""

PAIRS_MAX = 50_000
"""Leases that are remembered at most; beyond, everything counts as leased now."""


class Exported(msgspec.Struct, frozen=True):
    """Leases on their way from one process to another."""

    everything: float
    """How many seconds ago everything counted as leased."""
    pairs: list[tuple[str, str, float]]
    """Repository, digest, and how many seconds ago."""


class Leases:
    """The leases of a registry; `clock` tells seconds and never runs backward."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self.seconds = seconds
        self._clock = clock
        self._touched: dict[Pair, float] = {}
        self._started = self._all_touched = clock()
        self._claimed: dict[Pair, trio.Event] = {}

    def __len__(self) -> int:
        """Count the leases that are remembered."""
        return len(self._touched)

    def touch_all_before(self, seconds_ago: float) -> None:
        """Take it that whatever was touched was so no later than that long ago."""
        self._touched.clear()
        self._all_touched = self._clock() - seconds_ago

    def export(self) -> Exported:
        """Return all there is, with ages instead of times, for another process to `adopt`."""
        now = self._clock()
        return Exported(
            everything=now - self._all_touched,
            pairs=[(name, str(digest), now - at) for (name, digest), at in self._touched.items()],
        )

    def adopt(self, exported: Exported) -> None:
        """Add what another process knows, in the place of all that counted since our start."""
        now = self._clock()
        if self._all_touched <= self._started:
            self._all_touched = now - exported.everything
        for name, text, age in exported.pairs:
            pair = (name, Digest.parse(text))
            self._touched[pair] = max(now - age, self._touched.get(pair, -inf))
        if len(self._touched) > PAIRS_MAX:
            self._forget(now)

    def take(self, repository: str, digest: Digest) -> trio.Event | None:
        """Lease content that has just been read; None, or what to wait for before reading again."""
        pair = (repository, digest)
        settled = self._claimed.get(pair)
        if settled is None:
            self._touch(pair)
        return settled

    async def secure(self, repository: str, digest: Digest) -> None:
        """Lease content that is about to be recorded, once nobody is removing it any more."""
        while (settled := self.take(repository, digest)) is not None:
            await settled.wait()

    def claim(self, pairs: Iterable[Pair]) -> set[Pair]:
        """Claim for removal what is not leased, and return it; `settle` follows."""
        expired = self._clock() - self.seconds
        if self._all_touched > expired:
            return set()
        free = {pair for pair in pairs if self._touched.get(pair, expired) <= expired}
        self._claimed |= {pair: trio.Event() for pair in free - self._claimed.keys()}
        return free

    def settle(self, pairs: Iterable[Pair]) -> None:
        """End a claim: what was to be removed is gone, or needed after all."""
        for pair in pairs:
            self._touched.pop(pair, None)
            self._claimed.pop(pair).set()

    def _touch(self, pair: Pair) -> None:
        now = self._clock()
        self._touched.pop(pair, None)  # so that the order is that of the last touch
        self._touched[pair] = now
        if len(self._touched) > PAIRS_MAX:
            self._forget(now)

    def _forget(self, now: float) -> None:
        """Drop what has expired; where that is not enough, let one moment stand for all."""
        expired = now - self.seconds
        self._touched = {pair: at for pair, at in self._touched.items() if at > expired}
        if len(self._touched) > PAIRS_MAX * 3 // 4:
            self._touched.clear()
            self._all_touched = now
