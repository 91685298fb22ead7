"""Undo: what was removed comes back whole, for as long as its bytes are here."""

import json
from dataclasses import dataclass, replace
from typing import Any

import pytest
import trio

from appliance.catalogue.database import Database
from appliance.catalogue.past import Past
from appliance.oci.digest import Digest
from appliance.oci.errors import (
    BLOB_UNKNOWN,
    MANIFEST_BLOB_UNKNOWN,
    MANIFEST_UNKNOWN,
    TAG_IMMUTABLE,
)
from appliance.oci.mediatypes import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from appliance.registry.registry import Registry
from appliance.registry.sweep import SweepRules
from appliance.storage.files import FileStore
from appliance.storage.memory import MemoryStore
from tests.refused import refused
from tests.registry.sent import Sent

NAME, OTHER = "team/app", "team/other"
CONFIG = b"{}"
SWEEP = SweepRules(grace=-1, quarantine=1000, untagged=None, history=2.0**31)
PURGE = replace(SWEEP, quarantine=-1)


def described(content: bytes, media_type: str, **more: Any) -> dict[str, Any]:
    return {
        "mediaType": media_type,
        "digest": str(Digest.of(content)),
        "size": len(content),
        **more,
    }


@dataclass
class World:
    """A registry where nothing is leased for long."""

    registry: Registry
    past: Past

    async def push(self, content: bytes) -> Digest:
        digest = Digest.of(content)
        await self.registry.uploads.put(NAME, "alice", digest, Sent(content))
        return digest

    async def put(self, document: dict[str, Any], tag: str = "", kind: str | None = None) -> Digest:
        content = json.dumps(document).encode()
        digest = Digest.of(content)
        await self.registry.manifests.put(
            NAME, tag or digest, content, kind or document["mediaType"]
        )
        return digest

    async def image(self, layer: bytes, tag: str = "", **more: Any) -> Digest:
        for content in (CONFIG, layer):
            await self.push(content)
        return await self.put(image(layer, **more), tag)

    async def delete(self, reference: Digest | str) -> None:
        await self.registry.manifests.delete(NAME, reference)

    async def sweep(self, rules: SweepRules = SWEEP) -> None:
        for _ in range(3):  # what hangs on what has gone goes in the next one
            self.registry.leases.touch_all_before(2**31)
            await self.registry.sweep.run(rules)

    async def points_to(self, tag: str) -> Digest | None:
        found = await self.registry.manifests._records.find_manifest(NAME, tag)
        return found.descriptor.digest if found else None

    async def pulls(self, reference: Digest | str) -> None:
        """Everything that an image or index needs is there, and has the right bytes."""
        found = await self.registry.manifests.find(NAME, reference)
        content = await self.registry.manifests.content(found)
        assert Digest.of(content) == found.descriptor.digest
        document = json.loads(content)
        for entry in document.get("manifests", []):
            await self.pulls(Digest.parse(entry["digest"]))
        for entry in [document["config"], *document["layers"]] if "config" in document else []:
            digest = Digest.parse(entry["digest"])
            assert await self.registry.blobs.size(NAME, digest) == entry["size"]
            async with self.registry.blobs.open(digest, entry["size"]) as region:
                assert Digest.of(await region.read(0, region.size)) == digest


def image(layer: bytes, **more: Any) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": described(CONFIG, "application/vnd.oci.image.config.v1+json"),
        "layers": [described(layer, "application/vnd.oci.image.layer.v1.tar")],
        **more,
    }


@pytest.fixture
def world(registry: Registry, database: Database) -> World:
    return World(registry, Past(database))


# --- history


async def test_a_tag_keeps_its_history(world: World) -> None:
    first = await world.image(b"1", "latest")
    second = await world.image(b"2", "latest")
    await world.image(b"2", "latest")  # nothing new
    await world.image(b"2", "other")
    await world.delete("latest")
    changes = await world.past.changes(NAME, "latest", 100)
    assert [change.digest for change in changes] == [None, str(second), str(first)]
    assert [change.state for change in changes] == [None, "here", "here"]
    assert {change.tag for change in await world.past.changes(NAME, None, 100)} == {
        "latest",
        "other",
    }
    assert len(await world.past.changes(NAME, None, 2)) == 2
    assert await world.past.changes(OTHER, None, 100) == []


async def test_it_is_known_what_can_be_brought_back(world: World) -> None:
    digest = await world.image(b"1", "latest")
    await world.delete(digest)

    async def state() -> tuple[str | None, bool]:
        [removed] = [
            change
            for change in await world.past.changes(NAME, None, 100)
            if not change.tag and change.digest == str(digest)
        ]
        return removed.state, removed.kept_since is not None

    assert await state() == ("kept", False)
    await world.sweep()
    assert await state() == ("kept", True)
    await world.sweep(PURGE)
    assert await state() == ("gone", False)


async def test_history_outlives_its_repository_and_is_forgotten_in_time(world: World) -> None:
    await world.image(b"1", "latest")
    await world.registry.manifests.delete_repository(NAME)
    assert len(await world.past.changes(NAME, None, 100)) == 3  # set, tag gone, manifest gone
    await world.sweep(SWEEP)
    assert len(await world.past.changes(NAME, None, 100)) == 3
    await world.sweep(replace(SWEEP, history=-1))
    assert await world.past.changes(NAME, None, 100) == []


# --- bringing back


async def test_a_removed_tag_points_again_to_what_it_pointed_to(world: World) -> None:
    await world.image(b"1", "latest")
    second = await world.image(b"2", "latest")
    await world.delete("latest")
    found = await world.registry.undo.restore(NAME, "latest", None)
    assert (found.digest, found.manifests, found.blobs) == (str(second), 0, 0)
    assert await world.points_to("latest") == second


async def test_a_moved_tag_points_again_to_an_earlier_manifest(world: World) -> None:
    first = await world.image(b"1", "latest")
    await world.image(b"2", "latest")
    await world.delete(first)
    await world.sweep()
    await world.registry.undo.restore(NAME, "latest", first)
    assert await world.points_to("latest") == first
    await world.pulls("latest")


@pytest.mark.parametrize("whole", [False, True], ids=["the manifest", "the repository"])
@pytest.mark.parametrize("swept", [False, True], ids=["at once", "from quarantine"])
async def test_what_was_removed_comes_back_whole(world: World, swept: bool, whole: bool) -> None:
    digest = await world.image(b"layer", "latest")
    if whole:
        await world.registry.manifests.delete_repository(NAME)
    else:
        await world.delete(digest)
    if swept:
        await world.sweep()
        with refused(BLOB_UNKNOWN):
            await world.registry.blobs.size(NAME, Digest.of(b"layer"))
    assert await world.points_to("latest") is None
    found = await world.registry.undo.restore(NAME, "latest", None)
    assert found.manifests == 1
    assert found.blobs == (2 if swept or whole else 0)
    await world.pulls("latest")
    for _ in range(2):  # it is nobody's garbage, and in no quarantine
        await world.sweep(PURGE)
        await world.pulls("latest")


async def test_an_index_comes_back_with_its_images_and_their_signatures(world: World) -> None:
    images = [await world.image(b"amd64"), await world.image(b"arm64")]
    entries = [
        described(
            json.dumps(image(layer)).encode(),
            OCI_MANIFEST,
            platform={"os": "linux", "architecture": layer.decode()},
        )
        for layer in (b"amd64", b"arm64")
    ]
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    top = await world.put(index, "latest")
    subject = described(json.dumps(index).encode(), OCI_INDEX)
    signature = await world.image(b"signature", subject=subject)
    await world.delete(top)
    for child in images:
        await world.delete(child)
    await world.sweep()
    with refused(MANIFEST_UNKNOWN):
        await world.registry.manifests.find(NAME, signature)  # it died with what it signs
    found = await world.registry.undo.restore(NAME, "latest", None)
    assert (found.manifests, found.blobs) == (4, 4)
    await world.pulls("latest")
    await world.pulls(signature)


async def test_a_signature_that_was_removed_before_stays_away(world: World) -> None:
    digest = await world.image(b"layer", "latest")
    subject = described(json.dumps(image(b"layer")).encode(), OCI_MANIFEST)
    signature = await world.image(b"signature", subject=subject)
    await world.delete(signature)
    await world.delete(digest)
    await world.registry.undo.restore(NAME, "latest", None)
    with refused(MANIFEST_UNKNOWN):
        await world.registry.manifests.find(NAME, signature)


async def test_a_sparse_index_comes_back_as_it_was(world: World) -> None:
    world.registry.manifests.require(["linux/amd64"])
    await world.image(b"amd64")
    entries = [
        described(
            json.dumps(image(layer)).encode(),
            OCI_MANIFEST,
            platform={"os": "linux", "architecture": layer.decode()},
        )
        for layer in (b"amd64", b"arm64")
    ]
    top = await world.put(
        {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}, "latest"
    )
    await world.delete(top)
    await world.sweep()
    await world.registry.undo.restore(NAME, "latest", None)
    assert await world.points_to("latest") == top


async def test_the_media_type_it_was_pushed_with_comes_back(world: World) -> None:
    await world.push(CONFIG)
    document = image(CONFIG)
    del document["mediaType"]
    digest = await world.put(document, "latest", kind=DOCKER_MANIFEST)
    await world.delete(digest)
    await world.sweep()
    await world.registry.undo.restore(NAME, "latest", None)
    found = await world.registry.manifests.find(NAME, "latest")
    assert found.descriptor.media_type == DOCKER_MANIFEST


async def test_what_has_left_the_disk_is_named_and_nothing_changes(world: World) -> None:
    digest = await world.image(b"layer", "latest")
    await world.delete(digest)
    await world.sweep()
    await world.sweep(PURGE)
    with refused(MANIFEST_BLOB_UNKNOWN, "has left quarantine"):
        await world.registry.undo.restore(NAME, "latest", None)
    assert await world.points_to("latest") is None
    await world.image(b"layer", "latest")
    await world.pulls("latest")


async def test_a_file_that_is_gone_from_quarantine_before_its_row_is_missed(
    world: World, store: FileStore | MemoryStore
) -> None:
    digest = await world.image(b"layer", "latest")
    await world.delete(digest)
    await world.sweep()
    await store.purge([Digest.of(b"layer")])
    with refused(MANIFEST_BLOB_UNKNOWN, "has left quarantine"):
        await world.registry.undo.restore(NAME, "latest", None)
    assert await world.points_to("latest") is None
    with refused(BLOB_UNKNOWN):
        await world.registry.blobs.size(NAME, Digest.of(CONFIG))


async def test_a_damaged_blob_is_not_taken_for_one_that_is_here(world: World) -> None:
    digest = await world.image(b"layer", "latest")
    await world.delete(digest)
    database = world.past._database
    await database.write(
        lambda connection: connection.execute(
            "UPDATE blob SET damaged = 1 WHERE digest = ?", (str(Digest.of(b"layer")),)
        )
    )
    with refused(MANIFEST_BLOB_UNKNOWN):
        await world.registry.undo.restore(NAME, "latest", None)
    await world.push(b"layer")  # whoever has it pushes it again
    await world.registry.undo.restore(NAME, "latest", None)
    await world.pulls("latest")


async def test_what_rots_in_quarantine_does_not_come_back(
    world: World, store: FileStore | MemoryStore
) -> None:
    digest, layer = await world.image(b"layer", "latest"), Digest.of(b"layer")
    await world.delete(digest)
    await world.sweep()
    if isinstance(store, MemoryStore):
        store.away[layer] = b"Layer"
    else:
        path = store._away(layer)
        path.chmod(0o600)
        path.write_bytes(b"Layer")
    with refused(MANIFEST_BLOB_UNKNOWN, f"the bytes of {layer} are not right any more"):
        await world.registry.undo.restore(NAME, "latest", None)
    assert await world.points_to("latest") is None
    await world.push(b"layer")  # whoever has it pushes it again
    await world.registry.undo.restore(NAME, "latest", None)
    await world.pulls("latest")


@pytest.mark.parametrize("swept", [False, True])
async def test_a_damaged_blob_is_not_healed_by_what_lies_in_its_place(
    world: World, store: FileStore | MemoryStore, swept: bool
) -> None:
    digest, layer = await world.image(b"layer", "latest"), Digest.of(b"layer")
    await world.delete(digest)
    await world.sweep()
    await world.image(b"layer", "again")  # which leaves a copy in quarantine
    await world.delete("again")
    await world.delete(digest)
    if isinstance(store, MemoryStore):
        store.blobs[layer] = b"lay"
    else:
        store.path(layer).unlink()
        store.path(layer).write_bytes(b"lay")
    await world.registry.scrub._records.condemn(layer)
    if swept:
        await world.sweep()
    await world.registry.undo.restore(NAME, "latest", digest)
    await world.pulls("latest")


async def test_nothing_comes_back_while_a_push_of_it_is_under_way(
    world: World, store: FileStore | MemoryStore
) -> None:
    digest = await world.image(b"layer", "latest")
    await world.delete(digest)
    await world.sweep()
    async with trio.open_nursery() as nursery, world.registry.undo._locks.hold([digest]):
        nursery.start_soon(world.registry.undo.restore, NAME, "latest", None)
        await trio.sleep(0.1)
        assert await store.measure(digest) is None
    await world.pulls("latest")


async def test_an_index_comes_back_without_what_it_did_without(world: World) -> None:
    images = [await world.image(b"amd64"), await world.image(b"arm64")]
    entries = [
        described(json.dumps(image(layer)).encode(), OCI_MANIFEST) for layer in (b"amd64", b"arm64")
    ]
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
    top = await world.put(index, "latest")
    await world.delete(images[1])
    await world.sweep()
    await world.sweep(PURGE)
    await trio.sleep(1.1)  # history counts seconds
    await world.delete(top)
    await world.registry.undo.restore(NAME, "latest", None)
    assert await world.points_to("latest") == top
    await world.pulls(images[0])
    with refused(MANIFEST_UNKNOWN):
        await world.registry.manifests.find(NAME, images[1])


async def test_what_was_never_here_is_refused(world: World) -> None:
    digest = await world.image(b"layer", "latest")
    with refused(MANIFEST_UNKNOWN):
        await world.registry.undo.restore(NAME, "earlier", None)
    with refused(MANIFEST_UNKNOWN):
        await world.registry.undo.restore(OTHER, "", digest)
    with refused(MANIFEST_UNKNOWN):
        await world.registry.undo.restore(NAME, "", Digest.of(b"nothing"))


async def test_a_push_of_the_same_meanwhile_does_no_harm(world: World) -> None:
    digest = await world.image(b"layer", "latest")
    await world.delete(digest)
    await world.sweep()

    async def push() -> None:
        await world.image(b"layer", "pushed")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(push)
        nursery.start_soon(world.registry.undo.restore, NAME, "latest", None)
    assert await world.points_to("latest") == await world.points_to("pushed") == digest
    await world.sweep(PURGE)
    await world.pulls("latest")


async def test_a_copy_that_stays_in_quarantine_is_not_forgotten_there(
    world: World, store: FileStore | MemoryStore
) -> None:
    digest = await world.image(b"layer", "latest")
    await world.delete(digest)
    await world.sweep()
    content = b"layer"
    await world.registry.uploads.put(OTHER, "alice", Digest.of(content), Sent(content))
    await world.registry.undo.restore(NAME, "latest", None)
    await world.sweep(PURGE)
    assert await store.quarantine() == []
    await world.pulls("latest")


# --- immutable tags


async def test_an_immutable_tag_neither_moves_nor_goes(world: World) -> None:
    first = await world.image(b"1", "v1")
    await world.image(b"1", "latest")
    second = await world.image(b"2")
    world.registry.manifests.fix(["team/*:v[0-9]*"])
    for doing in (
        world.image(b"2", "v1"),
        world.delete("v1"),
        world.delete(first),
        world.registry.manifests.delete_repository(NAME),
        world.registry.undo.restore(NAME, "v1", second),
    ):
        with refused(TAG_IMMUTABLE, "the tag v1 is immutable"):
            await doing
    assert await world.points_to("v1") == first
    await world.image(b"1", "v1")  # the same once more
    await world.image(b"2", "v2")  # another one
    await world.image(b"2", "latest")
    await world.delete("latest")
    with refused(MANIFEST_UNKNOWN):
        await world.delete("v3")
