"""Sums of the catalogue's pages, so that a bit that flips on the disk is noticed.

SQLite notices what it stumbles over: a page that makes no sense. A flipped bit in a digest or in
a size makes sense to it. So beside the database there is a file of sums, four bytes for each page,
0 where the sum is not known.

The database file itself changes only when pages are carried over from the journal, a checkpoint.
Checkpoints are made here and nowhere else:

    1. sums of the pages that the journal holds are wiped, durable
    2. checkpoint, by SQLite, durable
    3. those pages are read back, and their sums noted

A crash in between leaves sums that are not known, never wrong ones; `check` fills them in. SQLite
makes one more checkpoint when the database is closed and the journal still has something: no sum is
known after that.

The journal's layout is that of "The WAL File Format" in SQLite's file format; only the page numbers
in it are read, and one too many does no harm.
"""

import errno
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from appliance.durable import sync_folder

CHECKPOINT_PAGES = 1000
"""Pages in the journal after which they are carried over, as many as SQLite's own default."""

_SUM = 4
_PAGE_SIZE_AT = 16
_WAL_HEADER = 32
_FRAME_HEADER = 24
_SALTS = slice(16, 24)
_FRAME_SALTS = slice(8, 16)
_AT_ONCE = 256  # pages


class Checked(NamedTuple):
    """What a look at some pages found."""

    pages: int
    damaged: list[int]
    unknown: list[int]


class Seals:
    """The sums of one database, whose writer alone makes checkpoints, by `carry_over`."""

    def __init__(self, database: Path) -> None:
        """Open the file of sums, which is made if it is not there; raises OSError.

        To be done while SQLite has the database open, and closed after it is closed there: to
        close any descriptor of a file drops the locks that SQLite holds on it (fcntl(2)).
        """
        self._database = os.open(database, os.O_RDONLY | os.O_CLOEXEC)
        self._wal: int | None = None
        self._wal_path = database.with_name(f"{database.name}-wal")
        sums = database.with_suffix(".sums")
        is_new = not sums.exists()
        self._sums = os.open(sums, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if is_new:
            sync_folder(sums.parent)
        self._salts = b""
        self._frames = 0
        self._tried = 0
        self._journal: set[int] = set()

    def close(self) -> None:
        """Close the files."""
        for file in (self._database, self._wal):
            if file is not None:
                os.close(file)
        os.close(self._sums)

    def forget(self) -> None:
        """Take no sum for known, as the database may change otherwise; raises OSError."""
        os.ftruncate(self._sums, 0)
        os.fsync(self._sums)

    def is_time(self) -> bool:
        """Tell whether the journal is long enough to be carried over; to be asked after commits.

        Where a reader holds that up, the journal has to grow as much again before the next attempt.
        """
        self._look()
        return self._frames - self._tried >= CHECKPOINT_PAGES

    def leave(self) -> None:
        """Take leave before SQLite closes the database, which carries over what is left to be.

        Raises OSError.
        """
        try:
            self._look()
            is_done = not self._journal
        except OSError:
            is_done = False
        if not is_done:
            self.forget()

    def carry_over(self, writer: sqlite3.Connection) -> None:
        """Make a checkpoint; raises sqlite3.Error and OSError."""
        self._look()
        self._tried = self._frames
        pages = sorted(self._journal)
        if pages:
            # 1.
            self._note(dict.fromkeys(pages, 0))
            os.fdatasync(self._sums)
        # 2.
        busy, held, carried = writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        # 3.
        self.seal(pages)
        if not busy and held == carried:
            self._journal.clear()

    def check(self, first: int) -> Checked:
        """Compare some pages with their sums, from `first` on; none are left where it finds none.

        A page that is being carried over meanwhile may be taken for a damaged one: ask again
        while nothing is written.
        """
        size = self._page_size()
        content = os.pread(self._database, _AT_ONCE * size, (first - 1) * size)
        pages = [content[start : start + size] for start in range(0, len(content), size)]
        damaged, unknown = [], []
        for page, noted, found in zip(
            range(first, first + len(pages)), self._noted(first, len(pages)), pages, strict=True
        ):
            if not noted:
                unknown.append(page)
            elif noted != _sum(found, page):
                damaged.append(page)
        return Checked(len(pages), damaged, unknown)

    def damage(self) -> str | None:
        """Say which page is not what was written, of all there are; as `check` does."""
        first = 1
        while (checked := self.check(first)).pages:
            if checked.damaged:
                return changed(checked.damaged[0])
            first += checked.pages
        return None

    def seal(self, pages: Iterable[int]) -> None:
        """Take these pages for right as they are; only while nothing is written."""
        size = self._page_size()
        sums = {}
        for page in pages:
            content = os.pread(self._database, size, (page - 1) * size)
            sums[page] = _sum(content, page) if content else 0
        self._note(sums)

    def _look(self) -> None:
        """Take note of the pages that have come into the journal."""
        if self._wal is None:  # SQLite keeps the one that it makes until it closes the database
            try:
                self._wal = os.open(self._wal_path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return
        header = os.pread(self._wal, _WAL_HEADER, 0)
        if header[_SALTS] != self._salts:  # it has begun anew
            self._salts, self._frames, self._tried = header[_SALTS], 0, 0
        if len(header) < _WAL_HEADER:
            return
        length = _FRAME_HEADER + int.from_bytes(header[8:12], "big")
        while True:
            frame = os.pread(self._wal, _FRAME_HEADER, _WAL_HEADER + self._frames * length)
            if len(frame) < _FRAME_HEADER or frame[_FRAME_SALTS] != self._salts:
                return
            self._journal.add(int.from_bytes(frame[:4], "big"))
            self._frames += 1

    def _noted(self, first: int, count: int) -> Iterator[int]:
        noted = os.pread(self._sums, count * _SUM, (first - 1) * _SUM).ljust(count * _SUM, b"\0")
        return (
            int.from_bytes(noted[start : start + _SUM], "big")
            for start in range(0, len(noted), _SUM)
        )

    def _note(self, sums: Mapping[int, int]) -> None:
        """Write some sums, in one piece with those between them: a thousand writes take longer."""
        if not sums:
            return
        first = min(sums)
        length = (max(sums) - first + 1) * _SUM
        place = (first - 1) * _SUM
        noted = bytearray(os.pread(self._sums, length, place).ljust(length, b"\0"))
        for page, number in sums.items():
            at = (page - first) * _SUM
            noted[at : at + _SUM] = number.to_bytes(_SUM, "big")
        if os.pwrite(self._sums, noted, place) < length:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _page_size(self) -> int:
        size = int.from_bytes(os.pread(self._database, 2, _PAGE_SIZE_AT), "big")
        return size if size > 1 else 65536


def changed(page: int) -> str:
    """Say that a page has changed by itself."""
    return (
        f"page {page} is not what was written; where somebody has put that file there, catalogue.sums"
        " beside it has to go"
    )


def _sum(content: bytes, page: int) -> int:
    """Sum up a page; its number goes in, so that a page at the place of another is noticed."""
    return zlib.crc32(content, page) or 1
