"""Token buckets, decided from the time alone: who may ask now, and who must wait how long.

Every key has a bucket of `burst` tokens that fills by `per_second`; a request takes one. A bucket is
kept as the moment it will be full again, so one that is full by now says the same as none at all.

Strangers with many addresses bring many keys, and memory is bounded: at `KEYS_MAX` buckets, those
that are full are forgotten first, then those nearest to full, until a quarter of the room is free.
A bucket that has just been touched for the first time is nearest to full, so strangers displace one
another and not somebody who is being held back: to have one empty bucket forgotten, they must first
empty three quarters of `KEYS_MAX` others, each against its own limit. Forgetting the least recently
used instead would let one request from each of `KEYS_MAX` addresses refill every bucket.
"""

from collections.abc import Callable
from operator import itemgetter

KEYS_MAX = 10_000
"""Buckets that are remembered at most."""

BURST_SECONDS = 10.0
"""How many seconds' worth of tokens a bucket holds where nothing else is said."""

_KEPT = KEYS_MAX * 3 // 4
_GRAIN = 1e-6  # seconds that are lost when large clock readings are added and subtracted


class Rates:
    """Buckets of one size.

    `per_second` is how many requests of one key pass in the long run, 0 for no limit, and `burst`
    how many at once, at least 1. `clock` tells the time in seconds and never runs backward.
    """

    def __init__(
        self, *, per_second: float, burst: float | None = None, clock: Callable[[], float]
    ) -> None:
        self.per_second = per_second
        self._clock = clock
        self._token = 1 / per_second if per_second else 0.0
        tokens = per_second * BURST_SECONDS if burst is None else burst
        self._deepest = self._token * max(tokens, 1.0)
        self._full_at: dict[str, float] = {}

    def __len__(self) -> int:
        """Count the buckets that are remembered."""
        return len(self._full_at)

    def wait(self, key: str) -> float:
        """Count a request that may pass, and return 0.0; else the seconds until one may.

        A request that has to wait takes no token: asking again too early costs nothing.
        """
        if not self._token:
            return 0.0
        now = self._clock()
        lacking = max(self._full_at.get(key, now) - now, 0.0) + self._token
        excess = lacking - self._deepest
        if excess > _GRAIN:
            return excess
        if len(self._full_at) >= KEYS_MAX and key not in self._full_at:
            self._forget(now)
        self._full_at[key] = now + lacking
        return 0.0

    def delay(self, key: str) -> float:
        """Return the seconds until a request may pass, 0.0 for now; nothing is counted."""
        if not self._token:
            return 0.0
        now = self._clock()
        excess = max(self._full_at.get(key, now) - now, 0.0) + self._token - self._deepest
        return excess if excess > _GRAIN else 0.0

    def _forget(self, now: float) -> None:
        """Drop what says least; sorting all of them is paid for by the room for many more."""
        emptier = sorted(self._full_at.items(), key=itemgetter(1))[-_KEPT:]
        self._full_at = {key: full_at for key, full_at in emptier if full_at > now}
