"""Lists of what refers to a manifest."""

from typing import Any

import pytest

from tests.conformance.clauses import clause
from tests.conformance.client import Repository
from tests.conformance.content import (
    CONFIG,
    EMPTY,
    EMPTY_OBJECT,
    INDEX,
    Content,
    Document,
    absent,
    config,
    image,
    index,
)

_SBOM = "application/vnd.example.sbom.v1"
_SIGNATURE = "application/vnd.example.signature.v1"
_PAGE_MAX = 4 << 20
"""What every registry takes as a manifest, and every client may expect as one."""


@pytest.fixture
def subject(repository: Repository) -> Content:
    """An image to refer to."""
    return repository.push_image("subject")


def entry_of(repository: Repository, subject: Content, referrer: Content) -> dict[str, Any]:
    """The entry of a referrer, of which there is one."""
    entries = repository.all_referrers(subject.digest())
    (found,) = [entry for entry in entries if entry["digest"] == referrer.digest()]
    return found


@clause("referrers-200")
def test_referrers_are_listed(repository: Repository, subject: Content) -> None:
    repository.push_artifact(_SBOM, subject=subject.descriptor())
    repository.referrers(subject.digest()).expect(200)


@clause("referrers-404")
def test_what_nothing_refers_to_is_no_error(repository: Repository, subject: Content) -> None:
    repository.referrers(subject.digest()).expect(200)
    repository.referrers(absent()["digest"]).expect(200)
    repository.referrers(absent()["digest"], [("artifactType", _SBOM)]).expect(200)


@clause("referrers-404")
def test_a_repository_that_is_not_there_has_no_referrers(repository: Repository) -> None:
    answer = repository.referrers(absent()["digest"]).expect(200)
    assert answer.page_of("manifests") == []


@clause("referrers-400")
@pytest.mark.parametrize("digest", ["sha256:abc", "sha256:" + "Z" * 64, "latest", "a" * 64])
def test_what_is_no_digest_is_refused(repository: Repository, digest: str) -> None:
    repository.push_image("latest")
    repository.referrers(digest).expect(400)


@clause("referrers-type")
def test_the_list_is_declared_an_index(repository: Repository, subject: Content) -> None:
    repository.push_artifact(_SBOM, subject=subject.descriptor())
    for digest in (subject.digest(), absent()["digest"]):
        assert repository.referrers(digest).expect(200).header("Content-Type") == INDEX


@clause("referrers-index")
def test_the_list_is_an_index(repository: Repository, subject: Content) -> None:
    repository.push_artifact(_SBOM, subject=subject.descriptor())
    answer = repository.referrers(subject.digest()).expect(200)
    document = answer.json()
    assert (document["schemaVersion"], document["mediaType"]) == (2, INDEX)
    for entry in answer.page_of("manifests"):
        assert {"mediaType", "digest", "size"} <= set(entry)


@clause("referrers-listed")
def test_each_referrer_is_listed_once(repository: Repository, subject: Content) -> None:
    about: Document = {"subject": subject.descriptor()}
    referrers = [
        repository.push_artifact(_SBOM, **about),
        repository.push_artifact(_SIGNATURE, "tagged", "twice", **about),
        repository.push_image(**about),
        index([subject], **about),
    ]
    for referrer in referrers:
        repository.push(referrer)
    expected = {one.digest(): (one.media_type, len(one.data)) for one in referrers}
    found = repository.all_referrers(subject.digest())
    assert len(found) == len(referrers)
    assert {one["digest"]: (one["mediaType"], one["size"]) for one in found} == expected


@clause("referrers-listed")
def test_a_subject_that_is_not_there_has_referrers(repository: Repository) -> None:
    subject = absent()
    referrer = repository.push_artifact(_SBOM, subject=subject)
    found = repository.all_referrers(subject["digest"])
    assert [entry["digest"] for entry in found] == [referrer.digest()]


@clause("referrers-listed")
def test_an_index_has_referrers(repository: Repository) -> None:
    subject = index([repository.push_image()])
    repository.push(subject, "index")
    referrer = repository.push_artifact(_SBOM, subject=subject.descriptor())
    assert entry_of(repository, subject, referrer)["size"] == len(referrer.data)


@clause("referrers-listed")
def test_a_referrer_has_referrers(repository: Repository, subject: Content) -> None:
    first = repository.push_artifact(_SBOM, subject=subject.descriptor())
    second = repository.push_artifact(_SIGNATURE, subject=first.descriptor())
    assert [one["digest"] for one in repository.all_referrers(subject.digest())] == [first.digest()]
    assert [one["digest"] for one in repository.all_referrers(first.digest())] == [second.digest()]


@clause("referrers-listed")
def test_a_referrer_in_another_repository_is_not_listed(
    repository: Repository, other: Repository, subject: Content
) -> None:
    other.push_artifact(_SBOM, subject=subject.descriptor())
    assert repository.all_referrers(subject.digest()) == []
    assert len(other.all_referrers(subject.digest())) == 1


@clause("referrers-artifact-type")
def test_an_artifact_is_listed_with_its_type(repository: Repository, subject: Content) -> None:
    about: Document = {"subject": subject.descriptor()}
    artifact = repository.push_artifact(_SBOM, **about)
    listing = index([], artifactType=_SIGNATURE, **about)
    repository.push(listing)
    assert entry_of(repository, subject, artifact)["artifactType"] == _SBOM
    assert entry_of(repository, subject, listing)["artifactType"] == _SIGNATURE


@clause("referrers-config-type")
@pytest.mark.parametrize("artifact_type", [None, ""])
def test_an_image_without_a_type_is_listed_with_that_of_its_config(
    repository: Repository, subject: Content, artifact_type: str | None
) -> None:
    about: Document = {"subject": subject.descriptor()}
    artifact = repository.push_artifact(artifact_type, **about)
    assert entry_of(repository, subject, artifact)["artifactType"] == EMPTY
    described = config()
    repository.push_blob(described.data)
    plain = image(described, [], artifactType=artifact_type, **about)
    repository.push(plain)
    assert entry_of(repository, subject, plain)["artifactType"] == CONFIG


@clause("referrers-index-type")
@pytest.mark.parametrize("artifact_type", [None, ""])
def test_an_index_without_a_type_is_listed_without(
    repository: Repository, subject: Content, artifact_type: str | None
) -> None:
    listing = index([], artifactType=artifact_type, subject=subject.descriptor())
    repository.push(listing)
    assert "artifactType" not in entry_of(repository, subject, listing)


@clause("referrers-annotations")
def test_a_referrer_is_listed_with_its_annotations(
    repository: Repository, subject: Content
) -> None:
    annotations = {"org.example.one": "1", "org.example.ü": "„2“", "empty": ""}
    about: Document = {"subject": subject.descriptor(), "annotations": annotations}
    artifact = repository.push_artifact(_SBOM, **about)
    listing = index([], **about)
    repository.push(listing)
    for referrer in (artifact, listing):
        entry = entry_of(repository, subject, referrer)
        assert annotations.items() <= entry["annotations"].items()


@clause("referrers-empty")
def test_the_list_may_be_empty(repository: Repository, subject: Content) -> None:
    for digest in (subject.digest(), absent()["digest"], absent(algorithm="sha512")["digest"]):
        answer = repository.referrers(digest).expect(200)
        assert answer.page_of("manifests") == []
        assert answer.next_page() is None


def push_large(repository: Repository, subject: Content, type_: str, count: int) -> set[str]:
    """Push referrers that fill a page by two or three; their digests."""
    large = {f"org.example.{turn}": "A" * 10_000 for turn in range(150)}
    about: Document = {"subject": subject.descriptor()}
    return {
        repository.push_artifact(
            type_, annotations=large | {"org.example.turn": str(turn)}, **about
        ).digest()
        for turn in range(count)
    }


@clause("referrers-link")
def test_links_lead_through_what_does_not_fit_one_page(
    repository: Repository, subject: Content
) -> None:
    expected = push_large(repository, subject, _SBOM, 4)
    pages = repository.pages(repository.referrers(subject.digest()))
    found = [entry["digest"] for page in pages for entry in page.page_of("manifests")]
    assert len(found) == len(expected)
    assert set(found) == expected
    assert all(page.header("Content-Type") == INDEX for page in pages)
    assert all(len(page.body) <= _PAGE_MAX + 100_000 for page in pages)


@clause("referrers-filter")
def test_a_list_is_filtered_by_type(repository: Repository, subject: Content) -> None:
    about: Document = {"subject": subject.descriptor()}
    wanted = {repository.push_artifact(_SBOM, **about).digest() for _ in range(2)}
    repository.push_artifact(_SIGNATURE, **about)
    listing = index([], artifactType=_SBOM, **about)
    wanted.add(repository.push(listing))
    repository.push(index([], **about))
    found = repository.all_referrers(subject.digest(), [("artifactType", _SBOM)])
    assert {entry["digest"] for entry in found} == wanted
    assert {entry["artifactType"] for entry in found} == {_SBOM}


@clause("referrers-filter")
def test_a_list_is_filtered_by_the_type_of_a_config(
    repository: Repository, subject: Content
) -> None:
    about: Document = {"subject": subject.descriptor()}
    repository.push_artifact(_SBOM, **about)
    plain = image(EMPTY_OBJECT, [], **about)
    repository.push(plain)
    found = repository.all_referrers(subject.digest(), [("artifactType", EMPTY)])
    assert [entry["digest"] for entry in found] == [plain.digest()]


@clause("referrers-filter")
def test_a_filter_that_nothing_passes_leaves_an_empty_list(
    repository: Repository, subject: Content
) -> None:
    repository.push_artifact(_SBOM, subject=subject.descriptor())
    assert repository.all_referrers(subject.digest(), [("artifactType", _SIGNATURE)]) == []


@clause("referrers-filter", "referrers-filter-header")
def test_links_keep_the_filter(repository: Repository, subject: Content) -> None:
    push_large(repository, subject, _SIGNATURE, 1)
    expected = push_large(repository, subject, _SBOM, 4)
    first = repository.referrers(subject.digest(), [("artifactType", _SBOM)])
    pages = repository.pages(first)
    found = [entry["digest"] for page in pages for entry in page.page_of("manifests")]
    assert len(found) == len(expected)
    assert set(found) == expected
    assert all(page.header("OCI-Filters-Applied") == "artifactType" for page in pages)


@clause("referrers-filter-header")
def test_a_filter_that_was_applied_is_named(repository: Repository, subject: Content) -> None:
    repository.push_artifact(_SBOM, subject=subject.descriptor())
    for wanted in (_SBOM, _SIGNATURE):
        answer = repository.referrers(subject.digest(), [("artifactType", wanted)]).expect(200)
        applied = answer.header("OCI-Filters-Applied").split(",")
        assert [name.strip() for name in applied] == ["artifactType"]
    assert "OCI-Filters-Applied" not in repository.referrers(subject.digest()).expect(200).headers
