"""The ports to records: what each use case asks of them, in a protocol of its own.

Adapters satisfy these by shape, and raise what `ports` says. Nobody is asked for more than is
needed, and one adapter may satisfy several.
"""

from collections.abc import Collection, Sequence
from typing import Protocol

from appliance.oci.damage import Finding, Held, Images
from appliance.oci.descriptor import ReferrerDescriptor
from appliance.oci.digest import Digest
from appliance.oci.errors import Objection
from appliance.oci.garbage import IdleBlob, IdlePair, Place, Totals
from appliance.oci.history import Change, Holding, Removal
from appliance.oci.manifest import Manifest, PushedManifest, StoredManifest
from appliance.protocol.session import Session


class SessionRecords(Protocol):
    """The records that uploads need."""

    async def find_session(self, session_id: str) -> Session | None:
        """Look an upload session up."""

    async def sessions(self) -> list[Session]:
        """List all upload sessions, newest first."""

    async def add_session(self, session: Session) -> None:
        """Record an upload session."""

    async def remove_session(self, session_id: str) -> None:
        """Forget an upload session."""

    async def commit_session(self, session: Session, digest: Digest, size: int) -> None:
        """Turn an upload session into a blob of its repository; raises BLOB_UPLOAD_UNKNOWN."""

    async def find_blob(self, repository: str, digest: Digest) -> int | None:
        """Return the size of a blob that the repository links."""

    async def has_blob(self, repository: str, digest: Digest) -> bool:
        """Tell whether a blob counts as a repository's, be it damaged."""

    async def mount(self, source: str, target: str, digest: Digest) -> bool:
        """Link a blob of one repository into another; False when the first does not link it."""

    async def holders(self, digest: Digest, limit: int) -> list[str]:
        """List repositories that link a blob."""


class BlobRecords(Protocol):
    """The records that reading and unlinking blobs needs."""

    async def find_blob(self, repository: str, digest: Digest) -> int | None:
        """Return the size of a blob that the repository links."""

    async def unlink(self, repository: str, digest: Digest) -> None:
        """Take a blob out of a repository; raises BLOB_UNKNOWN or METHOD_UNSUPPORTED."""


class ManifestRecords(Protocol):
    """The records that manifests, tags and lists need."""

    async def find_manifest(
        self, repository: str, reference: Digest | str
    ) -> StoredManifest | None:
        """Look a manifest up by digest or tag."""

    async def has_manifest(self, repository: str, digest: Digest) -> bool:
        """Tell whether a manifest counts as a repository's, be it damaged."""

    async def find_tags(self, repository: str, after: str, limit: int) -> list[str] | None:
        """List tags that sort after one; None when the repository has no manifest at all."""

    async def repositories(self, after: str, limit: int) -> list[str]:
        """List the repositories that hold a manifest, by name, from after one on."""

    async def count_repositories(self, at_most: int) -> int:
        """Count the repositories that hold a manifest, no further than that."""

    async def referrers(
        self, repository: str, subject: Digest, artifact_type: str | None, after: str, limit: int
    ) -> tuple[list[ReferrerDescriptor], bool]:
        """List the manifests about a subject, by digest, from after one on; tell if more follow."""

    async def check_references(self, repository: str, manifest: Manifest) -> None:
        """Raise MANIFEST_BLOB_UNKNOWN listing what is required and the repository lacks now."""

    async def put_manifest(
        self,
        repository: str,
        digest: Digest,
        content: bytes,
        manifest: Manifest,
        tags: Collection[str] = (),
        *,
        objection: Objection,
    ) -> None:
        """Record a manifest and move tags to it.

        Raises MANIFEST_BLOB_UNKNOWN, and TAG_IMMUTABLE where a fixed tag would move.
        """

    async def delete_tag(self, repository: str, tag: str, *, objection: Objection) -> None:
        """Remove a tag and leave its manifest; raises MANIFEST_UNKNOWN or TAG_IMMUTABLE."""

    async def delete_manifest(
        self, repository: str, digest: Digest, *, objection: Objection
    ) -> None:
        """Remove a manifest with all its tags; raises MANIFEST_UNKNOWN or TAG_IMMUTABLE."""

    async def delete_repository(self, repository: str, *, objection: Objection) -> None:
        """Remove a repository with all that is in it; raises NAME_UNKNOWN or TAG_IMMUTABLE."""

    async def size(self, prefix: str) -> int:
        """Count the bytes of a repository and of those below it; of all where the prefix is empty."""

    async def check_readable(self) -> None:
        """Raise STORE_UNAVAILABLE if nothing can be read now."""


class GarbageRecords(Protocol):
    """The records that a sweep needs; moments are seconds since 1970."""

    async def idle_links(self, before: int, after: Place | None, limit: int) -> list[IdlePair]:
        """List blobs of repositories that no manifest there has needed since a moment."""

    async def orphans(self, before: int, after: Place | None, limit: int) -> list[IdlePair]:
        """List manifests whose subject has gone and that nothing else has needed since a moment."""

    async def untagged(self, before: int, after: Place | None, limit: int) -> list[IdlePair]:
        """List manifests without tag, index or subject that nothing has needed since a moment."""

    async def idle_blobs(self, limit: int) -> list[IdleBlob]:
        """List blobs that no repository has."""

    async def quarantined(self, before: int, limit: int) -> list[IdleBlob]:
        """List blobs that were put away at that moment or earlier."""

    async def totals(self, before: int, untagged_before: int | None) -> Totals:
        """Count what a sweep would remove at once."""

    async def remove_links(self, pairs: Sequence[IdlePair]) -> int:
        """Remove those links that are still idle; return how many."""

    async def remove_manifests(self, pairs: Sequence[IdlePair]) -> int:
        """Remove those manifests that are still idle; return how many."""

    async def put_away(self, blobs: Sequence[IdleBlob]) -> list[IdleBlob]:
        """Forget those blobs that still nobody has, but for their quarantine; return which."""

    async def known(self, digests: Sequence[Digest]) -> set[Digest]:
        """Return those of some digests of which there is a blob, in whatever repository."""

    async def forget_changes(self, before: int, limit: int) -> int:
        """Forget changes of tags and removals that are so old, some of them; return how many."""

    async def forget(self, digests: Sequence[Digest]) -> None:
        """Forget blobs that have left quarantine."""


class PastRecords(Protocol):
    """The records that history and bringing back need."""

    async def changes(self, repository: str, tag: str | None, limit: int) -> list[Change]:
        """List the latest changes of a repository, or of one of its tags, the last one first."""

    async def last_manifest(self, repository: str, tag: str) -> Digest | None:
        """Return the manifest that a tag pointed to when it did so last."""

    async def removal(self, repository: str, digest: Digest) -> Removal | None:
        """Return how a manifest was removed the last time."""

    async def removed_referrers(self, repository: str, subject: Digest, after: int) -> list[Digest]:
        """List the manifests about a subject that were removed after a change."""

    async def holding(
        self, repository: str, digest: Digest, *, as_manifest: bool = False
    ) -> Holding | None:
        """Tell where the bytes of a blob or manifest are, if they are here at all."""

    async def restore(
        self,
        repository: str,
        *,
        blobs: Sequence[tuple[Digest, int]],
        manifests: Sequence[PushedManifest],
        tag: tuple[str, Digest] | None,
        objection: Objection,
    ) -> None:
        """Bring back blobs, by digest and size, manifests in that order, and a tag.

        Raises MANIFEST_BLOB_UNKNOWN, MANIFEST_UNKNOWN and TAG_IMMUTABLE.
        """


class InspectionRecords(Protocol):
    """The records that a scrub needs, which may themselves be damaged."""

    async def extent(self, repository: str | None, after: int) -> tuple[int, int]:
        """Count blobs and their bytes, of one repository or of all, from after one on."""

    async def blobs(
        self, repository: str | None, after: int, limit: int, size: int
    ) -> tuple[list[Held], list[Finding], int]:
        """List blobs by their numbers from after one on, up to so many or to so many bytes.

        With them comes what is wrong with their very rows, and the number of the last one.
        """

    async def find(self, digest: Digest) -> Held | None:
        """Return a blob as it is recorded."""

    async def damaged(self, limit: int) -> list[Digest]:
        """List blobs that are marked as damaged."""

    async def condemn(self, digest: Digest) -> bool:
        """Mark a blob as damaged; tell whether it was not yet, and is there."""

    async def heal(self, digest: Digest) -> None:
        """Take it that a blob's bytes are right, and forget that it is in quarantine."""

    async def mend(self, digest: Digest, size: int, content: bytes | None) -> None:
        """Record a blob's size anew, and its bytes where the records hold them."""

    async def images(self, digest: Digest, limit: int) -> Images:
        """List images that need a blob, by the tags that lead to it."""

    async def derive(
        self, manifests: Sequence[tuple[Held, bytes]], *, mending: bool
    ) -> list[Finding]:
        """Compare what manifests say with what is recorded of them, and mend the records."""

    async def check_pages(self, first: int) -> tuple[int, list[int]]:
        """Look at some pages of the catalogue, from `first` on; 1 is the first.

        Returns how many there were, none after the last one, and which are damaged.
        """

    async def describe_pages(self, pages: Sequence[int], images_max: int) -> list[Finding]:
        """Tell of damaged pages what is in them, and some of the images that have rows there."""

    async def check_structure(self) -> list[Finding]:
        """Look at the catalogue as a whole: whether its parts fit together."""

    async def recount(
        self, table: str, repository: str | None, after: tuple[int, int], *, mending: bool
    ) -> tuple[tuple[int, int] | None, list[Finding]]:
        """Count some rows of a table anew from after a place on; return the next, or None."""

    async def known(self, digests: Sequence[Digest]) -> set[Digest]:
        """Return those of some digests of which there is a blob, in whatever repository."""

    async def in_quarantine(self, after: str, limit: int) -> list[str]:
        """List digests that are recorded as in quarantine, in their order from after one on."""

    async def note_quarantine(self, digest: Digest, size: int) -> None:
        """Record that a blob is in quarantine, from now on; nothing where that is recorded."""

    async def drop_quarantine(self, digest: Digest) -> None:
        """Forget that a blob is in quarantine."""

    async def place(self, chore: str) -> str | None:
        """Return where some long work stands."""

    async def set_place(self, chore: str, place: str) -> None:
        """Remember where some long work stands."""
