"""Several tags with one push of a manifest by its digest."""

import pytest

from tests.conformance.clauses import clause
from tests.conformance.client import Answer, Query, Repository
from tests.conformance.content import index

_TOO_MANY = 2000


def tagged(*tags: str) -> Query:
    return [("tag", tag) for tag in tags]


def said(answer: Answer) -> list[str]:
    """The tags that were set, each in a header of its own or several in one."""
    lines = answer.headers.get_list("OCI-Tag", split_commas=True)
    return sorted(tag.strip() for tag in lines)


@clause("tags-supported")
def test_a_tag_comes_with_a_push_by_digest(repository: Repository) -> None:
    content = repository.push_image()
    repository.put(content.digest(), content, query=tagged("one")).expect(201)
    assert repository.get("one").expect(200).body == content.data
    assert repository.get(content.digest()).expect(200).body == content.data


@clause("tags-supported")
def test_a_tag_that_comes_with_a_push_moves(repository: Repository) -> None:
    repository.push_image("one", "two")
    content = repository.push_image()
    repository.put(content.digest(), content, query=tagged("two", "three")).expect(201)
    assert repository.tags().expect(200).page_of("tags") == ["one", "three", "two"]
    assert repository.get("one").expect(200).body != content.data
    assert repository.get("two").expect(200).body == content.data


@clause("tags-ten")
def test_ten_tags_come_with_one_push(repository: Repository) -> None:
    tags = [f"v{number}" for number in range(10)]
    content = index([repository.push_image()])
    repository.put(content.digest(), content, query=tagged(*tags)).expect(201)
    assert repository.tags().expect(200).page_of("tags") == tags
    for tag in tags:
        assert repository.get(tag).expect(200).body == content.data


@clause("tags-header")
@pytest.mark.parametrize("count", [1, 2, 10])
def test_each_tag_that_was_set_is_named(repository: Repository, count: int) -> None:
    tags = [f"v1.{number}" for number in range(count)]
    content = repository.push_image()
    answer = repository.put(content.digest(), content, query=tagged(*tags)).expect(201)
    assert said(answer) == tags


@clause("tags-header")
def test_what_cannot_be_a_tag_is_not_named(repository: Repository) -> None:
    content = repository.push_image()
    answer = repository.put(content.digest(), content, query=tagged("good", "not/good"))
    assert answer.expect(201, 400).headers.get("OCI-Tag", "good") == "good"
    if answer.status == 201:
        assert said(answer) == ["good"]
        assert repository.get("good").expect(200).body == content.data


@clause("tags-limit")
def test_too_many_tags_are_refused_or_all_are_set(repository: Repository) -> None:
    content = repository.push_image()
    tags = sorted(f"t{number}" for number in range(_TOO_MANY))
    answer = repository.put(content.digest(), content, query=tagged(*tags)).expect(201, 414, 431)
    if answer.status == 201:
        assert said(answer) == tags


@clause("sha512-tags")
def test_a_tag_may_point_to_a_digest_of_sha512(repository: Repository) -> None:
    content = repository.push_image(algorithm="sha512")
    digest = content.digest("sha512")
    answer = repository.put(digest, content, query=tagged("one", "two")).expect(201)
    assert said(answer) == ["one", "two"]
    for tag in ("one", "two"):
        answer = repository.get(tag).expect(200)
        assert answer.body == content.data
        assert answer.header("Docker-Content-Digest") == digest
        assert repository.head(tag).expect(200).header("Docker-Content-Digest") == digest
