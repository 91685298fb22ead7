"""The scrub: damage is found and told, mended where it can be, and nothing else is touched."""

import errno
import json
import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from appliance.catalogue.database import Database
from appliance.oci.damage import Finding, Held, Verified
from appliance.oci.digest import Digest
from appliance.oci.errors import (
    BLOB_UNKNOWN,
    MANIFEST_BLOB_UNKNOWN,
    MANIFEST_UNKNOWN,
    NAME_UNKNOWN,
    STORE_UNAVAILABLE,
)
from appliance.oci.manifest import SIZE_MAX
from appliance.oci.mediatypes import OCI_INDEX, OCI_MANIFEST
from appliance.registry import round as round_
from appliance.registry.progress import Progress
from appliance.registry.registry import Registry
from appliance.registry.round import ScrubRules
from appliance.registry.sweep import SweepRules
from appliance.storage.files import FileStore
from appliance.storage.memory import MemoryStore
from appliance.storage.sources import SourceFolder
from tests.refused import refused
from tests.registry.sent import Sent

NAME, OTHER = "team/app", "team/other"
CONFIG = b"{}"
CHANCE = random.Random("scrub")  # noqa: S311  repeatable on purpose
AWAY = SweepRules(grace=-1, quarantine=1000, untagged=None, history=2.0**31)
PURGE = SweepRules(grace=-1, quarantine=-1, untagged=None, history=2.0**31)

Store = FileStore | MemoryStore


def described(content: bytes, media_type: str, **more: Any) -> dict[str, Any]:
    digest = str(Digest.of(content))
    return {"mediaType": media_type, "digest": digest, "size": len(content), **more}


def image(*layers: bytes, **more: Any) -> bytes:
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": described(CONFIG, "application/vnd.oci.image.config.v1+json"),
        "layers": [described(one, "application/vnd.oci.image.layer.v1.tar") for one in layers],
        **more,
    }
    return json.dumps(document).encode()


def flipped(content: bytes) -> bytes:
    at = CHANCE.randrange(len(content))
    return content[:at] + bytes([content[at] ^ (1 << CHANCE.randrange(8))]) + content[at + 1 :]


@dataclass
class World:
    """A registry, and a hand that spoils what it keeps."""

    registry: Registry
    store: Store
    database: Database
    root: Path

    async def push(self, content: bytes, repository: str = NAME) -> Digest:
        digest = Digest.of(content)
        await self.registry.uploads.put(repository, "alice", digest, Sent(content))
        return digest

    async def put(self, content: bytes, tag: str = "", repository: str = NAME) -> Digest:
        digest = Digest.of(content)
        kind = json.loads(content)["mediaType"]
        await self.registry.manifests.put(repository, tag or digest, content, kind)
        return digest

    async def image(
        self, *layers: bytes, tag: str = "", repository: str = NAME, **more: Any
    ) -> Digest:
        for content in (CONFIG, *layers):
            await self.push(content, repository)
        return await self.put(image(*layers, **more), tag, repository)

    async def index(self, *images: bytes, tag: str) -> Digest:
        entries = [described(one, OCI_MANIFEST) for one in images]
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
        return await self.put(json.dumps(document).encode(), tag)

    async def verify(self, **rules: Any) -> Verified:
        return await self.registry.scrub.run(ScrubRules(**rules))

    async def clean(self) -> None:
        verified = await self.verify()
        assert (verified.found, verified.counts) == ([], {})

    async def pulls(self, reference: Digest | str, repository: str = NAME) -> None:
        found = await self.registry.manifests.find(repository, reference)
        content = await self.registry.manifests.content(found)
        assert Digest.of(content) == found.descriptor.digest
        document = json.loads(content)
        for entry in document.get("manifests", []):
            await self.pulls(Digest.parse(entry["digest"]), repository)
        for entry in [document["config"], *document["layers"]] if "config" in document else []:
            assert Digest.of(await self.blob(Digest.parse(entry["digest"]), repository)) == (
                Digest.parse(entry["digest"])
            )

    async def blob(self, digest: Digest, repository: str = NAME) -> bytes:
        size = await self.registry.blobs.size(repository, digest)
        async with self.registry.blobs.open(digest, size) as region:
            return await region.read(0, region.size)

    def spoil(self, digest: Digest, how: Callable[[bytes], bytes] | None) -> None:
        """Change a blob's bytes, or lose them."""
        if isinstance(self.store, MemoryStore):
            before = self.store.blobs.pop(digest)
            if how is not None:
                self.store.blobs[digest] = how(before)
            return
        path = self.store.path(digest)
        before = path.read_bytes()
        path.unlink()
        if how is not None:
            path.write_bytes(how(before))

    async def change(self, query: str, *parameters: object) -> None:
        await self.database.write(lambda connection: connection.execute(query, parameters))

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return self.database.read(query)

    async def damaged(self) -> set[str]:
        return {digest for (digest,) in self.rows("SELECT digest FROM blob WHERE damaged = 1")}

    def tree(self) -> dict[str, tuple[bytes, int]]:
        return {
            str(path.relative_to(self.root)): (path.read_bytes(), path.stat().st_mtime_ns)
            for folder in ("blobs", "quarantine", "uploads")
            for path in (self.root / folder).rglob("*")
            if path.is_file()
        }

    def dump(self) -> list[str]:
        with sqlite3.connect(self.root / "catalogue.sqlite3") as connection:
            dump = [line for line in connection.iterdump() if '"chore"' not in line]
        connection.close()
        return dump


def states(verified: Verified) -> dict[str, str]:
    return {finding.what: finding.state for finding in verified.found}


def only(verified: Verified) -> Finding:
    assert len(verified.found) == 1, verified
    return verified.found[0]


@pytest.fixture
def world(registry: Registry, store: Store, database: Database, tmp_path: Path) -> World:
    return World(registry, store, database, tmp_path)


@pytest.fixture
def on_files(world: World) -> FileStore:
    assert isinstance(world.store, FileStore)
    return world.store


of_files = pytest.mark.parametrize("store", ["files"], indirect=True)


# --- all is well


async def test_where_all_is_well_nothing_is_found_and_nothing_changes(world: World) -> None:
    await world.image(b"one", b"two", tag="1")
    await world.image(b"two", b"three", tag="2", repository=OTHER)
    await world.index(image(b"one", b"two"), tag="all")
    await world.push(b"in no image")
    subject = described(image(b"one", b"two"), OCI_MANIFEST)
    await world.image(b"signature", subject=subject)
    await world.put(image(b"one", annotations={"big": "a" * 100_000}), "large")
    await world.registry.manifests.delete(NAME, "1")
    before, records = world.tree(), world.dump()
    verified = await world.verify()
    assert (verified.found, verified.counts, verified.remarks) == ([], {}, [])
    assert verified.blobs == world.rows("SELECT count(*) FROM blob")[0][0]
    assert verified.size == world.rows("SELECT sum(size) FROM blob")[0][0]
    assert (world.tree(), world.dump()) == (before, records)


async def test_an_empty_registry_is_well(world: World) -> None:
    await world.clean()


async def test_progress_is_told_in_bytes(world: World) -> None:
    await world.image(b"a" * 100_000, tag="1")
    heard: list[Progress] = []
    await world.registry.scrub.run(ScrubRules(), heard.append)
    size = world.rows("SELECT sum(size) FROM blob")[0][0]
    assert [one for one in heard if one.unit == "bytes"][-1] == Progress(
        "verifying", size, size, "bytes"
    )


# --- blobs


SPOILERS: dict[str, tuple[Callable[[bytes], bytes] | None, str]] = {
    "a flipped bit": (flipped, "its bytes are others"),
    "cut short": (lambda content: content[:-1], "bytes instead of"),
    "grown": (lambda content: content + b"x", "bytes instead of"),
    "empty": (lambda _: b"", "it has 0 bytes instead of"),
    "missing": (None, "its bytes are missing"),
}


@pytest.mark.parametrize("way", SPOILERS)
async def test_a_damaged_layer_is_found_told_and_healed_by_a_push(world: World, way: str) -> None:
    how, fault = SPOILERS[way]
    await world.image(b"good", tag="whole")
    await world.image(b"bad layer", tag="one")
    await world.image(b"bad layer", b"good", tag="two")
    await world.image(b"bad layer", repository=OTHER)
    await world.index(image(b"bad layer"), tag="index")
    digest = Digest.of(b"bad layer")
    world.spoil(digest, how)
    finding = only(await world.verify())
    assert (finding.what, finding.state) == (str(digest), "damaged")
    assert fault in finding.fault
    untagged = f"{OTHER}@{Digest.of(image(b'bad layer'))}"
    assert finding.images.names == (f"{NAME}:index", f"{NAME}:one", f"{NAME}:two", untagged)
    assert finding.images.count == 4
    assert await world.damaged() == {str(digest)}
    assert (world.registry.scrub.found, world.registry.scrub._damage.marked) == ({"damaged": 1}, 1)
    for repository in (NAME, OTHER):
        with refused(BLOB_UNKNOWN):
            await world.registry.blobs.size(repository, digest)
    assert not await world.registry.uploads.mount(OTHER, "third/app", digest)
    again = only(await world.verify())  # until it is healed
    assert (again.what, again.state, again.images) == (str(digest), "damaged", finding.images)
    await world.image(b"bad layer", tag="one")
    for tag in ("one", "two", "index", "whole"):
        await world.pulls(tag)
    await world.pulls(Digest.of(image(b"bad layer")), OTHER)
    await world.clean()


async def test_any_flipped_bit_of_any_blob_is_found(world: World) -> None:
    layers = [CHANCE.randbytes(CHANCE.randrange(1, 20_000)) for _ in range(40)]
    await world.image(*layers, tag="1")
    digests = {Digest.of(layer) for layer in layers}
    for digest in digests:
        world.spoil(digest, flipped)
    verified = await world.verify()
    assert states(verified) == {str(digest): "damaged" for digest in digests}
    assert all(finding.images.names == (f"{NAME}:1",) for finding in verified.found)
    for digest in digests:
        with refused(BLOB_UNKNOWN):
            await world.blob(digest)
    await world.image(*layers, tag="1")
    await world.pulls("1")
    await world.clean()


async def test_a_large_manifest_and_a_config_are_healed_by_a_push(world: World) -> None:
    content = image(b"layer", annotations={"big": "a" * 100_000})
    await world.image(b"layer", tag="small")
    top = await world.put(content, "large")
    await world.pulls("large")  # from here on it is in memory
    for digest in (top, Digest.of(CONFIG)):
        world.spoil(digest, flipped)
    found = states(await world.verify())
    assert found == {str(top): "damaged", str(Digest.of(CONFIG)): "damaged"}
    for reference in ("large", top):
        with refused(MANIFEST_UNKNOWN):
            await world.registry.manifests.find(NAME, reference)
    await world.push(CONFIG)
    await world.put(content, "large")
    await world.pulls("large")
    await world.clean()


async def test_what_was_rotten_never_comes_back(world: World) -> None:
    digest = await world.image(b"layer", tag="1")
    layer = Digest.of(b"layer")
    world.spoil(layer, flipped)
    await world.verify()
    await world.registry.manifests.delete(NAME, digest)
    for _ in range(3):
        world.registry.leases.touch_all_before(2**31)
        await world.registry.sweep.run(AWAY)
    assert world.rows("SELECT count(*) FROM blob") == [(0,)]
    quarantined = {text for (text,) in world.rows("SELECT digest FROM quarantine")}
    assert quarantined == {str(digest), str(Digest.of(CONFIG))}
    with refused(MANIFEST_BLOB_UNKNOWN, "has left quarantine"):
        await world.registry.undo.restore(NAME, "1", None)


@of_files
async def test_rotten_bytes_are_kept_for_a_while_and_leave_the_disk(
    world: World, on_files: FileStore
) -> None:
    await world.image(b"layer", tag="1")
    layer = Digest.of(b"layer")
    world.spoil(layer, flipped)
    os.utime(on_files.path(layer), (0, 0))
    await world.verify()
    aside = world.root / "quarantine" / f"damaged-sha256-{layer.hex}"
    assert aside.exists()
    assert not on_files.path(layer).exists()
    await world.registry.sweep.run(AWAY)
    assert aside.exists()
    assert (await world.registry.sweep.run(PURGE)).purged == len(b"layer")
    assert not aside.exists()


async def test_bytes_that_are_there_again_heal(world: World) -> None:
    await world.image(b"layer", tag="1")
    layer = Digest.of(b"layer")
    world.spoil(layer, None)
    await world.verify()
    await world.store.put(layer, b"layer")
    assert only(await world.verify()).state == "mended"
    await world.pulls("1")
    await world.clean()


async def test_a_copy_in_quarantine_takes_the_place_of_what_is_damaged(world: World) -> None:
    await world.image(b"layer", tag="1")
    layer = Digest.of(b"layer")
    await world.store.put_away((layer,))
    await world.store.put(layer, b"other")
    await world.change("INSERT INTO quarantine (digest, size) VALUES (?, 5)", str(layer))
    finding = only(await world.verify())
    assert (finding.state, "quarantine had a copy" in finding.fault) == ("mended", True)
    await world.pulls("1")
    assert world.rows("SELECT * FROM quarantine") == []
    await world.clean()


async def test_a_size_that_is_recorded_wrong_is_mended(world: World) -> None:
    await world.image(b"layer", tag="1")
    await world.change("UPDATE blob SET size = 7 WHERE digest = ?", str(Digest.of(b"layer")))
    found = states(await world.verify())
    assert found == {str(Digest.of(b"layer")): "mended"}
    await world.pulls("1")
    await world.clean()


async def test_only_one_repository_is_looked_at(world: World) -> None:
    await world.image(b"here", tag="1")
    await world.image(b"there", tag="1", repository=OTHER)
    for layer in (b"here", b"there"):
        world.spoil(Digest.of(layer), flipped)
    verified = await world.verify(repository=NAME)
    assert states(verified) == {str(Digest.of(b"here")): "damaged"}
    assert verified.blobs == 3
    assert await world.damaged() == {str(Digest.of(b"here"))}
    assert len((await world.verify(repository=NAME)).found) == 1
    with refused(NAME_UNKNOWN, "there is no repository none"):
        await world.verify(repository="none")


# --- manifests


async def test_the_file_and_the_catalogue_mend_each_other(world: World) -> None:
    digest = await world.image(b"layer", tag="1")
    content = image(b"layer")
    for how in (flipped, lambda _: b"", None):
        world.spoil(digest, how)
        finding = only(await world.verify())
        assert (finding.what, finding.state) == (str(digest), "mended")
        async with world.store.open(digest) as region:
            assert await region.read(0, region.size) == content
        await world.clean()
    await world.change(
        "UPDATE blob SET content = ? WHERE digest = ?", flipped(content), str(digest)
    )
    finding = only(await world.verify())
    assert (finding.state, "in the catalogue" in finding.fault) == ("mended", True)
    assert world.rows("SELECT content FROM blob WHERE content IS NOT NULL") == [(content,)]
    await world.pulls("1")
    await world.clean()


async def test_where_both_are_damaged_a_push_heals(world: World) -> None:
    digest = await world.image(b"layer", tag="1")
    content = image(b"layer")
    world.spoil(digest, flipped)
    await world.change(
        "UPDATE blob SET content = ? WHERE digest = ?", flipped(content), str(digest)
    )
    finding = only(await world.verify())
    assert (finding.state, finding.images.names) == ("damaged", (f"{NAME}:1",))
    for reference in ("1", digest):
        with refused(MANIFEST_UNKNOWN):
            await world.registry.manifests.find(NAME, reference)
    await world.put(content, "1")
    await world.pulls("1")
    await world.clean()


async def test_few_large_manifests_are_in_memory_at_a_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.push(CONFIG)
    for number in range(6):
        await world.put(image(annotations={"big": f"{number}" * 1_500_000}))
    records = world.registry.scrub._records
    sizes = []
    derive = records.derive

    async def deriving(manifests: list[tuple[Held, bytes]], *, mending: bool) -> list[Finding]:
        sizes.append(sum(len(content) for _, content in manifests))
        return await derive(manifests, mending=mending)

    monkeypatch.setattr(records, "derive", deriving)
    await world.clean()
    assert max(sizes) < 2 * SIZE_MAX
    assert sum(sizes) > 6 * 1_500_000


async def test_what_a_manifest_says_goes_before_what_is_recorded(world: World) -> None:
    await world.image(b"one", tag="1")
    subject = described(image(b"one"), OCI_MANIFEST)
    await world.image(b"two", b"three", subject=subject, tag="2")
    await world.index(image(b"one"), tag="all")
    before = world.dump()
    for query in (
        "DELETE FROM edge WHERE target = (SELECT id FROM blob WHERE digest = '{two}')",
        "DELETE FROM link WHERE blob = (SELECT id FROM blob WHERE digest = '{three}')",
        "DELETE FROM edge WHERE target = (SELECT id FROM blob WHERE digest = '{image}')",
        "UPDATE manifest SET media_type = 'text/plain' WHERE subject IS NOT NULL",
        "UPDATE manifest SET subject = NULL WHERE subject IS NOT NULL",
        "UPDATE manifest SET artifact_type = 'text/plain' WHERE subject IS NOT NULL",
        "UPDATE manifest SET referrer = x'7b7d' WHERE subject IS NOT NULL",
        "INSERT INTO edge SELECT manifest.repository, manifest.blob, blob.id FROM manifest, blob"
        " WHERE manifest.subject IS NOT NULL AND blob.digest = '{one}'",
        "INSERT INTO absent SELECT repository, 'sha256:00', blob FROM manifest LIMIT 1",
        "UPDATE link SET uses = uses + 1",
        "UPDATE manifest SET uses = 7, tags = 7, bound = 1 - bound",
        "UPDATE blob SET holders = holders - 1",
        "UPDATE repository SET manifests = 0, size = -1",
    ):
        digests = {
            "one": Digest.of(b"one"),
            "two": Digest.of(b"two"),
            "three": Digest.of(b"three"),
            "image": Digest.of(image(b"one")),
        }
        await world.change(query.format(**digests))
        verified = await world.verify()
        assert set(verified.counts) == {"mended"}, query
        await world.clean()
        await world.pulls("1")
        await world.pulls("2")
        await world.pulls("all")

    def timeless(dump: list[str]) -> list[str]:
        return [line for line in dump if not line.startswith(('INSERT INTO "link"',))]

    assert len(timeless(world.dump())) == len(timeless(before))


async def test_a_needed_blob_without_a_record_is_damage(world: World) -> None:
    await world.image(b"layer", tag="1")
    layer = str(Digest.of(b"layer"))
    for query in (
        "DELETE FROM edge WHERE target = (SELECT id FROM blob WHERE digest = ?)",
        "DELETE FROM link WHERE blob = (SELECT id FROM blob WHERE digest = ?)",
        "DELETE FROM blob WHERE digest = ?",
    ):
        await world.change(query, layer)
    verified = await world.verify()
    assert verified.counts["damaged"] == 1
    assert any(f"no record of {layer}" in one.fault for one in verified.found)
    await world.image(b"layer", tag="1")
    await world.pulls("1")
    await world.clean()


# --- what is read by clients


@pytest.mark.parametrize("way", ["cut short", "grown", "empty", "missing"])
async def test_a_blob_of_another_size_is_never_served(world: World, way: str) -> None:
    await world.image(b"layer", b"other", tag="1")
    layer = Digest.of(b"layer")
    size = await world.registry.blobs.size(NAME, layer)
    world.spoil(layer, SPOILERS[way][0])
    with refused(BLOB_UNKNOWN):
        async with world.registry.blobs.open(layer, size):
            raise AssertionError("it is open")
    assert await world.damaged() == {str(layer)}
    with refused(BLOB_UNKNOWN):
        await world.registry.blobs.size(NAME, layer)
    await world.push(b"layer")
    await world.pulls("1")
    await world.clean()


async def test_a_large_blob_of_another_size_counts_as_not_there_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.registry.damage.SIZE_MAX", 3)
    await world.image(b"layer", b"other", tag="1")
    for layer, how in ((b"layer", SPOILERS["cut short"][0]), (b"other", None)):
        digest = Digest.of(layer)
        size = await world.registry.blobs.size(NAME, digest)
        world.spoil(digest, how)
        with refused(BLOB_UNKNOWN):
            async with world.registry.blobs.open(digest, size):
                raise AssertionError("it is open")
    assert await world.damaged() == {str(Digest.of(b"layer")), str(Digest.of(b"other"))}
    await world.image(b"layer", b"other", tag="1")
    await world.pulls("1")
    await world.clean()


async def test_while_all_is_away_nothing_is_taken_for_damaged(world: World) -> None:
    await world.image(b"layer", tag="1")
    size = await world.registry.blobs.size(NAME, Digest.of(b"layer"))
    digests = [Digest.parse(text) for (text,) in world.rows("SELECT digest FROM blob")]
    kept: dict[Digest, bytes] = {}
    for digest in digests:
        async with world.store.open(digest) as region:
            kept[digest] = await region.read(0, region.size)
        world.spoil(digest, None)
    with refused(STORE_UNAVAILABLE, "is the disk mounted"):
        async with world.registry.blobs.open(Digest.of(b"layer"), size):
            raise AssertionError("it is open")
    with refused(STORE_UNAVAILABLE, "is the disk mounted"):
        await world.verify()
    assert await world.damaged() == set()
    for digest, content in kept.items():
        await world.store.put(digest, content)
    await world.clean()
    await world.pulls("1")


async def test_a_flipped_bit_in_the_catalogue_is_not_served(world: World) -> None:
    digest = await world.image(b"layer", tag="1")
    content = image(b"layer")
    for reference in ("1", digest):
        await world.change(
            "UPDATE blob SET content = ? WHERE digest = ?", flipped(content), str(digest)
        )
        found = await world.registry.manifests.find(NAME, reference)
        assert await world.registry.manifests.content(found) == content
        assert world.rows("SELECT content FROM blob WHERE content IS NOT NULL") == [(content,)]
    await world.clean()
    await world.change("UPDATE blob SET content = ? WHERE digest = ?", b"{}", str(digest))
    world.spoil(digest, flipped)
    with refused(MANIFEST_UNKNOWN):
        await world.registry.manifests.find(NAME, "1")
    assert await world.damaged() == {str(digest)}


async def test_a_flipped_bit_in_a_large_manifest_is_not_served(world: World) -> None:
    content = image(b"layer", annotations={"big": "a" * 100_000})
    await world.image(b"layer", tag="small")
    digest = await world.put(content, "large")
    found = await world.registry.manifests.find(NAME, "large")
    world.spoil(digest, flipped)
    with refused(MANIFEST_UNKNOWN):
        await world.registry.manifests.content(found)
    with refused(MANIFEST_UNKNOWN):
        await world.registry.manifests.find(NAME, "large")
    await world.put(content, "large")
    await world.pulls("large")


# --- repair


@pytest.mark.parametrize("layout", ["{0.algorithm}/{1}/{0.hex}", "{0.algorithm}/{0.hex}"])
async def test_what_is_damaged_is_replaced_from_a_folder(
    world: World, tmp_path: Path, layout: str
) -> None:
    await world.image(b"layer", b"lost", b"nowhere", b"rotten there", tag="1")
    folder = tmp_path / "backup"
    for content in (b"layer", b"lost", b"rotten there"):
        digest = Digest.of(content)
        path = folder / "blobs" / layout.format(digest, digest.hex[:2])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(flipped(content) if content == b"rotten there" else content)
    for content in (b"layer", b"nowhere", b"rotten there"):
        world.spoil(Digest.of(content), flipped)
    world.spoil(Digest.of(b"lost"), None)
    await world.verify()
    sources = [SourceFolder(tmp_path / "none"), SourceFolder(folder)]
    found = states(await world.verify(sources=sources))
    assert found == {
        str(Digest.of(b"layer")): "repaired",
        str(Digest.of(b"lost")): "repaired",
        str(Digest.of(b"nowhere")): "damaged",
        str(Digest.of(b"rotten there")): "damaged",
    }
    assert await world.store.staged() == {}
    await world.image(b"nowhere", b"rotten there")
    await world.pulls("1")
    await world.clean()


# --- strays and quarantine


async def test_a_stray_goes_to_quarantine_and_leaves_in_its_time(world: World) -> None:
    await world.image(b"layer", tag="1")
    stray = Digest.of(b"stray")
    await world.store.put(stray, b"stray")
    if isinstance(world.store, FileStore):
        await world.clean()  # it may be on its way
        os.utime(world.store.path(stray), (0, time.time() - 7200))
    finding = only(await world.verify())
    assert (finding.state, "in quarantine now" in finding.fault) == ("moved", True)
    assert [one.digest for one in await world.store.quarantine()] == [stray]
    assert world.rows("SELECT digest FROM quarantine") == [(str(stray),)]
    await world.clean()
    await world.registry.sweep.run(PURGE)
    assert await world.store.quarantine() == []
    await world.pulls("1")


async def test_a_rotten_stray_is_set_aside(world: World) -> None:
    await world.image(b"layer", tag="1")
    stray = Digest.of(b"stray")
    await world.store.put(stray, b"other")
    if isinstance(world.store, FileStore):
        os.utime(world.store.path(stray), (0, 0))
    assert only(await world.verify()).state == "moved"
    assert await world.store.quarantine() == []
    assert world.rows("SELECT digest FROM quarantine") == []


async def test_quarantine_and_its_records_are_brought_together(world: World) -> None:
    await world.image(b"layer", tag="1")
    unknown, rotten, gone = (Digest.of(one) for one in (b"unknown", b"rotten", b"gone"))
    for digest, content in ((unknown, b"unknown"), (rotten, b"other")):
        await world.store.put(digest, content)
    await world.store.put_away((unknown, rotten))
    for digest in (rotten, gone):
        await world.change("INSERT INTO quarantine (digest, size) VALUES (?, 5)", str(digest))
    verified = await world.verify()
    assert verified.counts == {"mended": 2, "moved": 1}
    assert world.rows("SELECT digest FROM quarantine") == [(str(unknown),)]
    assert [one.digest for one in await world.store.quarantine()] == [unknown]
    await world.clean()


@of_files
async def test_what_does_not_belong_there_is_told_and_left_alone(
    world: World, on_files: FileStore
) -> None:
    await world.image(b"layer", tag="1")
    lost = Digest.of(b"layer")
    blobs = world.root / "blobs"
    for path, content in (
        ("sha256/00/.tmp123", b"x"),
        ("sha256/00/" + "0" * 63, b""),
        ("sha256/zz", b"x"),
        ("lost+found", b""),
    ):
        (blobs / path).write_bytes(content)
    shelf = "00" if not lost.hex.startswith("00") else "01"
    (blobs / "sha256" / shelf / "folder").mkdir()
    on_files.path(lost).rename(blobs / "sha256" / shelf / lost.hex)
    (world.root / "quarantine" / "notes.txt").write_bytes(b"x")
    before = world.tree()
    verified = await world.verify()
    assert verified.counts == {"damaged": 1, "noted": 7}
    misplaced = next(one for one in verified.found if "wrong folder" in one.fault)
    assert misplaced.fault.endswith(f"belongs into sha256/{lost.hex[:2]}")
    assert world.tree() == before
    (blobs / "sha256" / shelf / lost.hex).rename(on_files.path(lost))
    assert (await world.verify()).counts == {"mended": 1, "noted": 6}
    await world.pulls("1")


# --- a disk that fails


@of_files
async def test_a_blob_that_cannot_be_read_is_damaged(
    world: World, on_files: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.image(b"layer", b"other", tag="1")
    path = str(on_files.path(Digest.of(b"layer")))
    pread = os.pread

    def failing(descriptor: int, length: int, offset: int) -> bytes:
        if Path(f"/proc/self/fd/{descriptor}").readlink() == Path(path):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pread(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", failing)
    finding = only(await world.verify())
    assert finding.fault == "its bytes cannot be read: Input/output error"
    assert await world.damaged() == {str(Digest.of(b"layer"))}
    monkeypatch.undo()
    await world.push(b"layer")
    await world.clean()


class _Unusable:
    """An entry of a folder whose inode cannot be read."""

    def __init__(self, entry: os.DirEntry[str]) -> None:
        self.name, self.path = entry.name, entry.path

    def stat(self, *, follow_symlinks: bool) -> os.stat_result:
        raise OSError(errno.EUCLEAN, os.strerror(errno.EUCLEAN))


@of_files
async def test_a_blob_whose_inode_is_damaged_is_damaged_and_stops_nothing(
    world: World, on_files: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.image(b"layer", b"other", tag="1")
    broken = str(on_files.path(Digest.of(b"layer")))

    def failing(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any, *rest: Any, **more: Any) -> Any:
            if str(path) == broken:
                raise OSError(errno.EUCLEAN, os.strerror(errno.EUCLEAN))
            return function(path, *rest, **more)

        return call

    scandir = os.scandir

    @contextmanager
    def scanning(folder: Path) -> Iterator[Iterator[os.DirEntry[str] | _Unusable]]:
        with scandir(folder) as entries:
            yield (_Unusable(one) if one.path == broken else one for one in entries)

    for name in ("open", "stat", "rename"):
        monkeypatch.setattr(os, name, failing(getattr(os, name)))
    monkeypatch.setattr(os, "scandir", scanning)
    assert "cannot be read" in only(await world.verify()).fault
    assert await world.damaged() == {str(Digest.of(b"layer"))}
    assert "cannot be read" in only(await world.verify()).fault
    monkeypatch.undo()
    await world.push(b"layer")
    await world.clean()


@of_files
@pytest.mark.parametrize("kind", ["a folder", "a link to itself"])
async def test_what_is_no_file_is_damaged_and_stops_no_sweep(
    world: World, on_files: FileStore, kind: str
) -> None:
    await world.image(b"layer", b"other", tag="1")
    path = on_files.path(Digest.of(b"layer"))
    path.unlink()
    if kind == "a folder":
        path.mkdir()
    else:
        path.symlink_to(path.name)
    await world.verify()
    assert await world.damaged() == {str(Digest.of(b"layer"))}
    await world.push(b"layer")
    await world.clean()
    await world.registry.sweep.run(PURGE)


@of_files
@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE])
async def test_where_nothing_can_be_read_nothing_is_taken_for_damaged(
    world: World, on_files: FileStore, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(round_, "_DOUBTS_MAX", 3)
    await world.image(b"1", b"2", b"3", b"4", b"5", tag="1")
    await world.put(image(annotations={"big": "a" * 100_000}))
    opened = os.open

    def failing(path: Any, *rest: Any, **more: Any) -> int:
        if "/blobs/" in str(path):
            raise OSError(number, os.strerror(number))
        return opened(path, *rest, **more)

    monkeypatch.setattr(os, "open", failing)
    with refused(STORE_UNAVAILABLE):
        await world.verify()
    monkeypatch.undo()
    assert await world.damaged() == set()
    await world.clean()


@of_files
@pytest.mark.parametrize("whole", [True, False], ids=["the folder", "what is in it"])
async def test_a_disk_that_is_not_mounted_is_told_so(
    world: World, on_files: FileStore, whole: bool
) -> None:
    await world.image(b"1", b"2", tag="1")
    blobs = world.root / "blobs"
    blobs.rename(world.root / "elsewhere")
    if not whole:
        on_files.prepare()
    with refused(STORE_UNAVAILABLE):
        await world.verify()
    assert await world.damaged() == set()
    if not whole:
        blobs.rename(world.root / "empty")
    (world.root / "elsewhere").rename(blobs)
    await world.clean()
    await world.pulls("1")


# --- a catalogue that is damaged


async def test_while_the_catalogue_is_damaged_nothing_is_changed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.image(b"layer", b"other", tag="1")
    stray = Digest.of(b"stray")
    await world.store.put(stray, b"stray")
    if isinstance(world.store, FileStore):
        os.utime(world.store.path(stray), (0, 0))
    world.spoil(Digest.of(b"layer"), flipped)
    world.spoil(Digest.of(b"other"), None)
    world.spoil(Digest.of(image(b"layer", b"other")), flipped)
    await world.change("UPDATE link SET uses = uses + 1")
    before, records = world.tree(), world.dump()
    records_of_scrub = world.registry.scrub._records

    async def damaged(first: int) -> tuple[int, list[int]]:
        return (10, [3, 4]) if first == 1 else (0, [])

    monkeypatch.setattr(records_of_scrub, "check_pages", damaged)
    verified = await world.verify()
    assert set(verified.counts) == {"damaged"}
    assert {str(Digest.of(b"layer")), str(Digest.of(b"other"))} <= states(verified).keys()
    assert "nothing was changed" in verified.remarks[0]
    assert (world.tree(), world.dump()) == (before, records)
    assert world.rows("SELECT * FROM chore") == []
    monkeypatch.undo()
    verified = await world.verify()
    assert verified.counts == {"damaged": 2, "mended": 2, "moved": 1}


async def test_rows_that_do_not_fit_together_are_told(world: World) -> None:
    await world.image(b"layer", tag="1")
    await world.database.aclose()
    with sqlite3.connect(world.root / "catalogue.sqlite3") as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("DELETE FROM blob WHERE digest = ?", (str(Digest.of(b"layer")),))
        connection.execute("UPDATE blob SET digest = 'nonsense' WHERE size = 2")
    connection.close()
    world.database = Database.open(world.root / "catalogue.sqlite3")
    world.registry.scrub._records._database = world.database  # type: ignore[attr-defined]
    verified = await world.verify()
    faults = [one.fault for one in verified.found]
    assert any("refers to a row of table blob that is not there" in one for one in faults)
    assert any("of table blob has no digest" in one for one in faults)
    assert set(verified.counts) == {"damaged"}


# --- while others are at work


async def test_no_false_alarm_while_clients_push_and_garbage_goes(world: World) -> None:
    ended = False

    async def push(number: int) -> None:
        for turn in range(15):
            name = f"team/app{number}"
            layers = [bytes([number, turn]) * 3000, bytes([turn]) * 500]
            digest = await world.image(*layers, tag="latest", repository=name)
            if turn % 3 == 1:
                await world.registry.manifests.delete(name, digest)
            if turn % 5 == 2:
                await world.registry.manifests.delete_repository(name)

    async def sweep() -> None:
        while not ended:
            await world.registry.sweep.run(PURGE)
            await trio.lowlevel.checkpoint()

    async def verify() -> None:
        while not ended:
            verified = await world.verify()
            assert verified.found == []

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sweep)
        nursery.start_soon(verify)
        async with trio.open_nursery() as pushing:
            for number in range(4):
                pushing.start_soon(push, number)
        ended = True
    await world.clean()
    assert await world.damaged() == set()


async def test_a_push_meanwhile_wins(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.image(b"layer", tag="1")
    layer = Digest.of(b"layer")
    world.spoil(layer, flipped)
    inspect = world.store.inspect

    async def slow(digest: Digest, *rest: Any, **more: Any) -> Any:
        found = await inspect(digest, *rest, **more)
        if digest == layer and found.computed not in (None, layer):
            await world.push(b"layer")
        return found

    monkeypatch.setattr(world.store, "inspect", slow)
    await world.clean()
    await world.pulls("1")


# --- its rounds


async def test_a_round_that_was_interrupted_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(round_, "_BATCH", 2)
    layers = [bytes([number]) * 10 for number in range(20)]
    await world.image(*layers, tag="1")
    early, late = Digest.of(layers[0]), Digest.of(layers[-1])
    for digest in (early, late):
        world.spoil(digest, flipped)
    seen: list[Digest] = []
    inspect = world.store.inspect

    async def watched(digest: Digest, *rest: Any, **more: Any) -> Any:
        seen.append(digest)
        if len(seen) == 10:
            scope.cancel()
        await trio.lowlevel.checkpoint()
        return await inspect(digest, *rest, **more)

    monkeypatch.setattr(world.store, "inspect", watched)
    with trio.CancelScope() as scope:
        await world.verify()
    assert scope.cancelled_caught
    first = set(seen)
    seen.clear()
    verified = await world.verify()
    assert len(first | set(seen)) == 22
    assert len(first & set(seen)) < 10
    assert "--anew" in verified.remarks[0]
    assert states(verified) == {str(early): "damaged", str(late): "damaged"}
    seen.clear()
    assert len((await world.verify()).remarks) == 0
    assert len(set(seen)) == 22


async def test_an_operator_s_goes_before_the_one_that_runs_by_itself(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    await world.image(b"a" * 1000, b"b" * 1000, tag="1")
    outcome: list[Verified | None] = []

    async def by_itself() -> None:
        outcome.append(await world.registry.scrub.run_by_itself(ScrubRules(rate=1)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(by_itself)
        while world.registry.scrub._background is None:
            await trio.lowlevel.checkpoint()
        await wait_all_tasks_blocked()
        assert (await world.verify()).found == []
    assert outcome == [None]
    assert await world.registry.scrub.due(100) == 0
    assert (await world.registry.scrub.run_by_itself(ScrubRules(rate=1000))) is not None
    assert 90 < await world.registry.scrub.due(100) <= 100
    world.registry.scrub._last = 0.0  # as after a restart
    assert 90 < await world.registry.scrub.due(100) <= 100
    assert await world.registry.scrub.due(-1) == 0


async def test_an_operator_s_goes_before_one_by_itself_that_waits_for_another_operator_s(
    world: World,
) -> None:
    await world.image(b"a" * 1000, tag="1")
    outcome: list[Verified | None] = []
    turn = world.registry.scrub._turn

    async def by_itself() -> None:
        outcome.append(await world.registry.scrub.run_by_itself(ScrubRules()))

    async with trio.open_nursery() as nursery:
        await turn.acquire()
        nursery.start_soon(by_itself)
        await wait_all_tasks_blocked()
        nursery.start_soon(world.verify)
        await wait_all_tasks_blocked()
        turn.release()
    assert outcome == [None]


async def test_it_reads_no_faster_than_it_may(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    await world.image(b"a" * 100_000, tag="1")
    began = trio.current_time()
    await world.verify(rate=1000)
    assert trio.current_time() - began > 90


async def test_findings_that_are_very_many_are_counted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(round_, "_LISTED_MAX", 2)
    layers = [bytes([number]) for number in range(5)]
    await world.image(*layers, tag="1")
    for layer in layers:
        world.spoil(Digest.of(layer), flipped)
    verified = await world.verify()
    assert (len(verified.found), verified.left_out, verified.counts) == (2, 3, {"damaged": 5})
