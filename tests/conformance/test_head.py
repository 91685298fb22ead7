"""HEAD: what GET would say, without saying it."""

from tests.conformance.bare import spoken
from tests.conformance.clauses import by_algorithm, clause
from tests.conformance.client import Answer, Repository
from tests.conformance.content import absent, unique


@by_algorithm("head-blob-200", sha512="sha512-put")
def test_a_blob_is_there(repository: Repository, algorithm: str) -> None:
    repository.head_blob(repository.push_blob(unique(), algorithm)).expect(200)


@by_algorithm("head-manifest-200", sha512="sha512-manifest")
def test_a_manifest_is_there(repository: Repository, algorithm: str) -> None:
    content = repository.push_image(algorithm=algorithm)
    repository.head(content.digest(algorithm)).expect(200)


@clause("head-manifest-200")
def test_a_tag_is_there(repository: Repository) -> None:
    repository.push_image("tag")
    repository.head("tag").expect(200)


@clause("head-digest-1.1", "head-digest-dev")
def test_the_digest_is_said(repository: Repository) -> None:
    content = repository.push_image("tag")
    for reference in ("tag", content.digest()):
        stated = repository.head(reference).expect(200).header("Docker-Content-Digest")
        assert stated == content.digest()
    digest = repository.push_blob(unique())
    assert repository.head_blob(digest).expect(200).header("Docker-Content-Digest") == digest


@clause("head-length-1.1", "head-length-dev")
def test_the_size_is_said(repository: Repository) -> None:
    content = repository.push_image("tag")
    for reference in ("tag", content.digest()):
        stated = repository.head(reference).expect(200).header("Content-Length")
        assert stated == str(len(content.data))
    for size in (0, 1, 70_000):
        answer = repository.head_blob(repository.push_blob(unique(size))).expect(200)
        assert answer.header("Content-Length") == str(size)


@clause("head-body")
def test_no_body_follows(repository: Repository) -> None:
    repository.push_image("tag")
    assert repository.head("tag").body == b""
    assert repository.head("another").body == b""
    assert repository.head_blob(repository.push_blob(unique())).body == b""


@clause("head-body")
def test_nothing_at_all_follows_an_answer_without_a_body(repository: Repository) -> None:
    blob = repository.push_blob(unique())
    repository.push_image("tag")
    for path in (f"blobs/{blob}", "manifests/tag", "manifests/another"):
        head, rest = spoken(repository.registry, "HEAD", repository.url(path))
        assert head.startswith(b"HTTP/1.1 ")
        assert rest == b""


@clause("head-404")
def test_what_is_not_there_is_not_found(repository: Repository) -> None:
    repository.head("latest").expect(404)
    repository.push_image("tag")
    repository.head("latest").expect(404)
    repository.head(absent()["digest"]).expect(404)
    repository.head_blob(absent()["digest"]).expect(404)


def described(answer: Answer) -> dict[str, str]:
    """What an answer says of the content, and not of itself."""
    passing = {"date", "connection", "keep-alive", "x-request-id", "transfer-encoding"}
    return {name: value for name, value in answer.headers.items() if name.lower() not in passing}


@clause("head-like-get")
def test_the_headers_are_those_of_a_get(repository: Repository) -> None:
    content = repository.push_image("tag")
    blob = repository.push_blob(unique())
    for reference in ("tag", content.digest(), "another"):
        head, get = repository.head(reference), repository.get(reference)
        assert (head.status, described(head)) == (get.status, described(get))
    head, get = repository.head_blob(blob), repository.get_blob(blob)
    assert head.status == 200
    assert (head.status, described(head)) == (get.status, described(get))
