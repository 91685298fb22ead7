"""Digests that are wrong, by every way a blob may take, leave no blob behind."""

import pytest

from tests.conformance.clauses import clause
from tests.conformance.client import Answer, Repository
from tests.conformance.content import digest_of, unique
from tests.conformance.ways import WAYS

every_way = pytest.mark.parametrize("way", WAYS)


def refused(answer: Answer, way: str) -> None:
    """Insist on 400; a registry that does not know the single POST may begin a session."""
    answer.expect(*((400, 202) if way == "single POST" else (400,)))


@clause("digest-mismatch", "wrong-digest-400")
@every_way
def test_content_of_another_digest_is_refused(repository: Repository, way: str) -> None:
    data, another = unique(3000), unique(3000)
    digest = digest_of(another)
    refused(WAYS[way](repository, data, digest, None), way)
    repository.head_blob(digest).expect(404)
    repository.head_blob(digest_of(data)).expect(404)


@clause("digest-mismatch")
@every_way
def test_content_of_another_digest_of_sha512_is_refused(repository: Repository, way: str) -> None:
    digest = digest_of(unique(3000), "sha512")
    refused(WAYS[way](repository, unique(3000), digest, "sha512"), way)
    repository.head_blob(digest).expect(404)


@clause("digest-said")
@every_way
def test_a_blob_is_stored_under_the_digest_that_is_said(repository: Repository, way: str) -> None:
    data = unique(3000)
    answer = WAYS[way](repository, data, digest_of(data), None)
    answer.expect(*((201, 202) if way == "single POST" else (201,)))
    if answer.status == 201:
        assert answer.header("Docker-Content-Digest") == digest_of(data)


@clause("sha512-header")
@every_way
def test_what_is_pushed_by_sha512_is_stored_under_it(repository: Repository, way: str) -> None:
    data = unique(3000)
    digest = digest_of(data, "sha512")
    answer = WAYS[way](repository, data, digest, "sha512").expect(201)
    assert answer.header("Docker-Content-Digest") == digest


@clause("digest-malformed")
@pytest.mark.parametrize(
    "digest",
    ["", "sha256", "sha256:", "sha256:abc", "sha256:" + "A" * 64, "sha512:" + "a" * 64, "a" * 64],
)
def test_a_malformed_digest_is_refused(repository: Repository, digest: str) -> None:
    data = unique()
    repository.close(repository.start().location, digest, data).expect(400)
    repository.head_blob(digest_of(data)).expect(404)


@clause("digest-malformed")
@every_way
def test_a_malformed_digest_is_refused_by_every_way(repository: Repository, way: str) -> None:
    refused(WAYS[way](repository, unique(3000), "sha256:0123", None), way)


@clause("digest-unsupported")
@every_way
def test_an_unknown_algorithm_is_refused(repository: Repository, way: str) -> None:
    refused(WAYS[way](repository, unique(3000), "crc32:" + "0" * 8, None), way)


@clause("digest-unsupported")
def test_an_unknown_algorithm_is_refused_when_it_is_announced(repository: Repository) -> None:
    # A registry that does not know the parameter refuses the digest at the end instead.
    answer = repository.post([("digest-algorithm", "crc32")]).expect(400, 202)
    if answer.status == 202:
        repository.close(answer.location(), "crc32:" + "0" * 8, unique()).expect(400)
