"""Manifests, tags, and the lists made of them.

An index may list manifests that its repository does not have: a mirror of some platforms only, say.
Whether it is taken then is a matter of which platforms are required.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial

import trio

from appliance import work
from appliance.oci.descriptor import ReferrerDescriptor
from appliance.oci.digest import Digest
from appliance.oci.errors import (
    BLOB_UNKNOWN,
    DIGEST_INVALID,
    MANIFEST_UNKNOWN,
    NAME_UNKNOWN,
    STORE_UNAVAILABLE,
    RegistryError,
    tag_immutable,
    taken,
)
from appliance.oci.manifest import SIZE_MAX, Manifest, StoredManifest, parse_manifest
from appliance.protocol.paging import PAGE_MAX, Page
from appliance.registry.damage import Suspect, unsuspected
from appliance.registry.leases import Leases
from appliance.registry.locks import DigestLocks
from appliance.registry.ports import BlobStore
from appliance.registry.quotas import Quotas
from appliance.registry.recent import Recent
from appliance.registry.records import ManifestRecords
from appliance.registry.space import Space

_RECENT_MAX = 16 << 20
"""Bytes of manifests that are kept in memory, of those the records do not hold themselves."""

_ROTTEN = "the catalogue is damaged; registry verify tells what is"


class Manifests:
    """The manifests and tags of every repository."""

    def __init__(
        self,
        *,
        store: BlobStore,
        records: ManifestRecords,
        leases: Leases,
        locks: DigestLocks,
        space: Space,
        quotas: Quotas,
        suspect: Suspect = unsuspected,
    ) -> None:
        self._store = store
        self._suspect = suspect
        self._records = records
        self._leases = leases
        self._locks = locks
        self._space = space
        self._quotas = quotas
        self._recent = Recent(_RECENT_MAX)
        self._required: Sequence[str] = ("*",)
        self._immutable: Sequence[str] = ()

    def require(self, platforms: Sequence[str]) -> None:
        """Say which entries of an index must be there when it is pushed: patterns of platforms.

        A platform reads `os/architecture` or `os/architecture/variant`; a pattern without a variant
        matches all of them, and an entry without a platform is matched by `*` alone.
        """
        self._required = platforms

    def fix(self, immutable: Sequence[str]) -> None:
        """Say which tags may neither move nor go: patterns of `repository:tag`."""
        self._immutable = immutable

    def objection(self, repository: str, tag: str) -> RegistryError | None:
        """Tell what stands against a tag's moving or going; None where nothing does."""
        name = f"{repository}:{tag}"
        if any(fnmatchcase(name, pattern) for pattern in self._immutable):
            return tag_immutable(tag)
        return None

    async def find(self, repository: str, reference: Digest | str) -> StoredManifest:
        """Look a manifest up by digest or tag, and lease it; raises MANIFEST_UNKNOWN."""
        while True:
            found = await self._records.find_manifest(repository, reference)
            if found is not None and found.is_rotten:
                await self._suspect(found.descriptor.digest)
                found = await self._records.find_manifest(repository, reference)
                if found is not None and found.is_rotten:
                    raise STORE_UNAVAILABLE.error(_ROTTEN)
            if found is None:
                kind = "digest" if isinstance(reference, Digest) else "tag"
                raise MANIFEST_UNKNOWN.error(details=({"name": repository, kind: str(reference)},))
            settled = self._leases.take(repository, found.descriptor.digest)
            if settled is None:
                return found
            await settled.wait()

    async def content(self, manifest: StoredManifest) -> bytes:
        """Return a manifest's bytes exactly as they were pushed.

        Raises MANIFEST_UNKNOWN where they are not here any more.
        """
        if manifest.content is not None:
            return manifest.content
        digest = manifest.descriptor.digest
        content = self._recent.get(digest)
        if content is None:
            content = await read_manifest(self._store, digest)
            if content is None:
                await self._suspect(digest)
                raise MANIFEST_UNKNOWN.error(details=({"digest": str(digest)},))
            self._recent.put(digest, content)
        return content

    async def put(
        self,
        repository: str,
        reference: Digest | str,
        content: bytes,
        content_type: str | None,
        *,
        tags: Sequence[str] = (),
        may_overwrite: bool = True,
    ) -> tuple[Digest, Manifest]:
        """Store a manifest under its digest, under `reference` if that is a tag, and under `tags`.

        Raises MANIFEST_INVALID, MANIFEST_BLOB_UNKNOWN for references the repository lacks,
        DIGEST_INVALID when `reference` is another digest than that of the bytes, TAG_IMMUTABLE
        when such a tag points elsewhere, FORBIDDEN when any tag does and may not be overwritten,
        and STORE_FULL or QUOTA_REACHED for a manifest that the
        repository does not have when there is no room for more.
        """
        algorithm = reference.algorithm if isinstance(reference, Digest) else "sha256"
        digest = await work.disk(Digest.of, content, algorithm)
        if isinstance(reference, Digest) and reference != digest:
            raise DIGEST_INVALID.error(
                f"the manifest's digest is {digest}", details=({"digest": str(reference)},)
            )
        manifest = await work.disk(parse_manifest, content, content_type)
        manifest = replace(manifest, optional=self._optional(manifest))
        # 1. bytes durable and named  2. manifest, references and tags in one transaction, which
        # checks the references once more; the first look keeps refused manifests off the disk.
        # The lock keeps a sweep from putting the file away between the two.
        await self._records.check_references(repository, manifest)
        named = tags if isinstance(reference, Digest) else (reference, *tags)

        def objection(tag: str) -> RegistryError | None:
            return self.objection(repository, tag) or (None if may_overwrite else taken(tag))

        for tag in named:
            if (against := objection(tag)) is not None:
                found = await self._records.find_manifest(repository, tag)
                if found is not None and found.descriptor.digest != digest:
                    raise against
        if await self._records.find_manifest(repository, digest) is None:
            await self._space.claim(len(content))
        added = 0 if await self._records.has_manifest(repository, digest) else len(content)
        await self._leases.secure(repository, digest)
        async with self._quotas.claim(repository, added), self._locks.hold((digest,)):
            await self._store.put(digest, content)
            await self._records.put_manifest(
                repository,
                digest,
                content,
                manifest,
                named,
                objection=objection,
            )
        return digest, manifest

    def _optional(self, manifest: Manifest) -> frozenset[Digest]:
        listed = {entry.digest for entry in manifest.manifests}
        required = {
            entry.digest
            for entry in manifest.manifests
            if any(_matches(entry.platform, pattern) for pattern in self._required)
        }
        return frozenset(listed - required)

    async def delete(self, repository: str, reference: Digest | str) -> None:
        """Remove a tag alone, or a manifest with all its tags.

        Raises MANIFEST_UNKNOWN and TAG_IMMUTABLE.
        """
        objection = partial(self.objection, repository)
        if isinstance(reference, Digest):
            await self._records.delete_manifest(repository, reference, objection=objection)
        else:
            await self._records.delete_tag(repository, reference, objection=objection)

    async def delete_repository(self, repository: str) -> None:
        """Remove a repository with all that is in it; raises NAME_UNKNOWN and TAG_IMMUTABLE."""
        objection = partial(self.objection, repository)
        await self._records.delete_repository(repository, objection=objection)

    async def tags(self, repository: str, page: Page) -> tuple[list[str], bool]:
        """List a page of tags and tell whether more follow; raises NAME_UNKNOWN."""
        found = await self._records.find_tags(repository, page.last, page.limit + 1)
        if found is None:
            raise NAME_UNKNOWN.error(details=({"name": repository},))
        return found[: page.limit], len(found) > page.limit

    async def repositories(
        self, page: Page, visible: Callable[[str], bool]
    ) -> tuple[list[str], bool]:
        """List a page of those repositories that are visible, and tell whether more follow."""
        names: list[str] = []
        last, more = page.last, bool(page.limit)
        batch = page.limit + 1
        while more and len(names) <= page.limit:
            found = await self._records.repositories(last, batch)
            names += filter(visible, found)
            more = len(found) == batch
            batch = PAGE_MAX  # few are visible: look through the rest in larger steps
            last = found[-1] if found else last
            await trio.lowlevel.checkpoint()
        return names[: page.limit], len(names) > page.limit

    async def referrers(
        self, repository: str, subject: Digest, artifact_type: str | None, page: Page
    ) -> tuple[list[ReferrerDescriptor], bool]:
        """List a page of the manifests about a subject and tell whether more follow."""
        return await self._records.referrers(
            repository, subject, artifact_type, page.last, page.limit
        )


async def read_manifest(store: BlobStore, digest: Digest) -> bytes | None:
    """Read a manifest from a store; None where it is not there, or is another one."""
    try:
        async with store.open(digest) as region:
            if region.size > SIZE_MAX:
                return None
            content = await region.read(0, region.size)
    except RegistryError as error:
        if error.row is not BLOB_UNKNOWN:
            raise
        return None
    computed = await work.disk(Digest.of, content, digest.algorithm)
    return content if computed == digest else None


def _matches(platform: str, pattern: str) -> bool:
    return fnmatchcase(platform, pattern) or fnmatchcase(platform, f"{pattern}/*")
