"""The trees that the pages of the catalogue form: one for each table, and one for each index.

Pages and their places come from SQLite's "The DBSTAT Virtual Table". It goes through a tree in the
order of its rows, and gives up at a page that it cannot make sense of.
"""

import sqlite3
from collections.abc import Iterator
from typing import NamedTuple

_SCHEMA = "sqlite_schema"
_MAKES_NO_SENSE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FULL}  # or leads to a page far away
_MANY = 16  # rows, on pages on which there are few
_MOST = 4096 // 12  # rows, of the shortest that a page may have


class Page(NamedTuple):
    """A page that has rows."""

    path: str
    """Its place: the numbers of the children on the way there, as in "/002/01c/"."""
    rows: int
    is_leaf: bool


class Span(NamedTuple):
    """How many rows of a tree come before some page, and how many after it."""

    before: int
    after: int


class Tree(NamedTuple):
    """A table or an index."""

    name: str
    kind: str
    """What it is: "table" or "index"."""
    table: str
    """The table that it is, or is an index of."""
    statement: str
    """The statement that made it; empty where SQLite did so by itself."""
    pages: list[Page]
    """In order."""
    places: dict[int, str]
    """The path of each page by its number; one with a plus is the rest of a row too long."""
    has_rows_inside: bool
    """Whether a row may be on a page above others."""
    is_whole: bool
    """Whether no page is missing, as they are from one that makes no sense on."""

    @property
    def rows(self) -> int:
        """How many rows its pages say they have."""
        return sum(page.rows for page in self.pages)

    def span(self, page: int, total: int) -> Span:
        """Tell where a page lies among all rows; those that are below it lie on it as well.

        Where the tree is not whole, nobody knows how many rows are on the page or below it. Enough
        of those that follow are taken for its own, so some that are elsewhere as well.
        """
        path, _, overflow = self.places.get(page, "").partition("+")
        if not path or not self.is_whole:
            before = self._before(path) if path else self._seen()
            leaves = [page for page in self.pages if page.is_leaf]
            depth = leaves[0].path.count("/") if leaves else 2
            if not self.pages or (path and path.count("/") < depth):
                return Span(before, 0)  # what is below it cannot be counted
            # Of the page before it, sqlite3 of Python may not have told either.
            most = 3 * max((leaf.rows for leaf in leaves), default=_MOST) + _MANY
            return Span(before, max(0, total - before - most))
        if overflow:
            path, cell = path[:-3], int(path[-3:], 16)
            before = self._before(path) + cell + self._rows_below(path, cell)
            return Span(before, total - before - 1)
        before = self._before(path)
        on_it = sum(page.rows for page in self.pages if page.path.startswith(path))
        return Span(before, total - before - on_it)

    def _before(self, path: str) -> int:
        """Count the rows that come before a page."""
        count = sum(
            page.rows for page in self.pages if page.path < path and not path.startswith(page.path)
        )
        if self.has_rows_inside:  # a row of a page above stands between two of its children
            count += sum(int(child, 16) for child in path.strip("/").split("/") if child)
        return count

    def _seen(self) -> int:
        """Count the rows that come before the page where this was given up."""
        if not self.pages:
            return 0
        last = self.pages[-1]
        if not last.is_leaf:  # then it is the first one below
            return self._before(last.path)
        return self._before(last.path) + last.rows + self.has_rows_inside

    def _rows_below(self, path: str, cell: int) -> int:
        """Count the rows in those children of a page that come before one of its cells."""
        return sum(
            page.rows
            for page in self.pages
            if page.path.startswith(path) and path < page.path <= f"{path}{cell:03x}~"
        )


def trees(connection: sqlite3.Connection) -> Iterator[Tree]:
    """Go through all trees there are; raises sqlite3.Error, also where it has no such table."""
    yield _walked(connection, _SCHEMA, "table", _SCHEMA, "")
    for name, kind, table, statement in connection.execute(
        "SELECT name, type, tbl_name, coalesce(sql, '') FROM sqlite_schema WHERE rootpage > 0"
    ).fetchall():
        yield _walked(connection, name, kind, table, statement)


def _walked(
    connection: sqlite3.Connection, name: str, kind: str, table: str, statement: str
) -> Tree:
    has_rows_inside = kind == "index" or "WITHOUT ROWID" in statement
    pages, places, is_whole = list[Page](), dict[int, str](), True
    try:
        for number, path, what, cells in connection.execute(
            "SELECT pageno, path, pagetype, ncell FROM dbstat WHERE name = ?", (name,)
        ):
            if number in places:  # a page that makes no sense leads back to another one
                is_whole = False
                break
            places[number] = path
            if "+" not in path:
                is_leaf = what != "internal"
                pages.append(Page(path, cells if is_leaf or has_rows_inside else 0, is_leaf))
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF not in _MAKES_NO_SENSE:
            raise
        is_whole = False
    return Tree(name, kind, table, statement, pages, places, has_rows_inside, is_whole)
