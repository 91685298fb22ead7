"""Two daemons over one data folder, as they are while one follows the other: files and catalogue are real."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
import trio.testing

from appliance.catalogue.database import Database
from appliance.catalogue.records import Catalogue
from appliance.oci.digest import Digest
from appliance.oci.errors import (
    BLOB_UPLOAD_UNKNOWN,
    DIGEST_INVALID,
    SESSION_TAKEN_OVER,
    SIZE_INVALID,
)
from appliance.registry import sharing as module
from appliance.registry.locks import DigestLocks
from appliance.registry.ports import Body, Sink
from appliance.registry.quotas import Quotas
from appliance.registry.sharing import Sharing
from appliance.registry.space import Space
from appliance.registry.uploads import Uploads
from appliance.storage.files import FileStore
from tests.refused import refused
from tests.registry.leased import leased
from tests.registry.sent import Sent

HERE, ALICE = "team/app", "alice"


class Slow:
    """A client that sends a first piece, and the next one when it is told to."""

    def __init__(self, first: bytes, second: bytes) -> None:
        self._first, self._second = first, second
        self.has_begun = trio.Event()
        self.go_on = trio.Event()

    async def drain(self, sink: Sink) -> None:
        await Sent(self._first).drain(sink)
        self.has_begun.set()
        await self.go_on.wait()
        await Sent(self._second).drain(sink)


@dataclass
class Neighbour:
    """One of the two daemons."""

    uploads: Uploads
    sharing: Sharing
    catalogue: Catalogue
    database: Database
    store: FileStore

    @classmethod
    def open(cls, folder: Path) -> "Neighbour":
        store = FileStore(folder)
        store.prepare()
        database = Database.open(folder / "catalogue.sqlite3")
        database.share(shared=True)
        catalogue, sharing = Catalogue(database), Sharing()
        uploads = Uploads(
            store=store,
            records=catalogue,
            leases=leased(),
            locks=DigestLocks(),
            space=Space(store),
            quotas=Quotas(catalogue),
            sharing=sharing,
        )
        return cls(uploads, sharing, catalogue, database, store)

    async def append(self, session: str, body: Body, size: int | None = None) -> int:
        return await self.uploads.append(HERE, ALICE, session, body, content_length=size)

    async def commit(self, session: str, content: bytes, rest: bytes = b"") -> None:
        digest = Digest.of(content)
        await self.uploads.commit(HERE, ALICE, session, digest, Sent(rest))

    async def content(self, digest: Digest) -> bytes:
        assert await self.catalogue.find_blob(HERE, digest) is not None
        async with self.store.open(digest) as region:
            return await region.read(0, region.size)


@dataclass
class Pair:
    """The one that leaves and the one that has come, which know of each other."""

    old: Neighbour
    new: Neighbour


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    old, new = Neighbour.open(tmp_path), Neighbour.open(tmp_path)
    old.sharing.begin(new.uploads.give_up)
    new.sharing.begin(old.uploads.give_up)
    yield Pair(old, new)
    await new.database.aclose()
    await old.database.aclose()


async def test_a_session_goes_on_at_either(pair: Pair) -> None:
    session = await pair.old.uploads.start(HERE, ALICE)
    assert await pair.old.append(session, Sent(b"one ")) == 4
    assert await pair.new.append(session, Sent(b"two ")) == 8
    assert await pair.old.uploads.offset(HERE, ALICE, session) == 8
    assert await pair.old.append(session, Sent(b"three ")) == 14
    content = b"one two three four"
    await pair.new.commit(session, content, b"four")
    for one in (pair.old, pair.new):
        assert await one.content(Digest.of(content)) == content


async def test_a_session_that_one_begins_and_the_other_writes_first(pair: Pair) -> None:
    session = await pair.old.uploads.start(HERE, ALICE)
    assert await pair.new.append(session, Sent(b"0123456789")) == 10
    assert await pair.old.append(session, Sent(b"abc")) == 13
    await pair.old.commit(session, b"0123456789abc")
    assert await pair.new.content(Digest.of(b"0123456789abc")) == b"0123456789abc"


async def test_bytes_that_the_other_has_changed_are_hashed_anew(pair: Pair) -> None:
    session = await pair.old.uploads.start(HERE, ALICE)
    await pair.old.append(session, Sent(b"abcd"))
    with refused(SIZE_INVALID):  # too much came, so that nothing of it stays
        await pair.new.append(session, Sent(b"ef"), size=1)
    await pair.new.append(session, Sent(b"EF"))
    with refused(DIGEST_INVALID):
        await pair.old.commit(session, b"abcdef")
    session = await pair.old.uploads.start(HERE, ALICE)
    await pair.old.append(session, Sent(b"abcd"))
    await pair.new.append(session, Sent(b"EF"))
    await pair.old.commit(session, b"abcdEF")
    assert await pair.new.content(Digest.of(b"abcdEF")) == b"abcdEF"


async def test_a_newer_request_at_the_other_ends_the_one_that_writes(pair: Pair) -> None:
    session = await pair.old.uploads.start(HERE, ALICE)
    slow = Slow(b"one ", b"never")

    async def stalls() -> None:
        with refused(SESSION_TAKEN_OVER):
            await pair.old.append(session, slow)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stalls)
        await slow.has_begun.wait()
        assert await pair.new.append(session, Sent(b"two")) == 7
    await pair.new.commit(session, b"one two")


async def test_whoever_does_not_let_go_keeps_the_session(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CLAIM_SECONDS", 0.2)
    pair.new.sharing.begin(lambda _: None)
    session = await pair.old.uploads.start(HERE, ALICE)
    slow = Slow(b"one ", b"two")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.old.append, session, slow)
        await slow.has_begun.wait()
        with refused(SESSION_TAKEN_OVER):
            await pair.new.append(session, Sent(b"other"))
        slow.go_on.set()
    assert await pair.new.append(session, Sent(b"")) == 7
    await pair.new.commit(session, b"one two")


async def test_a_request_that_writes_when_the_other_comes_keeps_its_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CLAIM_SECONDS", 0.2)
    old = Neighbour.open(tmp_path)
    session, idle = [await old.uploads.start(HERE, ALICE) for _ in range(2)]
    await old.append(idle, Sent(b"at rest"))
    slow = Slow(b"one ", b"two")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(old.append, session, slow)
        await slow.has_begun.wait()
        old.sharing.begin(lambda _: None)
        await old.uploads.share()
        new = Neighbour.open(tmp_path)
        new.sharing.begin(lambda _: None)
        with refused(SESSION_TAKEN_OVER):
            await new.append(session, Sent(b"other"))
        await new.append(idle, Sent(b", not any more"))
        slow.go_on.set()
    await new.commit(session, b"one two")
    await old.commit(idle, b"at rest, not any more")
    await new.database.aclose()
    await old.database.aclose()


async def test_what_the_other_wrote_last_counts_after_its_end(pair: Pair) -> None:
    session, ended = [await pair.old.uploads.start(HERE, ALICE) for _ in range(2)]
    await pair.new.uploads.recover()
    await pair.old.append(session, Sent(b"content"))
    await pair.old.commit(ended, b"")
    await pair.new.uploads.look_again()
    pair.new.sharing.end()
    assert await pair.new.uploads.offset(HERE, ALICE, session) == 7
    await pair.new.commit(session, b"content")
    with refused(BLOB_UPLOAD_UNKNOWN):
        await pair.new.append(ended, Sent(b"more"))


async def test_a_claim_ends_with_its_request_though_the_other_went_away(tmp_path: Path) -> None:
    only = Neighbour.open(tmp_path)
    session = await only.uploads.start(HERE, ALICE)
    slow = Slow(b"one ", b"two ")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(only.append, session, slow)
        await slow.has_begun.wait()
        only.sharing.begin(lambda _: None)
        await only.uploads.share()
        only.sharing.end()  # it never came to serve
        slow.go_on.set()
    only.sharing.begin(lambda _: None)
    assert await only.append(session, Sent(b"three")) == 13
    await only.database.aclose()


async def test_a_session_that_the_other_has_ended_is_unknown(pair: Pair) -> None:
    published, cancelled = [await pair.old.uploads.start(HERE, ALICE) for _ in range(2)]
    for session in (published, cancelled):
        await pair.old.append(session, Sent(b"content"))
    await pair.new.commit(published, b"content")
    await pair.new.uploads.cancel(HERE, ALICE, cancelled)
    for session in (published, cancelled):
        with refused(BLOB_UPLOAD_UNKNOWN):
            await pair.old.append(session, Sent(b"more"))
        with refused(BLOB_UPLOAD_UNKNOWN):
            await pair.old.uploads.offset(HERE, ALICE, session)


async def test_sessions_expire_only_once_one_is_alone(pair: Pair) -> None:
    session = await pair.old.uploads.start(HERE, ALICE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pair.new.uploads.expire, 0.0)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert await pair.old.append(session, Sent(b"still here")) == 10
        pair.new.sharing.end()
    with refused(BLOB_UPLOAD_UNKNOWN):
        await pair.new.append(session, Sent(b"more"))


async def test_what_one_records_the_other_reads_at_once(pair: Pair) -> None:
    digest = Digest.of(b"content")
    for _ in range(2):  # so that the answer would be remembered
        assert await pair.old.catalogue.find_blob(HERE, digest) is None
    await pair.new.uploads.put(HERE, ALICE, digest, Sent(b"content"))
    for _ in range(2):
        assert await pair.old.catalogue.find_blob(HERE, digest) == 7
    await pair.new.database.write(lambda connection: connection.execute("DELETE FROM link"))
    assert await pair.old.catalogue.find_blob(HERE, digest) is None
