"""Undo: what a tag has been, and bringing back what was removed, for as long as its bytes are here.

A manifest comes back with everything it refers to, the manifests of an index included, and with
those about it (signatures, say) that were removed after it. Nothing is swept meanwhile:

    1. look for all of it in the records
    2. read over what is in quarantine: nobody has lately
    3. files out of quarantine, durable
    4. look whether they are all there
    5. blobs, manifests and tag in one transaction

What is missing ends it, and no client sees a change. It leaves files that are still noted as in
quarantine, as a crash before 5 does; a sweep puts them back there. An index does without an image
that is missing where it did so before it was removed itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from appliance import work
from appliance.oci.descriptor import Descriptor
from appliance.oci.digest import Digest
from appliance.oci.errors import (
    BLOB_UNKNOWN,
    MANIFEST_BLOB_UNKNOWN,
    MANIFEST_UNKNOWN,
    RegistryError,
)
from appliance.oci.history import Change, Holding, Removal, Restored
from appliance.oci.manifest import PushedManifest, parse_manifest
from appliance.registry.damage import unpaced
from appliance.registry.locks import DigestLocks
from appliance.registry.manifests import read_manifest
from appliance.registry.pace import Pacer
from appliance.registry.ports import BlobStore
from appliance.registry.progress import Report, unheard
from appliance.registry.records import PastRecords
from appliance.registry.sharing import Sharing
from appliance.registry.sweep import Sweep

_DEPTH_MAX = 8  # indexes within indexes


class Undo:
    """The past of every repository."""

    def __init__(
        self,
        *,
        store: BlobStore,
        records: PastRecords,
        locks: DigestLocks,
        sweep: Sweep,
        objection: Callable[[str, str], RegistryError | None],
        sharing: Sharing,
    ) -> None:
        self._store = store
        self._records = records
        self._locks = locks
        self._sweep = sweep
        self._objection = objection
        self._sharing = sharing

    async def changes(self, repository: str, tag: str | None, limit: int) -> list[Change]:
        """List the latest changes of a repository or of one of its tags, the last one first."""
        return await self._records.changes(repository, tag, limit)

    async def restore(
        self, repository: str, tag: str, digest: Digest | None, report: Report = unheard
    ) -> Restored:
        """Bring back a manifest, and have a tag point to it unless that is empty.

        Without a digest it is the manifest to which the tag pointed last. Raises MANIFEST_UNKNOWN
        where nobody knows of it, MANIFEST_BLOB_UNKNOWN listing what is gone for good, and
        TAG_IMMUTABLE.
        """
        await self._sharing.be_alone(report)
        if digest is None:
            digest = await self._records.last_manifest(repository, tag)
            if digest is None:
                raise MANIFEST_UNKNOWN.error(
                    f"nothing is known of a tag {tag} in {repository}", details=({"tag": tag},)
                )
        async with self._sweep.hold():
            plan = _Plan(self._store, self._records, self._locks, repository)
            await plan.add(digest, None)
            _check(digest, plan.missing)
            await self._verify(digest, plan, report)
            wanted = [*plan.blobs, *(pushed.digest for pushed in plan.manifests)]
            async with self._locks.hold(wanted):
                for one in plan.away:
                    await self._clear(one)
                await self._store.bring_back(wanted)
                blobs = plan.blobs.items()
                _check(digest, [one for one, size in blobs if not await self._is_there(one, size)])
                await self._records.restore(
                    repository,
                    blobs=list(blobs),
                    manifests=plan.manifests,
                    tag=(tag, digest) if tag else None,
                    objection=lambda name: self._objection(repository, name),
                )
        return Restored(
            digest=str(digest),
            manifests=len(plan.manifests),
            blobs=len(plan.blobs),
            size=sum(plan.blobs.values()) + sum(len(one.content) for one in plan.manifests),
        )

    async def _verify(self, digest: Digest, plan: "_Plan", report: Report) -> None:
        """Raise MANIFEST_BLOB_UNKNOWN where the bytes of a blob in quarantine are not right."""
        pace = Pacer(0, report)
        pace.total = sum(plan.blobs[one] for one in plan.away)
        for one in plan.away:
            found = await self._store.inspect(one, pace, in_quarantine=True)
            if found.size is None:  # a crash came before it was moved there
                found = await self._store.inspect(one, pace)
            if found.size is not None and found.computed != one:
                raise MANIFEST_BLOB_UNKNOWN.error(
                    f"{digest} cannot be brought back: the bytes of {one} are not right any more",
                    details=({"digest": str(one)},),
                )

    async def _clear(self, digest: Digest) -> None:
        """Set aside what would keep a blob from coming back: what is left of a damaged one."""
        if await self._store.measure(digest) is not None:
            found = await self._store.inspect(digest, unpaced)
            if found.computed != digest:
                await self._store.set_aside(digest, found.mark)

    async def _is_there(self, digest: Digest, size: int) -> bool:
        """Tell whether a blob's file is here; a crash may have come before its row was gone."""
        try:
            async with self._store.open(digest) as region:
                return region.size == size
        except RegistryError as error:
            if error.row is not BLOB_UNKNOWN:
                raise
            return False


def _check(digest: Digest, missing: Sequence[Digest]) -> None:
    if missing:
        raise MANIFEST_BLOB_UNKNOWN.error(
            f"{digest} cannot be brought back: {missing[0]} has left quarantine"
            + (f", and so have {len(missing) - 1} more" if missing[1:] else ""),
            details=tuple({"digest": str(gone)} for gone in missing),
        )


class _Plan:
    """What has to come back, found from the top, listed so that what is referred to comes first."""

    def __init__(
        self, store: BlobStore, records: PastRecords, locks: DigestLocks, repository: str
    ) -> None:
        self._store = store
        self._records = records
        self._locks = locks
        self._repository = repository
        self.seen: set[Digest] = set()
        self.blobs: dict[Digest, int] = {}
        self.away: set[Digest] = set()
        """Those of the blobs that are in quarantine."""
        self.manifests: list[PushedManifest] = []
        self.missing: list[Digest] = []

    async def add(self, digest: Digest, media_type: str | None, depth: int = 0) -> None:
        """Plan a manifest with all that it needs; its media type is known from whoever lists it."""
        if digest in self.seen:
            return
        self.seen.add(digest)
        held = await self._records.holding(self._repository, digest, as_manifest=True)
        if held is not None and held.is_linked:
            return
        removal = await self._records.removal(self._repository, digest)
        if removal is None and depth == 0:
            raise MANIFEST_UNKNOWN.error(
                f"nothing is known of a removal of {digest} from {self._repository}",
                details=({"digest": str(digest)},),
            )
        content = await self._content(digest, held) if held is not None else None
        if content is None or depth > _DEPTH_MAX:
            self.missing.append(digest)
            return
        manifest = parse_manifest(content, removal.media_type if removal else media_type)
        for blob in manifest.blobs:
            await self._add_blob(blob.digest)
        absent = set()
        for entry in manifest.manifests:
            if not await self._add_listed(entry, removal, depth):
                absent.add(entry.digest)
        manifest = replace(manifest, optional=frozenset(absent))
        self.manifests.append(PushedManifest(self._repository, digest, content, manifest))
        if removal is not None:
            await self._add_referrers(digest, removal.change, depth)

    async def _add_blob(self, digest: Digest) -> None:
        held = await self._records.holding(self._repository, digest)
        if held is None:
            self.missing.append(digest)
        elif not held.is_linked:
            self.blobs[digest] = held.size
            if held.is_away:
                self.away.add(digest)

    async def _add_listed(self, entry: Descriptor, removal: Removal | None, depth: int) -> bool:
        """Plan a manifest that an index lists; False where the index did without it."""
        held = await self._records.holding(self._repository, entry.digest, as_manifest=True)
        if held is not None and held.is_linked:
            return True
        own = await self._records.removal(self._repository, entry.digest)
        if own is None:
            return False
        other = self._branch()
        await other.add(entry.digest, entry.media_type, depth + 1)
        if other.missing and removal is not None and own.at < removal.at:
            return False
        self._join(other)
        return True

    async def _add_referrers(self, subject: Digest, change: int, depth: int) -> None:
        """Plan the manifests about one that comes back, those of which everything is still here."""
        for digest in await self._records.removed_referrers(self._repository, subject, change):
            other = self._branch()
            await other.add(digest, None, depth + 1)
            if not other.missing:
                self._join(other)

    def _branch(self) -> "_Plan":
        """Begin a plan of what may come back with the rest."""
        other = _Plan(self._store, self._records, self._locks, self._repository)
        other.seen |= self.seen
        return other

    def _join(self, other: "_Plan") -> None:
        self.seen |= other.seen
        self.blobs |= other.blobs
        self.away |= other.away
        self.manifests += other.manifests
        self.missing += other.missing

    async def _content(self, digest: Digest, held: Holding) -> bytes | None:
        """Return a manifest's bytes if they are right."""
        content = held.content
        if content is not None:
            computed = await work.disk(Digest.of, content, digest.algorithm)
            if computed == digest:
                return content
        async with self._locks.hold((digest,)):
            await self._store.bring_back((digest,))
        return await read_manifest(self._store, digest)
