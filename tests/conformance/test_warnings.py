"""Warnings, wherever the registry has any; it need not have one."""

import re
from collections.abc import Iterator

import pytest

from tests.conformance.clauses import clause
from tests.conformance.client import Answer, Registry, Repository
from tests.conformance.content import absent, digest_of, index, unique

_QUOTED = r'"(?:[^"\\]|\\.)*"'
_WARNING = re.compile(rf"([0-9]{{3}}) (\S+) {_QUOTED}( {_QUOTED})?")
_WARNINGS = re.compile(rf"{_WARNING.pattern}(?:\s*,\s*{_WARNING.pattern})*")


def tour(repository: Repository) -> Iterator[Answer]:
    """Ask for a bit of everything."""
    data = unique()
    yield repository.registry.ask("GET", "/v2/")
    yield repository.post()
    upload = repository.start()
    yield repository.chunk(upload.location, data, 0)
    yield repository.status(upload.location)
    yield repository.close(upload.location, digest_of(data))
    yield repository.get_blob(digest_of(data))
    yield repository.head_blob(digest_of(data))
    content = repository.push_image("tag")
    yield repository.put("tag", content)
    yield repository.put("index", index([content]))
    yield repository.get("tag")
    yield repository.head("tag")
    yield repository.tags()
    yield repository.referrers(content.digest())
    yield repository.get("latest")
    yield repository.get_blob(absent()["digest"])
    yield repository.delete("tag")
    yield repository.delete(content.digest())
    yield repository.delete_blob(digest_of(data))


@pytest.fixture(scope="session")
def warnings(registry: Registry) -> list[list[str]]:
    """The warnings of each answer."""
    return [answer.headers.get_list("Warning") for answer in tour(registry.repository())]


def parsed(texts: list[str]) -> Iterator[re.Match[str]]:
    """Take headers apart, each of which may have several warnings (RFC 7234, 5.5)."""
    for text in texts:
        assert _WARNINGS.fullmatch(text), text
        yield from _WARNING.finditer(text)


@clause("warning-format")
def test_a_warning_has_the_code_299_and_no_agent(warnings: list[list[str]]) -> None:
    for one in (one for several in warnings for one in parsed(several)):
        assert (one[1], one[2]) == ("299", "-")


@clause("warning-date")
def test_a_warning_has_no_date(warnings: list[list[str]]) -> None:
    assert not [one[0] for several in warnings for one in parsed(several) if one[3]]


@clause("warning-size")
def test_the_warnings_of_an_answer_are_few(warnings: list[list[str]]) -> None:
    assert all(sum(len(text.encode()) for text in several) <= 4096 for several in warnings)
