"""What clients that know no referrers API have kept at a tag of the referrers tag schema.

Such a client pushes a manifest with a subject, and then lists it in an index under a tag made of
the subject's digest. From outside nobody can push before the API is there; but what must then be
listed once and what must not can be seen all the same.
"""

from tests.conformance.clauses import clause
from tests.conformance.client import Repository
from tests.conformance.content import Content, Document, index, referrers_tag

_TYPE = "application/vnd.example.signature.v1"


def listed(repository: Repository, digest: str) -> list[str]:
    """The digests of what refers to a manifest."""
    return [entry["digest"] for entry in repository.all_referrers(digest)]


def keep(repository: Repository, digest: str, *referrers: Content) -> None:
    """List manifests as an old client does."""
    entries = index(referrers, annotations={"org.example.subject": digest})
    repository.push(entries, referrers_tag(digest))


@clause("enable-listed")
def test_what_an_old_client_listed_is_listed_once(repository: Repository) -> None:
    subject = repository.push_image("tag")
    about: Document = {"subject": subject.descriptor()}
    referrers = [repository.push_artifact(_TYPE, **about) for _ in range(2)]
    keep(repository, subject.digest(), *referrers)
    expected = sorted(one.digest() for one in referrers)
    assert sorted(listed(repository, subject.digest())) == expected


@clause("enable-listed")
def test_an_image_that_an_old_client_listed_is_listed(repository: Repository) -> None:
    subject = repository.push_image("tag")
    referrer = repository.push_image(subject=subject.descriptor())
    keep(repository, subject.digest(), referrer)
    assert listed(repository, subject.digest()) == [referrer.digest()]


@clause("enable-listed")
def test_a_tag_of_the_schema_is_a_tag_as_any_other(repository: Repository) -> None:
    subject = repository.push_image("tag")
    referrer = repository.push_artifact(_TYPE, subject=subject.descriptor())
    keep(repository, subject.digest(), referrer)
    entries = repository.get(referrers_tag(subject.digest())).expect(200).page_of("manifests")
    assert [entry["digest"] for entry in entries] == [referrer.digest()]
    assert listed(repository, subject.digest()) == [referrer.digest()]


@clause("enable-valid")
def test_what_has_no_subject_is_not_listed(repository: Repository) -> None:
    subject = repository.push_image("tag")
    keep(repository, subject.digest(), repository.push_artifact(_TYPE))
    assert listed(repository, subject.digest()) == []


@clause("enable-valid")
def test_what_has_another_subject_is_not_listed(repository: Repository) -> None:
    subject, another = repository.push_image("tag"), repository.push_image("another")
    referrer = repository.push_artifact(_TYPE, subject=another.descriptor())
    keep(repository, subject.digest(), referrer)
    assert listed(repository, subject.digest()) == []
    assert listed(repository, another.digest()) == [referrer.digest()]


@clause("enable-new")
def test_a_new_manifest_is_listed_beside_them(repository: Repository) -> None:
    subject = repository.push_image("tag")
    about: Document = {"subject": subject.descriptor()}
    old = repository.push_artifact(_TYPE, **about)
    keep(repository, subject.digest(), old)
    new = repository.push_artifact(_TYPE, **about)
    expected = sorted((old.digest(), new.digest()))
    assert sorted(listed(repository, subject.digest())) == expected


@clause("sha512-subject")
def test_the_tag_of_a_sha512_digest_is_cut_to_its_length(repository: Repository) -> None:
    subject = repository.push_image(algorithm="sha512")
    digest = subject.digest("sha512")
    referrer = repository.push_artifact(_TYPE, subject=subject.descriptor("sha512"))
    keep(repository, digest, referrer)
    assert listed(repository, digest) == [referrer.digest()]
