"""Every way a blob may take into a registry."""

from collections.abc import Callable

from tests.conformance.client import Answer, Repository
from tests.conformance.content import digest_of

Way = Callable[[Repository, bytes, str, str | None], Answer]
"""Push bytes under a digest, with an algorithm announced or not; the last answer."""


def post_put(repository: Repository, data: bytes, digest: str, announced: str | None) -> Answer:
    """Push in one PUT."""
    return repository.close(repository.start(_query(announced)).location, digest, data)


def single_post(repository: Repository, data: bytes, digest: str, announced: str | None) -> Answer:
    """Push in a single POST."""
    return repository.post([("digest", digest), *_query(announced)], data)


def chunks(repository: Repository, data: bytes, digest: str, announced: str | None) -> Answer:
    """Push in three chunks and an empty PUT."""
    location, sent = _all_but(0, repository, data, announced)
    assert sent == len(data)
    return repository.close(location, digest)


def chunks_put(repository: Repository, data: bytes, digest: str, announced: str | None) -> Answer:
    """Push in three chunks, the last of them in the PUT."""
    location, sent = _all_but(1, repository, data, announced)
    return repository.close(location, digest, data[sent:], sent)


def streamed(repository: Repository, data: bytes, digest: str, announced: str | None) -> Answer:
    """Push as docker does: one PATCH of no announced length, and an empty PUT."""
    location = repository.start(_query(announced)).location
    half = len(data) // 2
    answer = repository.stream(location, [data[:half], data[half:]]).expect(202)
    return repository.close(answer.location(), digest)


WAYS: dict[str, Way] = {
    "POST then PUT": post_put,
    "single POST": single_post,
    "chunks": chunks,
    "chunks and PUT": chunks_put,
    "stream": streamed,
}


def pushed(way: Way, repository: Repository, data: bytes, algorithm: str) -> Answer:
    """Push bytes, announcing the algorithm where it is not the usual one."""
    announced = None if algorithm == "sha256" else algorithm
    return way(repository, data, digest_of(data, algorithm), announced)


def _query(announced: str | None) -> list[tuple[str, str]]:
    return [] if announced is None else [("digest-algorithm", announced)]


def _all_but(
    left: int, repository: Repository, data: bytes, announced: str | None
) -> tuple[str, int]:
    """Send all chunks but some; where to go on, and how many bytes were sent."""
    upload = repository.start(_query(announced))
    size = max(upload.least, len(data) // 3 + 1)
    location = upload.location
    offsets = list(range(0, len(data), size))
    sent = 0
    for offset in offsets[: len(offsets) - left]:
        piece = data[offset : offset + size]
        location = repository.chunk(location, piece, offset).expect(202).location()
        sent = offset + len(piece)
    return location, sent
