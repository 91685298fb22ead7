"""Manifests on their way in: every shape of them comes back as it went in."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from tests.conformance.clauses import clause
from tests.conformance.client import Answer, Repository, connected
from tests.conformance.content import (
    CONFIG,
    DOCKER_CONFIG,
    DOCKER_IMAGE,
    DOCKER_LAYER,
    DOCKER_LIST,
    ELSEWHERE,
    EMPTY_OBJECT,
    IMAGE,
    INDEX,
    LAYER,
    Content,
    absent,
    config,
    digest_of,
    image,
    index,
    layer,
    manifest,
    unique,
)

_LARGE = 4 << 20
_TOO_LARGE = 33 << 20

Shape = Callable[[Repository], Content]


def plain_image(repository: Repository) -> Content:
    described, layers = config(), [layer(), layer()]
    for blob in (described, *layers):
        repository.push_blob(blob.data)
    return image(described, layers, annotations={"org.example.kind": "image"})


def plain_index(repository: Repository) -> Content:
    children = [repository.push_image(), repository.push_image()]
    platforms = ("amd64", "arm64")
    entries = [
        child.descriptor(platform={"architecture": architecture, "os": "linux"})
        for child, architecture in zip(children, platforms, strict=True)
    ]
    return manifest(INDEX, manifests=entries)


def nested_index(repository: Repository) -> Content:
    inner = index([repository.push_image()], annotations={"org.example.kind": "inner"})
    repository.push(inner)
    return index([inner, repository.push_image()])


def empty_index(repository: Repository) -> Content:
    return index([])


def artifact(repository: Repository) -> Content:
    blob = layer(media_type="application/vnd.example.data")
    for data in (blob.data, EMPTY_OBJECT.data):
        repository.push_blob(data)
    return image(EMPTY_OBJECT, [blob], artifactType="application/vnd.example.type.v1")


def artifact_index(repository: Repository) -> Content:
    children = [repository.push_artifact("application/vnd.example.type.v1")]
    return index(children, artifactType="application/vnd.example.list.v1")


def artifact_of_nothing(repository: Repository) -> Content:
    return repository.push_artifact("application/vnd.example.nothing.v1")


def without_layers(repository: Repository) -> Content:
    described = config()
    repository.push_blob(described.data)
    return image(described, [])


def unknown_fields(repository: Repository) -> Content:
    described, blob = config(), layer()
    for data in (described.data, blob.data):
        repository.push_blob(data)
    return manifest(
        IMAGE,
        config=described.descriptor(extra=1),
        layers=[blob.descriptor(extra={"a": [None, 1.5, "ü"]})],
        somethingNew={"x": [True, None, {"y": "\\"}]},
    )


def unknown_fields_index(repository: Repository) -> Content:
    child = repository.push_image()
    entries = [child.descriptor(extra=[{"a": 0}])]
    return manifest(INDEX, manifests=entries, somethingNew=[None, {"ü": 1e3}])


def embedded_data(repository: Repository) -> Content:
    repository.push_blob(EMPTY_OBJECT.data)
    described = EMPTY_OBJECT.descriptor(data="e30=")
    return manifest(
        IMAGE, config=described, layers=[described], artifactType="application/vnd.example"
    )


def without_media_type(repository: Repository) -> Content:
    content = repository.push_image()
    document = json.loads(content.data)
    del document["mediaType"]
    document["annotations"] = {"org.example.kind": "no media type"}
    return Content(json.dumps(document).encode(), IMAGE)


SHAPES: tuple[Shape, ...] = (
    plain_image,
    plain_index,
    nested_index,
    empty_index,
    artifact,
    artifact_index,
    artifact_of_nothing,
    without_layers,
    unknown_fields,
    unknown_fields_index,
    embedded_data,
    without_media_type,
)
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.__name__)


@clause("push-201")
@every_shape
def test_a_manifest_is_taken(repository: Repository, shape: Shape) -> None:
    content = shape(repository)
    for reference in ("tag", content.digest()):
        repository.put(reference, content).expect(201)
        repository.head(reference).expect(200)


@clause("push-location")
@every_shape
def test_a_push_says_where_the_manifest_is(repository: Repository, shape: Shape) -> None:
    content = shape(repository)
    accepted = {"Accept": content.media_type}
    for reference in ("tag", content.digest()):
        location = repository.put(reference, content).location()
        located = repository.registry.ask("GET", location, headers=accepted).expect(200)
        assert located.body == content.data


@clause("push-bytes")
@every_shape
def test_a_manifest_comes_back_as_it_went_in(repository: Repository, shape: Shape) -> None:
    content = shape(repository)
    digest = content.digest()
    for reference in ("tag", digest):
        repository.put(reference, content)
        answer = repository.get(reference).expect(200)
        assert answer.body == content.data
        assert answer.headers.get("Docker-Content-Digest", digest) == digest


@clause("manifest-media-type")
@every_shape
def test_a_manifest_comes_as_what_it_was_pushed(repository: Repository, shape: Shape) -> None:
    content = shape(repository)
    repository.push(content, "tag")
    for reference in ("tag", content.digest()):
        for answer in (repository.get(reference), repository.head(reference)):
            stated = answer.expect(200).header("Content-Type")
            assert stated.partition(";")[0].strip() == content.media_type


@clause("manifest-no-parameters")
def test_the_media_type_of_a_manifest_has_no_parameters(repository: Repository) -> None:
    content = repository.push_image("tag")
    repository.put("another", content, media_type=f"{IMAGE}; charset=utf-8")
    for reference in ("tag", "another", content.digest()):
        for answer in (repository.get(reference), repository.head(reference)):
            assert ";" not in answer.expect(200).header("Content-Type")


@clause("push-digest-header")
def test_the_digest_of_a_pushed_manifest_is_said(repository: Repository) -> None:
    content = plain_image(repository)
    for reference in ("tag", content.digest()):
        answer = repository.put(reference, content).expect(201)
        assert answer.header("Docker-Content-Digest") == content.digest()


@clause("push-digest-equal")
def test_a_manifest_is_stored_under_the_digest_it_was_given(repository: Repository) -> None:
    content = repository.push_image()
    answer = repository.put(content.digest(), content).expect(201)
    stated = answer.headers.get("Docker-Content-Digest", content.digest())
    assert stated == content.digest()
    assert repository.get(content.digest()).expect(200).body == content.data


@clause("push-digest-equal")
def test_a_manifest_of_another_digest_is_refused(repository: Repository) -> None:
    content = repository.push_image()
    longer = Content(content.data + b"  ", content.media_type)
    repository.put(absent()["digest"], content).expect(400)
    repository.put(longer.digest(), content).expect(400)
    repository.get(longer.digest()).expect(404)


@clause("push-digest-invalid")
@pytest.mark.parametrize(
    "digest",
    ["sha256:nohexadecimals", "sha256:" + "A" * 64, "sha512:" + "a" * 64, "crc32:" + "0" * 8],
)
def test_a_digest_that_is_none_is_refused(repository: Repository, digest: str) -> None:
    content = repository.push_image("tag")
    repository.put(digest, content).expect(400)
    repository.get(digest).expect(400, 404)


@clause("push-parameters")
def test_parameters_of_the_media_type_are_ignored(repository: Repository) -> None:
    content = repository.push_image()
    repository.put("tag", content, media_type=f"{IMAGE}; charset=utf-8").expect(201)
    answer = repository.get("tag").expect(200)
    assert answer.body == content.data
    assert answer.header("Content-Type").partition(";")[0] == IMAGE


@clause("push-no-layers")
def test_a_manifest_may_have_no_layers(repository: Repository) -> None:
    repository.put("tag", without_layers(repository)).expect(201)


@clause("push-elsewhere")
@pytest.mark.parametrize("media_type", [ELSEWHERE, ELSEWHERE.removesuffix("+gzip")])
def test_layers_that_are_kept_elsewhere_are_not_asked_for(
    repository: Repository, media_type: str
) -> None:
    described, blob = config(), layer()
    for data in (described.data, blob.data):
        repository.push_blob(data)
    elsewhere = absent(media_type)
    url = f"https://store.example.com/{elsewhere['digest']}"
    content = manifest(
        IMAGE,
        config=described.descriptor(),
        layers=[elsewhere | {"urls": [url]}, blob.descriptor()],
    )
    repository.put("tag", content).expect(201)
    assert repository.get("tag").expect(200).body == content.data
    repository.get_blob(elsewhere["digest"]).expect(404)


@clause("push-types")
def test_a_manifest_of_docker_is_kept_as_it_is(repository: Repository) -> None:
    described, blob = config(DOCKER_CONFIG), layer(media_type=DOCKER_LAYER)
    for data in (described.data, blob.data):
        repository.push_blob(data)
    one = manifest(DOCKER_IMAGE, config=described.descriptor(), layers=[blob.descriptor()])
    repository.put("one", one).expect(201)
    platform = {"architecture": "amd64", "os": "linux"}
    several = manifest(DOCKER_LIST, manifests=[one.descriptor(platform=platform)])
    repository.put("several", several).expect(201)
    for tag, content in (("one", one), ("several", several)):
        answer = repository.get(tag).expect(200)
        assert answer.body == content.data
        assert answer.header("Content-Type") == content.media_type


@clause("push-201")
def test_a_tag_moves_to_another_manifest(repository: Repository) -> None:
    first = repository.push_image("tag")
    second = repository.push_image("tag")
    assert repository.get("tag").expect(200).body == second.data
    assert repository.get(first.digest()).expect(200).body == first.data


@clause("push-201")
def test_the_config_of_an_image_may_be_anything(repository: Repository) -> None:
    described = Content(unique(), CONFIG)
    repository.push_blob(described.data)
    repository.put("tag", image(described, [])).expect(201)


@clause("sha512-manifest")
def test_an_index_of_sha512_digests_is_stored_under_one(repository: Repository) -> None:
    children = [repository.push_image(algorithm="sha512") for _ in range(2)]
    content = index(children, "sha512")
    digest = digest_of(content.data, "sha512")
    answer = repository.put(digest, content).expect(201)
    assert answer.header("Docker-Content-Digest") == digest
    located = repository.registry.ask("GET", answer.location()).expect(200)
    assert located.body == content.data
    assert repository.get(digest).expect(200).body == content.data


@clause("sha512-manifest")
def test_a_manifest_of_another_sha512_digest_is_refused(repository: Repository) -> None:
    content = repository.push_image(algorithm="sha512")
    repository.put(digest_of(unique(), "sha512"), content).expect(400)


def incomplete(repository: Repository) -> Iterator[Answer]:
    """Push manifests of what is not there."""
    described = config()
    repository.push_blob(described.data)
    layers = [absent(LAYER)]
    yield repository.put("tag", manifest(IMAGE, config=described.descriptor(), layers=layers))
    yield repository.put("tag", manifest(IMAGE, config=absent(CONFIG), layers=[]))
    yield repository.put("tag", index([Content(unique(), IMAGE)]))


@clause("references-required")
def test_a_manifest_of_missing_content_is_refused(repository: Repository) -> None:
    for answer in incomplete(repository):
        assert 400 <= answer.status < 500, f"{answer.asked}: {answer.status}"
    repository.get("tag").expect(404)


@clause("references-missing")
def test_a_refusal_for_missing_content_says_so(repository: Repository) -> None:
    for answer in incomplete(repository):
        if answer.status != 201:
            codes = {error["code"] for error in answer.page_of("errors")}
            assert "MANIFEST_BLOB_UNKNOWN" in codes


def padded(size: int) -> Content:
    """Make an artifact whose manifest has so many bytes, in many annotations."""
    annotations = {f"org.example.{turn}": "A" * 10_000 for turn in range(size // 11_000)}
    short = size - len(image(EMPTY_OBJECT, [], annotations=annotations | {"last": ""}).data)
    return image(EMPTY_OBJECT, [], annotations=annotations | {"last": "A" * short})


@clause("push-large")
def test_a_manifest_of_4_megabytes_is_taken(repository: Repository) -> None:
    content = padded(_LARGE)
    assert len(content.data) == _LARGE
    repository.push_blob(EMPTY_OBJECT.data)
    repository.put("tag", content).expect(201)
    assert repository.get("tag").expect(200).body == content.data


def push_too_large(repository: Repository) -> Answer:
    """Push a manifest that no registry would take."""
    content = manifest(IMAGE, annotations={"org.example": "A" * _TOO_LARGE})
    # Over HTTP/2 this client would wait for room to send, and never see that it is told to stop.
    with connected(replace(repository.registry.target, http2=False)) as registry:
        return registry.repository(repository.name).put("tag", content)


@clause("push-limit")
def test_a_manifest_that_is_far_too_large_is_refused(repository: Repository) -> None:
    answer = push_too_large(repository)
    assert 400 <= answer.status < 500, f"{answer.asked}: {answer.status}"
    repository.get("tag").expect(404)


@clause("push-413")
def test_it_is_said_that_a_manifest_is_too_large(repository: Repository) -> None:
    push_too_large(repository).expect(413)
