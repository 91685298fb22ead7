"""Which images a damaged page of the catalogue touches.

What such a page says itself cannot be trusted. So nothing is asked of it but where it lies: the
last row before it and the first one after it are read from the pages beside it, and what has its
key between those two is looked up in another tree that has the same rows. Each table has an index
with all columns of its key; what an index has is in its table.
"""

import re
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from appliance.catalogue.images import Need, images_needing
from appliance.catalogue.trees import Span, Tree
from appliance.oci.damage import Images

_ROWS_MAX = 10_000
_PAGES_MAX = 100

_NEEDS = {
    "blob": "SELECT DISTINCT NULL, blob.id FROM {rows}",
    "link": "SELECT DISTINCT link.repository, link.blob FROM {rows}",
    "manifest": "SELECT DISTINCT manifest.repository, manifest.blob FROM {rows}",
    "edge": "SELECT DISTINCT edge.repository, edge.manifest FROM {rows}",
    "absent": "SELECT DISTINCT absent.repository, absent.manifest FROM {rows}",
}
_TAGS = {
    "tag": "SELECT repository.name || ':' || tag.name FROM {rows}"
    " JOIN repository ON repository.id = tag.repository",
    "repository": "SELECT repository.name || ':' || tag.name FROM {rows}"
    " JOIN tag ON tag.repository = repository.id",
}
_TWINS = {
    "absent": "absent_manifest",
    "blob": "sqlite_autoindex_blob_1",
    "edge": "edge_target",
    "link": "link_blob",
    "manifest": "manifest_blob",
    "repository": "sqlite_autoindex_repository_1",
    "tag": "tag_manifest",
}
"""The index of each table that has all its rows and all columns of its key."""
_COLUMNS = {
    "absent": "repository, manifest, digest",
    "blob": "id, digest",
    "edge": "repository, manifest, target",
    "link": "repository, blob",
    "manifest": "repository, blob",
    "repository": "id, name",
    "tag": "repository, name, manifest",
}
"""What both have of a row."""
_WITH_ROWID = {"blob", "repository"}

_CONDITION = re.compile(r"\bWHERE\b(.*)", re.DOTALL)


class _Rows(NamedTuple):
    """How to read the rows of a tree, and the same rows elsewhere."""

    table: str
    own: str
    """What stands after FROM to read this tree, and it alone."""
    other: str
    keys: tuple[str, ...]
    """The columns that it is in the order of."""
    condition: str
    """Which rows it has."""

    def key(self, connection: sqlite3.Connection, offset: int, order: str) -> tuple[object, ...]:
        """Read the key of a row by its number, in one order or the other."""
        ordered = ", ".join(f"{key} {order}" for key in self.keys)
        (found,) = connection.execute(
            f"SELECT {', '.join(self.keys)} FROM {self.own} WHERE {self.condition}"  # noqa: S608  the schema's words
            f" ORDER BY {ordered} LIMIT 1 OFFSET ?",
            (offset,),
        ).fetchall()
        return tuple(found)

    def instead(self) -> str:
        """Return a common table expression that has the table's rows from the other tree."""
        columns = _COLUMNS[self.table]
        return f"{self.table} AS MATERIALIZED (SELECT {columns} FROM main.{self.other}),"  # noqa: S608

    def count(self, connection: sqlite3.Connection) -> int:
        """Count them, in the other tree."""
        # What asks for count(*) is answered from whichever tree is the smallest.
        ((count,),) = connection.execute(
            f"SELECT coalesce(sum(1), 0) FROM {self.other} WHERE {self.condition}"  # noqa: S608
        )
        return int(count)

    def on(
        self, connection: sqlite3.Connection, select: str, span: Span
    ) -> list[tuple[object, ...]]:
        """Read the rows that lie on a page, from the other tree."""
        condition, bounds = self.condition, list[object]()
        keys = ", ".join(f"+{key}" for key in self.keys)
        for count, order, sign in ((span.before, "ASC", ">"), (span.after, "DESC", "<")):
            if count:
                bound = self.key(connection, count - 1, order)
                condition += f" AND ({keys}) {sign} ({', '.join('?' * len(bound))})"
                bounds += bound
        rows = select.format(rows=self.other)
        return connection.execute(f"{rows} WHERE {condition} LIMIT {_ROWS_MAX}", bounds).fetchall()


def images_touched(
    connection: sqlite3.Connection, tree: Tree | None, pages: Sequence[int], limit: int
) -> Images:
    """Name images that have rows on some pages of a table or an index; as far as can be told."""
    if tree is None or tree.table not in _TWINS:
        return Images()
    needs, names = set[Need](), set[str]()
    with suppress(sqlite3.Error):
        rows = _rows(connection, tree)
        total = tree.rows if tree.is_whole else rows.count(connection)
        for span in {tree.span(page, total) for page in pages[:_PAGES_MAX]}:
            if tree.table in _TAGS:
                found = rows.on(connection, _TAGS[tree.table], span)
                names.update(str(image) for (image,) in found)
            else:
                found = rows.on(connection, _NEEDS[tree.table], span)
                needs.update(Need(*row) for row in found)  # type: ignore[arg-type]  # as selected
        if needs:
            return images_needing(connection, needs, limit, instead=rows.instead())
    return Images(tuple(sorted(names)[:limit]), len(names))


def _rows(connection: sqlite3.Connection, tree: Tree) -> _Rows:
    table = tree.table
    has_rowid = table in _WITH_ROWID
    primary = f"sqlite_autoindex_{table}_1"
    itself = f"{table} NOT INDEXED" if has_rowid else f"{table} INDEXED BY {primary}"
    if tree.kind == "table":
        own, other, ordered = itself, f"{table} INDEXED BY {_TWINS[table]}", primary
    else:
        own, other, ordered = f"{table} INDEXED BY {tree.name}", itself, tree.name
    keys = ["id"]
    if tree.kind == "index" or not has_rowid:
        columns = connection.execute(
            "SELECT coalesce(name, 'id'), key FROM pragma_index_xinfo(?)", (ordered,)
        ).fetchall()
        # An index is in the order of its own columns, and then of those of its table's key.
        keys = [name for name, is_key in columns if is_key or tree.kind == "index"]
    partial = _CONDITION.search(tree.statement) if tree.kind == "index" else None
    return _Rows(
        table,
        own,
        other,
        tuple(f"{table}.{key}" for key in keys),
        partial[1].strip() if partial else "1",
    )
