"""Upload sessions: who writes, who takes over, what counts and what is left after any failure."""

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest
import structlog.testing
import trio

from appliance import work
from appliance.catalogue.records import Catalogue
from appliance.oci.digest import Digest
from appliance.oci.errors import (
    BLOB_UNKNOWN,
    BLOB_UPLOAD_UNKNOWN,
    BODY_STALLED,
    DIGEST_INVALID,
    RANGE_INVALID,
    SESSION_TAKEN_OVER,
    SIZE_INVALID,
    STORE_FULL,
    STORE_UNAVAILABLE,
    ErrorRow,
    RegistryError,
)
from appliance.protocol.ranges import ContentRange
from appliance.protocol.session import Session
from appliance.registry.locks import DigestLocks
from appliance.registry.ports import Body, Sink
from appliance.registry.quotas import Quotas
from appliance.registry.sharing import Sharing
from appliance.registry.space import Space
from appliance.registry.uploads import Uploads
from appliance.storage.files import FileStore
from appliance.storage.memory import MemoryStore, StagedMemory
from appliance.storage.staged import StagedFile
from tests.refused import refused
from tests.registry.leased import leased

HERE = "here/app"
ALICE = "alice"
CONTENT = b"The quick brown fox jumps over the lazy dog"
DIGEST = Digest.of(CONTENT)

Store = FileStore | MemoryStore


class ClientLeft(Exception):  # noqa: N818  an event more than an error
    """What a body raises when its connection is lost."""


async def hand_over(piece: bytes, sink: Sink) -> None:
    """Do as the server does: from a thread of its own, and good during the call only."""
    with memoryview(piece) as view:
        await work.receiving(sink, [view])


class Sent:
    """A body that comes whole, or breaks off with an error."""

    def __init__(self, *pieces: bytes, error: Exception | None = None) -> None:
        self._pieces = pieces
        self._error = error

    async def drain(self, sink: Sink) -> None:
        for piece in self._pieces:
            await hand_over(piece, sink)
        if self._error is not None:
            raise self._error


class Client:
    """A client whose bytes come when the test says so; `waited_for` once it has no more to give."""

    def __init__(self, *pieces: bytes) -> None:
        self._send, self._receive = trio.open_memory_channel[bytes](math.inf)
        self.waited_for = trio.Event()
        for piece in pieces:
            self.give(piece)

    def give(self, piece: bytes) -> None:
        self._send.send_nowait(piece)

    def end(self) -> None:
        self._send.close()

    async def drain(self, sink: Sink) -> None:
        while True:
            try:
                piece = self._receive.receive_nowait()
            except trio.WouldBlock:
                self.waited_for.set()
                try:
                    piece = await self._receive.receive()
                except trio.EndOfChannel:
                    return
            except trio.EndOfChannel:
                return
            await hand_over(piece, sink)


@dataclass
class World:
    """Upload sessions, and what lies beneath them."""

    uploads: Uploads
    store: Store
    catalogue: Catalogue

    async def begin(self, *pieces: bytes) -> str:
        """Start a session that holds some bytes."""
        session = await self.uploads.start(HERE, ALICE)
        await self.append(session, *pieces)
        return session

    async def append(self, session: str, *pieces: bytes) -> int:
        return await self.uploads.append(HERE, ALICE, session, Sent(*pieces))

    async def commit(self, session: str, *pieces: bytes, digest: Digest = DIGEST) -> None:
        await self.uploads.commit(HERE, ALICE, session, digest, Sent(*pieces))

    async def offset(self, session: str) -> int:
        return await self.uploads.offset(HERE, ALICE, session)

    async def content(self, digest: Digest = DIGEST) -> bytes:
        """What a repository serves."""
        assert await self.catalogue.find_blob(HERE, digest) is not None
        async with self.store.open(digest) as region:
            return await region.read(0, region.size)

    def restart(self) -> "World":
        """Give the same registry to a process that has just started."""
        return World(uploads(self.store, self.catalogue), self.store, self.catalogue)

    async def expect_nothing(self) -> None:
        """Make sure that no session is left, neither its record nor its bytes."""
        assert await self.catalogue.sessions() == []
        assert await self.store.staged() == {}

    async def expect_consistent(self) -> None:
        """Make sure that every session has its bytes and all staged bytes have a session."""
        sessions = {session.id for session in await self.catalogue.sessions()}
        assert set(await self.store.staged()) == sessions


def uploads(store: Store, catalogue: Catalogue) -> Uploads:
    return Uploads(
        store=store,
        records=catalogue,
        leases=leased(),
        locks=DigestLocks(),
        space=Space(store),
        quotas=Quotas(catalogue),
        sharing=Sharing(),
    )


@pytest.fixture
def world(store: Store, catalogue: Catalogue) -> World:
    return World(uploads(store, catalogue), store, catalogue)


@pytest.fixture
def break_staged(store: Store, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, ErrorRow], None]:
    """Let a verb of staged blobs fail from now on."""

    def breaking(verb: str, row: ErrorRow) -> None:
        async def fail(*_: object) -> None:
            await trio.lowlevel.checkpoint()
            raise row.error()

        def fail_at_once(*_: object) -> None:
            raise row.error()

        kind = StagedFile if isinstance(store, FileStore) else StagedMemory
        monkeypatch.setattr(kind, verb, fail_at_once if verb == "append" else fail)

    return breaking


# --- the ordinary way


async def test_a_session_grows_and_becomes_a_blob(world: World) -> None:
    session = await world.uploads.start(HERE, ALICE)
    assert await world.offset(session) == 0
    assert await world.append(session, CONTENT[:10]) == 10
    assert await world.append(session, CONTENT[10:15], CONTENT[15:20]) == 20
    assert await world.offset(session) == 20
    await world.commit(session, CONTENT[20:])
    assert await world.content() == CONTENT
    with refused(BLOB_UPLOAD_UNKNOWN):
        await world.offset(session)
    await world.expect_nothing()


async def test_chunks_say_where_they_belong(world: World) -> None:
    session = await world.uploads.start(HERE, ALICE)
    for start in range(0, 40, 10):
        await world.uploads.append(
            HERE,
            ALICE,
            session,
            Sent(CONTENT[start : start + 10]),
            content_range=ContentRange(start, start + 9),
            content_length=10,
        )
    await world.commit(session, CONTENT[40:])
    assert await world.content() == CONTENT


async def test_long_bodies_arrive_unharmed(world: World) -> None:
    content = bytes(range(256)) * (12 << 10)
    pieces = [content[at : at + 50_000] for at in range(0, len(content), 50_000)]
    session = await world.uploads.start(HERE, ALICE)
    assert await world.append(session, *pieces) == len(content)
    await world.commit(session, digest=Digest.of(content))
    assert await world.content(Digest.of(content)) == content


async def test_an_empty_blob_needs_no_bytes(world: World) -> None:
    session = await world.uploads.start(HERE, ALICE)
    await world.commit(session, digest=Digest.of(b""))
    assert await world.content(Digest.of(b"")) == b""


@pytest.mark.parametrize("begun", ["sha256", "sha512"])
@pytest.mark.parametrize("asked", ["sha256", "sha512"])
async def test_a_blob_is_committed_under_any_algorithm(
    world: World, begun: str, asked: str
) -> None:
    session = await world.uploads.start(HERE, ALICE, begun)
    await world.commit(session, CONTENT, digest=Digest.of(CONTENT, asked))
    assert await world.content(Digest.of(CONTENT, asked)) == CONTENT


async def test_a_whole_blob_needs_no_session(world: World) -> None:
    body = Sent(CONTENT[:9], CONTENT[9:])
    await world.uploads.put(HERE, ALICE, DIGEST, body, content_length=len(CONTENT))
    assert await world.content() == CONTENT
    await world.expect_nothing()


async def test_the_same_blob_may_come_any_number_of_times_at_once(world: World) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(world.uploads.put, HERE, ALICE, DIGEST, Sent(CONTENT))
    assert await world.content() == CONTENT
    await world.expect_nothing()


async def test_a_blob_of_another_repository_is_mounted(world: World) -> None:
    await world.uploads.put("there/app", ALICE, DIGEST, Sent(CONTENT))
    assert await world.catalogue.find_blob(HERE, DIGEST) is None
    assert await world.uploads.mount("there/app", HERE, DIGEST)
    assert await world.content() == CONTENT
    assert not await world.uploads.mount("nowhere", HERE, DIGEST)


async def test_sessions_do_not_disturb_each_other(world: World) -> None:
    async def upload(number: int) -> None:
        content = b"%d" % number * 100
        session = await world.uploads.start(HERE, ALICE)
        for at in range(0, len(content), 30):
            await world.append(session, content[at : at + 30])
        await world.commit(session, digest=Digest.of(content))

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(upload, number)
    for number in range(10):
        content = b"%d" % number * 100
        assert await world.content(Digest.of(content)) == content
    await world.expect_nothing()


# --- what is refused


async def test_an_algorithm_nobody_computes_begins_nothing(world: World) -> None:
    with refused(DIGEST_INVALID):
        await world.uploads.start(HERE, ALICE, "md5")
    await world.expect_nothing()


@pytest.mark.parametrize(
    ("repository", "account"),
    [(HERE, "bob"), ("there/app", ALICE), ("there/app", "bob"), ("", ""), (HERE, "")],
)
@pytest.mark.parametrize("restarted", [False, True])
async def test_to_anybody_else_a_session_does_not_exist(
    world: World, repository: str, account: str, restarted: bool
) -> None:
    session = await world.begin(CONTENT)
    uploads = world.restart().uploads if restarted else world.uploads
    for verb in (
        lambda: uploads.offset(repository, account, session),
        lambda: uploads.append(repository, account, session, Sent(b"x")),
        lambda: uploads.commit(repository, account, session, DIGEST, Sent()),
        lambda: uploads.cancel(repository, account, session),
    ):
        with refused(BLOB_UPLOAD_UNKNOWN):
            await verb()
    assert await world.offset(session) == len(CONTENT)


@pytest.mark.parametrize(
    "session", ["", "nonsense", "../blobs", "00000000-0000-4000-8000-000000000000"]
)
async def test_a_session_that_never_was_is_unknown(world: World, session: str) -> None:
    with refused(BLOB_UPLOAD_UNKNOWN):
        await world.offset(session)


async def test_a_chunk_in_the_wrong_place_is_told_the_right_one(world: World) -> None:
    session = await world.begin(CONTENT[:10])
    for start in (0, 9, 11):
        with refused(RANGE_INVALID) as caught:
            await world.uploads.append(
                HERE, ALICE, session, Sent(b"x"), content_range=ContentRange(start, start)
            )
        assert caught.value.headers == (
            ("Location", f"/v2/{HERE}/blobs/uploads/{session}"),
            ("Range", "0-9"),
        )
    assert await world.offset(session) == 10


@pytest.mark.parametrize("surplus", [1, 5, 3 << 20])
async def test_an_overlong_chunk_leaves_no_trace(world: World, surplus: int) -> None:
    session = await world.begin(CONTENT[:10])
    with refused(SIZE_INVALID, "10 bytes were announced"):
        await world.uploads.append(
            HERE,
            ALICE,
            session,
            Sent(CONTENT[10:15], CONTENT[15:20], bytes(surplus)),
            content_length=10,
        )
    assert await world.offset(session) == 10
    await world.commit(session, CONTENT[10:])
    assert await world.content() == CONTENT


async def test_of_a_chunk_that_ends_early_what_came_is_kept(world: World) -> None:
    session = await world.begin(CONTENT[:10])
    with refused(SIZE_INVALID):
        await world.uploads.append(HERE, ALICE, session, Sent(CONTENT[10:14]), content_length=10)
    assert await world.offset(session) == 14
    await world.commit(session, CONTENT[14:])
    assert await world.content() == CONTENT


@pytest.mark.parametrize("error", [ClientLeft(), BODY_STALLED.error()])
async def test_of_a_body_that_breaks_off_what_came_is_kept(world: World, error: Exception) -> None:
    session = await world.begin()
    with pytest.raises(type(error)):
        await world.uploads.append(
            HERE,
            ALICE,
            session,
            Sent(CONTENT[:5], CONTENT[5:9], error=error),
            content_length=len(CONTENT),
        )
    assert await world.offset(session) == 9
    body = Sent(CONTENT[9:20], error=error)
    with pytest.raises(type(error)):
        await world.uploads.commit(HERE, ALICE, session, DIGEST, body)
    assert await world.offset(session) == 20
    await world.commit(session, CONTENT[20:])
    assert await world.content() == CONTENT


async def test_bytes_of_another_digest_end_the_session(world: World) -> None:
    session = await world.begin(CONTENT[:10])
    with refused(DIGEST_INVALID, "the 11 bytes received have digest sha256:") as caught:
        await world.commit(session, b"?")
    assert caught.value.details == ({"digest": str(DIGEST)},)
    with refused(BLOB_UPLOAD_UNKNOWN):
        await world.offset(session)
    assert await world.catalogue.find_blob(HERE, DIGEST) is None
    await world.expect_nothing()


async def test_a_cancelled_session_is_over(world: World) -> None:
    session = await world.begin(CONTENT)
    await world.uploads.cancel(HERE, ALICE, session)
    for verb in (world.offset, world.append, world.commit):
        with refused(BLOB_UPLOAD_UNKNOWN):
            await verb(session)
    with refused(BLOB_UPLOAD_UNKNOWN):
        await world.uploads.cancel(HERE, ALICE, session)
    await world.expect_nothing()


# --- taking over


class Outcome:
    """What became of a task: a value, or the row it was refused with."""

    def __init__(self) -> None:
        self.value: object = None

    async def of(self, doing: Awaitable[object]) -> None:
        try:
            self.value = await doing
        except RegistryError as error:
            self.value = error.row


async def test_a_newer_request_takes_over_and_the_bytes_of_the_older_count(world: World) -> None:
    session = await world.begin()
    client, older = Client(CONTENT[:5], CONTENT[5:9]), Outcome()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(older.of, world.uploads.append(HERE, ALICE, session, client))
        await client.waited_for.wait()
        assert await world.append(session, CONTENT[9:]) == len(CONTENT)
    assert older.value is SESSION_TAKEN_OVER
    await world.commit(session)
    assert await world.content() == CONTENT


async def test_what_an_older_request_announced_does_not_bind_the_newer(world: World) -> None:
    session = await world.begin()
    client, older = Client(CONTENT[:9]), Outcome()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            older.of,
            world.uploads.append(HERE, ALICE, session, client, content_range=ContentRange(0, 42)),
        )
        await client.waited_for.wait()
        # A client that repeats its chunk from the start learns where the session stands …
        with refused(RANGE_INVALID) as caught:
            await world.uploads.append(
                HERE, ALICE, session, Sent(CONTENT), content_range=ContentRange(0, 42)
            )
    assert ("Range", "0-8") in caught.value.headers
    assert older.value is SESSION_TAKEN_OVER
    # … and goes on from there.
    await world.uploads.append(
        HERE, ALICE, session, Sent(CONTENT[9:]), content_range=ContentRange(9, 42)
    )
    await world.commit(session)
    assert await world.content() == CONTENT


async def test_of_three_at_once_the_newest_wins(world: World) -> None:
    session = await world.begin()
    client, first = Client(CONTENT[:9]), Outcome()
    arrived: list[Outcome] = []

    async def come(outcome: Outcome) -> None:
        arrived.append(outcome)
        await outcome.of(world.append(session, CONTENT[9:]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(first.of, world.uploads.append(HERE, ALICE, session, client))
        await client.waited_for.wait()
        for _ in range(4):
            nursery.start_soon(come, Outcome())
    assert first.value is SESSION_TAKEN_OVER
    assert [outcome.value for outcome in arrived] == [SESSION_TAKEN_OVER] * 3 + [len(CONTENT)]
    await world.commit(session)
    assert await world.content() == CONTENT


async def test_a_commit_takes_over_from_a_chunk(world: World) -> None:
    session = await world.begin()
    client, older = Client(CONTENT[:9]), Outcome()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(older.of, world.uploads.append(HERE, ALICE, session, client))
        await client.waited_for.wait()
        await world.commit(session, CONTENT[9:])
    assert older.value is SESSION_TAKEN_OVER
    assert await world.content() == CONTENT
    await world.expect_nothing()


async def test_cancelling_takes_over_from_a_chunk(world: World) -> None:
    session = await world.begin()
    client, older = Client(CONTENT[:9]), Outcome()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(older.of, world.uploads.append(HERE, ALICE, session, client))
        await client.waited_for.wait()
        await world.uploads.cancel(HERE, ALICE, session)
    assert older.value is SESSION_TAKEN_OVER
    await world.expect_nothing()


async def test_asking_how_far_it_is_takes_nothing_over(world: World) -> None:
    session = await world.begin(CONTENT[:5])
    client, writer = Client(CONTENT[5:9]), Outcome()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.of, world.uploads.append(HERE, ALICE, session, client))
        await client.waited_for.wait()
        assert await world.offset(session) == 9
        client.give(CONTENT[9:])
        client.end()
    assert writer.value == len(CONTENT)


async def test_a_newer_request_that_leaves_while_it_waits_harms_nobody(world: World) -> None:
    session = await world.begin()
    client, older = Client(CONTENT[:9]), Outcome()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(older.of, world.uploads.append(HERE, ALICE, session, client))
        await client.waited_for.wait()
        with trio.CancelScope() as scope:
            scope.cancel()
            await world.append(session, b"never")
    assert scope.cancelled_caught
    assert older.value is SESSION_TAKEN_OVER
    assert await world.offset(session) == 9
    await world.commit(session, CONTENT[9:])
    assert await world.content() == CONTENT


async def test_who_comes_while_a_blob_is_being_recorded_comes_too_late(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await world.begin(CONTENT)
    commit, reached, go = world.catalogue.commit_session, trio.Event(), trio.Event()

    async def slowly(record: Session, digest: Digest, size: int) -> None:
        reached.set()
        with trio.CancelScope(shield=True):  # as the database waits for its thread
            await go.wait()
        await commit(record, digest, size)

    monkeypatch.setattr(world.catalogue, "commit_session", slowly)
    first, second = Outcome(), Outcome()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first.of, world.commit(session))
        await reached.wait()
        nursery.start_soon(second.of, world.append(session, b"more"))
        await trio.testing.wait_all_tasks_blocked()
        go.set()
    assert first.value is None
    assert second.value is BLOB_UPLOAD_UNKNOWN
    assert await world.content() == CONTENT
    await world.expect_nothing()


# --- restarts


@pytest.mark.parametrize("recovered", [False, True])
async def test_a_session_goes_on_after_a_restart(world: World, recovered: bool) -> None:
    session = await world.begin(CONTENT[:10])
    world = world.restart()
    await world.uploads.discard_strays()
    if recovered:
        await world.uploads.recover()
    assert await world.offset(session) == 10
    await world.append(session, CONTENT[10:20])
    world = world.restart()
    await world.commit(session, CONTENT[20:])
    assert await world.content() == CONTENT


async def test_of_several_that_come_back_at_once_one_writes(world: World) -> None:
    session = await world.begin(CONTENT[:10])
    world = world.restart()
    outcomes = [Outcome() for _ in range(5)]
    async with trio.open_nursery() as nursery:
        for outcome in outcomes:
            chunk = world.uploads.append(
                HERE, ALICE, session, Sent(CONTENT[10:]), content_range=ContentRange(10, 42)
            )
            nursery.start_soon(outcome.of, chunk)
    values = [outcome.value for outcome in outcomes]
    assert values.count(len(CONTENT)) == 1
    assert set(values) <= {len(CONTENT), SESSION_TAKEN_OVER, RANGE_INVALID}
    await world.commit(session)
    assert await world.content() == CONTENT


async def test_recovery_hashes_what_is_there(world: World) -> None:
    sessions = [await world.begin(CONTENT) for _ in range(3)]
    world = world.restart()
    await world.uploads.recover()
    for session in sessions:
        staged = world.uploads._open[session].staged
        if isinstance(staged, StagedFile):
            assert staged._hashed == staged.size == len(CONTENT)
        await world.commit(session)
    assert await world.content() == CONTENT


async def test_recovery_goes_on_behind_a_session_whose_bytes_are_lost(world: World) -> None:
    lost, kept = await world.begin(CONTENT), await world.begin(CONTENT)
    await world.store.discard(lost)
    world = world.restart()
    with structlog.testing.capture_logs() as logs:
        await world.uploads.recover()
    assert [(entry["event"], entry["session"]) for entry in logs] == [("upload session lost", lost)]
    with refused(BLOB_UPLOAD_UNKNOWN):
        await world.offset(lost)
    await world.commit(kept)


async def test_staged_bytes_that_no_session_accounts_for_are_discarded(world: World) -> None:
    kept = await world.begin(CONTENT[:10])
    stray = await world.begin(CONTENT)
    await world.catalogue.remove_session(stray)
    (await world.store.stage("put-4711", "sha256")).append([CONTENT])
    world = world.restart()
    await world.uploads.discard_strays()
    assert set(await world.store.staged()) == {kept}
    assert await world.offset(kept) == 10


# --- expiry


async def test_what_nobody_has_touched_expires(world: World) -> None:
    sessions = [await world.begin(CONTENT), await world.uploads.start(HERE, ALICE)]
    assert await world.uploads.expire(3600) == 0
    assert [await world.offset(session) for session in sessions] == [len(CONTENT), 0]
    assert await world.uploads.expire(0) == 2
    assert await world.uploads.expire(0) == 0
    for session in sessions:
        with refused(BLOB_UPLOAD_UNKNOWN):
            await world.offset(session)
        with refused(BLOB_UPLOAD_UNKNOWN):
            await world.append(session, b"x")
    await world.expect_nothing()


async def test_what_nobody_has_touched_since_a_restart_expires(world: World) -> None:
    await world.begin(CONTENT)
    world = world.restart()
    assert await world.uploads.expire(3600) == 0
    assert await world.uploads.expire(0) == 1
    await world.expect_nothing()


async def test_a_session_in_use_does_not_expire(world: World) -> None:
    used, unused = await world.begin(CONTENT[:5]), await world.begin(CONTENT)
    client, writer = Client(CONTENT[5:9]), Outcome()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writer.of, world.uploads.append(HERE, ALICE, used, client))
        await client.waited_for.wait()
        assert await world.uploads.expire(0) == 1
        client.give(CONTENT[9:])
        client.end()
    assert writer.value == len(CONTENT)
    with refused(BLOB_UPLOAD_UNKNOWN):
        await world.offset(unused)
    await world.commit(used)
    assert await world.content() == CONTENT


async def test_a_session_that_ends_while_others_expire_is_left_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await world.begin(CONTENT)
    world = world.restart()
    staged = world.store.staged

    async def and_then_it_is_committed() -> dict[str, float]:
        found = await staged()
        await world.commit(session)
        return found

    monkeypatch.setattr(world.store, "staged", and_then_it_is_committed)
    assert await world.uploads.expire(0) <= 1
    monkeypatch.undo()
    assert await world.content() == CONTENT
    await world.expect_nothing()
    with refused(BLOB_UPLOAD_UNKNOWN):
        await world.offset(session)


async def test_a_record_without_bytes_expires_at_once(world: World) -> None:
    session = await world.begin(CONTENT)
    await world.store.discard(session)
    assert await world.restart().uploads.expire(3600) == 1
    await world.expect_nothing()


# --- failures


async def test_a_session_that_cannot_be_recorded_does_not_begin(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.catalogue, "add_session", failing(STORE_UNAVAILABLE.error()))
    with refused(STORE_UNAVAILABLE):
        await world.uploads.start(HERE, ALICE)
    await world.expect_nothing()


def failing(error: Exception) -> Callable[..., Awaitable[None]]:
    async def fail(*_: object) -> None:
        await trio.lowlevel.checkpoint()
        raise error

    return fail


@pytest.mark.parametrize("verb", ["append", "digest", "publish"])
async def test_a_store_that_fails_ends_no_session(
    world: World,
    break_staged: Callable[[str, ErrorRow], None],
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
) -> None:
    session = await world.begin(CONTENT[:10])
    break_staged(verb, STORE_FULL)
    with refused(STORE_FULL):
        await world.commit(session, CONTENT[10:])
    monkeypatch.undo()
    offset = await world.offset(session)
    assert offset == (10 if verb == "append" else len(CONTENT))
    await world.commit(session, CONTENT[offset:])
    assert await world.content() == CONTENT


async def test_a_blob_that_is_stored_but_not_recorded_ends_its_session_and_harms_nobody(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await world.begin(CONTENT)
    with monkeypatch.context() as patch:
        patch.setattr(world.catalogue, "commit_session", failing(STORE_FULL.error()))
        with refused(STORE_FULL):
            await world.commit(session)
    with refused(BLOB_UPLOAD_UNKNOWN):
        await world.offset(session)
    assert await world.catalogue.find_blob(HERE, DIGEST) is None
    async with world.store.open(DIGEST) as region:
        assert await region.read(0, region.size) == CONTENT
    await world.uploads.expire(3600)
    await world.expect_nothing()
    await world.uploads.put(HERE, ALICE, DIGEST, Sent(CONTENT))
    assert await world.content() == CONTENT


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (lambda: Sent(CONTENT[1:]), DIGEST_INVALID.error()),
        (lambda: Sent(CONTENT[:-1]), SIZE_INVALID.error()),
        (lambda: Sent(CONTENT, b"?"), SIZE_INVALID.error()),
        (Sent, SIZE_INVALID.error()),
        (lambda: Sent(CONTENT[:9], error=ClientLeft()), ClientLeft()),
        (lambda: Sent(CONTENT[:9], error=BODY_STALLED.error()), BODY_STALLED.error()),
        (lambda: Sent(error=ZeroDivisionError()), ZeroDivisionError()),
    ],
)
async def test_a_whole_blob_that_does_not_come_right_leaves_no_session(
    world: World, body: Callable[[], Body], error: Exception
) -> None:
    length = None if isinstance(error, RegistryError) and error.row is DIGEST_INVALID else 43
    with pytest.raises(type(error)) as caught:
        await world.uploads.put(HERE, ALICE, DIGEST, body(), content_length=length)
    if isinstance(error, RegistryError):
        assert isinstance(caught.value, RegistryError)
        assert caught.value.row is error.row
    assert await world.catalogue.find_blob(HERE, DIGEST) is None
    await world.expect_nothing()


@pytest.mark.parametrize("verb", ["append", "digest", "publish"])
async def test_a_whole_blob_that_cannot_be_stored_leaves_no_session(
    world: World, break_staged: Callable[[str, ErrorRow], None], verb: str
) -> None:
    break_staged(verb, STORE_FULL)
    with refused(STORE_FULL):
        await world.uploads.put(HERE, ALICE, DIGEST, Sent(CONTENT))
    with refused(BLOB_UNKNOWN):
        async with world.store.open(DIGEST):
            pass
    await world.expect_nothing()


async def test_a_whole_blob_that_cannot_be_recorded_leaves_no_session(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.catalogue, "commit_session", failing(STORE_FULL.error()))
    with refused(STORE_FULL):
        await world.uploads.put(HERE, ALICE, DIGEST, Sent(CONTENT))
    await world.expect_nothing()


async def test_a_whole_blob_whose_request_is_cancelled_leaves_no_session(world: World) -> None:
    client = Client(CONTENT[:9])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.uploads.put, HERE, ALICE, DIGEST, client)
        await client.waited_for.wait()
        nursery.cancel_scope.cancel()
    await world.expect_nothing()


# --- cancellation at every step


class CancelAtStep(trio.abc.Instrument):
    """Cancels a scope when the task that made this takes its nth step from here."""

    def __init__(self, scope: trio.CancelScope, step: int) -> None:
        self._task = trio.lowlevel.current_task()
        self._scope = scope
        self._left = step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._left -= 1
            if not self._left:
                self._scope.cancel()


async def cancelled_at(step: int, doing: Awaitable[object]) -> bool:
    """Do something that is cancelled at that step; tell whether it got to its end before."""
    with trio.CancelScope() as scope:
        if not step:
            scope.cancel()
        instrument = CancelAtStep(scope, step)
        trio.lowlevel.add_instrument(instrument)
        try:
            await doing
            return not scope.cancel_called
        finally:
            trio.lowlevel.remove_instrument(instrument)
    return False


async def sweep(check: Callable[[int], Awaitable[bool]]) -> None:
    """Run a check with a cancellation one step later each time, until none happens any more."""
    step = 0
    while not await check(step):
        step += 1
        assert step < 1000
    assert step > 1


async def test_starting_leaves_a_session_or_none_whenever_it_is_cancelled(world: World) -> None:
    async def check(step: int) -> bool:
        whole = await cancelled_at(step, world.uploads.start(HERE, ALICE))
        await world.expect_consistent()
        return whole

    await sweep(check)


async def test_appending_keeps_a_beginning_whenever_it_is_cancelled(world: World) -> None:
    async def check(step: int) -> bool:
        session = await world.begin()
        client = Client(CONTENT[:9], CONTENT[9:])
        client.end()
        whole = await cancelled_at(step, world.uploads.append(HERE, ALICE, session, client))
        offset = await world.offset(session)
        assert offset in {0, 9, len(CONTENT)}
        await world.commit(session, CONTENT[offset:])
        assert await world.content() == CONTENT
        return whole

    await sweep(check)


async def test_committing_leaves_a_session_or_a_blob_whenever_it_is_cancelled(
    world: World,
) -> None:
    async def check(step: int) -> bool:
        session = await world.begin(CONTENT[:10])
        digest = Digest.of(CONTENT + b"%d" % step)
        body = Sent(CONTENT[10:], b"%d" % step)
        whole = await cancelled_at(step, world.uploads.commit(HERE, ALICE, session, digest, body))
        await world.expect_consistent()
        if await world.catalogue.find_session(session) is None:
            assert await world.content(digest) == CONTENT + b"%d" % step
        else:
            assert await world.catalogue.find_blob(HERE, digest) is None
            offset = await world.offset(session)
            await world.commit(session, (CONTENT + b"%d" % step)[offset:], digest=digest)
        return whole

    await sweep(check)


async def test_a_whole_blob_comes_or_leaves_nothing_whenever_it_is_cancelled(
    world: World,
) -> None:
    async def check(step: int) -> bool:
        digest = Digest.of(CONTENT + b"%d" % step)
        body = Sent(CONTENT, b"%d" % step)
        whole = await cancelled_at(step, world.uploads.put(HERE, ALICE, digest, body))
        await world.expect_nothing()
        if whole:
            assert await world.content(digest) == CONTENT + b"%d" % step
        return whole

    await sweep(check)


@pytest.mark.parametrize("how", ["cancel", "wrong digest"])
async def test_ending_a_session_ends_all_of_it_or_nothing_whenever_it_is_cancelled(
    world: World, how: str
) -> None:
    async def end(session: str) -> None:
        if how == "cancel":
            await world.uploads.cancel(HERE, ALICE, session)
        else:
            with refused(DIGEST_INVALID):
                await world.commit(session, b"?")

    async def check(step: int) -> bool:
        session = await world.begin(CONTENT)
        whole = await cancelled_at(step, end(session))
        await world.expect_consistent()
        return whole

    await sweep(check)
