"""The four categories, each as a whole: every request of one is answered as one that is supported."""

from tests.conformance.clauses import clause
from tests.conformance.client import Registry, Repository
from tests.conformance.content import digest_of, unique
from tests.conformance.ways import chunks, chunks_put, post_put, streamed


@clause("category-pull")
def test_everything_that_pulls_is_there(registry: Registry, repository: Repository) -> None:
    content = repository.push_image("tag")
    blob = repository.push_blob(unique())
    registry.ask("GET", "/v2/").expect(200)
    for reference in ("tag", content.digest()):
        repository.head(reference).expect(200)
        repository.get(reference).expect(200)
    repository.head_blob(blob).expect(200)
    repository.get_blob(blob).expect(200)


@clause("category-push")
def test_everything_that_pushes_is_there(repository: Repository, other: Repository) -> None:
    for way in (post_put, chunks, chunks_put, streamed):
        data = unique(3000)
        way(repository, data, digest_of(data), None).expect(201)
    repository.status(repository.start().location).expect(204)
    # Both of these are supported, too, by a session that goes on from there.
    data = unique()
    repository.post([("digest", digest_of(data))], data).expect(201, 202)
    mounted = [("mount", other.push_blob(data)), ("from", other.name)]
    repository.post(mounted).expect(201, 202)
    content = repository.push_image()
    for reference in (content.digest(), "tag"):
        repository.put(reference, content).expect(201)


@clause("category-discovery")
def test_everything_that_discovers_is_there(repository: Repository) -> None:
    content = repository.push_image("one", "two")
    repository.tags().expect(200)
    repository.tags([("n", "1")]).expect(200)
    repository.tags([("n", "1"), ("last", "one")]).expect(200)
    repository.referrers(content.digest()).expect(200)
    repository.referrers(content.digest(), [("artifactType", "application/vnd.a")]).expect(200)


@clause("category-management")
def test_everything_that_manages_is_there(repository: Repository) -> None:
    content = repository.push_image("tag")
    repository.delete("tag").expect(202)
    repository.delete(content.digest()).expect(202)
    repository.delete_blob(repository.push_blob(unique())).expect(202)
