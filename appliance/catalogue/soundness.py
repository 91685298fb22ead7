"""Whether the catalogue itself is sound: its pages, how they fit together, and what is counted.

What is counted follows from other rows, so a wrong count is mended by counting anew. Everything
else has to come from a backup, or from the blobs.
"""

import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from appliance.catalogue.touched import images_touched
from appliance.catalogue.trees import Tree, trees
from appliance.oci.damage import Finding, Images

REMEDY = (
    "stop the registry and bring a backup back (registry restore), or make the catalogue anew from"
    " the blobs (registry rebuild)"
)

_FAULTS_MAX = 100
_ROWS = 1000
_NOT_IN_USE = "a page that is not in use"

_FIRST = "0, "  # where one column is a key by itself

Key = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Counted:
    """Numbers of a table's rows that follow from other tables."""

    keys: str
    """Two columns that the rows are in the order of."""
    counts: dict[str, str]
    """Column → how it is counted."""

    def select(self, table: str, where: str) -> str:
        stored = ", ".join(self.counts)
        counted = ", ".join(self.counts.values())
        return (
            f"SELECT {self.keys}, {stored}, {counted} FROM {table}"  # noqa: S608  fixed words
            f" WHERE {where} ORDER BY {self.keys.removeprefix(_FIRST)} LIMIT :limit"
        )

    def update(self, table: str) -> str:
        assigned = ", ".join(f"{name} = {how}" for name, how in self.counts.items())
        return f"UPDATE {table} SET {assigned} WHERE ({self.keys}) = (?, ?)"  # noqa: S608


_USES = "(SELECT count(*) FROM edge WHERE edge.repository = {0}.repository AND target = {0}.blob)"

_COUNTED = {
    "blob": _Counted(
        _FIRST + "id",
        {
            "holders": "(SELECT count(*) FROM link WHERE link.blob = blob.id)"
            " + (SELECT count(*) FROM manifest WHERE manifest.blob = blob.id)"
        },
    ),
    "link": _Counted("repository, blob", {"uses": _USES.format("link")}),
    "manifest": _Counted(
        "repository, blob",
        {
            "uses": _USES.format("manifest"),
            "tags": "(SELECT count(*) FROM tag"
            " WHERE tag.repository = manifest.repository AND tag.manifest = manifest.blob)",
            "bound": "EXISTS (SELECT 1 FROM blob AS about JOIN manifest AS other"
            " ON other.blob = about.id WHERE about.digest = manifest.subject"
            " AND other.repository = manifest.repository)",
        },
    ),
    "repository": _Counted(
        _FIRST + "id",
        {
            "manifests": "(SELECT count(*) FROM manifest"
            " WHERE manifest.repository = repository.id)",
            "size": "(SELECT coalesce(sum(blob.size), 0) FROM ("
            "SELECT blob FROM link WHERE link.repository = repository.id UNION ALL"
            " SELECT blob FROM manifest WHERE manifest.repository = repository.id"
            ") AS held JOIN blob ON blob.id = held.blob)",
        },
    ),
}


def describe_pages(
    connection: sqlite3.Connection, pages: Sequence[int], images_max: int
) -> list[Finding]:
    """Tell of damaged pages what is in them, as far as SQLite can tell."""
    owners = dict[int, Tree]()
    cut: list[Tree] = []
    unknown = ""
    with suppress(sqlite3.Error):  # too damaged, or SQLite was built without it
        for tree in trees(connection):
            owners.update((page, tree) for page in pages if page in tree.places)
            if not tree.is_whole:
                cut.append(tree)
        unknown = _NOT_IN_USE
    by_owner = defaultdict[str, list[int]](list)
    for page in sorted(pages):
        if page not in owners and cut:  # it was given up at a page that makes no sense
            owners[page] = cut[-1]
        owner = owners.get(page)
        by_owner[f"{owner.kind} {owner.name}" if owner else unknown].append(page)
    return [
        _finding(on, owner, images_touched(connection, owners.get(on[0]), on, images_max))
        for owner, on in sorted(by_owner.items())
    ]


def _finding(pages: list[int], owner: str, images: Images) -> Finding:
    shown = ", ".join(map(str, pages[:10])) + (f" and {len(pages) - 10} more" if pages[10:] else "")
    what = f"catalogue, {owner}" if owner else "catalogue"
    several = "pages have" if pages[1:] else "page has"
    fault = f"its {several} changed on the disk: {shown}; {REMEDY}"
    return Finding(what, fault, "damaged", images)


def check_structure(connection: sqlite3.Connection) -> list[Finding]:
    """Look at the catalogue as a whole: whether its parts fit together."""
    try:
        faults = [
            text
            for (text,) in connection.execute(f"PRAGMA integrity_check({_FAULTS_MAX})")
            if text != "ok"
        ]
        faults += [
            f"row {row} of table {table} refers to a row of table {target} that is not there"
            for table, row, target, _ in _some(connection.execute("PRAGMA foreign_key_check"))
        ]
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
            raise
        faults = [str(error)]
    return [
        Finding("catalogue", f"{' '.join(fault.split())}; {REMEDY}", "damaged") for fault in faults
    ]


def _some(rows: sqlite3.Cursor) -> Iterator[tuple[str, int | None, str, int]]:
    yield from rows.fetchmany(_FAULTS_MAX)


def miscounted(
    connection: sqlite3.Connection, table: str, repository: int | None, after: Key
) -> tuple[Key | None, list[Key]]:
    """Count some rows of a table anew; return where to go on, and which were wrong.

    Of one repository, where its number is given, which the first of `after` is then as well.
    """
    counted = _COUNTED[table]
    is_single = counted.keys.startswith(_FIRST)
    where = "id > :second" if is_single else f"({counted.keys}) > (:first, :second)"
    if repository is not None:
        where += " AND id = :first" if is_single else " AND repository = :first"
    rows = connection.execute(
        counted.select(table, where), {"first": after[0], "second": after[1], "limit": _ROWS}
    ).fetchall()
    width = len(counted.counts)
    wrong = [row[:2] for row in rows if row[2 : 2 + width] != row[2 + width :]]
    return (rows[-1][:2] if len(rows) == _ROWS else None), wrong


def count_anew(connection: sqlite3.Connection, table: str, keys: Sequence[Key]) -> None:
    """Set right what is counted in some rows."""
    connection.executemany(_COUNTED[table].update(table), keys)
