"""What the registry has its records keep: each write is one transaction."""

import sqlite3
from collections.abc import Callable, Collection, Sequence
from typing import Any

import msgspec

from appliance.catalogue.garbage import drop_empty
from appliance.catalogue.queries import BY_DIGEST, LINKED, Queries
from appliance.oci.digest import Digest
from appliance.oci.errors import (
    BLOB_UNKNOWN,
    BLOB_UPLOAD_UNKNOWN,
    MANIFEST_BLOB_UNKNOWN,
    MANIFEST_UNKNOWN,
    METHOD_UNSUPPORTED,
    NAME_UNKNOWN,
)
from appliance.oci.manifest import Manifest
from appliance.protocol.session import Session

_Read = Callable[[str, Sequence[object]], list[tuple[Any, ...]]]

CONTENT_MAX = 64 << 10
"""Bytes of a manifest that the catalogue holds itself; larger ones are in the store alone."""


class Catalogue(Queries):
    """The records in one database."""

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
            row = connection.execute(LINKED, (source, str(digest))).fetchone()
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
            row = connection.execute(LINKED, (repository, str(digest))).fetchone()
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
            drop_empty(connection, {owner})

        await self._database.write(writing)

    async def check_references(self, repository: str, manifest: Manifest) -> None:
        """Raise MANIFEST_BLOB_UNKNOWN listing what is required and the repository lacks now."""
        _resolve(self._database.read, repository, manifest)

    async def put_manifest(
        self,
        repository: str,
        digest: Digest,
        content: bytes,
        manifest: Manifest,
        tags: Collection[str] = (),
    ) -> None:
        """Record a manifest, and move tags to it.

        Raises MANIFEST_BLOB_UNKNOWN listing what is required and the repository lacks.
        """

        def writing(connection: sqlite3.Connection) -> None:
            targets, absent = _resolve(
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
                "INSERT INTO absent (repository, manifest, digest) VALUES (?, ?, ?)"
                " ON CONFLICT DO NOTHING",
                [(owner, blob, str(listed)) for listed in absent],
            )
            # Some index may have been waiting for this manifest.
            waiting = connection.execute(
                "DELETE FROM absent WHERE repository = ? AND digest = ? RETURNING manifest",
                (owner, str(digest)),
            ).fetchall()
            connection.executemany(
                "INSERT INTO edge (repository, manifest, target) VALUES (?, ?, ?)"
                " ON CONFLICT DO NOTHING",
                [
                    *((owner, blob, target) for target in targets),
                    *((owner, index, blob) for (index,) in waiting),
                ],
            )
            connection.executemany(
                "INSERT INTO tag (repository, name, manifest) VALUES (?, ?, ?)"
                " ON CONFLICT DO UPDATE SET manifest = excluded.manifest,"
                " moved_at = unixepoch()",
                [(owner, tag, blob) for tag in tags],
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
            row = connection.execute(BY_DIGEST, (repository, str(digest))).fetchone()
            if row is None:
                raise MANIFEST_UNKNOWN.error(details=({"digest": str(digest)},))
            owner, blob = row[4:]
            connection.execute(
                "DELETE FROM manifest WHERE repository = ? AND blob = ?", (owner, blob)
            )
            drop_empty(connection, {owner})

        await self._database.write(writing)

    async def delete_repository(self, repository: str) -> None:
        """Remove a repository with all its tags, manifests and links; raises NAME_UNKNOWN."""

        def writing(connection: sqlite3.Connection) -> None:
            row = connection.execute(
                "SELECT id FROM repository WHERE name = ?", (repository,)
            ).fetchone()
            if row is None:
                raise NAME_UNKNOWN.error(details=({"name": repository},))
            connection.execute("DELETE FROM manifest WHERE repository = ?", row)
            connection.execute("DELETE FROM link WHERE repository = ?", row)
            connection.execute("DELETE FROM repository WHERE id = ?", row)

        await self._database.write(writing)


def _put_repository(connection: sqlite3.Connection, name: str) -> int:
    connection.execute("INSERT INTO repository (name) VALUES (?) ON CONFLICT DO NOTHING", (name,))
    ((found,),) = connection.execute("SELECT id FROM repository WHERE name = ?", (name,))
    return int(found)


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
        "INSERT INTO link (repository, blob) VALUES (?, ?)"
        " ON CONFLICT DO UPDATE SET idle_since = unixepoch()",
        (repository, blob),
    )


def _resolve(read: _Read, repository: str, manifest: Manifest) -> tuple[list[int], list[Digest]]:
    """Find what a manifest refers to, and which of the manifests it lists are absent and may be.

    Raises MANIFEST_BLOB_UNKNOWN with what is missing.
    """
    targets: list[int] = []
    absent: list[Digest] = []
    missing: list[str] = []
    for table, references in (("link", manifest.blobs), ("manifest", manifest.manifests)):
        query = (
            f"SELECT blob.id FROM blob JOIN {table} AS held ON held.blob = blob.id"  # noqa: S608  two fixed words
            " JOIN repository ON repository.id = held.repository"
            " WHERE blob.digest = ? AND repository.name = ?"
        )
        for digest in {reference.digest for reference in references}:
            rows = read(query, (str(digest), repository))
            targets += [row[0] for row in rows]
            if not rows:
                if digest in manifest.optional:
                    absent.append(digest)
                else:
                    missing.append(str(digest))
    if missing:
        raise MANIFEST_BLOB_UNKNOWN.error(
            f"the manifest refers to content that this repository does not have: {missing[0]}"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else ""),
            details=tuple({"digest": digest} for digest in sorted(missing)),
        )
    return targets, absent
