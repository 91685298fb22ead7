"""A lock for each digest, held while a blob's file and its record change together."""

from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from appliance.oci.digest import Digest


class DigestLocks:
    """Locks by digest; those nobody holds or waits for take no room."""

    def __init__(self) -> None:
        self._locks: dict[Digest, trio.Lock] = {}
        self._users: Counter[Digest] = Counter()

    def __len__(self) -> int:
        """Count the digests that are locked or waited for."""
        return len(self._locks)

    @asynccontextmanager
    async def hold(self, digests: Iterable[Digest]) -> AsyncIterator[None]:
        """Hold the locks of some digests, taken in their order so that nobody waits in a circle."""
        wanted = sorted(set(digests))
        for digest in wanted:
            self._users[digest] += 1
            self._locks.setdefault(digest, trio.Lock())
        try:
            async with AsyncExitStack() as held:
                for digest in wanted:
                    await held.enter_async_context(self._locks[digest])
                yield
        finally:
            for digest in wanted:
                self._users[digest] -= 1
                if not self._users[digest]:
                    del self._users[digest], self._locks[digest]
