"""Blobs as files: staged under `uploads/`, published by one rename under `blobs/`.

    <root>/uploads/<id>                     a blob on its way in, mode 0600
    <root>/blobs/<algorithm>/<ab>/<hex>     a blob, mode 0444, named by its content
    <root>/quarantine/<algorithm>-<hex>     a blob that nobody needed any more, kept for a while

A staged file is hashed while bytes arrive, so that publishing costs the same for a kilobyte and
for ten gigabytes. The state of a hash cannot be saved: after a restart `hashed` stands at 0 and
runs behind `size` until the file has been read once more, while further bytes are appended.
For the same reason dirty pages are flushed along the way; a client that waits thirty seconds for
the answer to its last request would not outwait the flush of a whole layer.
"""

import errno
import os
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from io import FileIO
from itertools import islice
from pathlib import Path
from secrets import token_hex
from typing import TypeVarTuple

import trio

from appliance import work
from appliance.durable import sync_folder
from appliance.oci.digest import ALGORITHMS, Digest, new_hasher
from appliance.oci.errors import (
    BLOB_UNKNOWN,
    BLOB_UPLOAD_UNKNOWN,
    STORE_UNAVAILABLE,
)
from appliance.storage.translation import translated
from appliance.storage.upkeep import Upkeep

_Args = TypeVarTuple("_Args")

_FLUSH_EVERY = 64 << 20
_CATCH_UP_STEP = 8 << 20
_PIECES_MAX = 1024  # IOV_MAX: what one pwritev(2) takes


class FileRegion:
    """An open blob; `read` gives any part of it, `file` is for those who can do without."""

    def __init__(self, file: FileIO) -> None:
        self.file = file
        self.size = os.fstat(file.fileno()).st_size

    async def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`, fewer at the blob's end.

        Raises STORE_UNAVAILABLE where the file has become shorter since it was opened.
        """
        with translated(BLOB_UNKNOWN):
            content = await work.disk(os.pread, self.file.fileno(), length, offset)
        if len(content) < min(length, self.size - offset):
            raise STORE_UNAVAILABLE.error("a blob's file is shorter than it was")
        return content


class StagedFile:
    """One blob on its way in; `size` bytes of it have arrived."""

    def __init__(self, store: "FileStore", path: Path, algorithm: str, size: int) -> None:
        self._store = store
        self._path = path
        self._algorithm = algorithm
        self._hasher = new_hasher(algorithm)
        self._hashed = 0
        self._flushed = 0
        self._named: Path | None = None
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
        await self._do(self._publish, self._store.path(digest))

    async def discard(self) -> None:
        """Remove the staged bytes; nothing happens where they are gone already."""
        await self._do(self._discard)

    async def _do(self, step: Callable[[*_Args], None], *args: *_Args) -> None:
        with translated(BLOB_UPLOAD_UNKNOWN):
            await work.disk(self._in_turn, step, *args)

    def _in_turn(self, step: Callable[[*_Args], None], *args: *_Args) -> None:
        with self._turn:
            step(*args)

    def _restart_hash(self, algorithm: str) -> None:
        self._algorithm = algorithm
        self._hasher = new_hasher(algorithm)
        self._hashed = 0

    def _append(self, pieces: Sequence[bytes | memoryview]) -> None:
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

    def _truncate(self, size: int) -> None:
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


class FileStore(Upkeep):
    """The store in a folder of a local file system."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._uploads = root / "uploads"

    def prepare(self) -> None:
        """Make the folders that are not there yet; raises OSError. Runs before the loop starts."""
        self._uploads.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._quarantine.mkdir(mode=0o700, exist_ok=True)
        self._blobs.mkdir(mode=0o700, exist_ok=True)
        for algorithm in ALGORITHMS:
            shelf = self._blobs / algorithm
            shelf.mkdir(mode=0o700, exist_ok=True)
            for prefix in range(256):
                (shelf / f"{prefix:02x}").mkdir(mode=0o700, exist_ok=True)
            sync_folder(shelf)
        sync_folder(self._blobs)
        sync_folder(self._blobs.parent)

    async def stage(self, session_id: str, algorithm: str) -> StagedFile:
        """Begin a blob: an empty staged file of that name."""
        new_hasher(algorithm)
        path = self._uploads / session_id
        with translated(STORE_UNAVAILABLE):
            await work.disk(_create, path)
        return StagedFile(self, path, algorithm, 0)

    async def resume(self, session_id: str, algorithm: str) -> StagedFile:
        """Take up a blob that was begun before a restart; raises BLOB_UPLOAD_UNKNOWN."""
        path = self._uploads / session_id
        with translated(BLOB_UPLOAD_UNKNOWN):
            size = (await work.disk(path.stat)).st_size
        return StagedFile(self, path, algorithm, size)

    async def staged(self) -> dict[str, float]:
        """List what is on its way in: session id → time of its last byte, seconds since 1970."""
        with translated(STORE_UNAVAILABLE):
            return await work.disk(self._staged)

    async def discard(self, session_id: str) -> None:
        """Remove a staged blob that nobody holds open."""
        with translated(STORE_UNAVAILABLE):
            await work.disk(self._discard, session_id)

    async def put(self, digest: Digest, content: bytes) -> None:
        """Store a whole blob at hand, durable on return; its digest is the caller's promise."""
        staged = await self.stage(f"put-{token_hex(16)}", digest.algorithm)
        try:
            await work.disk(staged.append, (content,))
            await staged.publish(digest)
        except BaseException:
            with trio.CancelScope(shield=True):  # one unlink
                await staged.discard()
            raise

    @asynccontextmanager
    async def open(self, digest: Digest) -> AsyncIterator[FileRegion]:
        """Open a blob for reading; raises BLOB_UNKNOWN."""
        with translated(BLOB_UNKNOWN):
            file = await work.disk(FileIO, self.path(digest))
        with file:
            yield FileRegion(file)

    async def put_away(self, digests: Sequence[Digest]) -> None:
        """Move blobs into quarantine, those that are not there already, or nowhere."""
        with translated(STORE_UNAVAILABLE):
            await work.disk(self._put_away, digests)

    async def bring_back(self, digests: Sequence[Digest]) -> None:
        """Move blobs out of quarantine, those that are there; durable on return."""
        with translated(STORE_UNAVAILABLE):
            await work.disk(self._bring_back, digests)

    async def purge(self, digests: Sequence[Digest]) -> None:
        """Remove blobs from quarantine, those that are there."""
        with translated(STORE_UNAVAILABLE):
            await work.disk(self._purge, digests)

    def room(self) -> tuple[int, int] | None:
        """Return how many bytes of the file system are free for us, and how many there are.

        It blocks.
        """
        with translated(STORE_UNAVAILABLE):
            state = os.statvfs(self._uploads)
        return state.f_bavail * state.f_frsize, state.f_blocks * state.f_frsize

    async def check_writable(self) -> None:
        """Write and remove a small file; raises STORE_FULL or STORE_UNAVAILABLE."""
        probe = self._uploads / f"put-{token_hex(16)}"
        with translated(STORE_UNAVAILABLE):
            await work.disk(_probe, probe)

    def _put_away(self, digests: Sequence[Digest]) -> None:
        for digest in digests:
            with suppress(FileNotFoundError):
                self.path(digest).rename(self._away(digest))

    def _bring_back(self, digests: Sequence[Digest]) -> None:
        for digest in digests:
            path = self.path(digest)
            if not path.exists():  # it may have been pushed anew
                with suppress(FileNotFoundError):
                    self._away(digest).rename(path)
            sync_folder(path.parent)

    def _purge(self, digests: Sequence[Digest]) -> None:
        for digest in digests:
            self._away(digest).unlink(missing_ok=True)

    def _staged(self) -> dict[str, float]:
        ages = {}
        with os.scandir(self._uploads) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    if entry.is_file(follow_symlinks=False):  # lost+found is nobody's upload
                        ages[entry.name] = entry.stat(follow_symlinks=False).st_mtime
        return ages

    def _discard(self, session_id: str) -> None:
        (self._uploads / session_id).unlink(missing_ok=True)


def _create(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def _probe(path: Path) -> None:
    _create(path)
    try:
        path.write_bytes(b"ready?")
    finally:
        path.unlink(missing_ok=True)


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
