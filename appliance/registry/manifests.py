"""Manifests, tags, and the lists made of them."""

from appliance import work
from appliance.oci.descriptor import ReferrerDescriptor
from appliance.oci.digest import Digest
from appliance.oci.errors import DIGEST_INVALID, MANIFEST_UNKNOWN, NAME_UNKNOWN
from appliance.oci.manifest import Manifest, StoredManifest, parse_manifest
from appliance.protocol.paging import Page
from appliance.registry.ports import BlobStore, ManifestRecords
from appliance.registry.recent import Recent

_RECENT_MAX = 16 << 20
"""Bytes of manifests that are kept in memory, of those the records do not hold themselves."""


class Manifests:
    """The manifests and tags of every repository."""

    def __init__(self, *, store: BlobStore, records: ManifestRecords) -> None:
        self._store = store
        self._records = records
        self._recent = Recent(_RECENT_MAX)

    async def find(self, repository: str, reference: Digest | str) -> StoredManifest:
        """Look a manifest up by digest or tag; raises MANIFEST_UNKNOWN."""
        found = await self._records.find_manifest(repository, reference)
        if found is None:
            kind = "digest" if isinstance(reference, Digest) else "tag"
            raise MANIFEST_UNKNOWN.error(details=({"name": repository, kind: str(reference)},))
        return found

    async def content(self, manifest: StoredManifest) -> bytes:
        """Return a manifest's bytes exactly as they were pushed."""
        if manifest.content is not None:
            return manifest.content
        digest = manifest.descriptor.digest
        content = self._recent.get(digest)
        if content is None:
            async with self._store.open(digest) as region:
                content = await region.read(0, region.size)
            self._recent.put(digest, content)
        return content

    async def put(
        self, repository: str, reference: Digest | str, content: bytes, content_type: str | None
    ) -> tuple[Digest, Manifest]:
        """Store a manifest under its digest and, where `reference` is one, under a tag.

        Raises MANIFEST_INVALID, MANIFEST_BLOB_UNKNOWN for references the repository lacks, and
        DIGEST_INVALID when `reference` is another digest than that of the bytes.
        """
        algorithm = reference.algorithm if isinstance(reference, Digest) else "sha256"
        digest = await work.disk(Digest.of, content, algorithm)
        if isinstance(reference, Digest) and reference != digest:
            raise DIGEST_INVALID.error(
                f"the manifest's digest is {digest}", details=({"digest": str(reference)},)
            )
        manifest = await work.disk(parse_manifest, content, content_type)
        # 1. bytes durable and named  2. manifest, references and tag in one transaction, which
        # checks the references once more; the first look keeps refused manifests off the disk.
        await self._records.check_references(repository, manifest)
        await self._store.put(digest, content)
        tag = None if isinstance(reference, Digest) else reference
        await self._records.put_manifest(repository, digest, content, manifest, tag)
        return digest, manifest

    async def delete(self, repository: str, reference: Digest | str) -> None:
        """Remove a tag alone, or a manifest with all its tags; raises MANIFEST_UNKNOWN."""
        if isinstance(reference, Digest):
            await self._records.delete_manifest(repository, reference)
        else:
            await self._records.delete_tag(repository, reference)

    async def tags(self, repository: str, page: Page) -> tuple[list[str], bool]:
        """List a page of tags and tell whether more follow; raises NAME_UNKNOWN."""
        found = await self._records.find_tags(repository, page.last, page.limit + 1)
        if found is None:
            raise NAME_UNKNOWN.error(details=({"name": repository},))
        return found[: page.limit], len(found) > page.limit

    async def repositories(self, page: Page) -> tuple[list[str], bool]:
        """List a page of repositories and tell whether more follow."""
        found = await self._records.repositories(page.last, page.limit + 1)
        return found[: page.limit], len(found) > page.limit

    async def referrers(
        self, repository: str, subject: Digest, artifact_type: str | None, page: Page
    ) -> tuple[list[ReferrerDescriptor], bool]:
        """List a page of the manifests about a subject and tell whether more follow."""
        return await self._records.referrers(
            repository, subject, artifact_type, page.last, page.limit
        )
