"""Snapshots of the catalogue: whole copies as of one moment, taken while others write.

    <data>/snapshots/catalogue-YYYY-MM-DD.sqlite3   one a day, the last few of them kept
    <data>/snapshots/backup.sqlite3                 one for a backup that is being made

A snapshot has no journal, and nobody changes it.
"""

import errno
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime
from pathlib import Path
from secrets import token_hex

import trio

from appliance import work
from appliance.catalogue.database import Database
from appliance.durable import make_folder, sync_folder
from appliance.oci.errors import STORE_FULL, STORE_UNAVAILABLE

FOLDER = "snapshots"
"""Where snapshots are, in a data folder."""

BACKUP = "backup.sqlite3"
"""The snapshot of a backup, which whoever makes the backup removes."""

_DAILY = re.compile(r"catalogue-\d{4}-\d{2}-\d{2}\.sqlite3")
_FORGOTTEN_SECONDS = 86400.0
_FULL = {errno.ENOSPC, errno.EDQUOT}


class Snapshots:
    """The snapshots of one database; one is taken at a time."""

    def __init__(self, database: Database, folder: Path) -> None:
        self._database = database
        self._folder = folder
        self._turn = trio.Lock()

    async def take(self, name: str) -> Path:
        """Take a snapshot, in the place of one of that name; it is whole and durable on return.

        Raises STORE_FULL and STORE_UNAVAILABLE.
        """
        # 1. whole, under another name  2. durable  3. name visible  4. name durable
        draft = self._folder / f".{name}.{token_hex(8)}"
        async with self._turn:
            with _translated():
                await work.disk(_begin, draft)
                try:
                    await self._database.copy_into(draft)
                    await work.disk(_finish, draft, self._folder / name)
                except BaseException:
                    with suppress(OSError):
                        draft.unlink(missing_ok=True)
                    raise
        return self._folder / name

    def lacks(self, day: date) -> bool:
        """Tell whether the snapshot of a day has not been taken."""
        return not (self._folder / _name(day)).exists()

    async def take_daily(self, day: date, keep: int) -> Path:
        """Take the snapshot of a day, and remove all but the last few; raises what `take` does."""
        taken = await self.take(_name(day))
        await self.prune(keep)
        return taken

    async def prune(self, keep: int) -> None:
        """Remove all daily snapshots but the last few, and what a crash has left."""
        async with self._turn:
            with _translated():
                await work.disk(_prune, self._folder, keep)


def daily(folder: Path) -> list[Path]:
    """List the daily snapshots in a folder, the latest first."""
    try:
        names = os.listdir(folder)  # noqa: PTH208  names only
    except FileNotFoundError:
        return []
    return [folder / name for name in sorted(filter(_DAILY.fullmatch, names), reverse=True)]


def today() -> date:
    """Return the day it is, which begins at the same moment wherever the registry is."""
    return datetime.now(UTC).date()


def _name(day: date) -> str:
    return f"catalogue-{day.isoformat()}.sqlite3"


def _begin(draft: Path) -> None:
    make_folder(draft.parent, mode=0o700)
    os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def _finish(draft: Path, path: Path) -> None:
    descriptor = os.open(draft, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        # It is read again in days, if at all: what was in memory of other files is of more use.
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
    draft.rename(path)
    sync_folder(path.parent)


def _prune(folder: Path, keep: int) -> None:
    if not folder.exists():
        return
    for old in daily(folder)[keep:]:
        old.unlink(missing_ok=True)
    for left in folder.iterdir():
        is_ours = left.name == BACKUP or left.name.startswith(".")
        if is_ours and time.time() - left.stat().st_mtime > _FORGOTTEN_SECONDS:
            left.unlink(missing_ok=True)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        row = STORE_FULL if error.errno in _FULL else STORE_UNAVAILABLE
        raise row.error(f"the catalogue cannot be copied: {error}") from error
