"""Blobs in chunks: their order, where a session stands, and its end."""

import re

import pytest

from tests.conformance.clauses import by_algorithm, clause
from tests.conformance.client import Repository
from tests.conformance.content import digest_of, unique
from tests.conformance.ways import Way, chunks, chunks_put, pushed, streamed

_NO_SESSION = "blobs/uploads/0000c0de-0000-4000-8000-000000000000"


@clause("chunk-minimum")
def test_a_chunk_of_the_least_size_is_taken(repository: Repository) -> None:
    upload = repository.start()
    data = unique(2 * max(upload.least, 1))
    half = len(data) // 2
    first = repository.chunk(upload.location, data[:half], 0).expect(202)
    last = repository.chunk(first.location(), data[half:], half).expect(202)
    repository.close(last.location(), digest_of(data)).expect(201)


@clause("chunk-202")
def test_each_chunk_is_accepted(repository: Repository) -> None:
    upload = repository.start()
    size, location = upload.piece, upload.location
    for turn in range(3):
        answer = repository.chunk(location, unique(size), turn * size)
        location = answer.expect(202).location()


@clause("chunk-location")
def test_each_chunk_says_where_the_next_goes(repository: Repository) -> None:
    upload = repository.start()
    size, location = upload.piece, upload.location
    data = unique(3 * size)
    for offset in range(0, len(data), size):
        location = repository.chunk(location, data[offset : offset + size], offset).location()
    repository.close(location, digest_of(data)).expect(201)
    assert repository.get_blob(digest_of(data)).expect(200).body == data


@clause("chunk-range")
def test_each_chunk_is_answered_with_what_is_there_by_now(repository: Repository) -> None:
    upload = repository.start()
    size, location = upload.piece, upload.location
    for turn in range(3):
        answer = repository.chunk(location, unique(size), turn * size).expect(202)
        assert answer.header("Range") == f"0-{(turn + 1) * size - 1}"
        location = answer.location()


@clause("chunk-order")
@pytest.mark.parametrize("offset", [1, 1000])
def test_the_first_chunk_begins_at_the_beginning(repository: Repository, offset: int) -> None:
    upload = repository.start()
    repository.chunk(upload.location, unique(upload.piece), offset).expect(416)


@clause("chunk-order")
@pytest.mark.parametrize("stray", [-1, 0, 1, 2])
def test_a_chunk_out_of_order_is_refused(repository: Repository, stray: int) -> None:
    upload = repository.start()
    size = upload.piece
    answer = repository.chunk(upload.location, unique(size), 0).expect(202)
    offset = {-1: size - 1, 0: 0, 1: size + 1, 2: 2 * size}[stray]
    repository.chunk(answer.location(), unique(size), offset).expect(416)


@clause("chunk-order-put")
@pytest.mark.parametrize("offset", [0, 500, 1001, 2000])
def test_a_final_chunk_out_of_order_is_refused(repository: Repository, offset: int) -> None:
    upload = repository.start()
    data = unique(2 * upload.piece)
    half = upload.piece
    answer = repository.chunk(upload.location, data[:half], 0).expect(202)
    location = answer.location()
    repository.close(location, digest_of(data), data[half:], offset * half // 1000).expect(416)
    location = repository.status(location).expect(204).location()
    repository.close(location, digest_of(data), data[half:], half).expect(201)


@clause("chunk-recovery")
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("stray", [0, 1, 2])
def test_after_a_chunk_out_of_order_the_upload_goes_on(
    repository: Repository, stray: int, algorithm: str
) -> None:
    announced = [] if algorithm == "sha256" else [("digest-algorithm", algorithm)]
    upload = repository.start(announced)
    size = upload.piece
    data = unique(3 * size)
    location = repository.chunk(upload.location, data[:size], 0).expect(202).location()
    repository.chunk(location, unique(size), stray * size + (stray == 1)).expect(416)
    answer = repository.status(location).expect(204)
    assert answer.header("Range") == f"0-{size - 1}"
    answer = repository.chunk(answer.location(), data[size : 2 * size], size).expect(202)
    answer = repository.chunk(answer.location(), data[2 * size :], 2 * size).expect(202)
    digest = digest_of(data, algorithm)
    repository.close(answer.location(), digest).expect(201)
    assert repository.get_blob(digest).expect(200).body == data


@clause("chunk-recovery")
def test_after_a_first_chunk_out_of_order_the_upload_begins_anew(repository: Repository) -> None:
    upload = repository.start()
    data = unique(upload.piece)
    repository.chunk(upload.location, data, upload.piece).expect(416)
    location = repository.status(upload.location).expect(204).location()
    location = repository.chunk(location, data, 0).expect(202).location()
    repository.close(location, digest_of(data)).expect(201)
    assert repository.get_blob(digest_of(data)).expect(200).body == data


@clause("chunk-final-any")
@pytest.mark.parametrize("with_end", [False, True])
@pytest.mark.parametrize("rest", [1, 5000])
def test_the_final_chunk_may_have_any_length(
    repository: Repository, rest: int, *, with_end: bool
) -> None:
    upload = repository.start()
    size = upload.piece
    data = unique(size + rest)
    location = repository.chunk(upload.location, data[:size], 0).expect(202).location()
    if with_end:
        repository.close(location, digest_of(data), data[size:], size).expect(201)
    else:
        location = repository.chunk(location, data[size:], size).expect(202).location()
        repository.close(location, digest_of(data)).expect(201)
    assert repository.get_blob(digest_of(data)).expect(200).body == data


@by_algorithm("chunk-stream", sha512="sha512-chunks")
@pytest.mark.parametrize("size", [2, 1000, 300_000])
def test_a_stream_of_unknown_length_is_a_chunk(
    repository: Repository, algorithm: str, size: int
) -> None:
    data = unique(size)
    pushed(streamed, repository, data, algorithm).expect(201)
    assert repository.get_blob(digest_of(data, algorithm)).expect(200).body == data


@clause("chunk-stream")
def test_a_stream_goes_on_where_another_ended(repository: Repository) -> None:
    data = unique(3000)
    location = repository.start().location
    for offset in range(0, 3000, 1000):
        answer = repository.stream(location, [data[offset : offset + 1000]]).expect(202)
        location = answer.location()
    repository.close(location, digest_of(data)).expect(201)
    assert repository.get_blob(digest_of(data)).expect(200).body == data


@by_algorithm("close-201", sha512="sha512-chunks")
def test_an_upload_ends_in_a_blob(repository: Repository, algorithm: str) -> None:
    data = unique(3000)
    pushed(chunks, repository, data, algorithm).expect(201)
    assert repository.get_blob(digest_of(data, algorithm)).expect(200).body == data


@by_algorithm("close-location", sha512="sha512-chunks")
def test_the_end_says_where_the_blob_is(repository: Repository, algorithm: str) -> None:
    data = unique(3000)
    location = pushed(chunks, repository, data, algorithm).expect(201).location()
    assert repository.registry.ask("GET", location).expect(200).body == data


@by_algorithm("close-final-chunk", sha512="sha512-chunks")
def test_the_final_chunk_may_come_with_the_end(repository: Repository, algorithm: str) -> None:
    data = unique(3000)
    pushed(chunks_put, repository, data, algorithm).expect(201)
    assert repository.get_blob(digest_of(data, algorithm)).expect(200).body == data


@clause("close-final-chunk")
def test_the_final_chunk_may_come_without_its_range(repository: Repository) -> None:
    upload = repository.start()
    data = unique(2 * upload.piece)
    half = upload.piece
    location = repository.chunk(upload.location, data[:half], 0).expect(202).location()
    repository.close(location, digest_of(data), data[half:]).expect(201)
    assert repository.get_blob(digest_of(data)).expect(200).body == data


@clause("close-201")
def test_an_upload_without_a_byte_ends_in_the_empty_blob(repository: Repository) -> None:
    repository.close(repository.start().location, digest_of(b"")).expect(201)
    assert repository.get_blob(digest_of(b"")).expect(200).body == b""


@clause("status-204")
def test_a_session_is_there_from_beginning_to_end(repository: Repository) -> None:
    upload = repository.start()
    repository.status(upload.location).expect(204)
    answer = repository.chunk(upload.location, unique(upload.piece), 0).expect(202)
    repository.status(answer.location()).expect(204)


@clause("status-location")
def test_a_session_says_where_it_goes_on(repository: Repository) -> None:
    upload = repository.start()
    data = unique(upload.piece)
    answer = repository.chunk(upload.location, data, 0).expect(202)
    location = repository.status(answer.location()).expect(204).location()
    repository.close(location, digest_of(data)).expect(201)


@clause("status-range")
def test_a_session_says_how_far_it_has_come(repository: Repository) -> None:
    upload = repository.start()
    size, location = upload.piece, upload.location
    for turn in range(2):
        location = repository.chunk(location, unique(size), turn * size).expect(202).location()
        stands = repository.status(location).expect(204)
        assert stands.header("Range") == f"0-{(turn + 1) * size - 1}"


@clause("status-range")
def test_a_session_without_a_byte_has_a_range_all_the_same(repository: Repository) -> None:
    stands = repository.status(repository.start().location).expect(204)
    assert re.fullmatch("0-[0-9]+", stands.header("Range"))


@clause("cancel-404")
def test_a_session_that_never_was_cannot_be_cancelled(repository: Repository) -> None:
    repository.push_blob(unique())
    repository.cancel(repository.url(_NO_SESSION)).expect(404, 400)


@clause("session-404")
def test_a_session_that_never_was_is_not_found(repository: Repository) -> None:
    repository.push_blob(unique())
    data = unique()
    location = repository.url(_NO_SESSION)
    repository.status(location).expect(404)
    repository.chunk(location, data, 0).expect(404)
    repository.close(location, digest_of(data), data).expect(404)


@clause("session-404")
def test_a_session_that_ended_is_not_found(repository: Repository) -> None:
    data = unique()
    upload = repository.start()
    repository.close(upload.location, digest_of(data), data).expect(201)
    repository.status(upload.location).expect(404)


@clause("algorithm-announced")
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("way", [chunks, chunks_put, streamed], ids=lambda way: way.__name__)
def test_the_algorithm_may_be_announced(repository: Repository, way: Way, algorithm: str) -> None:
    data = unique(3000)
    digest = digest_of(data, algorithm)
    way(repository, data, digest, algorithm).expect(201)
    answer = repository.get_blob(digest).expect(200)
    assert answer.body == data
    assert answer.headers.get("Docker-Content-Digest", digest) == digest


@clause("sha512-chunks")
@pytest.mark.parametrize("way", [chunks, chunks_put, streamed], ids=lambda way: way.__name__)
def test_a_digest_of_sha512_need_not_be_announced(repository: Repository, way: Way) -> None:
    data = unique(3000)
    digest = digest_of(data, "sha512")
    way(repository, data, digest, None).expect(201)
    assert repository.get_blob(digest).expect(200).body == data


@clause("cancel-204")
def test_a_session_is_cancelled(repository: Repository) -> None:
    upload = repository.start()
    repository.cancel(upload.location).expect(204)
    answer = repository.chunk(repository.start().location, unique(upload.piece), 0).expect(202)
    repository.cancel(answer.location()).expect(204)


@clause("cancel-gone")
def test_a_cancelled_session_is_gone(repository: Repository) -> None:
    data = unique()
    location = repository.start().location
    repository.cancel(location).expect(204)
    repository.status(location).expect(404)
    repository.chunk(location, data, 0).expect(404)
    repository.close(location, digest_of(data), data).expect(404)
    repository.get_blob(digest_of(data)).expect(404)
