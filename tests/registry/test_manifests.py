"""Manifests and tags as use cases: over a real store and real records."""

import json
from typing import Any

import pytest

from appliance.catalogue.records import Catalogue
from appliance.catalogue.rows import CONTENT_MAX
from appliance.oci.digest import Digest
from appliance.oci.errors import (
    BLOB_UNKNOWN,
    DIGEST_INVALID,
    MANIFEST_BLOB_UNKNOWN,
    MANIFEST_INVALID,
    MANIFEST_UNKNOWN,
    NAME_UNKNOWN,
    STORE_FULL,
)
from appliance.oci.mediatypes import OCI_INDEX, OCI_MANIFEST
from appliance.protocol.paging import Page
from appliance.protocol.session import Session
from appliance.registry.blobs import Blobs
from appliance.registry.locks import DigestLocks
from appliance.registry.manifests import Manifests
from appliance.registry.quotas import Quotas
from appliance.registry.space import Space
from appliance.storage.files import FileStore
from appliance.storage.memory import MemoryStore
from tests.refused import refused
from tests.registry.leased import leased

HERE, THERE = "here/app", "there/app"
CONFIG = b"{}"
ALL = Page(1000, "")

Store = FileStore | MemoryStore


def descriptor(content: bytes, media_type: str = "application/vnd.example") -> dict[str, Any]:
    return {"mediaType": media_type, "digest": str(Digest.of(content)), "size": len(content)}


def image(**fields: Any) -> bytes:
    return json.dumps(
        {"mediaType": OCI_MANIFEST, "config": descriptor(CONFIG), "layers": [], **fields}
    ).encode()


def index(*manifests: bytes) -> bytes:
    entries = [descriptor(content, OCI_MANIFEST) for content in manifests]
    return json.dumps({"mediaType": OCI_INDEX, "manifests": entries}).encode()


@pytest.fixture
async def manifests(store: Store, catalogue: Catalogue) -> Manifests:
    """Two repositories that have the config of every image."""
    for repository in (HERE, THERE):
        session = Session(repository, repository, "alice", "sha256")
        await catalogue.add_session(session)
        await store.put(Digest.of(CONFIG), CONFIG)
        await catalogue.commit_session(session, Digest.of(CONFIG), len(CONFIG))
    return Manifests(
        store=store,
        records=catalogue,
        leases=leased(),
        locks=DigestLocks(),
        space=Space(store),
        quotas=Quotas(catalogue),
    )


async def served(manifests: Manifests, repository: str, reference: Digest | str) -> bytes:
    return await manifests.content(await manifests.find(repository, reference))


def anything(_: str) -> bool:
    return True


async def in_store(store: Store, digest: Digest) -> bool:
    try:
        async with store.open(digest):
            return True
    except Exception as error:
        if getattr(error, "row", None) is BLOB_UNKNOWN:
            return False
        raise


# --- putting and finding


async def test_a_manifest_comes_back_byte_by_byte(manifests: Manifests) -> None:
    content = b"\n  " + image(annotations={"a": "\u00e4"}) + b"  \r\n"
    digest, parsed = await manifests.put(HERE, "latest", content, OCI_MANIFEST)
    assert digest == Digest.of(content)
    assert parsed.media_type == OCI_MANIFEST
    assert await served(manifests, HERE, "latest") == content
    assert await served(manifests, HERE, digest) == content


@pytest.mark.parametrize("surplus", [0, 1, CONTENT_MAX])
async def test_a_large_manifest_comes_back_from_the_store(
    manifests: Manifests, surplus: int
) -> None:
    padding = "x" * (CONTENT_MAX - len(image(annotations={"a": ""})) + surplus)
    content = image(annotations={"a": padding})
    assert len(content) == CONTENT_MAX + surplus
    digest, _ = await manifests.put(HERE, "latest", content, OCI_MANIFEST)
    found = await manifests.find(HERE, digest)
    assert (found.content is None) == (surplus > 0)
    assert await manifests.content(found) == content


async def test_every_manifest_is_a_blob_of_the_store(manifests: Manifests, store: Store) -> None:
    digest, _ = await manifests.put(HERE, "latest", image(), OCI_MANIFEST)
    async with store.open(digest) as region:
        assert await region.read(0, region.size) == image()
    assert await store.staged() == {}


async def test_a_manifest_may_be_put_by_its_digest_without_a_tag(manifests: Manifests) -> None:
    digest = Digest.of(image())
    assert (await manifests.put(HERE, digest, image(), None))[0] == digest
    assert await manifests.tags(HERE, ALL) == ([], False)
    assert await served(manifests, HERE, digest) == image()


async def test_a_manifest_may_be_named_by_sha512(manifests: Manifests) -> None:
    digest = Digest.of(image(), "sha512")
    assert (await manifests.put(HERE, digest, image(), None))[0] == digest
    assert await served(manifests, HERE, digest) == image()
    with refused(MANIFEST_UNKNOWN):
        await manifests.find(HERE, Digest.of(image()))


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_another_digest_than_that_of_the_bytes_is_refused(
    manifests: Manifests, store: Store, algorithm: str
) -> None:
    wrong = Digest.of(b"else", algorithm)
    with refused(DIGEST_INVALID, str(Digest.of(image(), algorithm))) as caught:
        await manifests.put(HERE, wrong, image(), OCI_MANIFEST)
    assert caught.value.details == ({"digest": str(wrong)},)
    assert not await in_store(store, Digest.of(image(), algorithm))


async def test_a_refused_manifest_never_reaches_the_disk(
    manifests: Manifests, store: Store
) -> None:
    lacking = image(layers=[descriptor(b"never")])
    with refused(MANIFEST_BLOB_UNKNOWN):
        await manifests.put(HERE, "latest", lacking, OCI_MANIFEST)
    with refused(MANIFEST_INVALID):
        await manifests.put(HERE, "latest", b"{", OCI_MANIFEST)
    assert not await in_store(store, Digest.of(lacking))
    assert not await in_store(store, Digest.of(b"{"))
    assert await manifests.repositories(ALL, anything) == ([], False)


async def test_a_manifest_that_cannot_be_stored_is_not_recorded(
    manifests: Manifests, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise STORE_FULL.error()

    monkeypatch.setattr(store, "put", fail)
    with refused(STORE_FULL):
        await manifests.put(HERE, "latest", image(), OCI_MANIFEST)
    with refused(MANIFEST_UNKNOWN):
        await manifests.find(HERE, "latest")


async def test_what_a_manifest_needs_may_vanish_while_it_is_stored(
    manifests: Manifests, store: Store, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = store.put

    async def slowly(digest: Digest, content: bytes) -> None:
        await put(digest, content)
        await catalogue.unlink(HERE, Digest.of(CONFIG))

    monkeypatch.setattr(store, "put", slowly)
    with refused(MANIFEST_BLOB_UNKNOWN):
        await manifests.put(HERE, "latest", image(), OCI_MANIFEST)
    with refused(MANIFEST_UNKNOWN):
        await manifests.find(HERE, "latest")


async def test_an_index_needs_its_manifests(manifests: Manifests) -> None:
    with refused(MANIFEST_BLOB_UNKNOWN) as caught:
        await manifests.put(HERE, "multi", index(image()), OCI_INDEX)
    assert caught.value.details == ({"digest": str(Digest.of(image()))},)
    await manifests.put(THERE, "latest", image(), OCI_MANIFEST)
    with refused(MANIFEST_BLOB_UNKNOWN):
        await manifests.put(HERE, "multi", index(image()), OCI_INDEX)
    await manifests.put(HERE, Digest.of(image()), image(), OCI_MANIFEST)
    await manifests.put(HERE, "multi", index(image()), OCI_INDEX)
    assert await served(manifests, HERE, "multi") == index(image())


async def test_an_unknown_manifest_is_told_by_what_was_asked(manifests: Manifests) -> None:
    await manifests.put(HERE, "latest", image(), OCI_MANIFEST)
    digest = Digest.of(image())
    for repository, reference, detail in (
        (HERE, "nope", {"name": HERE, "tag": "nope"}),
        (THERE, "latest", {"name": THERE, "tag": "latest"}),
        (THERE, digest, {"name": THERE, "digest": str(digest)}),
    ):
        with refused(MANIFEST_UNKNOWN) as caught:
            await manifests.find(repository, reference)
        assert caught.value.details == (detail,)


# --- deleting


async def test_deleting_a_tag_is_not_deleting_its_manifest(manifests: Manifests) -> None:
    digest, _ = await manifests.put(HERE, "latest", image(), OCI_MANIFEST)
    await manifests.put(HERE, "1.0", image(), OCI_MANIFEST)
    await manifests.delete(HERE, "latest")
    assert await manifests.tags(HERE, ALL) == (["1.0"], False)
    await manifests.delete(HERE, digest)
    with refused(NAME_UNKNOWN):
        await manifests.tags(HERE, ALL)
    for reference in ("latest", digest):
        with refused(MANIFEST_UNKNOWN):
            await manifests.delete(HERE, reference)


async def test_what_was_deleted_may_come_again(manifests: Manifests) -> None:
    digest, _ = await manifests.put(HERE, "latest", image(), OCI_MANIFEST)
    await manifests.delete(HERE, digest)
    await manifests.put(HERE, "latest", image(), OCI_MANIFEST)
    assert await served(manifests, HERE, "latest") == image()


async def test_a_blob_can_be_deleted_once_no_manifest_needs_it(
    manifests: Manifests, store: Store, catalogue: Catalogue
) -> None:
    blobs = Blobs(store=store, records=catalogue, leases=leased())
    digest, _ = await manifests.put(HERE, "latest", image(), OCI_MANIFEST)
    assert await blobs.size(HERE, Digest.of(CONFIG)) == len(CONFIG)
    await manifests.delete(HERE, digest)
    await blobs.delete(HERE, Digest.of(CONFIG))
    with refused(BLOB_UNKNOWN) as caught:
        await blobs.size(HERE, Digest.of(CONFIG))
    assert caught.value.details == ({"digest": str(Digest.of(CONFIG))},)
    assert await blobs.size(THERE, Digest.of(CONFIG)) == len(CONFIG)
    async with blobs.open(Digest.of(CONFIG), len(CONFIG)) as region:
        assert region.size == len(CONFIG)


# --- lists


async def test_a_page_tells_whether_more_follow(manifests: Manifests) -> None:
    for tag in ("a", "b", "c"):
        await manifests.put(HERE, tag, image(), OCI_MANIFEST)
    assert await manifests.tags(HERE, ALL) == (["a", "b", "c"], False)
    assert await manifests.tags(HERE, Page(2, "")) == (["a", "b"], True)
    assert await manifests.tags(HERE, Page(3, "")) == (["a", "b", "c"], False)
    assert await manifests.tags(HERE, Page(1, "b")) == (["c"], False)
    assert await manifests.tags(HERE, Page(5, "c")) == ([], False)
    assert (await manifests.tags(HERE, Page(0, "")))[0] == []


async def test_the_tags_of_no_repository_are_unknown(manifests: Manifests) -> None:
    with refused(NAME_UNKNOWN) as caught:
        await manifests.tags("no/app", ALL)
    assert caught.value.details == ({"name": "no/app"},)


async def test_repositories_come_in_pages(manifests: Manifests) -> None:
    for repository in (THERE, HERE):
        await manifests.put(repository, "latest", image(), OCI_MANIFEST)
    assert await manifests.repositories(ALL, anything) == ([HERE, THERE], False)
    assert await manifests.repositories(Page(1, ""), anything) == ([HERE], True)
    assert await manifests.repositories(Page(1, HERE), anything) == ([THERE], False)


async def test_only_visible_repositories_are_listed_and_pages_are_full_of_them(
    manifests: Manifests,
) -> None:
    names = [f"{team}/app{number}" for number in range(12) for team in ("red", "blue")]
    for name in names:
        await manifests.put(name, "latest", index(), OCI_INDEX)
    reds = sorted(name for name in names if name.startswith("red"))

    def red(name: str) -> bool:
        return name.startswith("red/")

    assert await manifests.repositories(ALL, red) == (reds, False)
    listed: list[str] = []
    last, more = "", True
    while more:
        page, more = await manifests.repositories(Page(5, last), red)
        assert len(page) == min(5, len(reds) - len(listed))
        listed += page
        last = page[-1]
    assert listed == reds
    assert await manifests.repositories(ALL, lambda _: False) == ([], False)
    assert await manifests.repositories(Page(0, ""), anything) == ([], False)


async def test_pages_show_once_what_is_there_all_along(manifests: Manifests) -> None:
    lasting = [f"lasting/app{number:02}" for number in range(20)]
    for name in lasting:
        await manifests.put(name, "latest", index(), OCI_INDEX)
        for number in range(3):
            await manifests.put(HERE, f"{name[-2:]}-{number}", index(), OCI_INDEX)
    kept = [f"{name[-2:]}-1" for name in lasting]
    names: list[str] = []
    tags: list[str] = []
    step = 0
    more_names = more_tags = True
    while more_names or more_tags:
        page = Page(3, names[-1] if names else "")
        found, more_names = await manifests.repositories(page, anything)
        names += found
        found, more_tags = await manifests.tags(HERE, Page(3, tags[-1] if tags else ""))
        tags += found
        # Others come and go before and behind the place where the next page begins.
        for name in (f"fleeting/app{step}", f"lasting/app{step + 3:02}-more"):
            await manifests.put(name, "latest", index(), OCI_INDEX)
        if step:
            await manifests.delete_repository(f"fleeting/app{step - 1}")
        await manifests.delete(HERE, f"{step:02}-0")
        step += 1
    assert len(names) == len(set(names))
    assert len(tags) == len(set(tags))
    assert set(lasting) <= set(names)
    assert set(kept) <= set(tags)


async def test_a_repository_goes_with_all_that_is_in_it(
    manifests: Manifests, catalogue: Catalogue
) -> None:
    for name in (HERE, THERE):
        await manifests.put(name, "latest", image(), OCI_MANIFEST)
    digest = Digest.of(image())
    await manifests.delete_repository(HERE)
    assert await manifests.repositories(ALL, anything) == ([THERE], False)
    with refused(MANIFEST_UNKNOWN):
        await manifests.find(HERE, digest)
    with refused(NAME_UNKNOWN):
        await manifests.tags(HERE, ALL)
    assert (await manifests.find(THERE, "latest")).descriptor.digest == digest
    with refused(NAME_UNKNOWN) as caught:
        await manifests.delete_repository(HERE)
    assert caught.value.details == ({"name": HERE},)


@pytest.mark.parametrize(
    ("required", "fails_for"),
    [
        (["*"], {"linux/amd64", "linux/arm/v7", ""}),
        ([], set()),
        (["linux/amd64"], {"linux/amd64"}),
        (["linux/arm*"], {"linux/arm/v7"}),
        (["linux/*"], {"linux/amd64", "linux/arm/v7"}),
        (["windows/amd64"], set()),
    ],
)
@pytest.mark.parametrize("platform", ["linux/amd64", "linux/arm/v7", ""])
async def test_an_index_may_lack_platforms_that_are_not_required(
    manifests: Manifests, required: list[str], fails_for: set[str], platform: str
) -> None:
    manifests.require(required)
    entry = descriptor(b"{} and never pushed", OCI_MANIFEST)
    if platform:
        system, architecture, *variant = platform.split("/")
        entry["platform"] = {"os": system, "architecture": architecture}
        if variant:
            entry["platform"]["variant"] = variant[0]
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}).encode()
    if platform in fails_for:
        with refused(MANIFEST_BLOB_UNKNOWN):
            await manifests.put(HERE, "latest", index, OCI_INDEX)
    else:
        digest, _ = await manifests.put(HERE, "latest", index, OCI_INDEX)
        assert (await manifests.find(HERE, "latest")).descriptor.digest == digest


async def test_a_platform_without_a_variant_stands_for_all_of_them(manifests: Manifests) -> None:
    manifests.require(["linux/arm64"])
    with refused(MANIFEST_BLOB_UNKNOWN):
        await manifests.put(HERE, "latest", lacking(("linux", "arm64", "v8")), OCI_INDEX)
    await manifests.put(HERE, "latest", lacking(("linux", "arm", "v8")), OCI_INDEX)


async def test_what_is_listed_twice_is_required_if_it_is_once(manifests: Manifests) -> None:
    manifests.require(["linux/amd64"])
    twice = lacking(("linux", "amd64", ""), ("linux", "s390x", ""))
    with refused(MANIFEST_BLOB_UNKNOWN):
        await manifests.put(HERE, "latest", twice, OCI_INDEX)


def lacking(*platforms: tuple[str, str, str]) -> bytes:
    """An index that lists one manifest, which nobody has pushed, for some platforms."""
    names = ("os", "architecture", "variant")
    entries = [
        {
            **descriptor(b"never pushed", OCI_MANIFEST),
            "platform": dict(zip(names, one, strict=True)),
        }
        for one in platforms
    ]
    return json.dumps({"mediaType": OCI_INDEX, "manifests": entries}).encode()


async def test_a_push_by_digest_sets_any_number_of_tags(manifests: Manifests) -> None:
    digest, _ = await manifests.put(
        HERE, Digest.of(image()), image(), OCI_MANIFEST, tags=["1", "1.2", "latest"]
    )
    assert await manifests.tags(HERE, ALL) == (["1", "1.2", "latest"], False)
    assert (await manifests.find(HERE, "1.2")).descriptor.digest == digest


async def test_referrers_come_in_pages_and_by_type(manifests: Manifests) -> None:
    subject = descriptor(image(), OCI_MANIFEST)
    expected = []
    for number in range(5):
        artifact = image(
            subject=subject, artifactType=f"a/{number % 2}", annotations={"n": f"{number}"}
        )
        digest, _ = await manifests.put(HERE, Digest.of(artifact), artifact, OCI_MANIFEST)
        expected.append(str(digest))
    expected.sort()
    found, more = await manifests.referrers(HERE, Digest.of(image()), None, ALL)
    assert ([entry.digest for entry in found], more) == (expected, False)
    found, more = await manifests.referrers(HERE, Digest.of(image()), None, Page(2, expected[1]))
    assert ([entry.digest for entry in found], more) == (expected[2:4], True)
    found, more = await manifests.referrers(HERE, Digest.of(image()), "a/1", ALL)
    assert ({entry.artifact_type for entry in found}, len(found), more) == ({"a/1"}, 2, False)
    assert await manifests.referrers(THERE, Digest.of(image()), None, ALL) == ([], False)
