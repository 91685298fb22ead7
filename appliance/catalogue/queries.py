"""What the registry asks its records: single rows, and pages of many."""

from typing import Any

import msgspec

from appliance.catalogue.database import Database
from appliance.oci.descriptor import Descriptor, ReferrerDescriptor
from appliance.oci.digest import Digest
from appliance.oci.errors import STORE_UNAVAILABLE, RegistryError
from appliance.oci.manifest import StoredManifest
from appliance.protocol.session import Session

REFERRERS_MAX = 4 << 20
"""Bytes in a page of referrers; the next page follows by `Link` ("Listing Referrers")."""

_RECENT_MAX = 4096
"""Rows kept in memory until something is written."""

_ROW_MAX = 4 << 10
"""Bytes of a manifest up to which its row is kept."""

LINKED = """
    SELECT blob.id, blob.size, repository.id FROM repository
    JOIN link ON link.repository = repository.id
    JOIN blob ON blob.id = link.blob
    WHERE repository.name = ? AND blob.digest = ?
"""

_LINKED_COLUMNS = 3

_WHOLE = " AND blob.damaged = 0"
LINKED_WHOLE = LINKED + _WHOLE

_LISTED = "SELECT 1 FROM repository WHERE manifests > 0 AND name = ?"

_MANIFEST = """
    SELECT manifest.media_type, blob.digest, blob.size, blob.content, repository.id, blob.id
    FROM repository
    JOIN manifest ON manifest.repository = repository.id
    JOIN blob ON blob.id = manifest.blob
    WHERE repository.name = ?
"""

BY_DIGEST = _MANIFEST + "AND blob.digest = ?"

_BY_TAG = """
    SELECT manifest.media_type, blob.digest, blob.size, blob.content, repository.id, blob.id
    FROM repository
    JOIN tag ON tag.repository = repository.id
    JOIN manifest ON manifest.repository = repository.id AND manifest.blob = tag.manifest
    JOIN blob ON blob.id = tag.manifest
    WHERE repository.name = ? AND tag.name = ?
"""

_WHOLE_BY_DIGEST = BY_DIGEST + _WHOLE
_WHOLE_BY_TAG = _BY_TAG + _WHOLE

_REFERRERS = """
    SELECT referrer FROM (
        SELECT page.*, sum(size) OVER (ORDER BY digest) AS total FROM (
            SELECT manifest.referrer, length(manifest.referrer) AS size, blob.digest
            FROM repository
            JOIN manifest ON manifest.repository = repository.id
            JOIN blob ON blob.id = manifest.blob
            WHERE repository.name = ? AND manifest.subject = ? AND blob.digest > ?
              AND (? IS NULL OR manifest.artifact_type = ?)
            ORDER BY blob.digest LIMIT ?
        ) AS page
    ) WHERE total <= ? OR total = size
    ORDER BY digest
"""


class Queries:
    """Reading one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._generation = database.generation
        self._recent: dict[tuple[str, str, str], list[tuple[Any, ...]]] = {}

    async def find_blob(self, repository: str, digest: Digest) -> int | None:
        """Return the size of a blob that the repository links."""
        rows, _ = self._lookup(LINKED_WHOLE, repository, str(digest))
        return rows[0][1] if rows else None

    async def has_blob(self, repository: str, digest: Digest) -> bool:
        """Tell whether a blob counts as a repository's, be it damaged."""
        return bool(self._lookup(LINKED, repository, str(digest))[0])

    async def has_manifest(self, repository: str, digest: Digest) -> bool:
        """Tell whether a manifest counts as a repository's, be it damaged."""
        return bool(self._lookup(BY_DIGEST, repository, str(digest))[0])

    async def holders(self, digest: Digest, limit: int) -> list[str]:
        """List repositories that link a blob, those that have done so longest first."""
        rows = self._database.read(
            "SELECT repository.name FROM blob JOIN link ON link.blob = blob.id"
            " JOIN repository ON repository.id = link.repository"
            " WHERE blob.digest = ? AND blob.damaged = 0 ORDER BY link.repository LIMIT ?",
            (str(digest), limit),
        )
        return [name for (name,) in rows]

    async def find_manifest(
        self, repository: str, reference: Digest | str
    ) -> StoredManifest | None:
        """Look a manifest up by digest or tag."""
        query = _WHOLE_BY_DIGEST if isinstance(reference, Digest) else _WHOLE_BY_TAG
        rows, is_right = self._lookup(query, repository, str(reference))
        if not rows:
            return None
        media_type, digest, size, content, _, _ = rows[0]
        descriptor = Descriptor(media_type, Digest.parse(digest), size)
        return StoredManifest(descriptor, content if is_right else None, is_rotten=not is_right)

    def _lookup(self, query: str, repository: str, key: str) -> tuple[list[tuple[Any, ...]], bool]:
        """Read a row, or remember it: clients ask for the same few again and again.

        With it comes whether its bytes, if it has any, are those of its digest.
        """
        if self._generation != self._database.generation:
            self._generation = self._database.generation
            self._recent.clear()
        asked = (query, repository, key)
        rows = self._recent.get(asked)
        if rows is not None:
            return rows, True
        rows = self._database.read(query, (repository, key))
        is_right = all(map(_is_right, rows))
        size = sum(len(value) for row in rows for value in row if isinstance(value, bytes))
        if rows and is_right and len(self._recent) < _RECENT_MAX and size <= _ROW_MAX:
            self._recent[asked] = rows
        return rows, is_right

    async def find_tags(self, repository: str, after: str, limit: int) -> list[str] | None:
        """List tags that sort after one; None when the repository has no manifest at all."""
        rows = self._database.read(
            "SELECT tag.name FROM repository JOIN tag ON tag.repository = repository.id"
            " WHERE repository.name = ? AND tag.name > ? ORDER BY tag.name LIMIT ?",
            (repository, after, limit),
        )
        if not rows and not self._database.read(_LISTED, (repository,)):
            return None
        return [name for (name,) in rows]

    async def repositories(self, after: str, limit: int) -> list[str]:
        """List the repositories that hold a manifest, by name, from after one on."""
        rows = self._database.read(
            "SELECT name FROM repository WHERE manifests > 0 AND name > ? ORDER BY name LIMIT ?",
            (after, limit),
        )
        return [name for (name,) in rows]

    async def count_repositories(self, at_most: int) -> int:
        """Count the repositories that hold a manifest, no further than that."""
        rows = self._database.read(
            "SELECT count(*) FROM (SELECT 1 FROM repository WHERE manifests > 0 LIMIT ?)",
            (at_most,),
        )
        return int(rows[0][0])

    async def referrers(
        self, repository: str, subject: Digest, artifact_type: str | None, after: str, limit: int
    ) -> tuple[list[ReferrerDescriptor], bool]:
        """List the manifests about a subject, by digest, from after one on; tell if more follow.

        Annotations may be megabytes each, so a page also ends where its bytes do.
        """
        asked = (repository, str(subject), after, artifact_type, artifact_type)
        rows = self._database.read(_REFERRERS, (*asked, limit, REFERRERS_MAX))
        entries = [msgspec.json.decode(entry, type=ReferrerDescriptor) for (entry,) in rows]
        if not entries:
            return [], False
        last = entries[-1].digest
        following = (*asked[:2], last, *asked[3:], 1, REFERRERS_MAX)
        return entries, bool(self._database.read(_REFERRERS, following))

    async def size(self, prefix: str) -> int:
        """Count the bytes of a repository and of those below it; of all where the prefix is empty.

        A blob that two repositories have counts in both.
        """
        query = "SELECT coalesce(sum(size), 0) FROM repository"
        if not prefix:
            return int(self._database.read(query)[0][0])
        below = self._database.read(
            f"{query} WHERE name = ? OR (name > ? AND name < ?)",
            (prefix, f"{prefix}/", f"{prefix}0"),  # "0" follows "/"
        )
        return int(below[0][0])

    async def find_session(self, session_id: str) -> Session | None:
        """Look an upload session up."""
        found = self._sessions("WHERE id = ?", session_id)
        return found[0] if found else None

    async def sessions(self) -> list[Session]:
        """List all upload sessions, newest first."""
        return self._sessions("ORDER BY started_at DESC")

    async def check_readable(self) -> None:
        """Read something; raises STORE_UNAVAILABLE."""
        self._database.read("SELECT 1 FROM repository LIMIT 1")

    def _sessions(self, clause: str, *parameters: object) -> list[Session]:
        rows = self._database.read(
            f"SELECT id, repository, account, algorithm FROM session {clause}",  # noqa: S608
            parameters,
        )
        return [Session(*row) for row in rows]


def _is_right(row: tuple[Any, ...]) -> bool:
    """Tell whether a row's bytes are those of its digest; a row without bytes is."""
    if len(row) == _LINKED_COLUMNS or row[3] is None:
        return True
    _, digest, size, content, _, _ = row
    try:
        expected = Digest.parse(digest)
    except RegistryError as error:
        raise STORE_UNAVAILABLE.error(
            "the catalogue is damaged; registry verify tells what is"
        ) from error
    return len(content) == size and Digest.of(content, expected.algorithm) == expected
