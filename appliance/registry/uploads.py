"""Upload sessions: blobs on their way in, chunk by chunk, across lost connections and restarts.

A session belongs to one repository and one account; to anybody else it does not exist. Its record
is in the catalogue, its bytes are staged in the store, and its running hash is in memory, dropped
with the process and rebuilt in the background after a restart while further chunks are appended.

One request at a time writes to a session. When a second one comes, it takes over: a client that
lost its connection comes back long before this side notices, and must not wait for the old
connection's deadline. The older request ends with SESSION_TAKEN_OVER; what it brought counts.
"""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from uuid import uuid4

import structlog
import trio

from appliance.oci.digest import Digest, new_hasher
from appliance.oci.errors import (
    BLOB_UPLOAD_UNKNOWN,
    DIGEST_INVALID,
    QUOTA_REACHED,
    RANGE_INVALID,
    SESSION_TAKEN_OVER,
    STORE_FULL,
    RegistryError,
)
from appliance.protocol.ranges import ContentRange
from appliance.protocol.session import Session, accept_chunk, range_header
from appliance.registry.leases import Leases
from appliance.registry.locks import DigestLocks
from appliance.registry.ports import BlobStore, Body, Staged
from appliance.registry.progress import unheard
from appliance.registry.quotas import Quotas
from appliance.registry.records import SessionRecords
from appliance.registry.sharing import Sharing
from appliance.registry.space import Space

_STRAY_SECONDS = 3600.0  # staged bytes without a session may be on their way to one when younger

_log = structlog.get_logger()


class _OpenSession:
    """A session in use: its record, its staged bytes and whoever writes to it now."""

    def __init__(self, record: Session, staged: Staged) -> None:
        self.record = record
        self.staged = staged
        self.turn = trio.Lock()
        self.writing: trio.CancelScope | None = None
        self.requests = 0
        self.touched = 0.0


class Uploads:
    """All upload sessions of the registry."""

    def __init__(
        self,
        *,
        store: BlobStore,
        records: SessionRecords,
        leases: Leases,
        locks: DigestLocks,
        space: Space,
        quotas: Quotas,
        sharing: Sharing,
    ) -> None:
        self._store = store
        self._records = records
        self._leases = leases
        self._locks = locks
        self._space = space
        self._quotas = quotas
        self._sharing = sharing
        self._open: dict[str, _OpenSession] = {}

    @property
    def running(self) -> int:
        """How many are being written to at this moment."""
        return sum(session.writing is not None for session in self._open.values())

    async def start(self, repository: str, account: str, algorithm: str = "sha256") -> str:
        """Begin a session and return its id.

        Raises DIGEST_INVALID for an unknown algorithm, and STORE_FULL or QUOTA_REACHED when there
        is no room.
        """
        await self._quotas.check(repository, 1)
        await self._space.check_stream(repository, account)
        return await self._begin(repository, account, algorithm)

    async def _begin(self, repository: str, account: str, algorithm: str) -> str:
        new_hasher(algorithm)
        record = Session(str(uuid4()), repository, account, algorithm)
        # 1. the staged file  2. its record: the other way round, a crash leaves a broken session
        staged = await self._store.stage(record.id, algorithm)
        try:
            await self._records.add_session(record)
        except RegistryError:
            await staged.discard()
            raise
        self._open[record.id] = _OpenSession(record, staged)
        return record.id

    async def mount(self, source: str, repository: str, digest: Digest) -> bool:
        """Link a blob that another repository holds; False when that one does not hold it.

        Raises QUOTA_REACHED.
        """
        size = await self._records.find_blob(source, digest) or 0
        await self._leases.secure(repository, digest)
        async with self._quotas.claim(repository, await self._added(repository, digest, size)):
            return await self._records.mount(source, repository, digest)

    async def _added(self, repository: str, digest: Digest, size: int) -> int:
        """Return what a blob of that size adds to a repository, which may have it already."""
        return 0 if await self._records.has_blob(repository, digest) else size

    async def holders(self, digest: Digest) -> list[str]:
        """List repositories that a blob could be mounted from, a hundred at most."""
        return await self._records.holders(digest, 100)

    async def offset(self, repository: str, account: str, session_id: str) -> int:
        """Return how many bytes a session holds; raises BLOB_UPLOAD_UNKNOWN."""
        session = await self._find(repository, account, session_id)
        return session.staged.size

    async def append(
        self,
        repository: str,
        account: str,
        session_id: str,
        body: Body,
        *,
        content_range: ContentRange | None = None,
        content_length: int | None = None,
    ) -> int:
        """Append a chunk and return the session's new offset.

        Raises BLOB_UPLOAD_UNKNOWN, RANGE_INVALID (with the `Range` header that says where the
        session stands), SIZE_INVALID when the body does not have the announced length (an
        overlong one leaves no trace, what came of a cut-off one is kept), SESSION_TAKEN_OVER, and
        STORE_FULL, before the body if possible; what came of it leaves no trace then either.
        """
        session = await self._find(repository, account, session_id)
        async with self._writing(session):
            await self._append(session, body, content_range, content_length)
            return session.staged.size

    async def commit(
        self,
        repository: str,
        account: str,
        session_id: str,
        digest: Digest,
        body: Body,
        *,
        content_range: ContentRange | None = None,
        content_length: int | None = None,
    ) -> None:
        """Append a last chunk, which may be empty, and turn the session into a blob.

        Raises what `append` raises, DIGEST_INVALID when the bytes have another digest, and
        QUOTA_REACHED when they are too many; the session is over then, for nothing can make its
        bytes right.
        """
        session = await self._find(repository, account, session_id)
        async with self._writing(session):
            await self._append(session, body, content_range, content_length)
            size = session.staged.size
            computed = await session.staged.digest(digest.algorithm)
            if computed != digest:
                await self._end(session)
                raise DIGEST_INVALID.error(
                    f"the {size} bytes received have digest {computed}",
                    details=({"digest": str(digest)},),
                )
            # 1. bytes durable  2. name visible  3. name durable  4. blob and link in one
            # transaction, with the session gone. A crash before 4 leaves a file that no
            # repository links; the session is over, as its bytes have left it.
            # The lock keeps a sweep from putting the file away between 2 and 4.
            await self._leases.secure(repository, digest)
            added = await self._added(repository, digest, size)
            try:
                async with self._quotas.claim(repository, added), self._locks.hold((digest,)):
                    await session.staged.publish(digest)
                    self._open.pop(session_id, None)
                    await self._records.commit_session(session.record, digest, size)
            except RegistryError as error:
                if error.row is QUOTA_REACHED:
                    await self._end(session)
                raise

    async def put(
        self,
        repository: str,
        account: str,
        digest: Digest,
        body: Body,
        *,
        content_length: int | None = None,
    ) -> None:
        """Store a blob that comes whole; whatever fails, no session is left behind.

        Raises what `commit` raises.
        """
        await self._quotas.check(
            repository, await self._added(repository, digest, content_length or 0)
        )
        await self._space.check(content_length or 0)
        session_id = await self._begin(repository, account, digest.algorithm)
        try:
            await self.commit(
                repository, account, session_id, digest, body, content_length=content_length
            )
        except BaseException:
            with trio.CancelScope(shield=True), suppress(RegistryError):  # at hand, both of them
                self._open.pop(session_id, None)
                # Bytes before record, as in `_end`.
                await self._store.discard(session_id)
                await self._records.remove_session(session_id)
            raise

    async def cancel(self, repository: str, account: str, session_id: str) -> None:
        """End a session and drop its bytes; raises BLOB_UPLOAD_UNKNOWN."""
        session = await self._find(repository, account, session_id)
        async with self._writing(session):
            await self._end(session)

    async def expire(self, untouched_seconds: float) -> int:
        """End all sessions that nobody has written to for that long; return how many.

        So does what a failing disk kept from being removed. Waits for the end of any other daemon.
        """
        await self._sharing.be_alone(unheard)
        ended = 0
        # Records before files: a session begun in between has no record here, so it is left alone.
        records = await self._records.sessions()
        touched = await self._store.staged()
        old = time.time() - max(untouched_seconds, _STRAY_SECONDS)
        for stray in touched.keys() - {record.id for record in records} - self._open.keys():
            if touched[stray] < old:
                with suppress(RegistryError):  # there will be a next time
                    await self._store.discard(stray)
        for record in records:
            session = self._open.get(record.id)
            if session is None and record.id in touched:
                try:
                    session = await self._take_up(record)
                except RegistryError:
                    continue  # it ended in the meantime
            last = max(touched.get(record.id, 0.0), session.touched if session else 0.0)
            if time.time() - last < untouched_seconds:
                continue
            if session is None:
                await self._records.remove_session(record.id)
            elif session.turn.locked():
                continue
            else:
                async with session.turn:
                    await self._end(session)
            ended += 1
        return ended

    async def discard_strays(self) -> None:
        """Drop staged bytes that no session accounts for; only before anything is served."""
        records = await self._records.sessions()
        for stray in (await self._store.staged()).keys() - {record.id for record in records}:
            await self._store.discard(stray)

    async def share(self) -> None:
        """Claim what is being written to, and note how we leave the rest (see `sharing`)."""
        for session in tuple(self._open.values()):
            with suppress(RegistryError):  # it ends just now
                await session.staged.claim()
                if session.writing is None:
                    await session.staged.release()

    async def look_again(self) -> None:
        """Have count what the other daemon has done to sessions, for the last time."""
        for session in tuple(self._open.values()):
            if session.writing is None:
                try:
                    await session.staged.look_again()
                except RegistryError:  # it has ended
                    self._open.pop(session.record.id, None)

    def give_up(self, session_id: str) -> None:
        """End the request that writes to a session, if one does: another daemon goes on with it."""
        session = self._open.get(session_id)
        if session is not None and session.writing is not None:
            session.writing.cancel()

    async def recover(self) -> None:
        """Hash what the sessions hold since before a restart, the newest session first.

        Requests may come in meanwhile; they append without waiting for this.
        """
        for record in await self._records.sessions():
            try:
                session = await self._find(record.repository, record.account, record.id)
                await session.staged.catch_up()
            except RegistryError as error:
                if not self._sharing.is_shared:  # else the other daemon may have ended it
                    _log.warning("upload session lost", session=record.id, reason=error.message)

    async def _append(
        self,
        session: _OpenSession,
        body: Body,
        content_range: ContentRange | None,
        content_length: int | None,
    ) -> None:
        staged = session.staged
        start = staged.size
        try:
            chunk = accept_chunk(start, content_range, content_length)
        except RegistryError as error:
            if error.row is RANGE_INVALID:
                place = f"/v2/{session.record.repository}/blobs/uploads/{session.record.id}"
                stands = (("Location", place), ("Range", range_header(start)))
                error.headers = (*error.headers, *stands)
            raise
        received = 0

        def take(pieces: Sequence[bytes | memoryview]) -> None:
            nonlocal received
            size = sum(map(len, pieces))
            received += size
            chunk.check_room(received)
            self._space.take(size)
            staged.append(pieces)

        if chunk.length != 0:  # what ends an upload needs no more room than is there
            await self._space.check(chunk.length or 0)
        try:
            await body.drain(take)
            chunk.check_end(received)
        except RegistryError as error:
            # On a full disk nobody is helped by a part that its sender may never go on with.
            if error.row is STORE_FULL:
                with suppress(RegistryError):
                    await staged.truncate(start)
                self._space.look_again()
                if chunk.length is None:
                    record = session.record
                    self._space.cut_off(record.repository, record.account, start + received)
            elif chunk.length is not None and received > chunk.length:
                await staged.truncate(start)
            raise

    async def _find(self, repository: str, account: str, session_id: str) -> _OpenSession:
        session = self._open.get(session_id)
        if session is None:
            record = await self._records.find_session(session_id)
            if record is None:
                raise BLOB_UPLOAD_UNKNOWN.error()
            session = await self._take_up(record)
        elif self._sharing.is_shared and session.writing is None:
            await session.staged.look_again()
        if (session.record.repository, session.record.account) != (repository, account):
            raise BLOB_UPLOAD_UNKNOWN.error()
        return session

    async def _take_up(self, record: Session) -> _OpenSession:
        staged = await self._store.resume(record.id, record.algorithm)
        return self._open.setdefault(record.id, _OpenSession(record, staged))

    @asynccontextmanager
    async def _writing(self, session: _OpenSession) -> AsyncIterator[None]:
        session.requests += 1
        arrival = session.requests
        if session.writing is not None:
            session.writing.cancel()
        async with session.turn:
            if arrival != session.requests:
                raise SESSION_TAKEN_OVER.error()
            if self._open.get(session.record.id) is not session:
                raise BLOB_UPLOAD_UNKNOWN.error("the upload session has ended")
            with trio.CancelScope() as scope:
                session.writing = scope
                try:
                    async with self._sharing.writing(session.record.id, session.staged):
                        yield
                finally:
                    session.writing = None
                    session.touched = time.time()
        if scope.cancelled_caught:
            raise SESSION_TAKEN_OVER.error()

    async def _end(self, session: _OpenSession) -> None:
        with trio.CancelScope(shield=True):  # a row and a file, both at hand
            # Bytes before record: on a full disk the record cannot go, but the bytes can.
            self._open.pop(session.record.id, None)
            await session.staged.discard()
            await self._records.remove_session(session.record.id)
