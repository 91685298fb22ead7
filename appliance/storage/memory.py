"""Blobs in memory: a real store that forgets everything, for trials and tests."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio

from appliance.oci.damage import Found, Inspection, Pace
from appliance.oci.digest import Digest, new_hasher
from appliance.oci.errors import BLOB_UNKNOWN, BLOB_UPLOAD_UNKNOWN


class MemoryRegion:
    """An open blob; `read` gives any part of it."""

    file = None

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.size = len(content)

    async def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`."""
        await trio.lowlevel.checkpoint()
        return self._content[offset : offset + length]


class _Mark:
    """Tells one content from others that are equal to it."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Mark) and self._content is other._content

    def __hash__(self) -> int:
        return id(self._content)


class StagedMemory:
    """One blob on its way in; `size` bytes of it have arrived."""

    def __init__(self, store: "MemoryStore", session_id: str) -> None:
        self._store = store
        self._id = session_id

    @property
    def size(self) -> int:
        """Bytes that have arrived."""
        return len(self._store.arriving.get(self._id, b""))

    def append(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Add bytes at the end."""
        for piece in pieces:
            self._content().extend(piece)
        self._store.touched[self._id] = time.time()

    async def truncate(self, size: int) -> None:
        """Forget all bytes from `size` on."""
        await trio.lowlevel.checkpoint()
        del self._content()[size:]

    async def digest(self, algorithm: str) -> Digest:
        """Compute the digest of all bytes."""
        await trio.lowlevel.checkpoint()
        hasher = new_hasher(algorithm)
        hasher.update(self._content())
        return Digest(algorithm, hasher.hexdigest())

    async def catch_up(self) -> None:
        """Nothing runs behind in memory."""
        await trio.lowlevel.checkpoint()

    async def publish(self, digest: Digest) -> None:
        """Make the staged bytes the blob of that digest."""
        await trio.lowlevel.checkpoint()
        self._store.blobs[digest] = bytes(self._content())
        self._store.forget(self._id)

    async def discard(self) -> None:
        """Remove the staged bytes; nothing happens where they are gone already."""
        await trio.lowlevel.checkpoint()
        self._store.forget(self._id)

    @property
    def is_claimed(self) -> bool:
        """Tell that there is nothing to claim."""
        return False

    async def claim(self) -> bool:
        """Tell that nobody else has these bytes: no other process can see them."""
        await self.look_again()
        return True

    async def release(self) -> None:
        """End a claim."""
        await trio.lowlevel.checkpoint()

    async def look_again(self) -> None:
        """Raise BLOB_UPLOAD_UNKNOWN where the bytes are gone."""
        await trio.lowlevel.checkpoint()
        self._content()

    def _content(self) -> bytearray:
        try:
            return self._store.arriving[self._id]
        except KeyError:
            raise BLOB_UPLOAD_UNKNOWN.error() from None


class MemoryStore:
    """The store in this process's memory."""

    def __init__(self) -> None:
        self.blobs: dict[Digest, bytes] = {}
        self.away: dict[Digest, bytes] = {}
        self.aside: dict[Digest, tuple[bytes, float]] = {}
        self.arriving: dict[str, bytearray] = {}
        self.touched: dict[str, float] = {}

    def forget(self, session_id: str) -> None:
        """Drop what has arrived in a session."""
        self.arriving.pop(session_id, None)
        self.touched.pop(session_id, None)

    async def stage(self, session_id: str, algorithm: str) -> StagedMemory:
        """Begin a blob."""
        await trio.lowlevel.checkpoint()
        new_hasher(algorithm)
        self.arriving[session_id] = bytearray()
        self.touched[session_id] = time.time()
        return StagedMemory(self, session_id)

    async def resume(self, session_id: str, algorithm: str) -> StagedMemory:
        """Take up a blob that was begun before; raises BLOB_UPLOAD_UNKNOWN."""
        await trio.lowlevel.checkpoint()
        new_hasher(algorithm)
        if session_id not in self.arriving:
            raise BLOB_UPLOAD_UNKNOWN.error()
        return StagedMemory(self, session_id)

    async def staged(self) -> dict[str, float]:
        """List what is on its way in: session id → time of its last byte, seconds since 1970."""
        await trio.lowlevel.checkpoint()
        return dict(self.touched)

    async def discard(self, session_id: str) -> None:
        """Remove a staged blob."""
        await trio.lowlevel.checkpoint()
        self.forget(session_id)

    async def put(self, digest: Digest, content: bytes) -> None:
        """Store a whole blob at hand; its digest is the caller's promise."""
        await trio.lowlevel.checkpoint()
        self.blobs[digest] = content

    @asynccontextmanager
    async def open(self, digest: Digest) -> AsyncIterator[MemoryRegion]:
        """Open a blob for reading; raises BLOB_UNKNOWN."""
        await trio.lowlevel.checkpoint()
        try:
            region = MemoryRegion(self.blobs[digest])
        except KeyError:
            raise BLOB_UNKNOWN.error() from None
        yield region

    async def put_away(self, digests: Sequence[Digest]) -> None:
        """Move blobs into quarantine, those that are not there already, or nowhere."""
        await trio.lowlevel.checkpoint()
        for digest in self.blobs.keys() & set(digests):
            self.away[digest] = self.blobs.pop(digest)

    async def bring_back(self, digests: Sequence[Digest]) -> None:
        """Move blobs out of quarantine, those that are there."""
        await trio.lowlevel.checkpoint()
        for digest in self.away.keys() & set(digests):
            self.blobs.setdefault(digest, self.away.pop(digest))

    async def purge(self, digests: Sequence[Digest]) -> None:
        """Remove blobs from quarantine, those that are there."""
        await trio.lowlevel.checkpoint()
        for digest in digests:
            self.away.pop(digest, None)

    async def inspect(
        self, digest: Digest, pace: Pace, *, in_quarantine: bool = False
    ) -> Inspection:
        """Compute the digest of a blob's bytes."""
        await trio.lowlevel.checkpoint()
        content = (self.away if in_quarantine else self.blobs).get(digest)
        if content is None:
            return Inspection(None)
        await pace(len(content))
        return Inspection(len(content), Digest.of(content, digest.algorithm), "", _Mark(content))

    async def measure(self, digest: Digest) -> int | None:
        """Return how many bytes there are of a blob; None where it is not there."""
        await trio.lowlevel.checkpoint()
        content = self.blobs.get(digest)
        return None if content is None else len(content)

    async def set_aside(self, digest: Digest, mark: object, *, in_quarantine: bool = False) -> bool:
        """Move a blob whose bytes are not right to where nothing brings them back from."""
        await trio.lowlevel.checkpoint()
        blobs = self.away if in_quarantine else self.blobs
        content = blobs.get(digest)
        if content is None or _Mark(content) != mark:
            return False
        self.aside[digest] = (blobs.pop(digest), time.time())
        return True

    async def drop_set_aside(self, before: float) -> int:
        """Remove what was set aside before a moment, in seconds since 1970; return its bytes."""
        await trio.lowlevel.checkpoint()
        old = [digest for digest, (_, since) in self.aside.items() if since <= before]
        return sum(len(self.aside.pop(digest)[0]) for digest in old)

    async def is_empty(self) -> bool:
        """Tell whether there is no blob at all."""
        await trio.lowlevel.checkpoint()
        return not self.blobs

    async def shelves(self) -> list[str]:
        """There is but one."""
        await trio.lowlevel.checkpoint()
        return ["memory"]

    async def shelf(self, name: str) -> list[Found]:
        """List all that is here; nobody knows since when."""
        await trio.lowlevel.checkpoint()
        return [Found(str(one), one, len(content), 0.0) for one, content in self.blobs.items()]

    async def quarantine(self) -> list[Found]:
        """List what is in quarantine, but for what was set aside."""
        await trio.lowlevel.checkpoint()
        return [Found(str(one), one, len(content), 0.0) for one, content in self.away.items()]

    def room(self) -> tuple[int, int] | None:
        """Nothing bounds it here."""
        return None

    async def check_writable(self) -> None:
        """Memory can always be written."""
        await trio.lowlevel.checkpoint()
