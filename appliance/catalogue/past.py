"""What was in a repository: the history of its tags, and bringing removed manifests back."""

import sqlite3
from collections.abc import Sequence

from appliance.catalogue.database import Database
from appliance.catalogue.rows import (
    link,
    put_blob,
    put_repository,
    put_tag,
    unopposed,
    write_manifest,
)
from appliance.oci.digest import Digest
from appliance.oci.errors import MANIFEST_UNKNOWN, Objection
from appliance.oci.history import Change, Holding, Removal
from appliance.oci.manifest import PushedManifest

_CHANGES = """
    SELECT history.at, history.tag, history.digest, quarantine.moved_at,
        CASE WHEN history.digest IS NULL THEN NULL
        WHEN EXISTS (
            SELECT 1 FROM repository JOIN manifest ON manifest.repository = repository.id
            WHERE repository.name = history.repository AND manifest.blob = blob.id
        ) THEN 'here'
        WHEN blob.damaged = 0 OR quarantine.digest IS NOT NULL THEN 'kept'
        ELSE 'gone' END
    FROM (
        SELECT * FROM history WHERE repository = :repository AND (:tag IS NULL OR tag = :tag)
        ORDER BY id DESC LIMIT :limit
    ) AS history
    LEFT JOIN blob ON blob.digest = history.digest
    LEFT JOIN quarantine ON quarantine.digest = history.digest
    ORDER BY history.id DESC
"""

_HOLDING = """
    SELECT blob.size, blob.content, 0,
        EXISTS (SELECT 1 FROM repository JOIN {table} AS held ON held.repository = repository.id
            WHERE repository.name = :repository AND held.blob = blob.id)
    FROM blob WHERE digest = :digest AND damaged = 0
    UNION ALL
    SELECT size, NULL, 1, 0 FROM quarantine WHERE digest = :digest
    LIMIT 1
"""

_HELD_AS_BLOB = _HOLDING.format(table="link")
_HELD_AS_MANIFEST = _HOLDING.format(table="manifest")


class Past:
    """The records of what was."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def changes(self, repository: str, tag: str | None, limit: int) -> list[Change]:
        """List the latest changes of a repository, or of one of its tags, the last one first."""
        asked = {"repository": repository, "tag": tag, "limit": limit}

        def reading(connection: sqlite3.Connection) -> list[Change]:
            return [
                Change(at=at, tag=name, digest=digest, state=state, kept_since=moved_at)
                for at, name, digest, moved_at, state in connection.execute(_CHANGES, asked)
            ]

        return await self._database.study(reading)

    async def last_manifest(self, repository: str, tag: str) -> Digest | None:
        """Return the manifest that a tag pointed to when it did so last."""
        rows = self._database.read(
            "SELECT digest FROM history WHERE repository = ? AND tag = ? AND digest IS NOT NULL"
            " ORDER BY id DESC LIMIT 1",
            (repository, tag),
        )
        return Digest.parse(rows[0][0]) if rows else None

    async def removal(self, repository: str, digest: Digest) -> Removal | None:
        """Return how a manifest was removed the last time."""
        rows = self._database.read(
            "SELECT id, at, media_type FROM history WHERE repository = ? AND digest = ? AND tag = ''"
            " ORDER BY id DESC LIMIT 1",
            (repository, str(digest)),
        )
        return Removal(*rows[0]) if rows else None

    async def removed_referrers(self, repository: str, subject: Digest, after: int) -> list[Digest]:
        """List the manifests about a subject that were removed after a change."""
        rows = self._database.read(
            "SELECT DISTINCT digest FROM history WHERE repository = ? AND subject = ? AND id > ?",
            (repository, str(subject), after),
        )
        return [Digest.parse(digest) for (digest,) in rows]

    async def holding(
        self, repository: str, digest: Digest, *, as_manifest: bool = False
    ) -> Holding | None:
        """Tell where the bytes of a blob or manifest are, if they are here at all."""
        rows = self._database.read(
            _HELD_AS_MANIFEST if as_manifest else _HELD_AS_BLOB,
            {"repository": repository, "digest": str(digest)},
        )
        if not rows:
            return None
        size, content, is_away, is_linked = rows[0]
        return Holding(size=size, is_linked=bool(is_linked), is_away=bool(is_away), content=content)

    async def restore(
        self,
        repository: str,
        *,
        blobs: Sequence[tuple[Digest, int]],
        manifests: Sequence[PushedManifest],
        tag: tuple[str, Digest] | None,
        objection: Objection = unopposed,
    ) -> None:
        """Bring back blobs, by digest and size, manifests in that order, and a tag.

        Raises MANIFEST_BLOB_UNKNOWN, MANIFEST_UNKNOWN and TAG_IMMUTABLE; nothing is changed then.
        """

        def writing(connection: sqlite3.Connection) -> None:
            owner = put_repository(connection, repository)
            # Of what was pushed again meanwhile there still is a copy in quarantine.
            connection.executemany(
                "DELETE FROM quarantine WHERE digest = :digest AND NOT EXISTS"
                " (SELECT 1 FROM blob WHERE digest = :digest AND damaged = 0)",
                [
                    {"digest": str(digest)}
                    for digest in (*dict(blobs), *(one.digest for one in manifests))
                ],
            )
            for digest, size in blobs:
                link(connection, owner, put_blob(connection, digest, size))
            for pushed in manifests:
                write_manifest(connection, pushed)
            if tag is not None:
                name, digest = tag
                found = connection.execute(
                    "SELECT blob.id FROM manifest JOIN blob ON blob.id = manifest.blob"
                    " WHERE manifest.repository = ? AND blob.digest = ?",
                    (owner, str(digest)),
                ).fetchone()
                if found is None:
                    raise MANIFEST_UNKNOWN.error(details=({"digest": str(digest)},))
                put_tag(connection, owner, name, found[0], objection=objection(name))

        await self._database.write(writing)
