"""One SQLite file: a writer thread that groups commits, and reads on the loop.

A durable commit costs an fsync, some milliseconds; a point query costs microseconds, less than
handing it to a thread. So writes are queued to one thread, which puts all that wait into a single
transaction, each in a savepoint of its own so that one failure does not undo its neighbours; and
reads run where they are asked, each bounded by a page, none left open across an await.
"""

import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Self, TypeVar, cast

import trio

from appliance import work
from appliance.catalogue.integrity import SMALL, quick_look
from appliance.catalogue.schema import migrate
from appliance.catalogue.seals import Checked, Seals, changed
from appliance.oci.errors import STORE_FULL, STORE_UNAVAILABLE, RegistryError

T = TypeVar("T")

_GROUP_MAX = 256
_STEPS = 100_000  # of SQLite's machine, between two looks at whether anybody still wants the result
_BUSY_SECONDS = 10.0


_OURS = (sqlite3.IntegrityError, sqlite3.ProgrammingError)
"""Failures that are not the database's: ours to mend, and told as they are."""


def _translated(error: sqlite3.DatabaseError) -> RegistryError:
    full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    return (STORE_FULL if full else STORE_UNAVAILABLE).error()


class _Job:
    """A piece of writing that somebody waits for."""

    def __init__(self, writing: Callable[[sqlite3.Connection], object]) -> None:
        self._writing = writing
        self._token = trio.lowlevel.current_trio_token()
        self._done = trio.Event()
        self._result: object = None
        self._error: Exception | None = None

    def run(self, connection: sqlite3.Connection) -> None:
        """Do the work inside a savepoint; its own failure is kept for whoever waits."""
        connection.execute("SAVEPOINT job")
        try:
            self._result = self._writing(connection)
        except Exception as error:  # noqa: BLE001  handed to the waiting task
            self._error = error
            connection.execute("ROLLBACK TO job")
        connection.execute("RELEASE job")

    def fail(self, error: Exception) -> None:
        """Let the work count as failed: its transaction was not committed."""
        self._error = self._error or error

    def finish(self) -> None:
        """Wake the waiting task, if its loop still runs."""
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._done.set)

    async def wait(self) -> object:
        with trio.CancelScope(shield=True):  # a commit takes milliseconds and cannot be taken back
            await self._done.wait()
        if self._error is not None:
            raise self._error
        return self._result


class Database:
    """An open database; `aclose` ends its thread."""

    def __init__(
        self,
        path: Path,
        writer: sqlite3.Connection,
        reader: sqlite3.Connection,
        seals: Seals,
        *,
        seals_it: bool,
    ) -> None:
        self._path = path
        self._seals = seals
        self._writer = writer
        self._reader = reader
        self._groups = 0
        self._shared = False
        self._seals_it = seals_it
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._write_groups, name="catalogue", daemon=True)
        self._thread.start()

    @classmethod
    def open(cls, path: Path, *, as_it_is: bool = False) -> Self:
        """Open or create a database with today's tables.

        Raises sqlite3.Error, SchemaTooNewError for a file from a later version, or
        SchemaTooOldError for one from an earlier version that is to be left `as_it_is`, because
        another process is at work in it; then no checkpoints are made before `take_checkpoints`.
        """
        seals = None
        writer = _connect(path, any_thread=True)
        try:
            writer.execute("PRAGMA journal_mode = WAL")
            writer.execute("PRAGMA wal_autocheckpoint = 0")
            seals = Seals(path)
            writer.execute("PRAGMA synchronous = FULL")
            writer.execute("PRAGMA foreign_keys = ON")
            migrate(writer, as_it_is=as_it_is)
            if not as_it_is:
                seals.carry_over(writer)
            reader = _connect(path, any_thread=False)
            reader.execute("PRAGMA query_only = ON")
        except BaseException:
            _close(writer, seals)
            raise
        return cls(path, writer, reader, seals, seals_it=not as_it_is)

    @property
    def generation(self) -> tuple[int, int]:
        """What is another one after a write: what was read before it may have changed."""
        if not self._shared:
            return self._groups, 0
        return self._groups, self._reader.execute("PRAGMA data_version").fetchone()[0]

    def share(self, *, shared: bool) -> None:
        """Know whether another process writes here as well."""
        self._shared = shared
        self._groups += 1  # whatever was read may be another's by now

    async def leave_checkpoints(self) -> None:
        """Make no checkpoints any more.

        What another process commits in the middle of one would be carried over without its sum.
        """

        def leave(_: sqlite3.Connection) -> None:
            self._seals_it = False

        await self.write(leave)  # in the thread that makes them, so that none is under way

    def take_checkpoints(self) -> None:
        """Make checkpoints: nobody else writes here now."""
        self._seals_it = True

    def read(
        self, query: str, parameters: Sequence[object] | Mapping[str, object] = ()
    ) -> list[tuple[Any, ...]]:
        """Return the rows of a query that reads little; raises STORE_UNAVAILABLE."""
        try:
            return self._reader.execute(query, parameters).fetchall()
        except _OURS:
            raise
        except sqlite3.DatabaseError as error:
            raise _translated(error) from error

    async def study(self, reading: Callable[[sqlite3.Connection], T]) -> T:
        """Run `reading`, which may take long, on the state of this moment; nobody waits for it.

        Raises STORE_UNAVAILABLE. It must end, when it is cancelled at the latest: what it sees
        cannot be cleared away meanwhile.
        """
        try:
            return await work.disk(self._study, reading)
        except _OURS:
            raise
        except sqlite3.DatabaseError as error:
            raise _translated(error) from error

    def _study(self, reading: Callable[[sqlite3.Connection], T]) -> T:
        connection = _connect(self._path, any_thread=False)
        try:
            connection.execute("PRAGMA query_only = ON")
            connection.set_progress_handler(_is_unwanted, _STEPS)
            connection.execute("BEGIN")
            return reading(connection)
        except sqlite3.OperationalError:
            trio.from_thread.check_cancelled()
            raise
        finally:
            connection.close()

    async def write(self, writing: Callable[[sqlite3.Connection], T]) -> T:
        """Run `writing` in a transaction; it is durable on return.

        What `writing` raises is raised here, and none of its changes are kept.
        """
        if not self._thread.is_alive():
            raise STORE_UNAVAILABLE.error("the catalogue is closed")
        job = _Job(writing)
        self._queue.put(job)
        try:
            return cast("T", await job.wait())
        except _OURS:
            raise
        except sqlite3.DatabaseError as error:
            raise _translated(error) from error

    @property
    def is_small(self) -> bool:
        """Whether looking all of it through takes no time."""
        return self.size <= SMALL

    @property
    def size(self) -> int:
        """Bytes in its file."""
        return self._path.stat().st_size

    def small_damage(self) -> str | None:
        """Say what is damaged in a database that is small; None for nothing.

        It blocks, and is for before anything is written. Raises OSError.
        """
        return (quick_look(self._reader) or self._seals.damage()) if self.is_small else None

    async def damage(self) -> str | None:
        """Say what is damaged, however large the database is; raises STORE_UNAVAILABLE."""
        found = await self.study(quick_look)
        first = 1
        while found is None and (checked := await self.check_pages(first)).pages:
            if checked.damaged:
                found = changed(checked.damaged[0])
            first += checked.pages
        return found

    async def copy_into(self, target: Path) -> None:
        """Write the state of this moment into a file, which is empty or not there yet.

        Writes go on meanwhile. It is not durable on return. Raises STORE_FULL and
        STORE_UNAVAILABLE.
        """
        try:
            await work.disk(self._copy_into, target)
        except sqlite3.DatabaseError as error:
            raise _translated(error) from error

    def _copy_into(self, target: Path) -> None:
        # Not with query_only, under which VACUUM INTO is refused. (It leaves our file alone.)
        connection = _connect(self._path, any_thread=False)
        try:
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            connection.set_progress_handler(_is_unwanted, _STEPS)
            connection.execute("VACUUM INTO ?", (str(target),))
        except sqlite3.OperationalError:
            trio.from_thread.check_cancelled()
            raise
        finally:
            connection.close()

    async def check_pages(self, first: int) -> Checked:
        """Compare pages of the file with their sums, some from `first` on; page 1 is the first.

        Those whose sum is not known are taken for right. Raises STORE_UNAVAILABLE.
        """
        try:
            checked = await work.disk(self._seals.check, first)
        except OSError as error:
            raise STORE_UNAVAILABLE.error(f"the catalogue cannot be read: {error}") from error
        if not checked.damaged and not checked.unknown:
            return checked

        def settle(_: sqlite3.Connection) -> Checked:
            again = self._seals.check(first)
            self._seals.seal(again.unknown)
            return again

        return await self.write(settle)

    async def aclose(self) -> None:
        """Finish what is queued, then close."""
        self._queue.put(None)
        await work.disk(self._thread.join)
        self.close()

    async def abandon(self) -> None:
        """Finish what is queued, and leave all open for the end of the process, which is near.

        To close it could make SQLite carry pages over, although another process keeps their sums.
        """
        self._queue.put(None)
        await work.disk(self._thread.join)

    def close(self) -> None:
        """Close likewise where no loop runs."""
        self._queue.put(None)
        self._thread.join()
        if not self._seals_it:
            return  # see `abandon`
        self._reader.close()
        with suppress(OSError, sqlite3.Error):
            self._seals.carry_over(self._writer)
        _close(self._writer, self._seals)

    def _write_groups(self) -> None:
        while (first := self._queue.get()) is not None:
            group = [first]
            ended = False
            with suppress(Empty):
                while len(group) < _GROUP_MAX and not ended:
                    job = self._queue.get_nowait()
                    if job is None:
                        ended = True
                    else:
                        group.append(job)
            self._commit(group)
            for job in group:
                job.finish()
            with suppress(OSError, sqlite3.Error):  # there will be a next time
                if self._seals_it and self._seals.is_time():
                    self._seals.carry_over(self._writer)
            if ended:
                return

    def _commit(self, group: list[_Job]) -> None:
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            for job in group:
                job.run(self._writer)
            self._writer.execute("COMMIT")
            self._groups += 1
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                self._writer.execute("ROLLBACK")
            for job in group:
                job.fail(error)


def _close(writer: sqlite3.Connection, seals: Seals | None) -> None:
    """Close what writes."""
    if seals is None:
        writer.close()
        return
    with suppress(OSError):
        seals.leave()
    writer.close()
    seals.close()


def _is_unwanted() -> bool:
    """Tell whether whoever asked this thread has left: a statement that runs is ended then."""
    try:
        trio.from_thread.check_cancelled()
    except trio.Cancelled:
        return True
    return False


def _connect(path: Path, *, any_thread: bool) -> sqlite3.Connection:
    return sqlite3.connect(
        path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=not any_thread
    )
