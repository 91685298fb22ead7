"""What the registry says when it cannot do what it was asked."""

import json
import re
from collections.abc import Callable
from dataclasses import replace

import httpx2
import pytest

from tests.conformance.clauses import clause
from tests.conformance.client import Answer, Repository, connected
from tests.conformance.content import (
    CONFIG,
    IMAGE,
    OCTETS,
    Content,
    absent,
    broken,
    digest_of,
    manifest,
    unique,
)

_CODES = {
    "BLOB_UNKNOWN",
    "BLOB_UPLOAD_INVALID",
    "BLOB_UPLOAD_UNKNOWN",
    "DENIED",
    "DIGEST_INVALID",
    "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID",
    "MANIFEST_UNKNOWN",
    "NAME_INVALID",
    "NAME_UNKNOWN",
    "SIZE_INVALID",
    "TOOMANYREQUESTS",
    "UNAUTHORIZED",
    "UNSUPPORTED",
}
_LEGACY = {"TAG_INVALID", "MANIFEST_UNVERIFIED"}
"""Codes that a client may meet beside those ("Legacy Docker support error codes")."""

Fault = Callable[[Repository], Answer]


def missing_blob(repository: Repository) -> Answer:
    repository.push_blob(unique())
    return repository.get_blob(absent()["digest"])


def missing_manifest(repository: Repository) -> Answer:
    repository.push_image("tag")
    return repository.get(absent()["digest"])


def missing_tag(repository: Repository) -> Answer:
    repository.push_image("tag")
    return repository.get("latest")


def missing_session(repository: Repository) -> Answer:
    location = repository.start().location
    repository.cancel(location)
    return repository.status(location)


def missing_repository(repository: Repository) -> Answer:
    return repository.tags()


def invalid_name(repository: Repository) -> Answer:
    return repository.registry.repository(f"{repository.name}/-UPPER-").tags()


def wrong_digest(repository: Repository) -> Answer:
    return repository.close(repository.start().location, digest_of(unique()), unique())


def malformed_digest(repository: Repository) -> Answer:
    return repository.close(repository.start().location, "sha256:abc", unique())


def wrong_manifest_digest(repository: Repository) -> Answer:
    return repository.put(absent()["digest"], repository.push_image())


def broken_manifest(repository: Repository) -> Answer:
    return repository.put("tag", broken())


def manifest_of_no_kind(repository: Repository) -> Answer:
    return repository.put("tag", Content(b"[1, 2]", broken().media_type))


def invalid_tag(repository: Repository) -> Answer:
    return repository.put(".tag", repository.push_image())


def chunk_out_of_order(repository: Repository) -> Answer:
    upload = repository.start()
    return repository.chunk(upload.location, unique(upload.piece), 7)


def chunk_of_another_size(repository: Repository) -> Answer:
    upload = repository.start()
    headers = {"Content-Type": OCTETS, "Content-Range": f"0-{upload.piece}"}
    data = unique(upload.piece)
    return repository.registry.ask("PATCH", upload.location, headers=headers, body=data)


def missing_content(repository: Repository) -> Answer:
    return repository.put("tag", manifest(IMAGE, config=absent(CONFIG), layers=[]))


def wrong_login(repository: Repository) -> Answer:
    # A registry for everybody has nothing to refuse here.
    with connected(replace(repository.registry.target, password="wrong")) as stranger:
        return stranger.ask("GET", "/v2/")


def no_number(repository: Repository) -> Answer:
    repository.push_image("tag")
    return repository.tags([("n", "many")])


def wrong_method(repository: Repository) -> Answer:
    return repository.registry.ask("DELETE", repository.url("tags/list"))


def range_beyond_the_end(repository: Repository) -> Answer:
    return repository.get_blob(repository.push_blob(unique(10)), "bytes=10-")


# Each with the codes that name it, of which some are more exact than others.
FAULTS: dict[Fault, set[str]] = {
    missing_blob: {"BLOB_UNKNOWN"},
    missing_manifest: {"MANIFEST_UNKNOWN"},
    missing_tag: {"MANIFEST_UNKNOWN"},
    missing_session: {"BLOB_UPLOAD_UNKNOWN", "NAME_UNKNOWN"},
    missing_repository: {"NAME_UNKNOWN"},
    invalid_name: {"NAME_INVALID"},
    wrong_digest: {"DIGEST_INVALID"},
    malformed_digest: {"DIGEST_INVALID"},
    wrong_manifest_digest: {"DIGEST_INVALID"},
    broken_manifest: {"MANIFEST_INVALID"},
    manifest_of_no_kind: {"MANIFEST_INVALID"},
    invalid_tag: {"MANIFEST_INVALID", "TAG_INVALID"},
    chunk_out_of_order: {"BLOB_UPLOAD_INVALID"},
    chunk_of_another_size: {"SIZE_INVALID", "BLOB_UPLOAD_INVALID"},
    missing_content: {"MANIFEST_BLOB_UNKNOWN"},
    wrong_login: {"UNAUTHORIZED"},
    no_number: set(),
    wrong_method: set(),
    range_beyond_the_end: set(),
}
every_fault = pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)


@pytest.fixture(scope="session")
def seen() -> dict[tuple[str, Fault], Answer | None]:
    """Errors that were provoked already."""
    return {}


@pytest.fixture
def failed(
    repository: Repository,
    protocol: str,
    fault: Fault,
    seen: dict[tuple[str, Fault], Answer | None],
) -> Answer | None:
    """What an error looks like; None where there is none, or none in JSON, which is allowed."""
    if (protocol, fault) not in seen:
        seen[protocol, fault] = provoked(repository, fault)
    return seen[protocol, fault]


def provoked(repository: Repository, fault: Fault) -> Answer | None:
    """Provoke an error."""
    try:
        answer = fault(repository)
    except httpx2.RemoteProtocolError:
        return None  # an answer that breaks off is what other clauses are about
    if not 400 <= answer.status < 500:
        return None
    try:
        json.loads(answer.body)
    except ValueError:
        return None
    return answer


@clause("error-json")
@pytest.mark.parametrize(
    "fault",
    [missing_blob, missing_manifest, missing_tag, missing_repository],
    ids=lambda fault: fault.__name__,
)
def test_what_is_missing_is_said_in_json(failed: Answer | None) -> None:
    assert failed is not None


@clause("error-shape")
@every_fault
def test_an_error_is_a_list_of_errors(failed: Answer | None) -> None:
    if failed is not None:
        errors = failed.page_of("errors")
        assert errors
        assert all(isinstance(error, dict) and "code" in error for error in errors)


@clause("error-code")
@every_fault
def test_a_code_is_of_capitals_and_underscores(failed: Answer | None) -> None:
    if failed is not None:
        for error in failed.page_of("errors"):
            assert re.fullmatch("[A-Z_]+", error["code"]), error["code"]


@clause("error-known")
@every_fault
def test_a_code_is_one_of_the_table(failed: Answer | None) -> None:
    if failed is not None:
        assert {error["code"] for error in failed.page_of("errors")} <= _CODES | _LEGACY


@clause("error-meaning")
@pytest.mark.parametrize(
    "fault",
    [fault for fault, codes in FAULTS.items() if codes],
    ids=lambda fault: fault.__name__,
)
def test_a_code_says_what_was_wrong(failed: Answer | None, fault: Fault) -> None:
    if failed is not None:
        codes = {error["code"] for error in failed.page_of("errors")}
        assert codes & FAULTS[fault], f"{failed.asked}: {codes}"


@clause("error-message")
@every_fault
def test_a_message_is_text(failed: Answer | None) -> None:
    if failed is not None:
        for error in failed.page_of("errors"):
            assert isinstance(error.get("message", ""), str)
