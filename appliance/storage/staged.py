"""One blob on its way in, as a file: hashed while its bytes arrive, published by one rename.

The state of a hash cannot be saved: after a restart it stands at 0 and runs behind the file until
that has been read once more, while further bytes are appended. For the same reason dirty pages are
flushed along the way; a client that waits thirty seconds for the answer to its last request would
not outwait the flush of a whole layer.

While two daemons share the folder, one that leaves and one that takes over, whoever writes holds a
lock on the file (flock(2)). The other one notices by size and time of change that it was written
to, and hashes it anew.
"""

import errno
import fcntl
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TypeVar, TypeVarTuple

from appliance import work
from appliance.durable import sync_folder
from appliance.oci.digest import Digest, new_hasher
from appliance.oci.errors import BLOB_UPLOAD_UNKNOWN
from appliance.storage.translation import translated

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")

_FLUSH_EVERY = 64 << 20
_CATCH_UP_STEP = 8 << 20
_PIECES_MAX = 1024  # IOV_MAX: what one pwritev(2) takes


class StagedFile:
    """One blob on its way in; `size` bytes of it have arrived."""

    def __init__(
        self,
        place: Callable[[Digest], Path],
        path: Path,
        algorithm: str,
        size: int,
        *,
        seen: tuple[int, int] | None = None,
    ) -> None:
        self._place = place
        self._path = path
        self._algorithm = algorithm
        self._hasher = new_hasher(algorithm)
        self._hashed = 0
        self._flushed = 0
        self._named: Path | None = None
        self._claim: int | None = None
        self._seen = seen  # as others may find it; None: ours alone
        # Taken in worker threads alone, for as long as one piece of work takes.
        self._turn = threading.Lock()
        self.size = size

    def append(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Add bytes at the end; after an error none of them count. It blocks."""
        with translated(BLOB_UPLOAD_UNKNOWN), self._turn:
            self._append(pieces)

    async def truncate(self, size: int) -> None:
        """Forget all bytes from `size` on."""
        await self._do(self._truncate, size)

    async def digest(self, algorithm: str) -> Digest:
        """Compute the digest of all bytes; costs a read of the file unless it has kept pace."""
        if algorithm != self._algorithm:
            await self._do(self._restart_hash, algorithm)
        await self.catch_up()
        return Digest(algorithm, self._hasher.hexdigest())

    async def catch_up(self) -> None:
        """Hash what has been appended but not hashed, in steps between which others may append."""
        while self._hashed < self.size:
            await self._do(self._catch_up)

    async def publish(self, digest: Digest) -> None:
        """Make the staged bytes the blob of that digest, whole and durable, then return."""
        await self._do(self._publish, self._place(digest))

    async def discard(self) -> None:
        """Remove the staged bytes; nothing happens where they are gone already."""
        await self._do(self._discard)

    @property
    def is_claimed(self) -> bool:
        """Whether this process has a claim."""
        return self._claim is not None

    async def claim(self) -> bool:
        """Keep other daemons from the file until `release`; False while one of them has it.

        What they have written counts from then on. Raises BLOB_UPLOAD_UNKNOWN where they have
        published or removed it.
        """
        return await self._do(self._lock)

    async def release(self) -> None:
        """End a claim; nothing happens where there is none."""
        await self._do(self._unlock)

    async def look_again(self) -> None:
        """Have count what other daemons have written; raises BLOB_UPLOAD_UNKNOWN as `claim`."""
        await self._do(lambda: self._take_note(self._path.stat()))

    async def _do(self, step: Callable[[*_Args], _T], *args: *_Args) -> _T:
        with translated(BLOB_UPLOAD_UNKNOWN):
            return await work.disk(self._in_turn, step, *args)

    def _in_turn(self, step: Callable[[*_Args], _T], *args: *_Args) -> _T:
        with self._turn:
            return step(*args)

    def _lock(self) -> bool:
        if self._claim is not None:
            return True
        descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            there = self._path.stat()  # not where it was published in between
        except BlockingIOError:
            os.close(descriptor)
            return False
        except OSError:
            os.close(descriptor)
            raise
        self._claim = descriptor
        self._take_note(there)
        return True

    def _unlock(self) -> None:
        if self._claim is not None:
            self._seen = mark(os.fstat(self._claim))
            os.close(self._claim)
            self._claim = None

    def _take_note(self, now: os.stat_result) -> None:
        if self._seen is not None and self._seen != mark(now):
            self._seen = mark(now)
            self.size = now.st_size
            self._flushed = 0
            self._restart_hash(self._algorithm)

    def _restart_hash(self, algorithm: str) -> None:
        self._algorithm = algorithm
        self._hasher = new_hasher(algorithm)
        self._hashed = 0

    def _append(self, pieces: Sequence[bytes | memoryview]) -> None:
        self._write_alone()
        descriptor = os.open(self._path, os.O_WRONLY)
        try:
            try:
                end = _write_all(descriptor, pieces, self.size)
                if end - self._flushed >= _FLUSH_EVERY:
                    self._flush(os.fdatasync, descriptor)
                    self._flushed = end
            except OSError:
                with suppress(OSError):
                    os.ftruncate(descriptor, self.size)
                raise
        finally:
            os.close(descriptor)
        if self._hashed == self.size:
            for piece in pieces:
                self._hasher.update(piece)
            self._hashed = end
        self.size = end

    def _write_alone(self) -> None:
        """Note that the file becomes other than others may have seen it, unless it is claimed."""
        if self._claim is None:
            self._seen = None

    def _truncate(self, size: int) -> None:
        self._write_alone()
        os.truncate(self._path, size)
        self.size = size
        self._flushed = min(self._flushed, size)
        if self._hashed > size:
            self._restart_hash(self._algorithm)

    def _catch_up(self) -> None:
        if self._hashed >= self.size:
            return  # somebody else who waited has done it
        with self._path.open("rb") as file:
            file.seek(self._hashed)
            content = file.read(min(_CATCH_UP_STEP, self.size - self._hashed))
        if not content:
            raise OSError(errno.EIO, "a staged file is shorter than it was", str(self._path))
        self._hasher.update(content)
        self._hashed += len(content)

    def _publish(self, target: Path) -> None:
        # 1. bytes durable  2. name visible  3. name durable; the caller then records it.
        # A crash between any two leaves a staged file or an unrecorded blob, never a torn one.
        # What failed after 2 is not lost: another attempt goes on from there.
        if self._named != target:
            descriptor = os.open(self._path, os.O_RDONLY)
            try:
                if os.fstat(descriptor).st_size != self.size:
                    raise OSError(errno.EIO, "a staged file is not as long as it was")
                self._flush(os.fsync, descriptor)
            finally:
                os.close(descriptor)
            self._path.rename(target)
            self._named = target
        target.chmod(0o444)  # not before: a session that goes on must be writable
        sync_folder(target.parent)

    def _flush(self, flush: Callable[[int], None], descriptor: int) -> None:
        """Make the bytes durable; after a failure they are to be read and hashed once more.

        The kernel tells once that it could not write a page, and takes it for written then: the
        next attempt would succeed whatever is on the disk.
        """
        try:
            flush(descriptor)
        except OSError:
            with suppress(OSError):
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            self._flushed = 0
            self._restart_hash(self._algorithm)
            raise

    def _discard(self) -> None:
        self._path.unlink(missing_ok=True)


def mark(state: os.stat_result) -> tuple[int, int]:
    """Return what changes when somebody writes to a file: its size, and when that was."""
    return state.st_size, state.st_mtime_ns


def _write_all(descriptor: int, pieces: Sequence[bytes | memoryview], offset: int) -> int:
    """Write pieces one after the other from `offset` on; return the offset after them."""
    remaining = deque(pieces)
    while remaining:
        written = os.pwritev(descriptor, list(islice(remaining, _PIECES_MAX)), offset)
        offset += written
        while remaining and written >= len(remaining[0]):
            written -= len(remaining.popleft())
        if written:
            remaining[0] = memoryview(remaining[0])[written:]
    return offset
