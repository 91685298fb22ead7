"""The records: what each repository shows, and that nothing in them ever contradicts itself."""

import sqlite3
import tempfile
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis.strategies as st
import pytest
import trio
from hypothesis import given, settings

from appliance.catalogue.database import Database
from appliance.catalogue.queries import REFERRERS_MAX
from appliance.catalogue.records import Catalogue
from appliance.catalogue.rows import CONTENT_MAX
from appliance.oci.descriptor import Descriptor
from appliance.oci.digest import Digest
from appliance.oci.errors import (
    BLOB_UNKNOWN,
    BLOB_UPLOAD_UNKNOWN,
    MANIFEST_BLOB_UNKNOWN,
    MANIFEST_UNKNOWN,
    METHOD_UNSUPPORTED,
    NAME_UNKNOWN,
    RegistryError,
)
from appliance.oci.manifest import Manifest
from appliance.oci.mediatypes import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from appliance.protocol.session import Session
from tests.refused import refused

BLOB = b"a blob"
OTHER = b"another blob"
MANIFEST, INDEX = b"a manifest", b"an index"
HERE, THERE = "here/app", "there/app"


def described(content: bytes, media_type: str = "application/octet-stream") -> Descriptor:
    return Descriptor(media_type, Digest.of(content), len(content))


def manifest(
    *blobs: bytes,
    manifests: Sequence[bytes] = (),
    subject: bytes | None = None,
    artifact_type: str | None = None,
    media_type: str = OCI_MANIFEST,
    annotations: dict[str, str] | None = None,
    optional: Sequence[bytes] = (),
) -> Manifest:
    return Manifest(
        media_type=media_type,
        blobs=tuple(map(described, blobs)),
        manifests=tuple(described(content, OCI_MANIFEST) for content in manifests),
        subject=None if subject is None else described(subject, OCI_MANIFEST),
        artifact_type=artifact_type,
        annotations=annotations,
        optional=frozenset(map(Digest.of, optional)),
    )


async def link(catalogue: Catalogue, repository: str, *blobs: bytes) -> None:
    """Let blobs arrive in a repository."""
    for content in blobs:
        session = Session(f"{repository} {Digest.of(content)}", repository, "alice", "sha256")
        await catalogue.add_session(session)
        await catalogue.commit_session(session, Digest.of(content), len(content))


async def put(
    catalogue: Catalogue,
    repository: str,
    content: bytes,
    found: Manifest | None = None,
    tag: str | None = None,
) -> Digest:
    digest = Digest.of(content)
    await catalogue.put_manifest(
        repository, digest, content, found or manifest(), [tag] if tag else []
    )
    return digest


async def tags(catalogue: Catalogue, repository: str) -> list[str] | None:
    return await catalogue.find_tags(repository, "", 1000)


async def repositories(catalogue: Catalogue) -> list[str]:
    return await catalogue.repositories("", 1000)


def count(database: Database, table: str) -> int:
    ((found,),) = database.read(f"SELECT count(*) FROM {table}")  # noqa: S608  a fixed word
    return int(found)


# --- blobs


async def test_a_blob_is_seen_only_where_it_is_linked(catalogue: Catalogue) -> None:
    await link(catalogue, HERE, BLOB)
    assert await catalogue.find_blob(HERE, Digest.of(BLOB)) == len(BLOB)
    assert await catalogue.find_blob(THERE, Digest.of(BLOB)) is None
    assert await catalogue.find_blob(HERE, Digest.of(OTHER)) is None
    assert await catalogue.find_blob("here", Digest.of(BLOB)) is None
    assert await catalogue.find_blob("", Digest.of(BLOB)) is None


async def test_a_blob_may_arrive_twice(catalogue: Catalogue, database: Database) -> None:
    await link(catalogue, HERE, BLOB)
    await link(catalogue, HERE, BLOB)
    await link(catalogue, THERE, BLOB)
    assert count(database, "blob") == 1
    assert count(database, "link") == 2


async def test_a_mounted_blob_is_seen_in_both_repositories(catalogue: Catalogue) -> None:
    await link(catalogue, HERE, BLOB)
    assert await catalogue.mount(HERE, THERE, Digest.of(BLOB))
    assert await catalogue.mount(HERE, THERE, Digest.of(BLOB))
    assert await catalogue.mount(HERE, HERE, Digest.of(BLOB))
    assert await catalogue.find_blob(THERE, Digest.of(BLOB)) == len(BLOB)
    await catalogue.unlink(HERE, Digest.of(BLOB))
    assert await catalogue.find_blob(HERE, Digest.of(BLOB)) is None
    assert await catalogue.find_blob(THERE, Digest.of(BLOB)) == len(BLOB)


async def test_what_a_repository_does_not_link_cannot_be_mounted_from_it(
    catalogue: Catalogue, database: Database
) -> None:
    await link(catalogue, HERE, BLOB)
    assert not await catalogue.mount(HERE, THERE, Digest.of(OTHER))
    assert not await catalogue.mount(THERE, HERE, Digest.of(BLOB))
    assert not await catalogue.mount("nowhere", "nowhere", Digest.of(BLOB))
    assert count(database, "repository") == 1


async def test_a_blob_that_is_not_there_cannot_be_unlinked(catalogue: Catalogue) -> None:
    await link(catalogue, HERE, BLOB)
    for repository, content in ((HERE, OTHER), (THERE, BLOB)):
        with refused(BLOB_UNKNOWN) as caught:
            await catalogue.unlink(repository, Digest.of(content))
        assert caught.value.details == ({"digest": str(Digest.of(content))},)


async def test_a_blob_in_use_cannot_be_unlinked(catalogue: Catalogue) -> None:
    await link(catalogue, HERE, BLOB, OTHER)
    await link(catalogue, THERE, BLOB)
    digest = await put(catalogue, HERE, b"image", manifest(BLOB), "latest")
    with refused(METHOD_UNSUPPORTED, str(digest)):
        await catalogue.unlink(HERE, Digest.of(BLOB))
    assert await catalogue.find_blob(HERE, Digest.of(BLOB)) == len(BLOB)
    await catalogue.unlink(HERE, Digest.of(OTHER))
    await catalogue.unlink(THERE, Digest.of(BLOB))
    await catalogue.delete_tag(HERE, "latest")
    with refused(METHOD_UNSUPPORTED):
        await catalogue.unlink(HERE, Digest.of(BLOB))
    await catalogue.delete_manifest(HERE, digest)
    await catalogue.unlink(HERE, Digest.of(BLOB))
    assert await catalogue.find_blob(HERE, Digest.of(BLOB)) is None


async def test_a_blob_two_manifests_use_is_free_after_the_second(catalogue: Catalogue) -> None:
    await link(catalogue, HERE, BLOB)
    first = await put(catalogue, HERE, b"first", manifest(BLOB))
    second = await put(catalogue, HERE, b"second", manifest(BLOB))
    await catalogue.delete_manifest(HERE, first)
    with refused(METHOD_UNSUPPORTED):
        await catalogue.unlink(HERE, Digest.of(BLOB))
    await catalogue.delete_manifest(HERE, second)
    await catalogue.unlink(HERE, Digest.of(BLOB))


async def test_a_manifest_is_no_blob_to_those_who_ask_for_blobs(catalogue: Catalogue) -> None:
    digest = await put(catalogue, HERE, b"image")
    assert await catalogue.find_blob(HERE, digest) is None
    await link(catalogue, HERE, b"image")
    assert await catalogue.find_blob(HERE, digest) == len(b"image")


# --- upload sessions


async def test_a_session_is_found_until_it_is_removed(catalogue: Catalogue) -> None:
    session = Session("id", HERE, "alice", "sha512")
    await catalogue.add_session(session)
    assert await catalogue.find_session("id") == session
    assert await catalogue.sessions() == [session]
    assert await catalogue.find_session("other") is None
    await catalogue.remove_session("id")
    await catalogue.remove_session("id")
    assert await catalogue.find_session("id") is None
    assert await catalogue.sessions() == []


async def test_the_newest_session_comes_first(catalogue: Catalogue, database: Database) -> None:
    for name, age in (("old", 100), ("new", 0), ("middle", 50)):
        await catalogue.add_session(Session(name, HERE, "alice", "sha256"))
        await database.write(
            lambda connection, name=name, age=age: connection.execute(  # type: ignore[misc]
                "UPDATE session SET started_at = started_at - ? WHERE id = ?", (age, name)
            )
        )
    assert [session.id for session in await catalogue.sessions()] == ["new", "middle", "old"]


async def test_a_session_becomes_a_blob_once(catalogue: Catalogue) -> None:
    session = Session("id", HERE, "alice", "sha256")
    await catalogue.add_session(session)
    await catalogue.commit_session(session, Digest.of(BLOB), len(BLOB))
    assert await catalogue.find_session("id") is None
    assert await catalogue.find_blob(HERE, Digest.of(BLOB)) == len(BLOB)
    with refused(BLOB_UPLOAD_UNKNOWN):
        await catalogue.commit_session(session, Digest.of(OTHER), len(OTHER))
    assert await catalogue.find_blob(HERE, Digest.of(OTHER)) is None


async def test_a_session_alone_makes_no_repository(
    catalogue: Catalogue, database: Database
) -> None:
    await catalogue.add_session(Session("id", HERE, "alice", "sha256"))
    assert count(database, "repository") == 0


# --- manifests


async def test_a_manifest_is_found_by_digest_and_by_tag(catalogue: Catalogue) -> None:
    digest = await put(catalogue, HERE, b"image", manifest(media_type=DOCKER_MANIFEST), "latest")
    for reference in (digest, "latest"):
        found = await catalogue.find_manifest(HERE, reference)
        assert found is not None
        assert found.descriptor == Descriptor(DOCKER_MANIFEST, digest, len(b"image"))
        assert found.content == b"image"
    assert await catalogue.find_manifest(THERE, digest) is None
    assert await catalogue.find_manifest(THERE, "latest") is None
    assert await catalogue.find_manifest(HERE, "other") is None
    assert await catalogue.find_manifest(HERE, str(digest)[:20]) is None


@pytest.mark.parametrize("size", [0, CONTENT_MAX, CONTENT_MAX + 1, 4 << 20])
async def test_large_manifests_are_left_to_the_store(
    catalogue: Catalogue, database: Database, size: int
) -> None:
    content = bytes(size)
    digest = await put(catalogue, HERE, content)
    found = await catalogue.find_manifest(HERE, digest)
    assert found is not None
    assert found.descriptor.size == size
    assert found.content == (content if size <= CONTENT_MAX else None)
    ((held,),) = database.read("SELECT coalesce(length(content), 0) FROM blob")
    assert held <= CONTENT_MAX


async def test_putting_a_manifest_twice_is_putting_it_once(
    catalogue: Catalogue, database: Database
) -> None:
    await link(catalogue, HERE, BLOB, OTHER)
    for _ in range(3):
        await put(catalogue, HERE, b"image", manifest(BLOB, OTHER, BLOB), "latest")
    assert [count(database, table) for table in ("manifest", "tag", "edge")] == [1, 1, 2]
    assert await tags(catalogue, HERE) == ["latest"]


async def test_the_same_manifest_may_be_in_two_repositories(
    catalogue: Catalogue, database: Database
) -> None:
    await link(catalogue, HERE, BLOB)
    await link(catalogue, THERE, BLOB)
    digest = await put(catalogue, HERE, b"image", manifest(BLOB), "latest")
    await put(catalogue, THERE, b"image", manifest(BLOB), "latest")
    assert count(database, "blob") == 2
    await catalogue.delete_manifest(HERE, digest)
    assert await catalogue.find_manifest(HERE, digest) is None
    assert await tags(catalogue, HERE) is None
    found = await catalogue.find_manifest(THERE, "latest")
    assert found is not None
    assert found.content == b"image"
    with refused(METHOD_UNSUPPORTED):
        await catalogue.unlink(THERE, Digest.of(BLOB))
    await catalogue.unlink(HERE, Digest.of(BLOB))


async def test_a_blob_that_is_pushed_as_a_manifest_later_has_its_bytes(
    catalogue: Catalogue,
) -> None:
    await link(catalogue, HERE, b"image")
    digest = await put(catalogue, HERE, b"image")
    await link(catalogue, HERE, b"image")
    found = await catalogue.find_manifest(HERE, digest)
    assert found is not None
    assert found.content == b"image"


async def test_what_a_manifest_lacks_is_listed_in_full(
    catalogue: Catalogue, database: Database
) -> None:
    await link(catalogue, HERE, BLOB)
    await link(catalogue, THERE, OTHER)
    await put(catalogue, THERE, b"image")
    wanted = manifest(BLOB, OTHER, b"never", manifests=[b"image"])
    missing = sorted(str(Digest.of(content)) for content in (OTHER, b"never", b"image"))
    before = count(database, "blob")
    with refused(MANIFEST_BLOB_UNKNOWN, "and 2 more") as caught:
        await put(catalogue, HERE, b"broken", wanted, "latest")
    assert caught.value.details == tuple({"digest": digest} for digest in missing)
    with refused(MANIFEST_BLOB_UNKNOWN) as caught:
        await catalogue.check_references(HERE, wanted)
    assert caught.value.details == tuple({"digest": digest} for digest in missing)
    assert await tags(catalogue, HERE) is None
    assert count(database, "blob") == before


async def test_a_manifest_cannot_stand_in_for_a_blob_nor_a_blob_for_a_manifest(
    catalogue: Catalogue,
) -> None:
    await link(catalogue, HERE, BLOB)
    await put(catalogue, HERE, b"image")
    for wanted in (manifest(b"image"), manifest(manifests=[BLOB])):
        with refused(MANIFEST_BLOB_UNKNOWN):
            await catalogue.check_references(HERE, wanted)
        with refused(MANIFEST_BLOB_UNKNOWN):
            await put(catalogue, HERE, b"broken", wanted)
    await catalogue.check_references(HERE, manifest(BLOB, manifests=[b"image"]))


async def test_a_refused_manifest_makes_no_repository(
    catalogue: Catalogue, database: Database
) -> None:
    with refused(MANIFEST_BLOB_UNKNOWN):
        await put(catalogue, HERE, b"broken", manifest(BLOB))
    assert count(database, "repository") == 0


async def test_a_manifest_goes_with_its_tags_and_no_others(catalogue: Catalogue) -> None:
    first = await put(catalogue, HERE, b"first", tag="1.0")
    await put(catalogue, HERE, b"first", tag="1")
    await put(catalogue, HERE, b"second", tag="2.0")
    await put(catalogue, THERE, b"first", tag="1.0")
    await catalogue.delete_manifest(HERE, first)
    assert await tags(catalogue, HERE) == ["2.0"]
    assert await tags(catalogue, THERE) == ["1.0"]
    assert await catalogue.find_manifest(HERE, first) is None
    with refused(MANIFEST_UNKNOWN):
        await catalogue.delete_manifest(HERE, first)
    with refused(MANIFEST_UNKNOWN):
        await catalogue.delete_manifest("nowhere", first)


async def test_an_index_stays_when_one_of_its_manifests_goes(catalogue: Catalogue) -> None:
    image = await put(catalogue, HERE, b"image")
    index = await put(
        catalogue, HERE, b"index", manifest(manifests=[b"image"], media_type=OCI_INDEX)
    )
    await catalogue.delete_manifest(HERE, image)
    assert await catalogue.find_manifest(HERE, index) is not None
    assert await catalogue.find_manifest(HERE, image) is None


# --- tags


async def test_a_tag_moves(catalogue: Catalogue, database: Database) -> None:
    first = await put(catalogue, HERE, b"first", tag="latest")
    second = await put(catalogue, HERE, b"second", tag="latest")
    found = await catalogue.find_manifest(HERE, "latest")
    assert found is not None
    assert found.descriptor.digest == second
    assert await catalogue.find_manifest(HERE, first) is not None
    assert count(database, "tag") == 1
    await catalogue.delete_manifest(HERE, first)
    assert await tags(catalogue, HERE) == ["latest"]


async def test_deleting_a_tag_leaves_its_manifest(catalogue: Catalogue) -> None:
    digest = await put(catalogue, HERE, b"image", tag="latest")
    await put(catalogue, HERE, b"image", tag="1.0")
    await put(catalogue, THERE, b"image", tag="latest")
    await catalogue.delete_tag(HERE, "latest")
    assert await tags(catalogue, HERE) == ["1.0"]
    assert await tags(catalogue, THERE) == ["latest"]
    assert await catalogue.find_manifest(HERE, digest) is not None
    for repository, tag in ((HERE, "latest"), ("nowhere", "latest"), (HERE, "")):
        with refused(MANIFEST_UNKNOWN) as caught:
            await catalogue.delete_tag(repository, tag)
        assert caught.value.details == ({"tag": tag},)


async def test_tags_are_sorted_by_their_bytes_and_come_in_pages(catalogue: Catalogue) -> None:
    expected = ["1", "10", "2", "A", "Z", "_", "a", "b.c", "b_c", "z"]
    for tag in ("z", "a", "10", "Z", "2", "b_c", "A", "_", "1", "b.c"):
        await put(catalogue, HERE, b"image", tag=tag)
        await put(catalogue, THERE, b"image", tag=f"other-{tag}")
    assert await tags(catalogue, HERE) == expected
    for size in (1, 3, 10, 11):
        collected: list[str] = []
        while page := await catalogue.find_tags(HERE, collected[-1] if collected else "", size):
            assert len(page) <= size
            collected += page
        assert collected == expected
    assert await catalogue.find_tags(HERE, "a", 2) == ["b.c", "b_c"]
    assert await catalogue.find_tags(HERE, "aa", 2) == ["b.c", "b_c"]
    assert await catalogue.find_tags(HERE, "z", 2) == []
    assert await catalogue.find_tags(HERE, "", 0) == []


async def test_a_repository_without_tags_is_another_thing_than_none(catalogue: Catalogue) -> None:
    await put(catalogue, HERE, b"image")
    await link(catalogue, "blobs/only", BLOB)
    assert await tags(catalogue, HERE) == []
    assert await tags(catalogue, "blobs/only") is None
    assert await tags(catalogue, "nowhere") is None


# --- repositories


async def test_repositories_that_hold_a_manifest_are_listed_in_pages(catalogue: Catalogue) -> None:
    names = ["a", "a-b", "a/b", "a0", "b/c/d", "z"]
    for name in reversed(names):
        await put(catalogue, name, b"image", tag="latest")
    await link(catalogue, "blobs/only", BLOB)
    assert await repositories(catalogue) == names
    assert await catalogue.repositories("a", 2) == ["a-b", "a/b"]
    assert await catalogue.repositories("a1", 100) == ["b/c/d", "z"]
    assert await catalogue.repositories("z", 100) == []


async def test_a_repository_vanishes_with_the_last_that_was_in_it(
    catalogue: Catalogue, database: Database
) -> None:
    await link(catalogue, HERE, BLOB)
    digest = await put(catalogue, HERE, b"image", manifest(BLOB), "latest")
    assert await repositories(catalogue) == [HERE]
    await catalogue.delete_manifest(HERE, digest)
    assert await repositories(catalogue) == []
    assert await catalogue.find_blob(HERE, Digest.of(BLOB)) == len(BLOB)
    await catalogue.unlink(HERE, Digest.of(BLOB))
    assert count(database, "repository") == 0
    await put(catalogue, HERE, b"image")
    assert await repositories(catalogue) == [HERE]


# --- referrers


async def test_referrers_are_found_by_subject_and_by_type(catalogue: Catalogue) -> None:
    about = manifest(subject=b"image", artifact_type="a/signature", annotations={"by": "alice"})
    signature = await put(catalogue, HERE, b"signature", about)
    bill = await put(catalogue, HERE, b"bill", manifest(subject=b"image", artifact_type="a/sbom"))
    await put(catalogue, HERE, b"elsewhere", manifest(subject=b"other", artifact_type="a/sbom"))
    await put(catalogue, HERE, b"plain", manifest(artifact_type="a/sbom"))
    subject = Digest.of(b"image")
    found, more = await catalogue.referrers(HERE, subject, None, "", 100)
    assert not more
    assert [entry.digest for entry in found] == sorted(map(str, (signature, bill)))
    (found_signature,), _ = await catalogue.referrers(HERE, subject, "a/signature", "", 100)
    assert found_signature == about.referrer(signature, len(b"signature"))
    assert await catalogue.referrers(HERE, subject, "a/other", "", 100) == ([], False)
    assert await catalogue.referrers(THERE, subject, None, "", 100) == ([], False)
    assert await catalogue.referrers(HERE, Digest.of(b"never"), None, "", 100) == ([], False)
    await catalogue.delete_manifest(HERE, bill)
    assert await catalogue.referrers(HERE, subject, "a/sbom", "", 100) == ([], False)


async def test_referrers_come_in_pages(catalogue: Catalogue) -> None:
    expected = sorted(
        [str(await put(catalogue, HERE, b"%d" % n, manifest(subject=b"image"))) for n in range(7)]
    )
    for size in (1, 3, 7, 8):
        collected: list[str] = []
        more = True
        while more:
            page, more = await catalogue.referrers(
                HERE, Digest.of(b"image"), None, collected[-1] if collected else "", size
            )
            assert len(page) <= size
            collected += [entry.digest for entry in page]
        assert collected == expected


async def test_a_page_of_referrers_ends_where_its_bytes_do(catalogue: Catalogue) -> None:
    long = {"note": "x" * (REFERRERS_MAX // 2)}
    for n in range(3):
        await put(catalogue, HERE, b"%d" % n, manifest(subject=b"image", annotations=long))
    pages = 0
    last, more = "", True
    while more:
        page, more = await catalogue.referrers(HERE, Digest.of(b"image"), None, last, 100)
        last = page[-1].digest
        pages += 1
    assert pages == 3


async def test_a_manifest_may_be_about_one_that_comes_later_or_never(catalogue: Catalogue) -> None:
    await put(catalogue, HERE, b"signature", manifest(subject=b"image"))
    image = await put(catalogue, HERE, b"image")
    await catalogue.delete_manifest(HERE, image)
    found, _ = await catalogue.referrers(HERE, image, None, "", 100)
    assert len(found) == 1


# --- all of it, in any order

BLOBS = (b"config", b"layer", b"unused")
MANIFESTS = {
    b"image": manifest(b"config", b"layer"),
    b"small": manifest(b"config"),
    b"index": manifest(manifests=[b"image", b"small"], media_type=OCI_INDEX),
    b"signature": manifest(b"config", subject=b"image"),
}
PLACES = st.sampled_from([HERE, THERE])


@dataclass
class Model:
    """What must be true after what was done."""

    links: set[tuple[str, bytes]] = field(default_factory=set)
    manifests: set[tuple[str, bytes]] = field(default_factory=set)
    tags: dict[tuple[str, str], bytes] = field(default_factory=dict)

    def can_put(self, place: str, content: bytes) -> bool:
        wanted = MANIFESTS[content]
        return {blob.digest for blob in wanted.blobs} <= {
            Digest.of(blob) for at, blob in self.links if at == place
        } and {entry.digest for entry in wanted.manifests} <= {
            Digest.of(held) for at, held in self.manifests if at == place
        }

    def can_unlink(self, place: str, content: bytes) -> bool:
        return (place, content) in self.links and not any(
            at == place and described(content) in MANIFESTS[held].blobs
            for at, held in self.manifests
        )


# How many rows have another count than what they count.
COUNTS = {
    "links": """SELECT count(*) FROM link WHERE uses <>
        (SELECT count(*) FROM edge WHERE repository = link.repository AND target = link.blob)""",
    "manifest uses": """SELECT count(*) FROM manifest WHERE uses <> (SELECT count(*) FROM edge
        WHERE repository = manifest.repository AND target = manifest.blob)""",
    "manifest tags": """SELECT count(*) FROM manifest WHERE tags <> (SELECT count(*) FROM tag
        WHERE repository = manifest.repository AND tag.manifest = manifest.blob)""",
    "bound": """SELECT count(*) FROM manifest WHERE bound <> EXISTS (SELECT 1 FROM blob
        JOIN manifest AS other ON other.blob = blob.id
        WHERE blob.digest = manifest.subject AND other.repository = manifest.repository)""",
    "holders": """SELECT count(*) FROM blob WHERE holders <>
        (SELECT count(*) FROM link WHERE link.blob = blob.id)
        + (SELECT count(*) FROM manifest WHERE manifest.blob = blob.id)""",
    "repositories": """SELECT count(*) FROM repository WHERE manifests <>
        (SELECT count(*) FROM manifest WHERE manifest.repository = repository.id)""",
    "sizes": """SELECT count(*) FROM repository WHERE size <> (
        SELECT coalesce(sum(blob.size), 0) FROM (
            SELECT blob FROM link WHERE link.repository = repository.id
            UNION ALL SELECT blob FROM manifest WHERE manifest.repository = repository.id
        ) AS held JOIN blob ON blob.id = held.blob)""",
}

STEPS = st.one_of(
    st.tuples(st.just("link"), PLACES, st.sampled_from(BLOBS)),
    st.tuples(st.just("mount"), PLACES, st.sampled_from(BLOBS)),
    st.tuples(st.just("unlink"), PLACES, st.sampled_from(BLOBS)),
    st.tuples(st.just("put"), PLACES, st.sampled_from(sorted(MANIFESTS))),
    st.tuples(st.just("put"), PLACES, st.sampled_from(sorted(MANIFESTS))),
    st.tuples(st.just("delete"), PLACES, st.sampled_from(sorted(MANIFESTS))),
    st.tuples(st.just("drop"), PLACES, st.just(b"")),
    st.tuples(st.just("untag"), PLACES, st.sampled_from([b"latest", b"image", b"index"])),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(STEPS, min_size=10, max_size=40))
def test_the_records_agree_with_a_model_and_with_themselves(
    steps: list[tuple[str, str, bytes]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        trio.run(follow, Path(folder) / "file", steps)


async def follow(path: Path, steps: list[tuple[str, str, bytes]]) -> None:
    database = Database.open(path)
    database._writer.execute("PRAGMA synchronous = OFF")  # many steps, and none about durability
    catalogue, model = Catalogue(database), Model()
    # A little is there to begin with, so that most steps mean something.
    for place, content in ((HERE, b"config"), (HERE, b"layer"), (THERE, b"config")):
        await take(catalogue, model, "link", place, content)
    for step, place, content in steps:
        await take(catalogue, model, step, place, content)
    await agree(catalogue, model)
    for name, query in COUNTS.items():
        assert database.read(query) == [(0,)], name
    await database.aclose()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


async def take(catalogue: Catalogue, model: Model, step: str, place: str, content: bytes) -> None:
    """Do one thing to the catalogue and to the model, and compare what came of it."""
    digest = Digest.of(content)
    match step:
        case "link":
            await link(catalogue, place, content)
            model.links.add((place, content))
        case "mount":
            source = THERE if place == HERE else HERE
            expected = (source, content) in model.links
            assert await catalogue.mount(source, place, digest) == expected
            if expected:
                model.links.add((place, content))
        case "unlink":
            expected = model.can_unlink(place, content)
            assert await succeeds(catalogue.unlink(place, digest)) == expected
            model.links -= {(place, content)} if expected else set()
        case "put":
            tag = "latest" if len(model.tags) % 2 else content.decode()
            expected = model.can_put(place, content)
            putting = catalogue.put_manifest(
                place, digest, content, MANIFESTS[content], [tag] if tag else []
            )
            assert await succeeds(putting) == expected
            if expected:
                model.manifests.add((place, content))
                model.tags[place, tag] = content
        case "delete":
            expected = (place, content) in model.manifests
            assert await succeeds(catalogue.delete_manifest(place, digest)) == expected
            model.manifests.discard((place, content))
            for (at, tag), held in list(model.tags.items()):
                if (at, held) == (place, content):
                    del model.tags[at, tag]
        case "drop":
            expected = any(at == place for at, _ in model.links | model.manifests)
            assert await succeeds(catalogue.delete_repository(place)) == expected
            model.links = {(at, held) for at, held in model.links if at != place}
            model.manifests = {(at, held) for at, held in model.manifests if at != place}
            model.tags = {key: held for key, held in model.tags.items() if key[0] != place}
        case _:
            expected = model.tags.pop((place, content.decode()), None) is not None
            assert await succeeds(catalogue.delete_tag(place, content.decode())) == expected


async def succeeds(doing: Awaitable[None]) -> bool:
    try:
        await doing
    except RegistryError:
        return False
    return True


async def agree(catalogue: Catalogue, model: Model) -> None:
    assert await repositories(catalogue) == sorted({place for place, _ in model.manifests})
    for place in (HERE, THERE):
        expected = sorted(tag for at, tag in model.tags if at == place)
        held = any(at == place for at, _ in model.manifests)
        assert await tags(catalogue, place) == (expected if held else None)
        for tag in expected:
            found = await catalogue.find_manifest(place, tag)
            assert found is not None
            assert found.content == model.tags[place, tag]
        for content in BLOBS:
            size = await catalogue.find_blob(place, Digest.of(content))
            assert size == (len(content) if (place, content) in model.links else None)
        for content in MANIFESTS:
            there = await catalogue.find_manifest(place, Digest.of(content)) is not None
            assert there == ((place, content) in model.manifests)
        referrers, _ = await catalogue.referrers(place, Digest.of(b"image"), None, "", 100)
        assert len(referrers) == ((place, b"signature") in model.manifests)


# --- indexes that lack something


async def test_an_index_refers_to_a_manifest_as_soon_as_that_arrives(
    catalogue: Catalogue, database: Database
) -> None:
    index = manifest(manifests=[MANIFEST], optional=[MANIFEST], media_type=OCI_INDEX)
    with refused(MANIFEST_BLOB_UNKNOWN):
        await put(catalogue, HERE, INDEX, manifest(manifests=[MANIFEST], media_type=OCI_INDEX))
    await put(catalogue, HERE, INDEX, index, "all")
    assert (count(database, "absent"), count(database, "edge")) == (1, 0)
    await put(catalogue, THERE, MANIFEST)
    assert (count(database, "absent"), count(database, "edge")) == (1, 0)
    await put(catalogue, HERE, MANIFEST)
    assert (count(database, "absent"), count(database, "edge")) == (0, 1)
    await put(catalogue, HERE, INDEX, index, "all")
    assert (count(database, "absent"), count(database, "edge")) == (0, 1)


async def test_an_index_lacks_what_was_deleted_and_has_it_when_it_comes_back(
    catalogue: Catalogue, database: Database
) -> None:
    digest = await put(catalogue, HERE, MANIFEST)
    await put(catalogue, HERE, INDEX, manifest(manifests=[MANIFEST], media_type=OCI_INDEX))
    for _ in range(2):
        assert (count(database, "absent"), count(database, "edge")) == (0, 1)
        await catalogue.delete_manifest(HERE, digest)
        assert (count(database, "absent"), count(database, "edge")) == (1, 0)
        await put(catalogue, HERE, MANIFEST)


async def test_a_layer_that_was_a_manifest_too_stays_referred_to(
    catalogue: Catalogue, database: Database
) -> None:
    await link(catalogue, HERE, MANIFEST)
    digest = await put(catalogue, HERE, MANIFEST)
    await put(catalogue, HERE, b"image", manifest(MANIFEST))
    await catalogue.delete_manifest(HERE, digest)
    assert (count(database, "absent"), count(database, "edge")) == (0, 1)
    with refused(METHOD_UNSUPPORTED):
        await catalogue.unlink(HERE, digest)


async def test_what_an_index_lacks_is_forgotten_with_it(
    catalogue: Catalogue, database: Database
) -> None:
    index = manifest(manifests=[MANIFEST], optional=[MANIFEST], media_type=OCI_INDEX)
    digest = await put(catalogue, HERE, INDEX, index)
    await catalogue.delete_manifest(HERE, digest)
    assert count(database, "absent") == 0


# --- whole repositories


async def test_nothing_of_a_deleted_repository_is_left(
    catalogue: Catalogue, database: Database
) -> None:
    for repository in (HERE, THERE):
        await link(catalogue, repository, BLOB, OTHER)
        await put(catalogue, repository, MANIFEST, manifest(BLOB), "latest")
        lacking = manifest(manifests=[OTHER], optional=[OTHER], media_type=OCI_INDEX)
        await put(catalogue, repository, INDEX, lacking, "all")
    await catalogue.delete_repository(HERE)
    assert await repositories(catalogue) == [THERE]
    assert await tags(catalogue, HERE) is None
    assert await catalogue.find_blob(HERE, Digest.of(BLOB)) is None
    assert await catalogue.find_blob(THERE, Digest.of(BLOB)) == len(BLOB)
    assert await tags(catalogue, THERE) == ["all", "latest"]
    rows = {table: count(database, table) for table in ("repository", "link", "manifest", "tag")}
    assert rows == {"repository": 1, "link": 2, "manifest": 2, "tag": 2}
    assert (count(database, "edge"), count(database, "absent")) == (1, 1)


async def test_a_repository_of_blobs_alone_can_be_deleted(
    catalogue: Catalogue, database: Database
) -> None:
    await link(catalogue, HERE, BLOB)
    await catalogue.delete_repository(HERE)
    assert count(database, "repository") == 0
    with refused(NAME_UNKNOWN):
        await catalogue.delete_repository(HERE)


async def test_those_who_hold_a_blob_are_listed_the_oldest_first(catalogue: Catalogue) -> None:
    for repository in (THERE, HERE, "else/where"):
        await link(catalogue, repository, BLOB)
    assert await catalogue.holders(Digest.of(BLOB), 9) == [THERE, HERE, "else/where"]
    assert await catalogue.holders(Digest.of(BLOB), 2) == [THERE, HERE]
    assert await catalogue.holders(Digest.of(OTHER), 9) == []
