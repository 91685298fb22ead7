"""Manifests about others."""

from tests.conformance.clauses import clause
from tests.conformance.client import Repository
from tests.conformance.content import EMPTY_OBJECT, absent, image, index

_TYPE = "application/vnd.example.signature.v1"


@clause("subject-missing")
def test_a_subject_need_not_be_there(repository: Repository) -> None:
    repository.push_blob(EMPTY_OBJECT.data)
    content = image(EMPTY_OBJECT, [], artifactType=_TYPE, subject=absent())
    repository.put(content.digest(), content).expect(201)
    assert repository.get(content.digest()).expect(200).body == content.data


@clause("subject-missing")
def test_a_subject_may_come_later(repository: Repository) -> None:
    other = repository.registry.repository()
    subject = other.push_image("tag")
    repository.push_artifact(_TYPE, subject=subject.descriptor())
    document = other.get("tag").expect(200).json()
    for descriptor in (document["config"], *document["layers"]):
        repository.push_blob(other.get_blob(descriptor["digest"]).expect(200).body)
    repository.put("tag", subject).expect(201)


@clause("subject-missing")
def test_the_subject_of_an_index_need_not_be_there(repository: Repository) -> None:
    content = index([], subject=absent())
    repository.put(content.digest(), content).expect(201)
    assert repository.get(content.digest()).expect(200).body == content.data


@clause("subject-header")
def test_the_subject_of_an_image_was_seen(repository: Repository) -> None:
    repository.push_blob(EMPTY_OBJECT.data)
    for subject in (absent(), repository.push_image("subject").descriptor()):
        content = image(EMPTY_OBJECT, [], artifactType=_TYPE, subject=subject)
        for reference in (content.digest(), "tag"):
            answer = repository.put(reference, content).expect(201)
            assert answer.header("OCI-Subject") == subject["digest"]


@clause("subject-header-index")
def test_the_subject_of_an_index_was_seen(repository: Repository) -> None:
    subject = repository.push_image("subject")
    content = index([], artifactType=_TYPE, subject=subject.descriptor())
    answer = repository.put(content.digest(), content).expect(201)
    assert answer.header("OCI-Subject") == subject.digest()


@clause("sha512-subject")
def test_a_subject_of_sha512_was_seen(repository: Repository) -> None:
    subject = repository.push_image(algorithm="sha512").descriptor("sha512")
    repository.push_blob(EMPTY_OBJECT.data, "sha512")
    content = image(EMPTY_OBJECT, [], "sha512", artifactType=_TYPE, subject=subject)
    answer = repository.put(content.digest("sha512"), content).expect(201)
    assert answer.header("OCI-Subject") == subject["digest"]
    found = repository.all_referrers(subject["digest"])
    assert [entry["digest"] for entry in found] == [content.digest("sha512")]


@clause("sha512-subject")
def test_a_subject_of_sha512_has_a_referrer_of_sha256(repository: Repository) -> None:
    subject = absent(algorithm="sha512")
    content = repository.push_artifact(_TYPE, subject=subject)
    found = repository.all_referrers(subject["digest"])
    assert [entry["digest"] for entry in found] == [content.digest()]
