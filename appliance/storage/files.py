"""Blobs as files: staged under `uploads/`, published by one rename under `blobs/`.

<root>/uploads/<id>                     a blob on its way in, mode 0600
<root>/blobs/<algorithm>/<ab>/<hex>     a blob, mode 0444, named by its content
<root>/quarantine/<algorithm>-<hex>     a blob that nobody needed any more, kept for a while
"""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from io import FileIO
from pathlib import Path
from secrets import token_hex

import trio

from appliance import work
from appliance.durable import sync_folder
from appliance.oci.digest import ALGORITHMS, Digest, new_hasher
from appliance.oci.errors import (
    BLOB_UNKNOWN,
    BLOB_UPLOAD_UNKNOWN,
    STORE_UNAVAILABLE,
)
from appliance.storage.staged import StagedFile, mark
from appliance.storage.translation import translated
from appliance.storage.upkeep import Upkeep


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
            there = await work.disk(_create, path)
        return StagedFile(self.path, path, algorithm, 0, seen=mark(there))

    async def resume(self, session_id: str, algorithm: str) -> StagedFile:
        """Take up a blob that was begun before a restart; raises BLOB_UPLOAD_UNKNOWN."""
        path = self._uploads / session_id
        with translated(BLOB_UPLOAD_UNKNOWN):
            there = await work.disk(path.stat)
        return StagedFile(self.path, path, algorithm, there.st_size, seen=mark(there))

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


def _create(path: Path) -> os.stat_result:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)


def _probe(path: Path) -> None:
    _create(path)
    try:
        path.write_bytes(b"ready?")
    finally:
        path.unlink(missing_ok=True)
