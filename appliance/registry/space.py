"""Room for more blobs: what must stay free, and who should hear that there is little of it.

A disk that is full to the last byte keeps more than pushes from working: the records can note no
deletion any more, and nothing that would make room can be done. So the last of it is kept back, the
reserve: what would add to the registry is refused before it is touched, while reading, deleting and
sweeping go on. Whatever costs only a row, a mount or another tag, may use the reserve too.

The disk is asked once in a while. Bytes that are let in meanwhile are counted, so that however fast
uploads come, what goes beyond the edge is the last piece of each.

A stream whose size nobody said is cut off at the edge, and what came of it removed. Its sender may
take that for a lost connection: docker comes back four times with the same, and each time it would
fill the disk anew. So for a minute it is told at once, and in words, that there is no room.
"""

import math
import threading
import time
from collections.abc import Callable

import structlog

from appliance import work
from appliance.oci.errors import STORE_FULL, RegistryError
from appliance.registry.ports import BlobStore

SHORT_BELOW = 0.05
"""The free part of a disk below which it counts as nearly full."""

RESERVE = 1 << 30
"""Bytes that stay free unless the operator has said how many..."""

RESERVE_PART = 0.02
"""...or this part of a disk that is so small that it comes to less."""

_KEEP_SECONDS = 2.0
_CUT_SECONDS = 60.0
_CUT_MAX = 1000
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")

_log = structlog.get_logger()


class ReserveReachedError(RegistryError):
    """Nothing can be pushed now, which the log has said already."""


def reserve_of(wanted: int | None, total: int) -> int:
    """Return how many bytes of a disk stay free; None wanted is for this program to decide."""
    return min(RESERVE, int(RESERVE_PART * total)) if wanted is None else wanted


class Space:
    """How much room the store has, and what of it may be used.

    Used on the loop and in worker threads, which alone wait for the disk.
    """

    def __init__(self, store: BlobStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._wanted: int | None = 0
        # Held for a few steps, never while the disk is asked.
        self._turn = threading.Lock()
        self._looked_at = -math.inf
        self._room: tuple[int, int] | None = None
        self._accepted = 0  # bytes since that look
        self._refusing = False
        self._cut: dict[tuple[str, str], tuple[float, int]] = {}

    def keep_free(self, reserve: int | None) -> None:
        """Say how many bytes are to stay free, 0 for none; None as `reserve_of` has it."""
        with self._turn:
            self._wanted = reserve
        self.look_again()

    def look_again(self) -> None:
        """Have the disk asked before anything else is decided: there may be more room now."""
        with self._turn:
            self._looked_at = -math.inf

    async def shortage(self) -> str | None:
        """Say in a sentence that the disk is nearly full; None when it is not."""
        await self._keep_up()
        with self._turn:
            free, total = self._now() or (1, 1)
        if free >= SHORT_BELOW * total:
            return None
        return (
            f"the registry's disk is nearly full: {amount(free)} of {amount(total)} are free;"
            " tell its operator"
        )

    async def used(self) -> float | None:
        """Return which part of the disk is used, 0 to 1; None where that is not known."""
        await self._keep_up()
        with self._turn:
            room = self._now()
        return 1 - room[0] / room[1] if room and room[1] else None

    async def fault(self) -> str | None:
        """Say in a sentence that nothing can be pushed because of the reserve; None when it can."""
        await self._keep_up()
        with self._turn:
            return self._judge()

    async def check(self, size: int = 0) -> None:
        """Raise STORE_FULL unless an upload may begin, of that many bytes if that is known."""
        await self._keep_up()
        with self._turn:
            self._check(size)

    async def check_stream(self, repository: str, account: str) -> None:
        """Raise STORE_FULL unless an upload of unknown size may begin."""
        await self._keep_up()
        with self._turn:
            at, size = self._cut.get((repository, account), (-math.inf, 0))
            self._check(size if self._clock() - at < _CUT_SECONDS else 0)

    def cut_off(self, repository: str, account: str, size: int) -> None:
        """Note that an upload of unknown size got no further than this, and that its bytes are gone."""
        with self._turn:
            self._cut.pop((repository, account), None)
            self._cut[repository, account] = (self._clock(), size)
            if len(self._cut) > _CUT_MAX:
                del self._cut[next(iter(self._cut))]

    async def claim(self, size: int) -> None:
        """Count bytes that are at hand and about to be stored; raises STORE_FULL."""
        await self._keep_up()
        with self._turn:
            self._check(size)
            self._accepted += size

    def take(self, size: int) -> None:
        """Count bytes of an upload that are about to be stored; raises STORE_FULL. It blocks."""
        if self._is_time():
            self._look()
        with self._turn:
            self._check()
            self._accepted += size

    async def _keep_up(self) -> None:
        if self._is_time():
            await work.disk(self._look)

    def _is_time(self) -> bool:
        """Tell whether to look again; of those who ask at one time, only one is told so."""
        now = self._clock()
        with self._turn:
            if now - self._looked_at < _KEEP_SECONDS:
                return False
            self._looked_at = now
            return True

    def _look(self) -> None:
        before = self._accepted
        try:
            room = self._store.room()
        except RegistryError:  # whoever writes next will hear what is wrong
            room = None
        with self._turn:
            self._room = room
            self._accepted = max(self._accepted - before, 0)
            self._judge()

    def _check(self, size: int = 0) -> None:
        if fault := self._judge():
            raise ReserveReachedError(STORE_FULL, fault)
        left = self._left()
        if left is not None and size > left:
            raise STORE_FULL.error(
                f"the registry's disk has no room for these {amount(size)}: {self._figures()}"
            )

    def _judge(self) -> str | None:
        """Return why nothing can be pushed, if so; the log hears of it when that changes."""
        left = self._left()
        refusing = left is not None and left <= 0
        fault = f"the registry's disk is full: {self._figures()}" if refusing else None
        if refusing != self._refusing:
            self._refusing = refusing
            if refusing:
                _log.error("pushes are refused", reason=fault)
            else:
                _log.info("pushes are taken again")
        return fault

    def _left(self) -> int | None:
        """Return how many bytes may be used until the reserve is reached; None without a bound."""
        if (room := self._now()) is None:
            return None
        free, total = room
        reserve = reserve_of(self._wanted, total)
        return free - reserve if reserve else None

    def _now(self) -> tuple[int, int] | None:
        """Return how many bytes are free, by the last look and what came since, and how many in all."""
        if self._room is None:
            return None
        free, total = self._room
        return max(free - self._accepted, 0), total

    def _figures(self) -> str:
        free, total = self._now() or (0, 0)
        return (
            f"{amount(free)} of {amount(total)} are free, and"
            f" storage.reserve keeps {amount(reserve_of(self._wanted, total))} free;"
            " pulls, deletions and garbage collection (gc) go on"
        )


def amount(size: int) -> str:
    """Write a number of bytes with three digits and a unit."""
    number, power = float(size), 0
    while number >= 1000 and power < len(_UNITS) - 1:
        number, power = number / 1024, power + 1
    return f"{number:.3g} {_UNITS[power]}"
