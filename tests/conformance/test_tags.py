"""Lists of tags, whole and in pages."""

import pytest

from tests.conformance.clauses import clause
from tests.conformance.client import Repository

_TAGS = ["1", "10", "2", "a", "b", "c", "d"]
"""In order, whether or not case counts."""
_MIXED = ["Zebra", "apple", "_x", "1.0", "1.0-rc", "1_0", "zebra", "B"]


@pytest.fixture
def tagged(repository: Repository) -> Repository:
    repository.push_image(*reversed(_TAGS))
    return repository


@clause("tags-200")
def test_the_tags_of_a_repository_are_listed(tagged: Repository) -> None:
    assert sorted(tagged.tags().expect(200).page_of("tags")) == sorted(_TAGS)


@clause("tags-empty")
def test_a_repository_may_have_no_tags(repository: Repository) -> None:
    repository.push_image()
    assert not repository.tags().expect(200).json()["tags"]


@clause("tags-body")
def test_the_list_names_its_repository(tagged: Repository) -> None:
    answer = tagged.tags().expect(200)
    assert answer.header("Content-Type").partition(";")[0].strip() == "application/json"
    assert answer.json()["name"] == tagged.name
    assert all(isinstance(tag, str) for tag in answer.page_of("tags"))


@clause("tags-order")
def test_the_list_is_in_order(repository: Repository) -> None:
    repository.push_image(*_MIXED)
    found = repository.tags().expect(200).page_of("tags")
    # By their bytes, or without regard to case: the two texts do not agree on that.
    assert found in (sorted(_MIXED), sorted(_MIXED, key=str.lower))


@clause("tags-order")
@pytest.mark.parametrize("number", [2, 3])
def test_the_pages_are_in_order(repository: Repository, number: int) -> None:
    repository.push_image(*_MIXED)
    whole = repository.tags().expect(200).page_of("tags")
    found: list[str] = []
    while page := _page(repository, number, found):
        found += page
        assert len(found) <= len(_MIXED)
    assert found == whole


def _page(repository: Repository, number: int, found: list[str]) -> list[str]:
    """The tags after those that were found."""
    last = [("last", found[-1])] if found else []
    answer = repository.tags([("n", str(number)), *last]).expect(200)
    # Where there are none, some registries have no list either.
    return answer.page_of("tags") if answer.json()["tags"] else []


@clause("tags-n")
@pytest.mark.parametrize("number", [1, 3, 6])
def test_as_many_tags_come_as_were_asked_for(tagged: Repository, number: int) -> None:
    answer = tagged.tags([("n", str(number))]).expect(200)
    found = answer.page_of("tags")
    assert found == _TAGS[: len(found)]
    assert len(found) == number or (found and answer.next_page() is not None)


@clause("tags-n")
@pytest.mark.parametrize("number", ["7", "8", "1000", "1000000"])
def test_no_more_tags_come_than_there_are(tagged: Repository, number: str) -> None:
    pages = tagged.pages(tagged.tags([("n", number)]))
    assert [tag for page in pages for tag in page.page_of("tags")] == _TAGS


@clause("tags-more")
def test_a_link_follows_where_there_are_more_tags(tagged: Repository) -> None:
    assert tagged.tags([("n", "6")]).expect(200).next_page() is not None


@clause("tags-link")
@pytest.mark.parametrize("number", [1, 2, 3, 7])
def test_the_links_lead_through_all_tags(tagged: Repository, number: int) -> None:
    pages = tagged.pages(tagged.tags([("n", str(number))]))
    assert [tag for page in pages for tag in page.page_of("tags")] == _TAGS
    assert all(len(page.page_of("tags")) <= number for page in pages)
    assert number == 7 or len(pages) > 1


@clause("tags-zero")
def test_no_tags_come_where_none_were_asked_for(tagged: Repository) -> None:
    assert tagged.tags([("n", "0")]).expect(200).page_of("tags") == []
    assert tagged.tags([("n", "0"), ("last", "a")]).expect(200).page_of("tags") == []


@clause("tags-zero-link")
def test_no_link_follows_where_no_tags_were_asked_for(tagged: Repository) -> None:
    assert "Link" not in tagged.tags([("n", "0")]).expect(200).headers


@clause("tags-last")
@pytest.mark.parametrize("last", ["1", "2", "a", "c", "d"])
def test_the_list_goes_on_after_a_tag(tagged: Repository, last: str) -> None:
    after = _TAGS[_TAGS.index(last) + 1 :]
    found = tagged.tags([("n", "2"), ("last", last)]).expect(200).page_of("tags")
    assert found == after[:2]


@clause("tags-last")
def test_the_list_goes_on_after_a_tag_that_is_not_there(tagged: Repository) -> None:
    found = tagged.tags([("n", "2"), ("last", "aa")]).expect(200).page_of("tags")
    assert found == ["b", "c"]


@clause("tags-last-alone")
def test_the_list_goes_on_to_its_end(tagged: Repository) -> None:
    assert tagged.tags([("last", "2")]).expect(200).page_of("tags") == ["a", "b", "c", "d"]
    assert not tagged.tags([("last", "d")]).expect(200).json()["tags"]
