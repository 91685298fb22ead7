"""What a scrub asks of the catalogue and tells it; nothing here trusts that the catalogue is right.

Everything goes in batches of a bounded size, each on one state of the catalogue, in a thread; what
is changed is looked at once more in the transaction that changes it.
"""

import sqlite3
from collections.abc import Sequence

from appliance.catalogue import soundness
from appliance.catalogue.database import Database
from appliance.catalogue.derived import Correction, corrections
from appliance.catalogue.images import images_with
from appliance.catalogue.rows import known_blobs
from appliance.oci.damage import Finding, Held, Images, State
from appliance.oci.digest import Digest
from appliance.oci.errors import RegistryError

_OF_ALL = "SELECT id FROM blob WHERE id > :after ORDER BY id LIMIT :limit"

_OF_ONE = """
    SELECT blob FROM (
        SELECT * FROM (SELECT blob FROM link JOIN repository ON repository.id = link.repository
            WHERE name = :name AND blob > :after ORDER BY blob LIMIT :limit)
        UNION
        SELECT * FROM (SELECT blob FROM manifest JOIN repository ON repository.id = manifest.repository
            WHERE name = :name AND blob > :after ORDER BY blob LIMIT :limit)
    ) ORDER BY blob LIMIT :limit
"""

_HELD = """
    SELECT digest, size, damaged, content,
        EXISTS (SELECT 1 FROM manifest WHERE manifest.blob = blob.id)
    FROM blob WHERE
"""

_EXTENT = "SELECT count(*), coalesce(sum(size), 0) FROM blob WHERE id > :after"
_EXTENT_OF_ONE = """
    SELECT count(*), coalesce(sum(size), 0) FROM blob WHERE id > :after AND id IN (
        SELECT blob FROM link JOIN repository ON repository.id = link.repository WHERE name = :name
        UNION
        SELECT blob FROM manifest JOIN repository ON repository.id = manifest.repository
            WHERE name = :name)
"""


class Inspection:
    """The records of one database, as a scrub sees them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- blobs

    async def extent(self, repository: str | None, after: int) -> tuple[int, int]:
        """Count blobs and their bytes, of one repository or of all, from after one on."""
        query = _EXTENT if repository is None else _EXTENT_OF_ONE

        def reading(connection: sqlite3.Connection) -> tuple[int, int]:
            found = connection.execute(query, {"after": after, "name": repository}).fetchone()
            return int(found[0]), int(found[1])

        return await self._database.study(reading)

    async def blobs(
        self, repository: str | None, after: int, limit: int, size: int
    ) -> tuple[list[Held], list[Finding], int]:
        """List blobs by their numbers from after one on, up to so many or to so many bytes.

        With them comes what is wrong with their very rows, and the number of the last one.
        """
        query = _OF_ALL if repository is None else _OF_ONE

        def reading(connection: sqlite3.Connection) -> tuple[list[Held], list[Finding], int]:
            asked = {"after": after, "limit": limit, "name": repository}
            held, faults, last, room = [], [], after, size
            for (number,) in connection.execute(query, asked).fetchall():
                if room <= 0:
                    break
                row = connection.execute(f"{_HELD} id = ?", (number,)).fetchone()
                last = number
                try:
                    held.append(_held(row))
                    room -= held[-1].size
                except (RegistryError, TypeError):
                    fault = f"row {number} of table blob has no digest; {soundness.REMEDY}"
                    faults.append(Finding("catalogue", fault, "damaged"))
            return held, faults, last

        return await self._database.study(reading)

    async def find(self, digest: Digest) -> Held | None:
        """Return a blob as it is recorded."""
        rows = self._database.read(f"{_HELD} digest = ?", (str(digest),))
        return _held(rows[0]) if rows else None

    async def damaged(self, limit: int) -> list[Digest]:
        """List blobs that are marked as damaged."""
        rows = self._database.read("SELECT digest FROM blob WHERE damaged = 1 LIMIT ?", (limit,))
        return [Digest.parse(digest) for (digest,) in rows]

    async def known(self, digests: Sequence[Digest]) -> set[Digest]:
        """Return those of some digests of which there is a blob, in whatever repository."""
        return known_blobs(self._database.read, digests)

    async def condemn(self, digest: Digest) -> bool:
        """Mark a blob as damaged; tell whether it was not yet, and is there."""
        query = "UPDATE blob SET damaged = 1 WHERE digest = ? AND damaged = 0"
        return await self._database.write(
            lambda connection: bool(connection.execute(query, (str(digest),)).rowcount)
        )

    async def heal(self, digest: Digest) -> None:
        """Take it that a blob's bytes are right, and forget that it is in quarantine."""

        def writing(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE blob SET damaged = 0 WHERE digest = ?", (str(digest),))
            connection.execute("DELETE FROM quarantine WHERE digest = ?", (str(digest),))

        await self._database.write(writing)

    async def mend(self, digest: Digest, size: int, content: bytes | None) -> None:
        """Record a blob's size anew, and its bytes where the records hold them."""
        await self._database.write(
            lambda connection: connection.execute(
                "UPDATE blob SET size = ?,"
                " content = CASE WHEN content IS NULL THEN NULL ELSE coalesce(?, content) END"
                " WHERE digest = ?",
                (size, content, str(digest)),
            )
        )

    async def images(self, digest: Digest, limit: int) -> Images:
        """List images that need a blob, by the tags that lead to it."""
        return await self._database.study(lambda connection: images_with(connection, digest, limit))

    # -- what follows from something else

    async def derive(
        self, manifests: Sequence[tuple[Held, bytes]], *, mending: bool
    ) -> list[Finding]:
        """Compare what manifests say with what is recorded of them, and mend the records."""

        def reading(connection: sqlite3.Connection) -> list[tuple[Held, bytes, list[Correction]]]:
            return [
                (held, content, found)
                for held, content in manifests
                if (found := list(corrections(connection, held.digest, content)))
            ]

        def writing(connection: sqlite3.Connection) -> list[tuple[Held, list[Correction]]]:
            done = []
            for held, content, _ in wrong:
                found = list(corrections(connection, held.digest, content))
                for correction in found:
                    if correction.statement:
                        connection.execute(correction.statement, correction.parameters or {})
                done.append((held, found))
            return done

        wrong = await self._database.study(reading)
        if not wrong:
            return []
        told = [(held, found) for held, _, found in wrong]
        if mending:
            told = await self._database.write(writing)
        return [
            Finding(
                str(held.digest),
                correction.fault,
                "mended" if correction.statement and mending else "damaged",
            )
            for held, found in told
            for correction in found
        ]

    async def recount(
        self, table: str, repository: str | None, after: tuple[int, int], *, mending: bool
    ) -> tuple[tuple[int, int] | None, list[Finding]]:
        """Count some rows of a table anew from after a place on; return the next, or None."""
        owner = None
        if repository is not None:
            rows = self._database.read("SELECT id FROM repository WHERE name = ?", (repository,))
            if not rows:
                return None, []
            owner = int(rows[0][0])
            after = (owner, after[1])

        def writing(connection: sqlite3.Connection) -> list[tuple[int, int]]:
            _, still = soundness.miscounted(connection, table, owner, after)
            soundness.count_anew(connection, table, still)
            return still

        following, wrong = await self._database.study(
            lambda connection: soundness.miscounted(connection, table, owner, after)
        )
        if wrong and mending:
            wrong = await self._database.write(writing)
        if not wrong:
            return following, []
        fault = f"{len(wrong)} of its rows had counts that were not true"
        state: State = "mended" if mending else "damaged"
        return following, [Finding(f"catalogue, table {table}", fault, state)]

    # -- the catalogue itself

    async def check_pages(self, first: int) -> tuple[int, list[int]]:
        """Look at some pages of the catalogue, from `first` on; 1 is the first.

        Returns how many there were, none after the last one, and which are damaged.
        """
        checked = await self._database.check_pages(first)
        return checked.pages, checked.damaged

    async def describe_pages(self, pages: Sequence[int], images_max: int) -> list[Finding]:
        """Tell of damaged pages what is in them, and some of the images that have rows there."""
        return await self._database.study(
            lambda connection: soundness.describe_pages(connection, pages, images_max)
        )

    async def check_structure(self) -> list[Finding]:
        """Look at the catalogue as a whole: whether its parts fit together."""
        return await self._database.study(soundness.check_structure)

    # -- quarantine, and where long work stands

    async def in_quarantine(self, after: str, limit: int) -> list[str]:
        """List digests that are recorded as in quarantine, in their order from after one on."""
        rows = self._database.read(
            "SELECT digest FROM quarantine WHERE digest > ? ORDER BY digest LIMIT ?", (after, limit)
        )
        return [digest for (digest,) in rows]

    async def note_quarantine(self, digest: Digest, size: int) -> None:
        """Record that a blob is in quarantine, from now on; nothing where that is recorded."""
        await self._database.write(
            lambda connection: connection.execute(
                "INSERT INTO quarantine (digest, size) VALUES (?, ?) ON CONFLICT DO NOTHING",
                (str(digest), size),
            )
        )

    async def drop_quarantine(self, digest: Digest) -> None:
        """Forget that a blob is in quarantine."""
        await self._database.write(
            lambda connection: connection.execute(
                "DELETE FROM quarantine WHERE digest = ?", (str(digest),)
            )
        )

    async def place(self, chore: str) -> str | None:
        """Return where some long work stands."""
        rows = self._database.read("SELECT place FROM chore WHERE name = ?", (chore,))
        return rows[0][0] if rows else None

    async def set_place(self, chore: str, place: str) -> None:
        """Remember where some long work stands."""
        await self._database.write(
            lambda connection: connection.execute(
                "INSERT INTO chore (name, place) VALUES (?, ?)"
                " ON CONFLICT DO UPDATE SET place = excluded.place",
                (chore, place),
            )
        )


def _held(row: tuple[str, int, int, bytes | None, int]) -> Held:
    digest, size, damaged, content, is_manifest = row
    if not isinstance(size, int):
        raise TypeError
    return Held(Digest.parse(digest), size, bool(damaged), bool(is_manifest), content)
