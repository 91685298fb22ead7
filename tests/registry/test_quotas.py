"""Quotas: what is too much is refused with the figures, however many push at once."""

from collections import Counter

import pytest
import trio

from appliance.oci.digest import Digest
from appliance.oci.errors import QUOTA_REACHED, ErrorRow, RegistryError
from appliance.oci.mediatypes import OCI_INDEX
from appliance.registry.ports import BlobStore
from appliance.registry.quotas import Quota
from appliance.registry.registry import Registry
from tests.refused import refused
from tests.registry.sent import Sent

KIB = 1 << 10
INDEX = b'{"schemaVersion":2,"mediaType":"%s","manifests":[]}' % OCI_INDEX.encode()


@pytest.fixture
def registry(registry: Registry) -> Registry:
    registry.quotas.set([Quota("team", 10 * KIB), Quota("", 20 * KIB)])
    return registry


async def push(registry: Registry, repository: str, mark: bytes, kib: int) -> Digest:
    content = mark * (kib * KIB)
    digest = Digest.of(content)
    await registry.uploads.put(
        repository, "alice", digest, Sent(content), content_length=len(content)
    )
    return digest


async def test_a_blob_that_is_too_much_is_refused_with_the_figures(registry: Registry) -> None:
    await push(registry, "team/app", b"a", 6)
    with refused(QUOTA_REACHED) as caught:
        await push(registry, "team/other", b"b", 5)
    assert caught.value.message == (
        "the quota of team and below is 10 KiB: 6 KiB are used, and this needs 5 KiB more; delete"
        " what is no longer needed, or ask the registry's operator"
    )
    assert caught.value.details == (
        {"repositories": "team", "quota": "10240", "used": "6144", "needed": "5120"},
    )
    await push(registry, "team", b"b", 4)  # to the last byte
    await push(registry, "teams/app", b"c", 10)  # whose name only begins alike
    with refused(QUOTA_REACHED, "the quota of this registry is 20 KiB"):
        await push(registry, "elsewhere", b"d", 1)


async def test_what_a_repository_has_already_adds_nothing(registry: Registry) -> None:
    digest = await push(registry, "team/app", b"a", 10)
    await push(registry, "team/app", b"a", 10)
    with refused(QUOTA_REACHED):
        await registry.uploads.mount("team/app", "team/other", digest)
    assert await registry.uploads.mount("team/app", "team/app", digest)
    with refused(QUOTA_REACHED):
        await registry.manifests.put("team/app", "latest", INDEX, OCI_INDEX)
    await registry.blobs.delete("team/app", digest)
    await registry.manifests.put("team/app", "latest", INDEX, OCI_INDEX)
    await registry.manifests.put("team/app", "again", INDEX, OCI_INDEX)


async def test_an_upload_of_unknown_size_is_refused_at_its_end_and_leaves_nothing(
    registry: Registry, store: BlobStore
) -> None:
    content = b"a" * (11 * KIB)
    session = await registry.uploads.start("team/app", "alice")
    await registry.uploads.append("team/app", "alice", session, Sent(content))
    with refused(QUOTA_REACHED):
        await registry.uploads.commit(
            "team/app", "alice", session, Digest.of(content), Sent(b""), content_length=0
        )
    assert await store.staged() == {}
    await push(registry, "team/app", b"b", 10)
    with refused(QUOTA_REACHED):  # there is no room for a single byte
        await registry.uploads.start("team/app", "alice")


async def test_two_pushes_do_not_both_take_the_last_of_the_room(registry: Registry) -> None:
    outcomes: list[ErrorRow | None] = []

    async def attempt(number: int) -> None:
        try:
            await push(registry, f"team/app{number}", b"%d" % number, 4)
        except RegistryError as error:
            outcomes.append(error.row)
        else:
            outcomes.append(None)

    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(attempt, number)
    assert Counter(outcomes) == {QUOTA_REACHED: 6, None: 2}


async def test_what_is_damaged_is_pushed_again_where_there_is_no_more_room(
    registry: Registry,
) -> None:
    size = 10 * KIB - len(INDEX)
    content = b"a" * size
    digest = Digest.of(content)
    await registry.uploads.put("team/app", "alice", digest, Sent(content), content_length=size)
    index, _ = await registry.manifests.put("team/app", "latest", INDEX, OCI_INDEX)
    for one in (digest, index):
        assert await registry.scrub._records.condemn(one)
    await registry.uploads.put("team/app", "alice", digest, Sent(content), content_length=size)
    await registry.manifests.put("team/app", "latest", INDEX, OCI_INDEX)
    assert await registry.blobs.size("team/app", digest) == size
    assert (await registry.manifests.find("team/app", "latest")).descriptor.digest == index


async def test_a_quota_that_has_become_smaller_stands_against_more_alone(
    registry: Registry,
) -> None:
    digest = await push(registry, "team/app", b"a", 6)
    await registry.manifests.put("team/app", "latest", INDEX, OCI_INDEX)
    registry.quotas.set([Quota("team", KIB)])
    await registry.manifests.put("team/app", "again", INDEX, OCI_INDEX)
    assert await registry.uploads.mount("team/app", "team/app", digest)
    assert not await registry.uploads.mount("team/other", "team/app", digest)
    with refused(QUOTA_REACHED):
        await registry.uploads.mount("team/app", "team/other", digest)
