"""A round of the scrub, from its place to its end.

    1. catalogue  every page against its sum, how they fit together, what refers to what
    2. blobs      every blob's bytes against its digest; what manifests say against the records
    3. counts     what is counted in the catalogue, counted anew
    4. files      what lies in the store and in quarantine, against the records

Where the catalogue itself is damaged, the rest is looked at, and nothing is changed: what the
records say may be what is wrong.

One blob that is missing or cannot be read is damaged. Where it is one after the other from the
first one on, the disk is away, and the round ends with that; so such a blob is marked only once
another one has been read.
"""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import msgspec
import structlog
import trio

from appliance import work
from appliance.oci.damage import Finding, Held, Verified
from appliance.oci.digest import Digest
from appliance.oci.errors import NAME_UNKNOWN, STORE_UNAVAILABLE, RegistryError
from appliance.oci.manifest import SIZE_MAX
from appliance.registry.damage import GONE, IMAGES_MAX, Damage, Doubt
from appliance.registry.manifests import read_manifest
from appliance.registry.pace import Pacer
from appliance.registry.ports import BlobSource, BlobStore
from appliance.registry.progress import Progress, Report
from appliance.registry.records import InspectionRecords
from appliance.registry.strays import Strays

_BATCH = 64
_BATCH_SIZE = 1 << 30
_LISTED_MAX = 1000
_DAMAGED_MAX = 10_000
_DOUBTS_MAX = 64
_SAVE_EVERY = 60.0
_REST = 1.0  # times as long as a batch of records took, where nobody waits
_LOGGED = {"mended", "repaired", "moved"}  # a damaged blob is logged when it is marked
_TABLES = ("blob", "link", "manifest", "repository")
_STAGES = ("catalogue", "blobs", "counts", "files", "quarantine")

_log = structlog.get_logger()


class Place(msgspec.Struct, omit_defaults=True):
    """Where a round stands."""

    began: float
    stage: str = _STAGES[0]
    after: int = 0
    ended: bool = False

    @property
    def is_first(self) -> bool:
        """Tell whether nothing has been looked at yet."""
        return self.stage == _STAGES[0]


@dataclass(frozen=True, slots=True)
class ScrubRules:
    """What is looked at, and how."""

    repository: str | None = None
    """The one whose blobs are looked at; None for everything there is."""
    sources: Sequence[BlobSource] = ()
    """Where copies may be found of what is damaged here."""
    rate: int = 0
    """Bytes a second at most; 0 for as fast as may be."""
    anew: bool = False
    """Whether to begin from the start where an earlier round was interrupted."""


@dataclass
class Round:
    """One round, from its place to its end."""

    store: BlobStore
    records: InspectionRecords
    damage: Damage
    strays: Strays
    rules: ScrubRules
    report: Report
    place: Place
    chore: str
    at_once: int = 1
    verified: Verified = field(default_factory=Verified)

    def __post_init__(self) -> None:
        self._pace = Pacer(self.rules.rate, self.report)
        self._acting = True
        self._read = False
        self._doubts: list[Doubt] = []
        self._told: set[str] = set()
        self._saved = trio.current_time()

    async def run(self) -> None:
        """Go through the stages that are still to be gone through."""
        name = self.rules.repository
        first = _STAGES.index(self.place.stage)
        # What is changed depends on it, so the catalogue is looked at again in any case.
        await self._check_pages()
        async with self._saving():
            if first == 0 and name is None:
                await self._check_structure()
            try:
                await self._compare(first)
            except RegistryError as error:
                if self._acting or error.row is NAME_UNKNOWN:
                    raise
                self.verified.remarks.append("The catalogue is too damaged to look at the rest")
        self.place.ended = True
        await self._save()

    async def _compare(self, first: int) -> None:
        """Compare what is recorded with what there is."""
        name = self.rules.repository
        if first <= _STAGES.index("blobs"):
            self._enter("blobs")
            await self._verify_blobs()
        if first <= _STAGES.index("counts"):
            self._enter("counts")
            await self._count()
        if name is not None:
            return
        if self._acting:
            if first <= _STAGES.index("files"):
                self._enter("files")
                await self._look_through()
            self._enter("quarantine")
            self._add(await self.strays.quarantine(self._pace))
        else:
            self.verified.remarks.append(
                "As the catalogue is damaged, nothing was changed, and nobody looked for strays"
            )
        await self._tell_earlier()

    # -- 1

    async def _check_pages(self) -> None:
        first, damaged = 1, list[int]()
        while True:
            count, found = await self.records.check_pages(first)
            if not count:
                break
            first += count
            damaged += found
            self.report(Progress("checking the catalogue", first - 1, unit="pages"))
            await self._breathe(0.0)
        if damaged:
            self._acting = False
            self._add(await self.records.describe_pages(damaged, IMAGES_MAX))

    async def _check_structure(self) -> None:
        self.report(Progress("checking the catalogue", 0))
        faults = await self.records.check_structure()
        if faults:
            self._acting = False
            self._add(faults)

    # -- 2

    async def _verify_blobs(self) -> None:
        name, after = self.rules.repository, self.place.after
        count, size = await self._extent()
        if name is not None and not count:
            raise NAME_UNKNOWN.error(f"there is no repository {name}")
        self._pace.total = size
        while True:
            began = trio.current_time()
            held, faults, last = await self.records.blobs(name, after, _BATCH, _BATCH_SIZE)
            self._add(faults)
            if last == after:
                break
            await self._verify_batch(held)
            after = last
            self.verified.blobs += len(held)
            self.verified.size += sum(one.size for one in held)
            if not self._doubts:
                self.place.after = after
                await self._save_at_times()
            await self._breathe(began)
        if self._doubts:
            await self._settle(at_end=True)

    async def _extent(self) -> tuple[int, int]:
        """Measure what is to be read; raises STORE_UNAVAILABLE where nothing of it is there."""
        found = await self.records.extent(self.rules.repository, self.place.after)
        if found[0] and await self.store.is_empty():
            damaged = len(await self.records.damaged(_DAMAGED_MAX))
            count, _ = await self.records.extent(None, 0)
            if count > damaged:
                raise STORE_UNAVAILABLE.error(GONE)
        return found

    async def _verify_batch(self, batch: Sequence[Held]) -> None:
        waiting = list(reversed(batch))
        right: list[Held] = []

        async def verify() -> None:
            while waiting:
                held = waiting.pop()
                if await self._verify(held):
                    right.append(held)

        async with _plainly(), trio.open_nursery() as nursery:
            for _ in range(self.at_once):
                nursery.start_soon(verify)
        manifests: list[tuple[Held, bytes]] = []
        size = 0
        for held in right:
            content = await self._content(held) if held.is_manifest else None
            if content is not None:
                manifests.append((held, content))
                size += len(content)
            if size >= SIZE_MAX or (manifests and held is right[-1]):
                self._add(await self.records.derive(manifests, mending=self._acting))
                manifests, size = [], 0

    async def _verify(self, held: Held) -> bool:
        """Look at one blob; tell whether its bytes are right."""
        found = await self.damage.examine(
            held, self._pace, sources=self.rules.sources, acting=self._acting
        )
        if isinstance(found, Doubt):
            self._doubts.append(found)
            if len(self._doubts) >= _DOUBTS_MAX:
                await self._settle(at_end=False)
            return False
        if found is None or found.state != "damaged" or not held.is_damaged:
            self._read = True
            await self._settle(at_end=False)
        if found is not None:
            self._add([found])
        return found is None or found.state != "damaged"

    async def _settle(self, *, at_end: bool) -> None:
        """Mark those blobs as damaged that are missing or cannot be read, if the disk is there."""
        doubts, self._doubts = self._doubts, []
        if not self._read and (not at_end or await self.store.is_empty()):
            raise STORE_UNAVAILABLE.error(GONE)
        if len(doubts) >= _DOUBTS_MAX and (
            await self.store.is_empty() or all(one.found.size is not None for one in doubts)
        ):
            raise STORE_UNAVAILABLE.error(GONE)
        for doubt in doubts:
            finding = await self.damage.condemn(doubt)
            self._add([finding] if finding else [])

    async def _content(self, held: Held) -> bytes | None:
        """Return a manifest's bytes; None where they are not there, or not right, any more."""
        content = held.content  # which may have been the wrong one of two
        if content is not None:
            computed = await work.disk(Digest.of, content, held.digest.algorithm)
            if computed == held.digest:
                return content
        return await read_manifest(self.store, held.digest)

    async def _tell_earlier(self) -> None:
        """Tell of damage that was found before this round, or before it was interrupted."""
        for digest in await self.records.damaged(_DAMAGED_MAX):
            if str(digest) not in self._told:
                fault = "it was damaged, and nobody has pushed it again"
                self._add([await self.damage.told(digest, fault)])

    # -- 3 and 4

    async def _count(self) -> None:
        name = self.rules.repository
        for table in _TABLES if name is None else _TABLES[1:]:
            after: tuple[int, int] | None = (-1, -1)
            while after is not None:
                began = trio.current_time()
                after, found = await self.records.recount(table, name, after, mending=self._acting)
                self._add(found)
                self.report(Progress(f"counting in table {table}", 0))
                await self._breathe(began)

    async def _look_through(self) -> None:
        shelves = await self.store.shelves()
        for number, shelf in enumerate(shelves):
            began = trio.current_time()
            self._add(await self.strays.shelf(shelf, self._pace))
            self.report(Progress("looking through the store", number, len(shelves), "folders"))
            await self._breathe(began)

    # -- its place

    def _enter(self, stage: str) -> None:
        if self.place.stage != stage:
            self.place.stage, self.place.after = stage, 0

    @asynccontextmanager
    async def _saving(self) -> AsyncIterator[None]:
        """Note the place where a round is interrupted."""
        try:
            yield
        except BaseException:
            with trio.CancelScope(shield=True), suppress(RegistryError):  # one row
                await self._save()
            raise

    async def _save_at_times(self) -> None:
        if trio.current_time() - self._saved >= _SAVE_EVERY:
            await self._save()

    async def _save(self) -> None:
        self._saved = trio.current_time()
        if self.chore and self._acting:  # a page that is damaged would be written as it is
            await self.records.set_place(self.chore, msgspec.json.encode(self.place).decode())

    def _add(self, findings: Sequence[Finding]) -> None:
        for finding in findings:
            self._told.add(finding.what)
            self.verified.add(finding, _LISTED_MAX)
            if finding.state in _LOGGED or finding.what.startswith("catalogue"):
                _log.log(
                    logging.ERROR if finding.state == "damaged" else logging.WARNING,
                    "verify has found something",
                    what=finding.what,
                    fault=finding.fault,
                    state=finding.state,
                )

    async def _breathe(self, began: float) -> None:
        """Rest, where nobody waits, for as long as a batch has taken."""
        if self.at_once == 1 and began:
            await trio.sleep(_REST * (trio.current_time() - began))
        else:
            await trio.lowlevel.checkpoint()


@asynccontextmanager
async def _plainly() -> AsyncIterator[None]:
    """Raise what a task raised, not a group of it."""
    try:
        yield
    except BaseExceptionGroup as group:
        errors = [error for error in group.exceptions if not isinstance(error, trio.Cancelled)]
        if errors and all(isinstance(error, RegistryError) for error in errors):
            raise errors[0] from None
        raise
