"""The sweep: what nobody needs any more goes, while others push and pull.

    1. manifests  those whose subject has gone; where so wished, those without a tag for long
    2. links      a blob of a repository that no manifest there has needed for the grace period
    3. blobs      what no repository links, put away into quarantine
    4. purge      what has been in quarantine for long enough leaves the disk
    5. history    what tags were so long ago is forgotten

Each is done in small batches, found through indexes of what is idle, so that the work is that of
the garbage and not of the registry. Nothing that is leased goes (see `leases`), and everything is
looked at once more in the transaction that removes it. A blob's record goes first and its file
after it, both under the lock of its digest, which pushes hold as well: neither can slip between
the other's two halves, and a crash in between leaves a file that the next sweep puts away.

A sweep may end between any two batches, and any error ends it; what it has removed by then was garbage, and the next one goes on.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from appliance.oci.garbage import IdleBlob, IdlePair, Place, Totals
from appliance.registry.leases import Leases
from appliance.registry.locks import DigestLocks
from appliance.registry.ports import BlobStore
from appliance.registry.progress import Progress, Report, unheard
from appliance.registry.records import GarbageRecords
from appliance.registry.sharing import Sharing

# So few that a batch's turn on a core is over before a request has waited for it for long.
_BATCH = 8
_CHANGES_BATCH = 256
_REST = 4.0  # times as long as a batch took

_List = Callable[[int, Place | None, int], Awaitable[list[IdlePair]]]
_Remove = Callable[[list[IdlePair]], Awaitable[int]]


@dataclass(frozen=True, slots=True)
class SweepRules:
    """What counts as garbage, in seconds."""

    grace: float
    """How long nothing has needed it."""
    quarantine: float
    """How long it is kept afterwards."""
    untagged: float | None
    """How long a manifest is kept without a tag; None for ever."""
    history: float
    """How long it is remembered what a tag was."""


class Sweep:
    """The sweep of a registry; one runs at a time."""

    def __init__(
        self,
        *,
        store: BlobStore,
        records: GarbageRecords,
        leases: Leases,
        locks: DigestLocks,
        sharing: Sharing,
    ) -> None:
        self._store = store
        self._records = records
        self._leases = leases
        self._locks = locks
        self._sharing = sharing
        self._turn = trio.Lock()

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[None]:
        """Have nothing removed meanwhile: a sweep waits."""
        async with self._turn:
            yield

    async def preview(self, rules: SweepRules) -> Totals:
        """Count what a sweep would find now; nothing is changed."""
        now = int(time.time())
        untagged = None if rules.untagged is None else now - int(rules.untagged)
        return await self._records.totals(now - int(rules.grace), untagged)

    async def run(self, rules: SweepRules, report: Report = unheard) -> Totals:
        """Sweep once, and return what was removed. Raises STORE_UNAVAILABLE and its like.

        Waits until no other daemon is at work in the folder.
        """
        await self._sharing.be_alone(report)
        if self._turn.locked():
            report(Progress("waiting for a backup or another sweep to end", 0))
        async with self._turn:
            tally = _Tally(report)
            records, before = self._records, int(time.time() - rules.grace)
            await self._remove(records.orphans, records.remove_manifests, before, tally.manifests)
            if rules.untagged is not None:
                await self._remove(
                    records.untagged,
                    records.remove_manifests,
                    int(time.time() - rules.untagged),
                    tally.manifests,
                )
            await self._remove(records.idle_links, records.remove_links, before, tally.links)
            await self._put_away(tally)
            await self._purge(int(time.time() - rules.quarantine), tally)
            await self._forget(int(time.time() - rules.history))
            return tally.totals

    async def _remove(
        self, list_: _List, remove: _Remove, before: int, count: Callable[[int], None]
    ) -> None:
        after: Place | None = None
        while found := await list_(before, after, _BATCH):
            after = found[-1].place
            began = trio.current_time()
            claimed = self._leases.claim((one.repository, one.blob.digest) for one in found)
            try:
                free = [one for one in found if (one.repository, one.blob.digest) in claimed]
                if free:
                    count(await remove(free))
            finally:
                self._leases.settle(claimed)
            await _breathe(began)

    async def _put_away(self, tally: "_Tally") -> None:
        while found := await self._records.idle_blobs(_BATCH):
            began = trio.current_time()
            async with self._locks.hold(blob.digest for blob in found):
                # 1. record gone, noted as in quarantine  2. file moved there
                gone = await self._records.put_away(found)
                # What is left of a damaged one must not replace a copy that is there from before.
                await self._store.put_away([blob.digest for blob in gone if not blob.is_damaged])
            if not gone:
                return  # all of them have come to be needed, or somebody else is at work
            tally.blobs(gone)
            await _breathe(began)

    async def _purge(self, before: int, tally: "_Tally") -> None:
        tally.totals.purged += await self._store.drop_set_aside(before)
        while found := await self._records.quarantined(before, _BATCH):
            began = trio.current_time()
            digests = [blob.digest for blob in found]
            async with self._locks.hold(digests):
                # A crash may have come between the two halves of putting one away.
                known = await self._records.known(digests)
                await self._store.put_away([one for one in digests if one not in known])
            await self._store.purge(digests)
            await self._records.forget(digests)
            tally.purged(found)
            await _breathe(began)

    async def _forget(self, before: int) -> None:
        forgotten = _CHANGES_BATCH
        while forgotten == _CHANGES_BATCH:
            began = trio.current_time()
            forgotten = await self._records.forget_changes(before, _CHANGES_BATCH)
            await _breathe(began)


class _Tally:
    """What has been removed so far, told as it grows."""

    def __init__(self, report: Report) -> None:
        self.totals = Totals()
        self._report = report

    def manifests(self, count: int) -> None:
        self.totals.manifests += count
        self._report(Progress("removing", self.totals.manifests, unit="manifests"))

    def links(self, count: int) -> None:
        self.totals.links += count
        self._report(Progress("removing", self.totals.links, unit="links"))

    def blobs(self, gone: Sequence[IdleBlob]) -> None:
        self.totals.blobs += len(gone)
        self.totals.size += sum(blob.size for blob in gone)
        self._report(Progress("putting away", self.totals.blobs, unit="blobs"))

    def purged(self, gone: Sequence[IdleBlob]) -> None:
        self.totals.purged += sum(blob.size for blob in gone)
        self._report(Progress("emptying quarantine", self.totals.purged, unit="bytes"))


async def _breathe(began: float) -> None:
    """Rest for longer than a batch has taken: clients come first."""
    await trio.sleep(_REST * (trio.current_time() - began))
