"""What the registry has its records keep: each write is one transaction."""

import sqlite3
from collections.abc import Collection

from appliance.catalogue.garbage import drop_empty
from appliance.catalogue.queries import BY_DIGEST, LINKED, LINKED_WHOLE, Queries
from appliance.catalogue.rows import (
    check_removal,
    link,
    put_blob,
    put_repository,
    resolve,
    unopposed,
    write_manifest,
)
from appliance.oci.digest import Digest
from appliance.oci.errors import (
    BLOB_UNKNOWN,
    BLOB_UPLOAD_UNKNOWN,
    MANIFEST_UNKNOWN,
    METHOD_UNSUPPORTED,
    NAME_UNKNOWN,
    Objection,
)
from appliance.oci.manifest import Manifest, PushedManifest
from appliance.protocol.session import Session


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
            blob = put_blob(connection, digest, size)
            link(connection, put_repository(connection, session.repository), blob)

        await self._database.write(writing)

    async def mount(self, source: str, target: str, digest: Digest) -> bool:
        """Link a blob of one repository into another; False when the first does not link it."""

        def writing(connection: sqlite3.Connection) -> bool:
            row = connection.execute(LINKED_WHOLE, (source, str(digest))).fetchone()
            if row is None:
                return False
            link(connection, put_repository(connection, target), row[0])
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
        resolve(self._database.read, repository, manifest)

    async def put_manifest(
        self,
        repository: str,
        digest: Digest,
        content: bytes,
        manifest: Manifest,
        tags: Collection[str] = (),
        *,
        objection: Objection = unopposed,
    ) -> None:
        """Record a manifest, and move tags to it.

        Raises MANIFEST_BLOB_UNKNOWN listing what is required and the repository lacks, and
        TAG_IMMUTABLE where a tag that is fixed would move.
        """
        pushed = PushedManifest(repository, digest, content, manifest, tags)
        await self._database.write(lambda connection: write_manifest(connection, pushed, objection))

    async def delete_tag(
        self, repository: str, tag: str, *, objection: Objection = unopposed
    ) -> None:
        """Remove a tag and leave its manifest; raises MANIFEST_UNKNOWN or TAG_IMMUTABLE."""

        def writing(connection: sqlite3.Connection) -> None:
            removed = connection.execute(
                "DELETE FROM tag WHERE name = ?"
                " AND repository = (SELECT id FROM repository WHERE name = ?)",
                (tag, repository),
            ).rowcount
            if not removed:
                raise MANIFEST_UNKNOWN.error(details=({"tag": tag},))
            check_removal([(tag,)], objection)

        await self._database.write(writing)

    async def delete_manifest(
        self, repository: str, digest: Digest, *, objection: Objection = unopposed
    ) -> None:
        """Remove a manifest with all its tags.

        Raises MANIFEST_UNKNOWN, and TAG_IMMUTABLE where one of its tags is fixed.
        """

        def writing(connection: sqlite3.Connection) -> None:
            row = connection.execute(BY_DIGEST, (repository, str(digest))).fetchone()
            if row is None:
                raise MANIFEST_UNKNOWN.error(details=({"digest": str(digest)},))
            owner, blob = row[4:]
            tags = connection.execute(
                "SELECT name FROM tag WHERE repository = ? AND manifest = ?", (owner, blob)
            )
            check_removal(tags, objection)
            connection.execute(
                "DELETE FROM manifest WHERE repository = ? AND blob = ?", (owner, blob)
            )
            drop_empty(connection, {owner})

        await self._database.write(writing)

    async def delete_repository(self, repository: str, *, objection: Objection = unopposed) -> None:
        """Remove a repository with all its tags, manifests and links.

        Raises NAME_UNKNOWN, and TAG_IMMUTABLE where one of its tags is fixed.
        """

        def writing(connection: sqlite3.Connection) -> None:
            row = connection.execute(
                "SELECT id FROM repository WHERE name = ?", (repository,)
            ).fetchone()
            if row is None:
                raise NAME_UNKNOWN.error(details=({"name": repository},))
            check_removal(
                connection.execute("SELECT name FROM tag WHERE repository = ?", row), objection
            )
            connection.execute("DELETE FROM manifest WHERE repository = ?", row)
            connection.execute("DELETE FROM link WHERE repository = ?", row)
            connection.execute("DELETE FROM repository WHERE id = ?", row)

        await self._database.write(writing)
