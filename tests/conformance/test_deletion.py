"""Taking tags, manifests and blobs out again; each is gone once that is answered."""

from tests.conformance.clauses import by_algorithm, clause
from tests.conformance.client import Repository
from tests.conformance.content import Document, absent, index, unique

_TYPE = "application/vnd.example.signature.v1"
_DONE_OR_DISABLED = (202, 400, 405)


@clause("tag-delete-202")
def test_a_tag_is_deleted(repository: Repository) -> None:
    repository.push_image("tag")
    repository.delete("tag").expect(202)


@clause("tag-delete-gone")
def test_a_deleted_tag_is_gone_at_once(repository: Repository) -> None:
    for turn in range(3):
        repository.push_image("kept", f"tag{turn}")
        repository.delete(f"tag{turn}").expect(202)
        repository.head(f"tag{turn}").expect(404)
        repository.get(f"tag{turn}").expect(404)
        assert repository.tags().expect(200).page_of("tags") == ["kept"]


@clause("tag-delete-only")
def test_the_manifest_and_its_other_tags_stay(repository: Repository) -> None:
    content = repository.push_image("one", "two", "three")
    repository.delete("two").expect(202)
    assert repository.get(content.digest()).expect(200).body == content.data
    for tag in ("one", "three"):
        assert repository.get(tag).expect(200).body == content.data
    assert repository.tags().expect(200).page_of("tags") == ["one", "three"]


@clause("tag-delete-only")
def test_a_manifest_stays_without_its_last_tag(repository: Repository) -> None:
    content = repository.push_image("one")
    repository.delete("one").expect(202)
    assert repository.get(content.digest()).expect(200).body == content.data


@clause("tag-delete-disabled")
def test_a_tag_is_deleted_or_deletion_is_disabled(repository: Repository) -> None:
    repository.push_image("tag")
    repository.delete("tag").expect(*_DONE_OR_DISABLED)


@by_algorithm("manifest-delete-202", sha512="sha512-manifest")
def test_a_manifest_is_deleted(repository: Repository, algorithm: str) -> None:
    content = repository.push_image(algorithm=algorithm)
    repository.delete(content.digest(algorithm)).expect(202)
    repository.get(content.digest(algorithm)).expect(404)


@clause("manifest-delete-gone")
def test_a_deleted_manifest_is_gone_at_once(repository: Repository) -> None:
    repository.push_image("kept")
    for _ in range(3):
        content = repository.push_image()
        repository.delete(content.digest()).expect(202)
        repository.head(content.digest()).expect(404)
        repository.get(content.digest()).expect(404)


@clause("manifest-delete-gone")
def test_an_index_goes_before_what_it_lists(repository: Repository) -> None:
    child = repository.push_image()
    listing = index([child])
    repository.push(listing, "index")
    for content in (listing, child):
        repository.delete(content.digest()).expect(202)
        repository.get(content.digest()).expect(404)
    repository.get("index").expect(404)


@clause("manifest-delete-gone")
def test_a_deleted_manifest_may_be_pushed_again(repository: Repository) -> None:
    repository.push_image("kept")
    content = repository.push_image("tag")
    repository.delete(content.digest()).expect(202)
    repository.push(content, "tag")
    assert repository.get("tag").expect(200).body == content.data


@clause("manifest-delete-tags")
def test_the_tags_of_a_deleted_manifest_are_gone(repository: Repository) -> None:
    repository.push_image("kept")
    content = repository.push_image("one", "two")
    repository.delete(content.digest()).expect(202)
    for tag in ("one", "two"):
        repository.head(tag).expect(404)
        repository.get(tag).expect(404)
    assert repository.tags().expect(200).page_of("tags") == ["kept"]
    repository.get("kept").expect(200)


@clause("manifest-delete-404")
def test_a_repository_that_is_not_there_has_nothing_to_delete(repository: Repository) -> None:
    repository.delete(absent()["digest"]).expect(404)


@clause("unknown-404")
def test_what_is_not_there_cannot_be_deleted(repository: Repository) -> None:
    content = repository.push_image("tag")
    repository.delete(absent()["digest"]).expect(404)
    repository.delete(content.digest()).expect(202)
    repository.delete(content.digest()).expect(404)
    repository.delete("tag").expect(404, 400, 405)


@clause("manifest-delete-disabled")
def test_a_manifest_is_deleted_or_deletion_is_disabled(repository: Repository) -> None:
    content = repository.push_image("tag")
    repository.delete(content.digest()).expect(*_DONE_OR_DISABLED)


@clause("manifest-delete-referrer")
def test_a_deleted_referrer_is_listed_no_more(repository: Repository) -> None:
    subject = repository.push_image("tag")
    about: Document = {"subject": subject.descriptor()}
    gone, kept = (repository.push_artifact(_TYPE, **about) for _ in range(2))
    repository.delete(gone.digest()).expect(202)
    found = repository.all_referrers(subject.digest())
    assert [entry["digest"] for entry in found] == [kept.digest()]


@clause("referrers-listed")
def test_a_deleted_subject_keeps_its_referrers(repository: Repository) -> None:
    subject = repository.push_image("tag")
    referrer = repository.push_artifact(_TYPE, subject=subject.descriptor())
    repository.delete(subject.digest()).expect(202)
    found = repository.all_referrers(subject.digest())
    assert [entry["digest"] for entry in found] == [referrer.digest()]
    assert repository.get(referrer.digest()).expect(200).body == referrer.data


@by_algorithm("blob-delete-202", sha512="sha512-put")
def test_a_blob_is_deleted(repository: Repository, algorithm: str) -> None:
    repository.push_blob(unique())
    digest = repository.push_blob(unique(), algorithm)
    repository.delete_blob(digest).expect(202)


@by_algorithm("blob-delete-gone", sha512="sha512-put")
def test_a_deleted_blob_is_gone_at_once(repository: Repository, algorithm: str) -> None:
    for _ in range(3):
        digest = repository.push_blob(unique(), algorithm)
        repository.delete_blob(digest).expect(202)
        repository.head_blob(digest).expect(404)
        repository.get_blob(digest).expect(404)


@clause("blob-delete-gone")
def test_a_deleted_blob_may_be_pushed_again(repository: Repository) -> None:
    data = unique()
    digest = repository.push_blob(data)
    repository.delete_blob(digest).expect(202)
    repository.push_blob(data)
    assert repository.get_blob(digest).expect(200).body == data


@clause("blob-delete-404")
def test_a_blob_that_is_not_there_cannot_be_deleted(
    repository: Repository, other: Repository
) -> None:
    repository.delete_blob(absent()["digest"]).expect(404)
    digest = repository.push_blob(unique())
    repository.delete_blob(absent()["digest"]).expect(404)
    other.push_blob(unique())
    other.delete_blob(digest).expect(404)
    repository.delete_blob(digest).expect(202)
    repository.delete_blob(digest).expect(404)


@clause("blob-delete-disabled")
def test_a_blob_is_deleted_or_deletion_is_disabled(repository: Repository) -> None:
    repository.delete_blob(repository.push_blob(unique())).expect(*_DONE_OR_DISABLED)


@clause("blob-delete-only")
def test_a_blob_stays_in_other_repositories(repository: Repository, other: Repository) -> None:
    data = unique()
    digest = repository.push_blob(data)
    other.push_blob(data)
    repository.delete_blob(digest).expect(202)
    repository.get_blob(digest).expect(404)
    assert other.get_blob(digest).expect(200).body == data
