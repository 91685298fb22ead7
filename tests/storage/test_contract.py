"""What every store promises, whatever it keeps blobs in (`appliance.registry.ports`)."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from appliance import work
from appliance.oci.digest import Digest
from appliance.oci.errors import BLOB_UNKNOWN, BLOB_UPLOAD_UNKNOWN, DIGEST_INVALID
from appliance.registry.ports import BlobStore
from appliance.storage.files import FileStore
from appliance.storage.memory import MemoryStore
from tests.refused import refused

CONTENT = bytes(range(256)) * 40
SESSION = "00000000-0000-4000-8000-000000000000"

Restart = Callable[[], BlobStore]


@pytest.fixture(params=["files", "memory"])
def restart(request: pytest.FixtureRequest, tmp_path: Path) -> Restart:
    """Give the store as a process that has just started finds it."""
    if request.param == "memory":
        memory = MemoryStore()
        return lambda: memory

    def open_files() -> BlobStore:
        files = FileStore(tmp_path)
        files.prepare()
        return files

    return open_files


@pytest.fixture
def store(restart: Restart) -> BlobStore:
    return restart()


async def content_of(store: BlobStore, digest: Digest) -> bytes:
    async with store.open(digest) as region:
        return await region.read(0, region.size)


async def assert_unknown(store: BlobStore, digest: Digest) -> None:
    with refused(BLOB_UNKNOWN):
        async with store.open(digest):
            raise AssertionError("there is such a blob")


# --- on the way in


async def test_a_blob_is_begun_grows_and_appears(store: BlobStore) -> None:
    staged = await store.stage(SESSION, "sha256")
    assert staged.size == 0
    staged.append([CONTENT[:1000]])
    staged.append([CONTENT[1000:1001], CONTENT[1001:5000], CONTENT[5000:]])
    assert staged.size == len(CONTENT)
    digest = await staged.digest("sha256")
    assert digest == Digest.of(CONTENT)
    await assert_unknown(store, digest)
    await staged.publish(digest)
    assert await content_of(store, digest) == CONTENT
    assert await store.staged() == {}


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_an_empty_blob_is_a_blob(store: BlobStore, algorithm: str) -> None:
    staged = await store.stage(SESSION, algorithm)
    digest = await staged.digest(algorithm)
    assert digest == Digest.of(b"", algorithm)
    await staged.publish(digest)
    assert await content_of(store, digest) == b""


async def test_nothing_appended_changes_nothing(store: BlobStore) -> None:
    staged = await store.stage(SESSION, "sha256")
    staged.append([])
    staged.append([b""])
    staged.append([b"", b"a", b""])
    assert staged.size == 1
    assert await staged.digest("sha256") == Digest.of(b"a")


async def test_pieces_are_good_during_the_call_only(store: BlobStore) -> None:
    staged = await store.stage(SESSION, "sha256")
    buffer = bytearray(1000)
    for number in range(5):
        buffer[:] = bytes([number]) * 1000
        with memoryview(buffer) as whole, whole[:10] as first, whole[10:] as rest:
            staged.append([first, rest])
    buffer.clear()  # which no one must be looking at any more
    expected = b"".join(bytes([number]) * 1000 for number in range(5))
    assert await staged.digest("sha256") == Digest.of(expected)
    await staged.publish(Digest.of(expected))
    assert await content_of(store, Digest.of(expected)) == expected


async def test_there_may_be_more_pieces_than_one_system_call_takes(store: BlobStore) -> None:
    pieces = [CONTENT[number % 256 : number % 256 + number % 3] for number in range(5000)]
    staged = await store.stage(SESSION, "sha256")
    staged.append(pieces)
    digest = Digest.of(b"".join(pieces))
    assert await staged.digest("sha256") == digest
    await staged.publish(digest)
    assert await content_of(store, digest) == b"".join(pieces)


async def test_a_digest_may_be_asked_at_any_time_and_again(store: BlobStore) -> None:
    staged = await store.stage(SESSION, "sha256")
    for size in (0, 10, 11, 5000):
        staged.append([CONTENT[staged.size : size]])
        for algorithm in ("sha256", "sha256", "sha512", "sha256"):
            assert await staged.digest(algorithm) == Digest.of(CONTENT[:size], algorithm)


async def test_another_algorithm_may_be_asked_for_once_the_bytes_have_come(
    store: BlobStore,
) -> None:
    staged = await store.stage(SESSION, "sha256")
    staged.append([CONTENT])
    digest = await staged.digest("sha512")
    assert digest == Digest.of(CONTENT, "sha512")
    staged.append([b"more"])
    assert await staged.digest("sha512") == Digest.of(CONTENT + b"more", "sha512")
    assert await staged.digest("sha256") == Digest.of(CONTENT + b"more")


@pytest.mark.parametrize("size", [0, 1, 4999, 5000])
async def test_bytes_can_be_taken_back(store: BlobStore, size: int) -> None:
    staged = await store.stage(SESSION, "sha256")
    staged.append([CONTENT[:5000]])
    await staged.truncate(size)
    assert staged.size == size
    assert await staged.digest("sha256") == Digest.of(CONTENT[:size])
    staged.append([b"other"])
    digest = Digest.of(CONTENT[:size] + b"other")
    assert await staged.digest("sha256") == digest
    await staged.publish(digest)
    assert await content_of(store, digest) == CONTENT[:size] + b"other"


async def test_discarding_removes_the_bytes_and_may_happen_twice(store: BlobStore) -> None:
    staged = await store.stage(SESSION, "sha256")
    staged.append([CONTENT])
    await staged.discard()
    assert await store.staged() == {}
    await staged.discard()
    await store.discard(SESSION)
    with refused(BLOB_UPLOAD_UNKNOWN):
        await store.resume(SESSION, "sha256")


async def test_the_store_discards_what_nobody_holds_open(store: BlobStore) -> None:
    staged = await store.stage(SESSION, "sha256")
    staged.append([CONTENT])
    await store.discard(SESSION)
    assert await store.staged() == {}
    await store.discard(SESSION)
    await store.discard("never begun")


async def test_what_has_been_discarded_takes_no_more(store: BlobStore) -> None:
    staged = await store.stage(SESSION, "sha256")
    staged.append([CONTENT])
    await staged.discard()
    with refused(BLOB_UPLOAD_UNKNOWN):
        staged.append([b"more"])
    with refused(BLOB_UPLOAD_UNKNOWN):
        await staged.truncate(0)
    with refused(BLOB_UPLOAD_UNKNOWN):
        await staged.publish(Digest.of(CONTENT))
    await assert_unknown(store, Digest.of(CONTENT))


async def test_what_has_been_published_takes_no_more(store: BlobStore) -> None:
    staged = await store.stage(SESSION, "sha256")
    staged.append([CONTENT])
    await staged.publish(Digest.of(CONTENT))
    with refused(BLOB_UPLOAD_UNKNOWN):
        staged.append([b"more"])
    await staged.discard()
    assert await content_of(store, Digest.of(CONTENT)) == CONTENT


async def test_a_blob_that_is_there_already_may_come_again(store: BlobStore) -> None:
    digest = Digest.of(CONTENT)
    for number in range(3):
        staged = await store.stage(f"session-{number}", "sha256")
        staged.append([CONTENT])
        await staged.publish(digest)
    await store.put(digest, CONTENT)
    assert await content_of(store, digest) == CONTENT
    assert await store.staged() == {}


async def test_sessions_do_not_mix(store: BlobStore) -> None:
    async def upload(number: int) -> None:
        content = bytes([number]) * 1000
        staged = await store.stage(f"session-{number}", "sha256")
        for offset in range(0, len(content), 100):
            await work.disk(staged.append, [content[offset : offset + 100]])
        assert await staged.digest("sha256") == Digest.of(content)
        await staged.publish(Digest.of(content))

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(upload, number)
    for number in range(20):
        content = bytes([number]) * 1000
        assert await content_of(store, Digest.of(content)) == content


async def test_an_unknown_algorithm_begins_nothing(store: BlobStore) -> None:
    with refused(DIGEST_INVALID):
        await store.stage(SESSION, "md5")
    assert await store.staged() == {}


# --- across a restart


async def test_a_blob_goes_on_after_a_restart(restart: Restart) -> None:
    (await restart().stage(SESSION, "sha256")).append([CONTENT[:3000]])
    store = restart()
    staged = await store.resume(SESSION, "sha256")
    assert staged.size == 3000
    staged.append([CONTENT[3000:]])
    assert await staged.digest("sha256") == Digest.of(CONTENT)
    await staged.publish(Digest.of(CONTENT))
    assert await content_of(restart(), Digest.of(CONTENT)) == CONTENT


async def test_what_never_began_cannot_go_on(store: BlobStore) -> None:
    with refused(BLOB_UPLOAD_UNKNOWN):
        await store.resume(SESSION, "sha256")


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_hashing_catches_up_while_more_bytes_come(restart: Restart, algorithm: str) -> None:
    (await restart().stage(SESSION, algorithm)).append([CONTENT])
    staged = await restart().resume(SESSION, algorithm)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(staged.catch_up)
        for number in range(10):
            await work.disk(staged.append, [bytes([number]) * 100])
    await staged.catch_up()
    expected = CONTENT + b"".join(bytes([number]) * 100 for number in range(10))
    assert staged.size == len(expected)
    assert await staged.digest(algorithm) == Digest.of(expected, algorithm)


async def test_several_may_wait_for_the_hash_to_catch_up(restart: Restart) -> None:
    # The background task that recovers sessions is one, a client that commits is another.
    (await restart().stage(SESSION, "sha256")).append([CONTENT])
    staged = await restart().resume(SESSION, "sha256")
    found: list[Digest] = []

    async def ask() -> None:
        found.append(await staged.digest("sha256"))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(staged.catch_up)
            nursery.start_soon(ask)
    assert found == [Digest.of(CONTENT)] * 5


async def test_bytes_may_be_taken_back_while_hashing_catches_up(restart: Restart) -> None:
    (await restart().stage(SESSION, "sha256")).append([CONTENT])
    staged = await restart().resume(SESSION, "sha256")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(staged.catch_up)
        nursery.start_soon(staged.truncate, 10)
    assert await staged.digest("sha256") == Digest.of(CONTENT[:10])


async def test_catching_up_with_nothing_is_quick(store: BlobStore) -> None:
    staged = await store.stage(SESSION, "sha256")
    await staged.catch_up()
    staged.append([CONTENT])
    await staged.catch_up()
    assert await staged.digest("sha256") == Digest.of(CONTENT)


async def test_blobs_stay_after_a_restart(restart: Restart) -> None:
    await restart().put(Digest.of(CONTENT), CONTENT)
    assert await content_of(restart(), Digest.of(CONTENT)) == CONTENT


async def test_what_is_on_its_way_in_is_listed_with_the_time_of_its_last_byte(
    restart: Restart,
) -> None:
    store = restart()
    first = await store.stage("first", "sha256")
    await store.stage("second", "sha512")
    begun = await store.staged()
    assert set(begun) == {"first", "second"}
    first.append([CONTENT])
    touched = await restart().staged()
    assert touched["first"] >= begun["first"]
    assert touched["second"] == begun["second"]
    await first.publish(Digest.of(CONTENT))
    assert set(await restart().staged()) == {"second"}


# --- whole blobs


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_a_whole_blob_is_stored_at_once(store: BlobStore, algorithm: str) -> None:
    digest = Digest.of(CONTENT, algorithm)
    await store.put(digest, CONTENT)
    assert await content_of(store, digest) == CONTENT
    assert await store.staged() == {}


async def test_the_same_bytes_under_two_digests_are_two_blobs(store: BlobStore) -> None:
    await store.put(Digest.of(CONTENT), CONTENT)
    await assert_unknown(store, Digest.of(CONTENT, "sha512"))


# --- on the way out


async def test_an_unknown_blob_cannot_be_opened(store: BlobStore) -> None:
    await assert_unknown(store, Digest.of(CONTENT))


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 0), (0, 1), (0, 10240), (5, 10), (10239, 1), (10240, 0), (10240, 5), (10000, 5000)],
)
async def test_any_part_of_a_blob_can_be_read(store: BlobStore, offset: int, length: int) -> None:
    assert len(CONTENT) == 10240
    await store.put(Digest.of(CONTENT), CONTENT)
    async with store.open(Digest.of(CONTENT)) as region:
        assert region.size == len(CONTENT)
        assert await region.read(offset, length) == CONTENT[offset : offset + length]


async def test_parts_may_be_read_in_any_order_by_several(store: BlobStore) -> None:
    await store.put(Digest.of(CONTENT), CONTENT)
    found: dict[int, bytes] = {}
    async with store.open(Digest.of(CONTENT)) as region:

        async def read(offset: int) -> None:
            found[offset] = await region.read(offset, 1000)

        async with trio.open_nursery() as nursery:
            for offset in range(10_000, -1, -1000):
                nursery.start_soon(read, offset)
    assert b"".join(found[offset] for offset in sorted(found)) == CONTENT


async def test_an_open_blob_can_be_read_while_the_same_comes_again(store: BlobStore) -> None:
    await store.put(Digest.of(CONTENT), CONTENT)
    async with store.open(Digest.of(CONTENT)) as region:
        before = await region.read(0, 5000)
        await store.put(Digest.of(CONTENT), CONTENT)
        assert before + await region.read(5000, len(CONTENT)) == CONTENT


async def test_what_the_reader_raises_passes_through(store: BlobStore) -> None:
    await store.put(Digest.of(CONTENT), CONTENT)
    with pytest.raises(FileNotFoundError):
        async with store.open(Digest.of(CONTENT)):
            raise FileNotFoundError


# --- looked after


async def no_pace(size: int) -> None:
    assert size > 0


async def in_quarantine(store: BlobStore) -> set[Digest | None]:
    return {found.digest for found in await store.quarantine()}


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_all_bytes_of_a_blob_are_read_over(store: BlobStore, algorithm: str) -> None:
    digest, other = Digest.of(CONTENT, algorithm), Digest.of(b"other", algorithm)
    await store.put(digest, CONTENT)
    await store.put(other, CONTENT)
    for asked in (digest, other):
        found = await store.inspect(asked, no_pace)
        assert (found.size, found.computed, found.fault) == (len(CONTENT), digest, "")
        assert await store.measure(asked) == len(CONTENT)
    nothing = Digest.of(b"", algorithm)
    missing = await store.inspect(nothing, no_pace)
    assert (missing.size, missing.computed) == (None, None)
    assert await store.measure(nothing) is None
    await store.put_away((digest,))
    assert (await store.inspect(digest, no_pace)).size is None
    assert (await store.inspect(digest, no_pace, in_quarantine=True)).computed == digest


async def test_whoever_is_told_of_what_was_read_may_hold_it_back(store: BlobStore) -> None:
    told: list[int] = []

    async def pace(size: int) -> None:
        told.append(size)
        await trio.lowlevel.checkpoint()

    content = bytes(10 << 20)
    await store.put(Digest.of(content), content)
    await store.inspect(Digest.of(content), pace)
    assert sum(told) == len(content)


async def test_what_is_not_right_is_set_aside_for_good(store: BlobStore) -> None:
    digest = Digest.of(CONTENT)
    for away in (False, True):
        await store.put(digest, b"rotten")
        if away:
            await store.put_away((digest,))
        found = await store.inspect(digest, no_pace, in_quarantine=away)
        assert await store.set_aside(digest, found.mark, in_quarantine=away)
        assert not await store.set_aside(digest, found.mark, in_quarantine=away)
        await store.bring_back((digest,))
        await assert_unknown(store, digest)
        assert await in_quarantine(store) == set()
        await store.purge((digest,))
    assert await store.drop_set_aside(0) == 0
    assert await store.drop_set_aside(time.time() + 1) == len(b"rotten")
    assert await store.drop_set_aside(time.time() + 1) == 0


async def test_what_has_come_meanwhile_is_not_set_aside(store: BlobStore) -> None:
    digest = Digest.of(CONTENT)
    await store.put(digest, b"rotten")
    found = await store.inspect(digest, no_pace)
    await store.put(digest, bytes(CONTENT))
    assert not await store.set_aside(digest, found.mark)
    assert await content_of(store, digest) == CONTENT


async def test_a_mark_outlives_the_way_to_quarantine_and_back(store: BlobStore) -> None:
    digest = Digest.of(CONTENT)
    await store.put(digest, CONTENT)
    before = await store.inspect(digest, no_pace)
    await store.put_away((digest,))
    await store.bring_back((digest,))
    assert (await store.inspect(digest, no_pace)).mark == before.mark
    await store.put(digest, bytes(bytearray(CONTENT)))
    assert (await store.inspect(digest, no_pace)).mark != before.mark


async def test_all_that_is_there_is_listed(store: BlobStore) -> None:
    assert await store.is_empty()
    digests = {Digest.of(bytes([number]), "sha512") for number in range(10)}
    digests |= {Digest.of(bytes([number])) for number in range(10)}
    for digest in digests:
        await store.put(digest, b"content")
    assert not await store.is_empty()
    found = [one for shelf in await store.shelves() for one in await store.shelf(shelf)]
    assert {one.digest for one in found} == digests
    assert len(found) == len(digests)
    assert {(one.size, one.fault) for one in found} == {(7, "")}
    await store.put_away(list(digests))
    assert await in_quarantine(store) == digests
    assert await store.is_empty()


# --- at all times


async def test_a_store_that_works_is_writable_and_keeps_no_trace_of_the_question(
    store: BlobStore,
) -> None:
    await store.check_writable()
    assert await store.staged() == {}


async def test_every_verb_lets_others_run(store: BlobStore) -> None:
    with trio.testing.assert_checkpoints():
        staged = await store.stage(SESSION, "sha256")
    staged.append([CONTENT])  # which blocks, and is for threads
    with trio.testing.assert_checkpoints():
        await staged.truncate(5000)
    with trio.testing.assert_checkpoints():
        await staged.digest("sha512")
    with trio.testing.assert_checkpoints():
        await store.staged()
    with trio.testing.assert_checkpoints():
        await staged.publish(Digest.of(CONTENT[:5000]))
    with trio.testing.assert_checkpoints():
        async with store.open(Digest.of(CONTENT[:5000])) as region:
            pass
    with trio.testing.assert_checkpoints():
        await store.put(Digest.of(CONTENT), CONTENT)
    assert region.size == 5000
