"""Undo: what a tag has been, and bringing back what was removed, for as long as its bytes are here.

A manifest comes back with everything it refers to, the manifests of an index included, and with
those about it (signatures, say) that were removed after it. Nothing is swept meanwhile:

    1. look for all of it in the records
    2. files out of quarantine, durable
    3. look whether they are all there
    4. blobs, manifests and tag in one transaction

What is missing ends it, and no client sees a change. It leaves files that are still noted as in
quarantine, as a crash before 4 does; a sweep puts them back there.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from appliance import work
from appliance.oci.digest import Digest
from appliance.oci.errors import (
    BLOB_UNKNOWN,
    MANIFEST_BLOB_UNKNOWN,
    MANIFEST_UNKNOWN,
    RegistryError,
)
from appliance.oci.history import Change, Holding, Restored
from appliance.oci.manifest import PushedManifest, parse_manifest
from appliance.registry.locks import DigestLocks
from appliance.registry.ports import BlobStore, PastRecords
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
        is_fixed: Callable[[str, str], bool],
    ) -> None:
        self._store = store
        self._records = records
        self._locks = locks
        self._sweep = sweep
        self._is_fixed = is_fixed

    async def changes(self, repository: str, tag: str | None, limit: int) -> list[Change]:
        """List the latest changes of a repository or of one of its tags, the last one first."""
        return await self._records.changes(repository, tag, limit)

    async def restore(self, repository: str, tag: str, digest: Digest | None) -> Restored:
        """Bring back a manifest, and have a tag point to it unless that is empty.

        Without a digest it is the manifest to which the tag pointed last. Raises MANIFEST_UNKNOWN
        where nobody knows of it, MANIFEST_BLOB_UNKNOWN listing what is gone for good, and
        TAG_IMMUTABLE.
        """
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
            wanted = [*plan.blobs, *(pushed.digest for pushed in plan.manifests)]
            async with self._locks.hold(wanted):
                await self._store.bring_back(wanted)
                _check(digest, [one for one in plan.blobs if not await self._is_there(one)])
                await self._records.restore(
                    repository,
                    blobs=list(plan.blobs.items()),
                    manifests=plan.manifests,
                    tag=(tag, digest) if tag else None,
                    is_fixed=lambda name: self._is_fixed(repository, name),
                )
        return Restored(
            digest=str(digest),
            manifests=len(plan.manifests),
            blobs=len(plan.blobs),
            size=sum(plan.blobs.values()) + sum(len(one.content) for one in plan.manifests),
        )

    async def _is_there(self, digest: Digest) -> bool:
        """Tell whether a blob's file is here; a crash may have come before its row was gone."""
        try:
            async with self._store.open(digest):
                return True
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
        self._seen: set[Digest] = set()
        self.blobs: dict[Digest, int] = {}
        self.manifests: list[PushedManifest] = []
        self.missing: list[Digest] = []

    async def add(self, digest: Digest, media_type: str | None, depth: int = 0) -> None:
        """Plan a manifest with all that it needs; its media type is known from whoever lists it."""
        if digest in self._seen:
            return
        self._seen.add(digest)
        held = await self._records.holding(self._repository, digest, as_manifest=True)
        if held is not None and held.is_linked:
            return
        removal = await self._records.removal(self._repository, digest)
        if removal is None and depth == 0:
            raise MANIFEST_UNKNOWN.error(
                f"{digest} has never been a manifest of {self._repository}, or it is forgotten",
                details=({"digest": str(digest)},),
            )
        content = await self._content(digest, held) if held is not None else None
        if content is None or depth > _DEPTH_MAX:
            self.missing.append(digest)
            return
        manifest = parse_manifest(content, removal.media_type if removal else media_type)
        for blob in manifest.blobs:
            await self._add_blob(blob.digest)
        never_here = set()
        for entry in manifest.manifests:
            if await self._is_known(entry.digest):
                await self.add(entry.digest, entry.media_type, depth + 1)
            else:
                never_here.add(entry.digest)
        manifest = replace(manifest, optional=frozenset(never_here))
        self.manifests.append(PushedManifest(self._repository, digest, content, manifest))
        if removal is not None:
            await self._add_referrers(digest, removal.change, depth)

    async def _add_blob(self, digest: Digest) -> None:
        held = await self._records.holding(self._repository, digest)
        if held is None:
            self.missing.append(digest)
        elif not held.is_linked:
            self.blobs[digest] = held.size

    async def _add_referrers(self, subject: Digest, change: int, depth: int) -> None:
        """Plan the manifests about one that comes back, those of which everything is still here."""
        for digest in await self._records.removed_referrers(self._repository, subject, change):
            other = _Plan(self._store, self._records, self._locks, self._repository)
            other._seen |= self._seen
            await other.add(digest, None, depth + 1)
            if not other.missing:
                self._seen |= other._seen
                self.blobs |= other.blobs
                self.manifests += other.manifests

    async def _is_known(self, digest: Digest) -> bool:
        held = await self._records.holding(self._repository, digest, as_manifest=True)
        if held is not None and held.is_linked:
            return True
        return await self._records.removal(self._repository, digest) is not None

    async def _content(self, digest: Digest, held: Holding) -> bytes | None:
        """Return a manifest's bytes if they are right."""
        content = held.content
        if content is None:
            async with self._locks.hold((digest,)):
                await self._store.bring_back((digest,))
            try:
                async with self._store.open(digest) as region:
                    content = await region.read(0, region.size)
            except RegistryError as error:
                if error.row is not BLOB_UNKNOWN:
                    raise
                return None
        computed = await work.disk(Digest.of, content, digest.algorithm)
        return content if computed == digest else None
