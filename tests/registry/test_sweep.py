"""The sweep: garbage goes, and nothing else does, whatever happens meanwhile."""

import json
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio
import trio.lowlevel
from trio.testing import wait_all_tasks_blocked

from appliance.catalogue.database import Database
from appliance.catalogue.garbage import Garbage
from appliance.catalogue.records import Catalogue
from appliance.oci.digest import Digest
from appliance.oci.errors import (
    BLOB_UNKNOWN,
    MANIFEST_UNKNOWN,
    STORE_UNAVAILABLE,
    ErrorRow,
    RegistryError,
)
from appliance.oci.garbage import IdlePair
from appliance.oci.mediatypes import OCI_INDEX, OCI_MANIFEST
from appliance.registry.blobs import Blobs
from appliance.registry.leases import Leases
from appliance.registry.locks import DigestLocks
from appliance.registry.manifests import Manifests
from appliance.registry.quotas import Quotas
from appliance.registry.sharing import Sharing
from appliance.registry.space import Space
from appliance.registry.sweep import Sweep, SweepRules
from appliance.registry.uploads import Uploads
from appliance.storage.files import FileStore
from appliance.storage.memory import MemoryStore
from tests.refused import refused
from tests.registry.sent import Sent

HERE, THERE = "here/app", "there/app"
LEASE = 100.0
FOR_EVER = 2.0**31

# Everything idle counts at once, and leaves quarantine in the next sweep.
AT_ONCE = SweepRules(grace=0, quarantine=1000, untagged=None, history=FOR_EVER)
UNTAGGED_TOO = SweepRules(grace=0, quarantine=1000, untagged=0, history=FOR_EVER)
TO_THE_END = SweepRules(grace=0, quarantine=0, untagged=None, history=FOR_EVER)
LATER = SweepRules(grace=1000, quarantine=1000, untagged=1000, history=FOR_EVER)

Store = FileStore | MemoryStore

T = TypeVar("T")


@dataclass
class World:
    """A registry whose clock is turned by hand."""

    store: Store
    garbage: Garbage
    blobs: Blobs
    uploads: Uploads
    manifests: Manifests
    sweep: Sweep
    sharing: Sharing
    now: list[float]

    def wait(self, seconds: float) -> None:
        self.now[0] += seconds

    async def push(self, content: bytes, repository: str = HERE) -> Digest:
        digest = Digest.of(content)
        await self.uploads.put(repository, "alice", digest, Sent(content))
        return digest

    async def put(
        self, content: bytes, tag: str = "", repository: str = HERE, kind: str = OCI_MANIFEST
    ) -> Digest:
        digest, _ = await self.manifests.put(repository, tag or Digest.of(content), content, kind)
        return digest

    async def image(self, *layers: bytes, tag: str = "", **fields: Any) -> Digest:
        for content in (b"{}", *layers):
            await self.push(content)
        return await self.put(image(*layers, **fields), tag)

    async def has(self, digest: Digest, repository: str = HERE) -> bool:
        """Whether clients see a blob, which must then be whole."""
        size = await found(self.blobs.size(repository, digest), BLOB_UNKNOWN)
        if size is None:
            return False
        async with self.blobs.open(digest, size) as region:
            assert Digest.of(await region.read(0, size), digest.algorithm) == digest
        return True

    async def lists(self, reference: Digest | str, repository: str = HERE) -> bool:
        """Whether clients see a manifest."""
        finding = self.manifests.find(repository, reference)
        return await found(finding, MANIFEST_UNKNOWN) is not None

    async def run(self, rules: SweepRules = AT_ONCE) -> tuple[int, int, int]:
        """Sweep once nothing is leased any more; manifests, links and blobs that went."""
        self.wait(2 * LEASE)
        found = await self.sweep.run(rules)
        return found.manifests, found.links, found.blobs


async def found(asking: Awaitable[T], unknown: ErrorRow) -> T | None:
    """What was asked for, or None if the answer is that it is not there."""
    try:
        return await asking
    except RegistryError as error:
        if error.row is not unknown:
            raise
        return None


def descriptor(content: bytes, media_type: str = "application/vnd.example") -> dict[str, Any]:
    return {"mediaType": media_type, "digest": str(Digest.of(content)), "size": len(content)}


def image(*layers: bytes, **fields: Any) -> bytes:
    listed = [descriptor(layer) for layer in layers]
    document = {"mediaType": OCI_MANIFEST, "config": descriptor(b"{}"), "layers": listed, **fields}
    return json.dumps(document).encode()


def index(*manifests: bytes) -> bytes:
    entries = [descriptor(content, OCI_MANIFEST) for content in manifests]
    return json.dumps({"mediaType": OCI_INDEX, "manifests": entries}).encode()


@pytest.fixture
async def world(store: Store, tmp_path: Path) -> AsyncIterator[World]:
    database = Database.open(tmp_path / "catalogue.sqlite3")
    database._writer.execute("PRAGMA synchronous = OFF")
    catalogue, garbage = Catalogue(database), Garbage(database)
    now = [1000.0]
    leases, locks, space = Leases(LEASE, lambda: now[0]), DigestLocks(), Space(store)
    quotas, sharing = Quotas(catalogue), Sharing()
    yield World(
        store=store,
        garbage=garbage,
        blobs=Blobs(store=store, records=catalogue, leases=leases),
        uploads=Uploads(
            store=store,
            records=catalogue,
            leases=leases,
            locks=locks,
            space=space,
            quotas=quotas,
            sharing=sharing,
        ),
        manifests=Manifests(
            store=store, records=catalogue, leases=leases, locks=locks, space=space, quotas=quotas
        ),
        sweep=Sweep(store=store, records=garbage, leases=leases, locks=locks, sharing=sharing),
        sharing=sharing,
        now=now,
    )
    await database.aclose()


# --- what goes


async def test_a_blob_that_no_manifest_needs_goes(world: World) -> None:
    kept = await world.image(b"layer", tag="latest")
    lost = await world.push(b"nobody needs this")
    assert await world.run() == (0, 1, 1)
    assert not await world.has(lost)
    assert await world.has(Digest.of(b"layer"))
    assert await world.lists(kept)
    assert await world.run() == (0, 0, 0)


async def test_nothing_goes_while_another_daemon_is_at_work(world: World) -> None:
    lost = await world.push(b"nobody needs this")
    world.sharing.begin(lambda _: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.run)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert await world.has(lost)
        world.wait(2 * LEASE)  # that question took a lease
        world.sharing.end()
    assert not await world.has(lost)


async def test_what_only_a_deleted_manifest_needed_goes(world: World) -> None:
    await world.image(b"shared", b"own", tag="1")
    other = await world.image(b"shared", tag="2")
    await world.manifests.delete(HERE, Digest.of(image(b"shared", b"own")))
    assert await world.run() == (0, 1, 2)  # the layer, and the manifest as a blob
    assert not await world.has(Digest.of(b"own"))
    assert await world.has(Digest.of(b"shared"))
    assert await world.lists(other)


async def test_nothing_goes_before_its_time(world: World) -> None:
    lost = await world.push(b"nobody needs this yet")
    await world.image(b"layer")
    assert await world.run(LATER) == (0, 0, 0)
    assert await world.has(lost)


async def test_a_blob_stays_where_it_is_needed_and_goes_elsewhere(world: World) -> None:
    await world.image(b"layer", tag="latest")
    await world.push(b"layer", THERE)
    assert await world.run() == (0, 1, 0)
    assert await world.has(Digest.of(b"layer"))
    assert not await world.has(Digest.of(b"layer"), THERE)


async def test_manifests_without_a_tag_are_kept_unless_it_is_said_otherwise(world: World) -> None:
    untagged = await world.image(b"layer")
    tagged = await world.image(b"layer", tag="latest", annotations={"a": "b"})
    assert await world.run() == (0, 0, 0)
    assert await world.run(UNTAGGED_TOO) == (1, 0, 1)
    assert not await world.lists(untagged)
    assert await world.lists(tagged)
    assert await world.has(Digest.of(b"layer"))


async def test_a_tag_that_moved_on_leaves_a_manifest_without(world: World) -> None:
    first = await world.image(b"first", tag="latest")
    second = await world.image(b"second", tag="latest")
    assert (await world.run(UNTAGGED_TOO))[0] == 1
    assert (await world.lists(first), await world.lists(second)) == (False, True)


async def test_children_of_a_live_index_are_live(world: World) -> None:
    child = await world.image(b"layer")
    inner = await world.put(index(image(b"layer")), kind=OCI_INDEX)
    await world.put(index(index(image(b"layer"))), "latest", kind=OCI_INDEX)
    assert await world.run(UNTAGGED_TOO) == (0, 0, 0)
    assert await world.lists(child)
    assert await world.lists(inner)
    await world.manifests.delete(HERE, "latest")
    gone = [await world.run(UNTAGGED_TOO) for _ in range(3)]
    assert sum(manifests for manifests, _, _ in gone) == 3
    assert not await world.lists(child)


async def test_referrers_live_and_die_with_their_subject(world: World) -> None:
    subject = await world.image(b"layer", tag="latest")
    about: dict[str, Any] = {"subject": descriptor(image(b"layer"), OCI_MANIFEST)}
    signature = await world.image(b"signature", **about)
    deeper = await world.image(b"x", subject=descriptor(image(b"signature", **about), OCI_MANIFEST))
    assert await world.run(UNTAGGED_TOO) == (0, 0, 0)
    await world.manifests.delete(HERE, subject)
    gone = [await world.run() for _ in range(3)]
    assert sum(manifests for manifests, _, _ in gone) == 2
    assert not await world.lists(signature)
    assert not await world.lists(deeper)


async def test_a_referrer_that_came_before_its_subject_is_kept(world: World) -> None:
    early = await world.image(b"sbom", subject=descriptor(b"not here yet", OCI_MANIFEST))
    assert await world.run() == (0, 0, 0)
    assert await world.lists(early)


async def test_a_tagged_referrer_outlives_its_subject(world: World) -> None:
    subject = await world.image(b"layer", tag="latest")
    about: dict[str, Any] = {"subject": descriptor(image(b"layer"), OCI_MANIFEST)}
    signature = await world.image(b"signature", tag="signed", **about)
    await world.manifests.delete(HERE, subject)
    assert (await world.run(UNTAGGED_TOO))[0] == 0
    assert await world.lists(signature)


async def test_a_preview_counts_and_changes_nothing(world: World) -> None:
    await world.image(b"layer", tag="latest")
    lost = await world.push(b"nobody needs this")
    await world.push(b"layer", THERE)
    found = await world.sweep.preview(AT_ONCE)
    assert (found.manifests, found.links, found.blobs, found.size) == (0, 2, 1, 17)
    assert await world.has(lost)


# --- quarantine


async def test_what_went_is_kept_for_a_while_and_then_leaves_the_disk(
    world: World, tmp_path: Path
) -> None:
    digest = await world.push(b"nobody needs this")
    await world.run()
    assert [blob.digest for blob in await world.garbage.quarantined(2**40, 9)] == [digest]
    if isinstance(world.store, FileStore):
        (away,) = (tmp_path / "quarantine").iterdir()
        assert away.read_bytes() == b"nobody needs this"
    else:
        assert world.store.away == {digest: b"nobody needs this"}
    world.wait(2 * LEASE)
    assert (await world.sweep.run(TO_THE_END)).purged == 17
    assert await world.garbage.quarantined(2**40, 9) == []
    if isinstance(world.store, FileStore):
        assert not list((tmp_path / "quarantine").iterdir())
    else:
        assert not world.store.away


async def test_nothing_is_removed_while_sweeps_are_held(world: World) -> None:
    await world.push(b"nobody needs this")
    removed = []

    async def sweep() -> None:
        removed.append(await world.run())

    async with trio.open_nursery() as nursery, world.sweep.hold():
        nursery.start_soon(sweep)
        await wait_all_tasks_blocked()
        assert not removed
    assert removed == [(0, 1, 1)]


async def test_a_sweep_tells_how_far_it_is(world: World) -> None:
    await world.push(b"nobody needs this")
    heard: list[tuple[int, str]] = []
    world.wait(2 * LEASE)
    await world.sweep.run(TO_THE_END, lambda told: heard.append((told.done, told.unit)))
    assert heard == [(1, "links"), (1, "blobs"), (17, "bytes")]


async def test_what_is_pushed_again_is_there_again(world: World) -> None:
    digest = await world.push(b"layer")
    await world.run()
    await world.image(b"layer", tag="latest")
    await world.run(TO_THE_END)
    assert await world.has(digest)


async def test_a_crash_between_the_two_halves_leaves_nothing_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    digest = await world.push(b"nobody needs this")

    async def crash(_: Sequence[Digest]) -> None:
        raise STORE_UNAVAILABLE.error()

    with monkeypatch.context() as patch:
        patch.setattr(world.store, "put_away", crash)
        with refused(STORE_UNAVAILABLE):
            await world.run()
    assert not await world.has(digest)
    await world.run(TO_THE_END)
    with refused(BLOB_UNKNOWN):
        async with world.store.open(digest):
            pass
    if isinstance(world.store, FileStore):
        assert not list((tmp_path / "quarantine").iterdir())


async def test_a_push_between_the_two_halves_is_not_undone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = await world.push(b"layer")
    put_away = world.store.put_away

    async def while_others_push(gone: Sequence[Digest]) -> None:
        nursery.start_soon(world.push, b"layer")
        await wait_all_tasks_blocked(0.05)
        await put_away(gone)

    monkeypatch.setattr(world.store, "put_away", while_others_push)
    async with trio.open_nursery() as nursery:
        assert await world.run() == (0, 1, 1)
    assert await world.has(digest)


# --- leases


async def test_after_a_start_everything_is_leased_once(world: World) -> None:
    await world.push(b"nobody needs this")
    assert (await world.sweep.run(AT_ONCE)).links == 0
    world.wait(LEASE + 1)
    assert (await world.sweep.run(AT_ONCE)).links == 1


@pytest.mark.parametrize("asking", ["head", "mount", "push"])
async def test_who_is_told_that_it_is_here_may_rely_on_it(world: World, asking: str) -> None:
    digest = await world.push(b"layer")
    world.wait(2 * LEASE)
    match asking:
        case "head":
            await world.blobs.size(HERE, digest)
        case "mount":
            await world.push(b"layer", THERE)
            world.wait(2 * LEASE)
            assert await world.uploads.mount(THERE, HERE, digest)
        case _:
            await world.push(b"layer")
    world.wait(LEASE - 1)
    await world.sweep.run(AT_ONCE)
    assert await world.has(digest)
    world.wait(LEASE + 1)
    await world.sweep.run(AT_ONCE)
    assert not await world.has(digest)


async def test_who_asks_while_it_goes_waits_and_is_told_the_truth(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = await world.push(b"layer")
    remove_links = world.garbage.remove_links
    answers: list[bool] = []

    async def ask() -> None:
        answers.append(await world.has(digest))

    async def while_others_ask(pairs: list[IdlePair]) -> int:
        nursery.start_soon(ask)
        await wait_all_tasks_blocked(0.05)
        assert answers == []
        return await remove_links(pairs)

    monkeypatch.setattr(world.garbage, "remove_links", while_others_ask)
    async with trio.open_nursery() as nursery:
        assert await world.run() == (0, 1, 1)
    assert answers == [False]


async def test_what_came_to_be_needed_meanwhile_stays(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.push(b"{}")
    digest = await world.push(b"layer")
    remove_links = world.garbage.remove_links

    async def while_others_push(pairs: list[IdlePair]) -> int:
        await world.put(image(b"layer"), "latest")
        return await remove_links(pairs)

    monkeypatch.setattr(world.garbage, "remove_links", while_others_push)
    assert await world.run() == (0, 0, 0)
    assert await world.has(digest)


async def test_pushes_and_sweeps_at_once_lose_nothing(world: World) -> None:
    async def client(name: str) -> None:
        for number in range(15):
            layers = [b"shared %d" % (number % 3), f"{name} {number}".encode()]
            digest = await world.image(*layers, tag=f"{name}-{number}")
            for layer in layers:
                assert await world.has(Digest.of(layer))
            if number % 2:
                await world.manifests.delete(HERE, digest)
            else:
                kept[digest] = layers
            world.wait(LEASE / 20)  # so that leases run out in the end, but not within a push

    async def sweeper() -> None:
        while True:
            await world.sweep.run(TO_THE_END)
            await trio.lowlevel.checkpoint()

    kept: dict[Digest, list[bytes]] = {}
    world.wait(2 * LEASE)
    async with trio.open_nursery() as sweeping:
        sweeping.start_soon(sweeper)
        async with trio.open_nursery() as clients:
            for name in ("one", "two", "three"):
                clients.start_soon(client, name)
        sweeping.cancel_scope.cancel()
    await world.run(TO_THE_END)
    for digest, layers in kept.items():
        assert await world.lists(digest)
        for layer in layers:
            assert await world.has(Digest.of(layer))
