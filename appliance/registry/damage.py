"""Damage: a blob whose bytes are not those of its digest, and what is done about it.

Whatever has the right bytes mends what has not: the catalogue has those of small manifests as
well, and quarantine may have a copy. Where nothing has them, the blob is marked as damaged. From
then on it counts as not there, so that whoever has it pushes it again, which heals it; and its
rotten bytes are set aside, where neither a push nor an undelete brings them back from.

A blob is read without its lock, which a push of it would wait for. So what was found holds for
the bytes that were read, and is acted upon under the lock if those are still in their place.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from secrets import token_hex

import structlog
import trio

from appliance import work
from appliance.oci.damage import Finding, Held, Images, Inspection, Pace
from appliance.oci.digest import Digest
from appliance.oci.errors import BLOB_UNKNOWN, STORE_UNAVAILABLE, RegistryError
from appliance.oci.manifest import SIZE_MAX
from appliance.registry.locks import DigestLocks
from appliance.registry.ports import BlobSource, BlobStore
from appliance.registry.records import InspectionRecords

IMAGES_MAX = 20
"""Images that are named with a damaged blob."""

_PIECE = 1 << 20
_ATTEMPTS = 3

Suspect = Callable[[Digest], Awaitable[None]]
"""Told of a blob whose bytes are not as its record says; what is to be done is done on return."""

_log = structlog.get_logger()


async def unsuspected(digest: Digest) -> None:
    """Leave a blob as it is."""


async def unpaced(size: int) -> None:
    """Read on at once."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """A blob that is missing or cannot be read: it is damaged, or all of the store is away."""

    held: Held
    found: Inspection


class _ChangedError(Exception):
    """Other bytes have come meanwhile."""


class Damage:
    """Looks after the blobs of a registry one by one."""

    def __init__(self, *, store: BlobStore, records: InspectionRecords, locks: DigestLocks) -> None:
        self._store = store
        self._records = records
        self._locks = locks
        self.marked = 0
        """Blobs that were marked as damaged since the start."""

    async def suspect(self, digest: Digest) -> None:
        """Settle whether a blob is damaged of which a reader has found that something is wrong.

        Raises STORE_UNAVAILABLE where no blob at all is there.
        """
        held = await self._records.find(digest)
        if held is None or held.is_damaged:
            return
        if held.size <= SIZE_MAX:
            found = await self.examine(held)
            if isinstance(found, Doubt):
                await self._check_others()
                await self.condemn(found)
            return
        # To hash it would take long: until a scrub has done so it counts as not there.
        size = await self._store.measure(digest)
        if size is None:
            await self._check_others()
            await self.condemn(Doubt(held, Inspection(None)))
        elif size != held.size:
            async with self._locks.hold((digest,)):
                if await self._store.measure(digest) == size:
                    await self._mark(digest, f"it has {size} bytes instead of {held.size}")

    async def examine(
        self,
        held: Held,
        pace: Pace = unpaced,
        *,
        sources: Sequence[BlobSource] = (),
        acting: bool = True,
    ) -> Finding | Doubt | None:
        """Read a blob over, and mend it or mark it as damaged unless all is well."""
        for _ in range(_ATTEMPTS):
            try:
                return await self._examine(held, pace, sources, acting=acting)
            except _ChangedError:
                now = await self._records.find(held.digest)
                if now is None:
                    return None
                held = now
        return None  # whoever goes on changing it has its bytes

    async def condemn(self, doubt: Doubt) -> Finding | None:
        """Take it that a blob is damaged that is missing or cannot be read."""
        held, found = doubt.held, doubt.found
        try:
            async with self._locks.hold((held.digest,)):
                await self._clear(held.digest, found)
                return await self._mark(held.digest, _fault(held, found))
        except _ChangedError:
            return None

    async def told(self, digest: Digest, fault: str) -> Finding:
        """Tell of a damaged blob and of the images that need it."""
        return Finding(str(digest), fault, "damaged", await self._images(digest))

    async def _examine(
        self, held: Held, pace: Pace, sources: Sequence[BlobSource], *, acting: bool
    ) -> Finding | Doubt | None:
        digest = held.digest
        found = await self._store.inspect(digest, pace)
        is_right = found.computed == digest
        content = held.content
        if content is not None and await _digest_of(content, digest) != digest:
            content = None
        recorded_right = held.content is None or content is not None
        if is_right and recorded_right and found.size == held.size and not held.is_damaged:
            return None
        if not acting:
            await self._check_recorded(digest)
            if is_right and not recorded_right:
                return await self.told(digest, "its bytes in the catalogue are not right")
            return None if is_right else await self.told(digest, _fault(held, found))
        if is_right:
            return await self._mend_record(held, found, recorded_right=recorded_right)
        if content is not None:
            async with self._locks.hold((digest,)):
                await self._clear(digest, found)
                await self._store.put(digest, content)
                await self._records.heal(digest)
            return _mended(digest, f"{_fault(held, found)}; the catalogue had its bytes")
        if await self._bring_back(digest, found):
            return _mended(digest, f"{_fault(held, found)}; quarantine had a copy")
        for source in sources:
            if await self._fetch(held, found, source):
                fault = f"{_fault(held, found)}; {source.name} had a copy"
                return Finding(str(digest), fault, "repaired")
        if held.is_damaged and found.size is None:
            return await self.told(digest, "it was damaged, and nobody has pushed it again")
        doubt = Doubt(held, found)
        return await self.condemn(doubt) if found.computed is not None else doubt

    async def _mend_record(self, held: Held, found: Inspection, *, recorded_right: bool) -> Finding:
        """Set right what is recorded of a blob whose file is."""
        digest = held.digest
        faults = []
        async with self._locks.hold((digest,)):
            await self._check_recorded(digest)
            if not recorded_right or found.size != held.size:
                async with self._store.open(digest) as region:
                    content = None
                    if not recorded_right:
                        faults.append("its bytes in the catalogue were not right")
                        content = await region.read(0, region.size)
                    if found.size != held.size:
                        faults.append(f"its size was recorded as {held.size} bytes")
                if content is None or await _digest_of(content, digest) == digest:
                    await self._records.mend(digest, found.size or 0, content)
            if held.is_damaged:
                faults.append("it was damaged, and its bytes are there again")
                await self._records.heal(digest)
        return _mended(digest, "; ".join(faults))

    async def _bring_back(self, digest: Digest, found: Inspection) -> bool:
        """Have a copy in quarantine take its place."""
        copy = await self._store.inspect(digest, unpaced, in_quarantine=True)
        if copy.computed != digest:
            return False
        async with self._locks.hold((digest,)):
            await self._clear(digest, found)
            await self._store.bring_back((digest,))
            if await self._store.measure(digest) is None:
                raise _ChangedError
            await self._records.heal(digest)
        return True

    async def _fetch(self, held: Held, found: Inspection, source: BlobSource) -> bool:
        """Copy a blob from elsewhere, if it is there and right."""
        digest = held.digest
        staged = await self._store.stage(f"put-{token_hex(16)}", digest.algorithm)
        try:
            try:
                async with source.open(digest) as region:
                    for offset in range(0, region.size, _PIECE):
                        piece = await region.read(offset, _PIECE)
                        await work.disk(staged.append, (piece,))
            except RegistryError as error:
                if error.row not in (BLOB_UNKNOWN, STORE_UNAVAILABLE):
                    raise
                return False
            if await staged.digest(digest.algorithm) != digest:
                return False
            # 1. rotten bytes out of the way  2. these durable in their place  3. record
            async with self._locks.hold((digest,)):
                await self._clear(digest, found)
                size = staged.size
                await staged.publish(digest)
                if size != held.size:
                    await self._records.mend(digest, size, None)
                await self._records.heal(digest)
            return True
        finally:
            with trio.CancelScope(shield=True):  # one unlink
                await staged.discard()

    async def _clear(self, digest: Digest, found: Inspection) -> None:
        """Set aside what was found in a blob's place, under its lock.

        Raises _ChangedError where that is not there any more, or something else is, or where the
        blob is nobody's now.
        """
        await self._check_recorded(digest)
        if found.size is None:
            if await self._store.measure(digest) is not None:
                raise _ChangedError
        elif not await self._store.set_aside(digest, found.mark):
            raise _ChangedError

    async def _check_recorded(self, digest: Digest) -> None:
        if not await self._records.known((digest,)):
            raise _ChangedError

    async def _mark(self, digest: Digest, fault: str) -> Finding | None:
        """Mark a blob as damaged, and say so in the log; None where it has gone."""
        is_new = await self._records.condemn(digest)
        if not is_new and not await self._records.known((digest,)):
            return None
        finding = await self.told(digest, fault)
        if is_new:
            self.marked += 1
            images = finding.images
            _log.error(
                "a blob is damaged and counts as not there until it is pushed again",
                digest=str(digest),
                fault=fault,
                images=list(images.names),
                more_images=images.count - len(images.names),
            )
        return finding

    async def _images(self, digest: Digest) -> Images:
        try:
            return await self._records.images(digest, IMAGES_MAX)
        except RegistryError:  # the catalogue is damaged as well
            return Images()

    async def _check_others(self) -> None:
        """Raise STORE_UNAVAILABLE where it is not one blob that is missing, but all."""
        if await self._store.is_empty():
            raise STORE_UNAVAILABLE.error(GONE)


GONE = (
    "no blob's bytes are where they belong: is the disk mounted? If they are lost, registry restore"
    " brings a backup back"
)


async def _digest_of(content: bytes, like: Digest) -> Digest:
    return await work.disk(Digest.of, content, like.algorithm)


def _fault(held: Held, found: Inspection) -> str:
    if found.size is None:
        return "its bytes are missing"
    if found.computed is None:
        return f"its bytes cannot be read: {found.fault}"
    if found.size != held.size:
        return f"it has {found.size} bytes instead of {held.size}"
    return f"its bytes are others: they have the digest {found.computed}"


def _mended(digest: Digest, fault: str) -> Finding:
    return Finding(str(digest), fault, "mended")
