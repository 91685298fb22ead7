"""What the registry asks its records: reads first, then writes, each write one transaction."""

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from appliance.catalogue.database import Database
from appliance.oci.descriptor import Descriptor, ReferrerDescriptor
from appliance.oci.digest import Digest
from appliance.oci.errors import (
    BLOB_UNKNOWN,
    BLOB_UPLOAD_UNKNOWN,
    MANIFEST_BLOB_UNKNOWN,
    MANIFEST_UNKNOWN,
    METHOD_UNSUPPORTED,
)
from appliance.oci.manifest import Manifest, StoredManifest
from appliance.protocol.session import Session

_Read = Callable[[str, Sequence[object]], list[tuple[Any, ...]]]

CONTENT_MAX = 64 << 10
"""Bytes of a manifest that the catalogue holds itself; larger ones are in the store alone."""

REFERRERS_MAX = 4 << 20
"""Bytes in a page of referrers; the next page follows by `Link` ("Listing Referrers")."""

_RECENT_MAX = 4096
"""Rows kept in memory until something is written."""

_ROW_MAX = 4 << 10
"""Bytes of a manifest up to which its row is kept."""

_LINKED = """
    SELECT blob.id, blob.size, repository.id FROM repository
    JOIN link ON link.repository = repository.id
    JOIN blob ON blob.id = link.blob
    WHERE repository.name = ? AND blob.digest = ?
"""

_MANIFEST = """
    SELECT manifest.media_type, blob.digest, blob.size, blob.content, repository.id, blob.id
    FROM repository
    JOIN manifest ON manifest.repository = repository.id
    JOIN blob ON blob.id = manifest.blob
    WHERE repository.name = ?
"""

_BY_DIGEST = _MANIFEST + "AND blob.digest = ?"

_BY_TAG = """
    SELECT manifest.media_type, blob.digest, blob.size, blob.content, repository.id, blob.id
    FROM repository
    JOIN tag ON tag.repository = repository.id
    JOIN manifest ON manifest.repository = repository.id AND manifest.blob = tag.manifest
    JOIN blob ON blob.id = tag.manifest
    WHERE repository.name = ? AND tag.name = ?
"""

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


class Catalogue:
    """The records in one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._generation = database.generation
        self._recent: dict[tuple[str, str, str], list[tuple[Any, ...]]] = {}

    async def find_blob(self, repository: str, digest: Digest) -> int | None:
        """Return the size of a blob that the repository links."""
        rows = self._lookup(_LINKED, repository, str(digest))
        return rows[0][1] if rows else None

    async def find_manifest(
        self, repository: str, reference: Digest | str
    ) -> StoredManifest | None:
        """Look a manifest up by digest or tag."""
        query = _BY_DIGEST if isinstance(reference, Digest) else _BY_TAG
        rows = self._lookup(query, repository, str(reference))
        if not rows:
            return None
        media_type, digest, size, content, _, _ = rows[0]
        return StoredManifest(Descriptor(media_type, Digest.parse(digest), size), content)

    def _lookup(self, query: str, repository: str, key: str) -> list[tuple[Any, ...]]:
        """Read a row, or remember it: clients ask for the same few again and again."""
        if self._generation != self._database.generation:
            self._generation = self._database.generation
            self._recent.clear()
        asked = (query, repository, key)
        rows = self._recent.get(asked)
        if rows is None:
            rows = self._database.read(query, (repository, key))
            size = sum(len(value) for row in rows for value in row if isinstance(value, bytes))
            if rows and len(self._recent) < _RECENT_MAX and size <= _ROW_MAX:
                self._recent[asked] = rows
        return rows

    async def find_tags(self, repository: str, after: str, limit: int) -> list[str] | None:
        """List tags that sort after one; None when the repository has no manifest at all."""
        rows = self._database.read(
            "SELECT tag.name FROM repository JOIN tag ON tag.repository = repository.id"
            " WHERE repository.name = ? AND tag.name > ? ORDER BY tag.name LIMIT ?",
            (repository, after, limit),
        )
        if not rows and not self._database.read(_MANIFEST + "LIMIT 1", (repository,)):
            return None
        return [name for (name,) in rows]

    async def repositories(self, after: str, limit: int) -> list[str]:
        """List the repositories that hold a manifest, by name, from after one on."""
        rows = self._database.read(
            "SELECT name FROM repository WHERE name > ?"
            " AND EXISTS (SELECT 1 FROM manifest WHERE manifest.repository = repository.id)"
            " ORDER BY name LIMIT ?",
            (after, limit),
        )
        return [name for (name,) in rows]

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

    async def add_session(self, session: Session) -> None:
        """Record an upload session."""
        await self._database.write(
            lambda connection: connection.execute(
                "INSERT INTO session (id, repository, account, algorithm) VALUES (?, ?, ?, ?)",
                (session.id, session.repository, session.account, session.algorithm),
            )
        )

    async def remove_session(self, session_id: str) -> None:
        """Forget an upload session; nothing happens where it is gone already."""
        await self._database.write(
            lambda connection: connection.execute("DELETE FROM session WHERE id = ?", (session_id,))
        )

    async def commit_session(self, session: Session, digest: Digest, size: int) -> None:
        """Turn an upload session into a blob of its repository.

        Raises BLOB_UPLOAD_UNKNOWN when the session ended in the meantime.
        """

        def writing(connection: sqlite3.Connection) -> None:
            ended = connection.execute("DELETE FROM session WHERE id = ?", (session.id,)).rowcount
            if not ended:
                raise BLOB_UPLOAD_UNKNOWN.error()
            blob = _put_blob(connection, digest, size)
            _link(connection, _put_repository(connection, session.repository), blob)

        await self._database.write(writing)

    async def mount(self, source: str, target: str, digest: Digest) -> bool:
        """Link a blob of one repository into another; False when the first does not link it."""

        def writing(connection: sqlite3.Connection) -> bool:
            row = connection.execute(_LINKED, (source, str(digest))).fetchone()
            if row is None:
                return False
            _link(connection, _put_repository(connection, target), row[0])
            return True

        return await self._database.write(writing)

    async def unlink(self, repository: str, digest: Digest) -> None:
        """Take a blob out of a repository.

        Raises BLOB_UNKNOWN, or METHOD_UNSUPPORTED while a manifest there needs it.
        """

        def writing(connection: sqlite3.Connection) -> None:
            row = connection.execute(_LINKED, (repository, str(digest))).fetchone()
            if row is None:
                raise BLOB_UNKNOWN.error(details=({"digest": str(digest)},))
            blob, _, owner = row
            user = connection.execute(
                "SELECT blob.digest FROM edge JOIN blob ON blob.id = edge.manifest"
                " WHERE edge.repository = ? AND edge.target = ? LIMIT 1",
                (owner, blob),
            ).fetchone()
            if user is not None:
                raise METHOD_UNSUPPORTED.error(
                    f"the blob is in use by manifest {user[0]}; delete that manifest first"
                )
            connection.execute("DELETE FROM link WHERE repository = ? AND blob = ?", (owner, blob))
            _drop_if_empty(connection, owner)

        await self._database.write(writing)

    async def check_references(self, repository: str, manifest: Manifest) -> None:
        """Raise MANIFEST_BLOB_UNKNOWN listing every reference that the repository lacks now."""
        _resolve(self._database.read, repository, manifest)

    async def put_manifest(
        self, repository: str, digest: Digest, content: bytes, manifest: Manifest, tag: str | None
    ) -> None:
        """Record a manifest, and move a tag to it.

        Raises MANIFEST_BLOB_UNKNOWN listing every reference that the repository lacks.
        """

        def writing(connection: sqlite3.Connection) -> None:
            targets = _resolve(
                lambda query, parameters: connection.execute(query, parameters).fetchall(),
                repository,
                manifest,
            )
            owner = _put_repository(connection, repository)
            held = content if len(content) <= CONTENT_MAX else None
            blob = _put_blob(connection, digest, len(content), held)
            subject = manifest.subject
            connection.execute(
                "INSERT INTO manifest"
                " (repository, blob, media_type, artifact_type, subject, referrer)"
                " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
                " media_type = excluded.media_type, artifact_type = excluded.artifact_type,"
                " subject = excluded.subject, referrer = excluded.referrer",
                (
                    owner,
                    blob,
                    manifest.media_type,
                    manifest.artifact_type,
                    str(subject.digest) if subject else None,
                    msgspec.json.encode(manifest.referrer(digest, len(content)))
                    if subject
                    else None,
                ),
            )
            connection.executemany(
                "INSERT INTO edge (repository, manifest, target) VALUES (?, ?, ?)"
                " ON CONFLICT DO NOTHING",
                [(owner, blob, target) for target in targets],
            )
            if tag is not None:
                connection.execute(
                    "INSERT INTO tag (repository, name, manifest) VALUES (?, ?, ?)"
                    " ON CONFLICT DO UPDATE SET manifest = excluded.manifest,"
                    " moved_at = unixepoch()",
                    (owner, tag, blob),
                )

        await self._database.write(writing)

    async def delete_tag(self, repository: str, tag: str) -> None:
        """Remove a tag and leave its manifest; raises MANIFEST_UNKNOWN."""

        def writing(connection: sqlite3.Connection) -> None:
            removed = connection.execute(
                "DELETE FROM tag WHERE name = ?"
                " AND repository = (SELECT id FROM repository WHERE name = ?)",
                (tag, repository),
            ).rowcount
            if not removed:
                raise MANIFEST_UNKNOWN.error(details=({"tag": tag},))

        await self._database.write(writing)

    async def delete_manifest(self, repository: str, digest: Digest) -> None:
        """Remove a manifest with all its tags; raises MANIFEST_UNKNOWN."""

        def writing(connection: sqlite3.Connection) -> None:
            row = connection.execute(_BY_DIGEST, (repository, str(digest))).fetchone()
            if row is None:
                raise MANIFEST_UNKNOWN.error(details=({"digest": str(digest)},))
            owner, blob = row[4:]
            connection.execute(
                "DELETE FROM manifest WHERE repository = ? AND blob = ?", (owner, blob)
            )
            _drop_if_empty(connection, owner)

        await self._database.write(writing)

    def _sessions(self, clause: str, *parameters: object) -> list[Session]:
        rows = self._database.read(
            f"SELECT id, repository, account, algorithm FROM session {clause}",  # noqa: S608
            parameters,
        )
        return [Session(*row) for row in rows]


def _put_repository(connection: sqlite3.Connection, name: str) -> int:
    connection.execute("INSERT INTO repository (name) VALUES (?) ON CONFLICT DO NOTHING", (name,))
    ((found,),) = connection.execute("SELECT id FROM repository WHERE name = ?", (name,))
    return int(found)


def _drop_if_empty(connection: sqlite3.Connection, repository: int) -> None:
    connection.execute(
        "DELETE FROM repository WHERE id = :id"
        " AND NOT EXISTS (SELECT 1 FROM link WHERE repository = :id)"
        " AND NOT EXISTS (SELECT 1 FROM manifest WHERE repository = :id)",
        {"id": repository},
    )


def _put_blob(
    connection: sqlite3.Connection, digest: Digest, size: int, content: bytes | None = None
) -> int:
    connection.execute(
        "INSERT INTO blob (digest, size, content) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET"
        " content = coalesce(content, excluded.content)",
        (str(digest), size, content),
    )
    ((found,),) = connection.execute("SELECT id FROM blob WHERE digest = ?", (str(digest),))
    return int(found)


def _link(connection: sqlite3.Connection, repository: int, blob: int) -> None:
    connection.execute(
        "INSERT INTO link (repository, blob) VALUES (?, ?) ON CONFLICT DO NOTHING",
        (repository, blob),
    )


def _resolve(read: _Read, repository: str, manifest: Manifest) -> list[int]:
    """Find all that a manifest refers to; raises MANIFEST_BLOB_UNKNOWN with what is missing."""
    targets: list[int] = []
    missing: list[str] = []
    for table, references in (("link", manifest.blobs), ("manifest", manifest.manifests)):
        query = (
            f"SELECT blob.id FROM blob JOIN {table} AS held ON held.blob = blob.id"  # noqa: S608  two fixed words
            " JOIN repository ON repository.id = held.repository"
            " WHERE blob.digest = ? AND repository.name = ?"
        )
        for digest in {str(reference.digest) for reference in references}:
            rows = read(query, (digest, repository))
            targets += [row[0] for row in rows]
            if not rows:
                missing.append(digest)
    if missing:
        raise MANIFEST_BLOB_UNKNOWN.error(
            f"the manifest refers to content that this repository does not have: {missing[0]}"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else ""),
            details=tuple({"digest": digest} for digest in sorted(missing)),
        )
    return targets
