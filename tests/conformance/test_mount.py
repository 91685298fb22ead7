"""Blobs of one repository in another, without sending them."""

from tests.conformance.clauses import by_algorithm, clause
from tests.conformance.client import Answer, Repository
from tests.conformance.content import absent, digest_of, unique


def mount(into: Repository, digest: str, source: str | None) -> Answer:
    """Ask for a mount."""
    named = [] if source is None else [("from", source)]
    return into.post([("mount", digest), *named])


@by_algorithm("mount-201", sha512="sha512-mount")
def test_a_blob_is_mounted(repository: Repository, other: Repository, algorithm: str) -> None:
    data = unique()
    digest = other.push_blob(data, algorithm)
    mount(repository, digest, other.name).expect(201)
    assert repository.get_blob(digest).expect(200).body == data
    assert other.get_blob(digest).expect(200).body == data


@by_algorithm("mount-location", sha512="sha512-mount")
def test_a_mount_says_where_the_blob_is(
    repository: Repository, other: Repository, algorithm: str
) -> None:
    data = unique()
    answer = mount(repository, other.push_blob(data, algorithm), other.name).expect(201)
    assert f"/{repository.name}/" in answer.location()
    assert repository.registry.ask("GET", answer.location()).expect(200).body == data


@clause("mount-digest")
def test_a_mount_says_the_digest_of_the_blob(repository: Repository, other: Repository) -> None:
    digest = other.push_blob(unique())
    answer = mount(repository, digest, other.name).expect(201)
    assert answer.header("Docker-Content-Digest") == digest


@clause("blob-delete-only")
def test_a_mounted_blob_is_deleted_from_one_repository_at_a_time(
    repository: Repository, other: Repository
) -> None:
    data = unique()
    digest = other.push_blob(data)
    mount(repository, digest, other.name).expect(201)
    other.delete_blob(digest).expect(202)
    other.head_blob(digest).expect(404)
    assert repository.get_blob(digest).expect(200).body == data
    repository.delete_blob(digest).expect(202)
    repository.head_blob(digest).expect(404)


@clause("mount-unknown")
def test_a_blob_that_is_not_there_may_be_sent_instead(
    repository: Repository, other: Repository
) -> None:
    other.push_blob(unique())
    data = unique()
    answer = mount(repository, digest_of(data), other.name).expect(202)
    repository.get_blob(digest_of(data)).expect(404)
    repository.close(answer.location(), digest_of(data), data).expect(201)


@clause("mount-unknown")
def test_a_repository_that_is_not_there_is_no_obstacle(
    repository: Repository, other: Repository
) -> None:
    data = unique()
    answer = mount(repository, digest_of(data), other.name).expect(202)
    repository.close(answer.location(), digest_of(data), data).expect(201)


@clause("mount-unknown")
def test_what_is_nowhere_may_be_sent_instead(repository: Repository) -> None:
    repository.get_blob(absent()["digest"]).expect(404)
    data = unique()
    answer = mount(repository, digest_of(data), None).expect(202)
    repository.close(answer.location(), digest_of(data), data).expect(201)


@by_algorithm("mount-anywhere", sha512="sha512-mount")
def test_a_blob_is_found_wherever_it_is(
    repository: Repository, other: Repository, algorithm: str
) -> None:
    data = unique()
    digest = other.push_blob(data, algorithm)
    answer = mount(repository, digest, None).expect(201)
    assert repository.registry.ask("GET", answer.location()).expect(200).body == data
    assert repository.get_blob(digest).expect(200).body == data


@clause("mount-201")
def test_a_mounted_blob_is_part_of_an_image(repository: Repository, other: Repository) -> None:
    content = other.push_image("tag")
    document = other.get("tag").expect(200).json()
    for descriptor in (document["config"], *document["layers"]):
        mount(repository, descriptor["digest"], other.name).expect(201)
    repository.push(content, "tag")
    assert repository.get("tag").expect(200).body == content.data


@clause("mount-201")
def test_a_mount_within_a_repository_changes_nothing(repository: Repository) -> None:
    data = unique()
    digest = repository.push_blob(data)
    mount(repository, digest, repository.name).expect(201)
    assert repository.get_blob(digest).expect(200).body == data
