"""What nobody needs any more: finding it by its indexes, and removing it for good.

Each list costs what it lists. What was listed is looked at again in the transaction that removes
it: in between somebody may have come to need it.
"""

import sqlite3
from collections.abc import Iterable, Sequence

import msgspec

from appliance.catalogue.database import Database
from appliance.catalogue.rows import known_blobs
from appliance.oci.digest import Digest
from appliance.oci.garbage import IdleBlob, IdlePair, Place, Totals

_LINKS = """
    SELECT link.idle_since, link.repository, link.blob, repository.name, blob.digest, blob.size
    FROM link JOIN repository ON repository.id = link.repository JOIN blob ON blob.id = link.blob
    WHERE link.uses = 0 AND link.idle_since <= ?
      AND (link.idle_since, link.repository, link.blob) > (?, ?, ?)
    ORDER BY link.idle_since, link.repository, link.blob LIMIT ?
"""

_MANIFESTS = """
    SELECT manifest.idle_since, manifest.repository, manifest.blob,
           repository.name, blob.digest, blob.size
    FROM manifest JOIN repository ON repository.id = manifest.repository
    JOIN blob ON blob.id = manifest.blob
    WHERE manifest.tags = 0 AND manifest.uses = 0 AND manifest.{state}
      AND manifest.idle_since <= ?
      AND (manifest.idle_since, manifest.repository, manifest.blob) > (?, ?, ?)
    ORDER BY manifest.idle_since, manifest.repository, manifest.blob LIMIT ?
"""

_ORPHANS = _MANIFESTS.format(state="orphan = 1")
_UNTAGGED = _MANIFESTS.format(state="bound = 0")

_REMOVE_LINKS = """
    DELETE FROM link WHERE uses = 0 AND (repository, blob, idle_since) IN
    (SELECT value ->> 1, value ->> 2, value ->> 0 FROM json_each(?))
"""

_REMOVE_MANIFESTS = """
    DELETE FROM manifest WHERE tags = 0 AND uses = 0 AND bound = 0
    AND (repository, blob, idle_since) IN
    (SELECT value ->> 1, value ->> 2, value ->> 0 FROM json_each(?))
"""

_START = Place(-1, -1, -1)

_IDLE_LINKS = "SELECT count(*) FROM link WHERE uses = 0 AND idle_since <= ?"

_IDLE_MANIFESTS = """
    SELECT count(*) FROM manifest WHERE tags = 0 AND uses = 0
    AND ((orphan = 1 AND idle_since <= ?) OR (bound = 0 AND idle_since <= ?))
"""

_FREED = """
    SELECT count(*), coalesce(sum(size), 0) FROM (
        SELECT blob.size FROM link JOIN blob ON blob.id = link.blob
        WHERE link.uses = 0 AND link.idle_since <= ?
        GROUP BY blob.id HAVING count(*) = blob.holders
        UNION ALL
        SELECT size FROM blob WHERE holders = 0
    )
"""


class Garbage:
    """The records of what could go."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def idle_links(self, before: int, after: Place | None, limit: int) -> list[IdlePair]:
        """List blobs of repositories that no manifest there has needed since a moment."""
        return self._pairs(_LINKS, before, after, limit)

    async def orphans(self, before: int, after: Place | None, limit: int) -> list[IdlePair]:
        """List manifests whose subject has gone and that nothing else has needed since a moment."""
        return self._pairs(_ORPHANS, before, after, limit)

    async def untagged(self, before: int, after: Place | None, limit: int) -> list[IdlePair]:
        """List manifests without tag, index or subject that nothing has needed since a moment."""
        return self._pairs(_UNTAGGED, before, after, limit)

    async def idle_blobs(self, limit: int) -> list[IdleBlob]:
        """List blobs that no repository has."""
        rows = self._database.read(
            "SELECT digest, size FROM blob WHERE holders = 0 ORDER BY idle_since LIMIT ?", (limit,)
        )
        return [IdleBlob(Digest.parse(digest), size) for digest, size in rows]

    async def quarantined(self, before: int, limit: int) -> list[IdleBlob]:
        """List blobs that were put away at that moment or earlier."""
        rows = self._database.read(
            "SELECT digest, size FROM quarantine WHERE moved_at <= ? ORDER BY moved_at LIMIT ?",
            (before, limit),
        )
        return [IdleBlob(Digest.parse(digest), size) for digest, size in rows]

    async def totals(self, before: int, untagged_before: int | None) -> Totals:
        """Count what a sweep would remove at once; what hangs on that goes one grace later."""
        untagged = -1 if untagged_before is None else untagged_before

        def counting(connection: sqlite3.Connection) -> Totals:
            (links,) = connection.execute(_IDLE_LINKS, (before,)).fetchone()
            (manifests,) = connection.execute(_IDLE_MANIFESTS, (before, untagged)).fetchone()
            blobs, size = connection.execute(_FREED, (before,)).fetchone()
            return Totals(manifests=manifests, links=links, blobs=blobs, size=size)

        return await self._database.study(counting)

    async def remove_links(self, pairs: Sequence[IdlePair]) -> int:
        """Remove those links that are still idle; return how many."""
        return await self._remove(_REMOVE_LINKS, pairs)

    async def remove_manifests(self, pairs: Sequence[IdlePair]) -> int:
        """Remove those manifests that are still idle; return how many."""
        return await self._remove(_REMOVE_MANIFESTS, pairs)

    async def put_away(self, blobs: Sequence[IdleBlob]) -> list[IdleBlob]:
        """Forget those blobs that still nobody has, but for their quarantine; return which."""
        wanted = _listed(blob.digest for blob in blobs)

        def writing(connection: sqlite3.Connection) -> list[IdleBlob]:
            connection.execute(
                "INSERT INTO quarantine (digest, size) SELECT digest, size FROM blob"
                " WHERE digest IN (SELECT value FROM json_each(?)) AND holders = 0 AND damaged = 0"
                " ON CONFLICT DO UPDATE SET moved_at = unixepoch()",
                (wanted,),
            )
            gone = connection.execute(
                "DELETE FROM blob WHERE digest IN (SELECT value FROM json_each(?)) AND holders = 0"
                " RETURNING digest, size, damaged",
                (wanted,),
            ).fetchall()
            return [
                IdleBlob(Digest.parse(digest), size, is_damaged=bool(damaged))
                for digest, size, damaged in gone
            ]

        return await self._database.write(writing)

    async def known(self, digests: Sequence[Digest]) -> set[Digest]:
        """Return those of some digests of which there is a blob, in whatever repository."""
        return known_blobs(self._database.read, digests)

    async def forget(self, digests: Sequence[Digest]) -> None:
        """Forget blobs that have left quarantine."""
        await self._database.write(
            lambda connection: connection.execute(
                "DELETE FROM quarantine WHERE digest IN (SELECT value FROM json_each(?))",
                (_listed(digests),),
            )
        )

    async def forget_changes(self, before: int, limit: int) -> int:
        """Forget changes of tags and removals that are so old, some of them; return how many."""

        def writing(connection: sqlite3.Connection) -> int:
            return connection.execute(
                "DELETE FROM history WHERE id IN (SELECT id FROM history WHERE at < ? LIMIT ?)",
                (before, limit),
            ).rowcount

        return await self._database.write(writing)

    async def _remove(self, deleting: str, pairs: Sequence[IdlePair]) -> int:
        """Remove what is as idle as when it was listed.

        In one statement, during which the interpreter is free for others.
        """
        places = msgspec.json.encode([pair.place for pair in pairs]).decode()

        def writing(connection: sqlite3.Connection) -> int:
            removed = connection.execute(deleting, (places,)).rowcount
            drop_empty(connection, {pair.place.repository for pair in pairs})
            return removed

        return await self._database.write(writing)

    def _pairs(self, query: str, before: int, after: Place | None, limit: int) -> list[IdlePair]:
        rows = self._database.read(query, (before, *(after or _START), limit))
        return [
            IdlePair(
                place=Place(since, repository, blob),
                repository=name,
                blob=IdleBlob(Digest.parse(digest), size),
            )
            for since, repository, blob, name, digest, size in rows
        ]


def _listed(digests: Iterable[Digest]) -> str:
    return msgspec.json.encode([str(digest) for digest in digests]).decode()


def drop_empty(connection: sqlite3.Connection, repositories: set[int]) -> None:
    """Remove those repositories that hold nothing any more."""
    connection.executemany(
        "DELETE FROM repository WHERE id = :id"
        " AND NOT EXISTS (SELECT 1 FROM link WHERE repository = :id)"
        " AND NOT EXISTS (SELECT 1 FROM manifest WHERE repository = :id)",
        [{"id": repository} for repository in repositories],
    )
