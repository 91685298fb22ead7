"""Parameters of a query that a registry need not know, `ns` among them."""

from collections.abc import Callable

import pytest

from tests.conformance.clauses import clause
from tests.conformance.client import Answer, Query, Repository
from tests.conformance.content import Content, unique

Pull = Callable[[Repository, Content, Query], Answer]
_UNKNOWN = [("unknown", "1"), ("unknown", "ü&="), ("empty", "")]


def manifest_by_tag(repository: Repository, content: Content, query: Query) -> Answer:
    url = repository.url("manifests/tag")
    headers = {"Accept": content.media_type}
    return repository.registry.ask("GET", url, query=query, headers=headers)


def manifest_by_digest(repository: Repository, content: Content, query: Query) -> Answer:
    url = repository.url(f"manifests/{content.digest()}")
    headers = {"Accept": content.media_type}
    return repository.registry.ask("GET", url, query=query, headers=headers)


def manifest_head(repository: Repository, content: Content, query: Query) -> Answer:
    url = repository.url("manifests/tag")
    headers = {"Accept": content.media_type}
    return repository.registry.ask("HEAD", url, query=query, headers=headers)


def blob(repository: Repository, content: Content, query: Query) -> Answer:
    digest = manifest_by_tag(repository, content, ()).json()["layers"][0]["digest"]
    return repository.registry.ask("GET", repository.url(f"blobs/{digest}"), query=query)


def blob_head(repository: Repository, content: Content, query: Query) -> Answer:
    digest = manifest_by_tag(repository, content, ()).json()["config"]["digest"]
    return repository.registry.ask("HEAD", repository.url(f"blobs/{digest}"), query=query)


PULLS: tuple[Pull, ...] = (manifest_by_tag, manifest_by_digest, manifest_head, blob, blob_head)
every_pull = pytest.mark.parametrize("pull", PULLS, ids=lambda pull: pull.__name__)


@clause("ns-served")
@every_pull
def test_a_pull_that_names_the_registry_itself_is_served(
    repository: Repository, pull: Pull
) -> None:
    content = repository.push_image("tag")
    plain = pull(repository, content, ()).expect(200)
    named = pull(repository, content, [("ns", repository.registry.host)]).expect(200)
    assert named.body == plain.body


@clause("ns-served")
@every_pull
def test_a_pull_that_names_another_registry_is_served(repository: Repository, pull: Pull) -> None:
    content = repository.push_image("tag")
    plain = pull(repository, content, ()).expect(200)
    named = pull(repository, content, [("ns", "registry.example.com")]).expect(200)
    assert named.body == plain.body


@clause("ns-header")
@every_pull
def test_the_namespace_that_was_used_is_said(repository: Repository, pull: Pull) -> None:
    content = repository.push_image("tag")
    host = repository.registry.host
    answer = pull(repository, content, [("ns", host)]).expect(200)
    assert answer.header("OCI-Namespace") == host


@clause("unknown-parameters")
@every_pull
def test_unknown_parameters_change_nothing_of_a_pull(repository: Repository, pull: Pull) -> None:
    content = repository.push_image("tag")
    plain = pull(repository, content, ()).expect(200)
    answer = pull(repository, content, _UNKNOWN).expect(200)
    assert answer.body == plain.body
    assert set(answer.headers) == set(plain.headers)


@clause("unknown-parameters")
def test_unknown_parameters_change_nothing_of_a_push(repository: Repository) -> None:
    data = unique()
    location = repository.post(_UNKNOWN).expect(202).location()
    more = repository.registry.ask("PATCH", location, query=_UNKNOWN, body=data).expect(202)
    digest = repository.push_blob(data)
    repository.close(more.location(), digest).expect(201)
    content = repository.push_image()
    repository.put("tag", content, query=_UNKNOWN).expect(201)
    assert repository.tags(_UNKNOWN).expect(200).json()["tags"] == ["tag"]
    repository.registry.ask("DELETE", repository.url(f"blobs/{digest}"), query=_UNKNOWN).expect(202)
