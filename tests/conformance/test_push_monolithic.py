"""Whole blobs in one request, after a POST or by it alone."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from tests.conformance.clauses import by_algorithm, clause
from tests.conformance.client import Repository, connected
from tests.conformance.content import digest_of, unique
from tests.conformance.ways import post_put, pushed, single_post

_CLIENTS = 4
_PATIENCE_SECONDS = 30
_UUID = re.compile("[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}", re.IGNORECASE)


@clause("post-202")
def test_a_session_begins(repository: Repository) -> None:
    repository.post().expect(202)


@clause("post-location")
def test_a_session_says_where_it_goes_on(repository: Repository) -> None:
    location = repository.post().expect(202).location()
    data = unique()
    repository.close(location, digest_of(data), data).expect(201)


@clause("post-unique")
def test_every_session_has_a_place_of_its_own(repository: Repository) -> None:
    assert len({repository.start().location for _ in range(5)}) == 5


@clause("post-uuid")
def test_a_session_has_a_uuid(repository: Repository) -> None:
    assert _UUID.search(repository.start().location)


@clause("post-concurrent")
def test_several_clients_push_at_the_same_time(repository: Repository) -> None:
    blobs = [unique(50_000) for _ in range(_CLIENTS)]
    halfway = Barrier(_CLIENTS)

    def halves(data: bytes) -> Iterator[bytes]:
        yield data[: len(data) // 2]
        # Nobody goes on before everybody has come so far.
        halfway.wait(_PATIENCE_SECONDS)
        yield data[len(data) // 2 :]

    def push(data: bytes) -> None:
        with connected(repository.registry.target) as registry:
            mine = registry.repository(repository.name)
            answer = mine.stream(mine.start().location, halves(data)).expect(202)
            mine.close(answer.location(), digest_of(data)).expect(201)

    with ThreadPoolExecutor(_CLIENTS) as clients:
        list(clients.map(push, blobs))
    for data in blobs:
        assert repository.get_blob(digest_of(data)).expect(200).body == data


@clause("post-concurrent")
def test_sessions_of_one_repository_do_not_disturb_each_other(repository: Repository) -> None:
    uploads = [repository.start() for _ in range(3)]
    size = uploads[0].piece
    blobs = [unique(3 * size) for _ in uploads]
    places = [upload.location for upload in uploads]
    for offset in range(0, 3 * size, size):
        for turn, data in enumerate(blobs):
            answer = repository.chunk(places[turn], data[offset : offset + size], offset)
            places[turn] = answer.expect(202).location()
    for place, data in zip(places, blobs, strict=True):
        repository.close(place, digest_of(data)).expect(201)
    for data in blobs:
        assert repository.get_blob(digest_of(data)).expect(200).body == data


@clause("post-concurrent")
def test_two_sessions_may_end_in_the_same_blob(repository: Repository) -> None:
    data = unique()
    first, second = repository.start(), repository.start()
    repository.close(first.location, digest_of(data), data).expect(201)
    repository.close(second.location, digest_of(data), data).expect(201)
    assert repository.get_blob(digest_of(data)).expect(200).body == data


@by_algorithm("put-201", sha512="sha512-put")
@pytest.mark.parametrize("size", [1, 512, 300_000])
def test_a_whole_blob_comes_in_a_put(repository: Repository, algorithm: str, size: int) -> None:
    data = unique(size)
    pushed(post_put, repository, data, algorithm).expect(201)
    assert repository.get_blob(digest_of(data, algorithm)).expect(200).body == data


@by_algorithm("put-201", sha512="sha512-put")
def test_a_digest_need_not_be_announced(repository: Repository, algorithm: str) -> None:
    data = unique()
    digest = digest_of(data, algorithm)
    post_put(repository, data, digest, None).expect(201)
    assert repository.get_blob(digest).expect(200).body == data


@clause("put-201")
def test_a_blob_that_is_there_already_is_taken_again(repository: Repository) -> None:
    data = unique()
    for _ in range(2):
        pushed(post_put, repository, data, "sha256").expect(201)
    assert repository.get_blob(digest_of(data)).expect(200).body == data


@by_algorithm("put-location", sha512="sha512-put")
def test_a_put_says_where_the_blob_is(repository: Repository, algorithm: str) -> None:
    data = unique()
    location = pushed(post_put, repository, data, algorithm).expect(201).location()
    assert repository.registry.ask("GET", location).expect(200).body == data


@by_algorithm("put-empty", sha512="sha512-put")
def test_a_blob_may_be_empty(repository: Repository, algorithm: str) -> None:
    digest = digest_of(b"", algorithm)
    pushed(post_put, repository, b"", algorithm).expect(201)
    assert repository.get_blob(digest).expect(200).body == b""
    assert repository.head_blob(digest).expect(200).header("Content-Length") == "0"


@clause("single-supported")
def test_a_single_post_is_enough(repository: Repository) -> None:
    data = unique()
    pushed(single_post, repository, data, "sha256")
    assert repository.get_blob(digest_of(data)).expect(200).body == data


@by_algorithm("single-201", sha512="sha512-single")
@pytest.mark.parametrize("size", [0, 1, 300_000])
def test_a_blob_in_a_single_post_is_created(
    repository: Repository, algorithm: str, size: int
) -> None:
    data = unique(size)
    pushed(single_post, repository, data, algorithm).expect(201)
    assert repository.get_blob(digest_of(data, algorithm)).expect(200).body == data


@clause("sha512-single")
def test_a_digest_of_sha512_need_not_be_announced(repository: Repository) -> None:
    data = unique()
    digest = digest_of(data, "sha512")
    single_post(repository, data, digest, None).expect(201)
    assert repository.get_blob(digest).expect(200).body == data


@by_algorithm("single-location", sha512="sha512-single")
def test_a_single_post_says_where_the_blob_is(repository: Repository, algorithm: str) -> None:
    data = unique()
    location = pushed(single_post, repository, data, algorithm).expect(201).location()
    assert repository.registry.ask("GET", location).expect(200).body == data


@clause("single-fallback")
def test_a_single_post_that_does_not_suffice_begins_a_session(repository: Repository) -> None:
    data = unique()
    digest = digest_of(data)
    answer = repository.post([("digest", digest)], data).expect(201, 202)
    if answer.status == 202:
        repository.close(answer.location(), digest, data).expect(201)
    assert repository.get_blob(digest).expect(200).body == data
