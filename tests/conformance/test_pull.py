"""Whether the registry is one, and what can be read from it."""

import pytest

from tests.conformance.clauses import by_algorithm, clause
from tests.conformance.client import Registry, Repository
from tests.conformance.content import (
    IMAGE,
    INDEX,
    absent,
    config,
    digest_of,
    image,
    index,
    layer,
    unique,
)


@clause("support-200")
def test_the_registry_says_that_it_is_one(registry: Registry) -> None:
    registry.ask("GET", "/v2/").expect(200)


@clause("name-valid")
@pytest.mark.parametrize("rest", ["a", "a.b", "a_b", "a__b", "a-b", "a---b", "0/1.2/3_4/x--y.z"])
def test_a_name_of_the_grammar_is_a_repository(repository: Repository, rest: str) -> None:
    named = repository.registry.repository(f"{repository.name}/{rest}")
    data = unique()
    digest = named.push_blob(data)
    assert named.get_blob(digest).expect(200).body == data


@clause("name-invalid")
@pytest.mark.parametrize(
    "rest", ["A", "-a", "a-", "a..b", "a___b", "a._b", "a/-", "a/b.", "ä", "a b"]
)
def test_another_name_is_no_repository(repository: Repository, rest: str) -> None:
    named = repository.registry.repository(f"{repository.name}/{rest}")
    named.post().expect(400, 404)
    named.get("latest").expect(400, 404)


@clause("tag-valid")
@pytest.mark.parametrize("tag", ["a", "_", "0", "A.b-C_d", "latest..", "x" * 128])
def test_a_tag_of_the_grammar_names_a_manifest(repository: Repository, tag: str) -> None:
    content = repository.push_image(tag)
    assert repository.get(tag).expect(200).body == content.data


@clause("reference-invalid")
@pytest.mark.parametrize(
    "reference",
    [
        *(".a", "-a", "a+b", "a b", "x" * 129),
        *("sha256:abc", "sha256:" + "A" * 64, "sha256:" + "g" * 64, "nothing:abc", ":" + "a" * 64),
    ],
)
def test_a_reference_that_is_neither_tag_nor_digest_is_refused(
    repository: Repository, reference: str
) -> None:
    content = repository.push_image("tag")
    repository.put(reference, content).expect(400, 404)
    repository.get(reference).expect(400, 404)


@clause("manifest-200")
def test_a_manifest_comes_whole_by_its_tag_and_by_its_digest(repository: Repository) -> None:
    content = repository.push_image("tag")
    assert repository.get("tag").expect(200).body == content.data
    assert repository.get(content.digest()).expect(200).body == content.data


@clause("manifest-200")
def test_content_comes_in_any_order(repository: Repository) -> None:
    described, layers = config(), [layer(), layer()]
    for blob in (described, *layers):
        repository.push_blob(blob.data)
    content = image(described, layers)
    repository.push(content, "tag")
    document = repository.get(content.digest()).expect(200).json()
    for descriptor in (*document["layers"], document["config"]):
        data = repository.get_blob(descriptor["digest"]).expect(200).body
        assert (digest_of(data), len(data)) == (descriptor["digest"], descriptor["size"])
    assert repository.get("tag").expect(200).body == content.data


@clause("manifest-200")
def test_media_types_that_are_accepted_may_come_in_several_lines(repository: Repository) -> None:
    child = repository.push_image("image")
    listing = index([child])
    repository.push(listing, "index")
    accepted = [("Accept", INDEX), ("Accept", IMAGE)]
    for tag, content in (("image", child), ("index", listing)):
        url = repository.url(f"manifests/{tag}")
        answer = repository.registry.ask("GET", url, headers=accepted).expect(200)
        assert answer.body == content.data


@clause("manifest-length")
def test_a_manifest_comes_with_its_size(repository: Repository) -> None:
    content = repository.push_image("tag")
    for reference in ("tag", content.digest()):
        answer = repository.get(reference).expect(200)
        assert answer.header("Content-Length") == str(len(content.data))


@clause("manifest-digest-1.1", "manifest-digest-dev")
def test_a_manifest_comes_with_its_digest(repository: Repository) -> None:
    content = repository.push_image("tag")
    for reference in ("tag", content.digest()):
        answer = repository.get(reference).expect(200)
        assert answer.header("Docker-Content-Digest") == content.digest()


@clause("sha512-manifest")
def test_a_manifest_pushed_by_its_sha512_digest_is_pulled_by_it(repository: Repository) -> None:
    content = repository.push_image(algorithm="sha512")
    digest = content.digest("sha512")
    answer = repository.get(digest).expect(200)
    assert answer.body == content.data
    assert answer.header("Docker-Content-Digest") == digest
    assert repository.head(digest).expect(200).header("Content-Length") == str(len(content.data))


@clause("manifest-404")
def test_a_manifest_that_is_not_there_is_not_found(
    repository: Repository, other: Repository
) -> None:
    repository.push_image("tag")
    repository.get("another").expect(404)
    repository.get(absent()["digest"]).expect(404)
    elsewhere = other.push_image("elsewhere")
    repository.get("elsewhere").expect(404)
    repository.get(elsewhere.digest()).expect(404)


@clause("repository-404")
def test_a_repository_that_is_not_there_is_not_found(repository: Repository) -> None:
    repository.get("latest").expect(404)
    repository.get(absent()["digest"]).expect(404)
    repository.get_blob(absent()["digest"]).expect(404)
    repository.tags().expect(404)


@by_algorithm("blob-200", sha512="sha512-put")
@pytest.mark.parametrize("size", [0, 1, 2, 65_536, 1_000_003])
def test_a_blob_comes_whole(repository: Repository, algorithm: str, size: int) -> None:
    data = unique(size)
    digest = repository.push_blob(data, algorithm)
    assert repository.get_blob(digest).expect(200).body == data


@clause("blob-length")
@pytest.mark.parametrize("size", [0, 2, 70_000])
def test_a_blob_comes_with_its_size(repository: Repository, size: int) -> None:
    answer = repository.get_blob(repository.push_blob(unique(size))).expect(200)
    assert answer.header("Content-Length") == str(size)


@clause("sha512-header")
def test_a_blob_asked_for_by_sha512_comes_with_that_digest(repository: Repository) -> None:
    digest = repository.push_blob(unique(), "sha512")
    for answer in (repository.head_blob(digest), repository.get_blob(digest)):
        assert answer.expect(200).header("Docker-Content-Digest") == digest


@clause("blob-digest-1.1", "blob-digest-dev")
def test_a_blob_comes_with_its_digest(repository: Repository) -> None:
    digest = repository.push_blob(unique())
    assert repository.get_blob(digest).expect(200).header("Docker-Content-Digest") == digest


@clause("blob-digest-value")
def test_the_digest_that_comes_with_a_blob_is_its_own(repository: Repository) -> None:
    data = unique()
    answer = repository.get_blob(repository.push_blob(data)).expect(200)
    stated = answer.headers.get("Docker-Content-Digest", digest_of(data))
    assert stated == digest_of(data, stated.partition(":")[0])


@clause("blob-404")
def test_a_blob_that_is_not_there_is_not_found(repository: Repository) -> None:
    repository.push_blob(unique())
    repository.get_blob(absent()["digest"]).expect(404)


@clause("blob-404")
def test_a_blob_of_one_repository_is_not_found_in_another(
    repository: Repository, other: Repository
) -> None:
    digest = repository.push_blob(unique())
    other.push_blob(unique())
    other.get_blob(digest).expect(404)
    other.head_blob(digest).expect(404)
