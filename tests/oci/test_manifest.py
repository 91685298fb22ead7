"""Manifests: which are taken, which are not, and what is read out of them."""

import json
from collections.abc import Mapping
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from appliance.oci.descriptor import Descriptor
from appliance.oci.digest import Digest
from appliance.oci.errors import DIGEST_INVALID, MANIFEST_INVALID, ErrorRow
from appliance.oci.manifest import Manifest, parse_manifest
from appliance.oci.mediatypes import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    DOCKER_SCHEMA1,
    FOREIGN_LAYERS,
    OCI_ARTIFACT,
    OCI_INDEX,
    OCI_MANIFEST,
)
from tests.refused import attempt, refused

IMAGE_CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"

Json = dict[str, Any]


def descriptor(content: bytes = b"x", media_type: str = LAYER_TYPE, **more: Any) -> Json:
    return {
        "mediaType": media_type,
        "digest": str(Digest.of(content)),
        "size": len(content),
        **more,
    }


CONFIG = descriptor(b"{}", IMAGE_CONFIG)
LAYER = descriptor(b"layer")


def image(**fields: Any) -> Json:
    return {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": CONFIG,
        "layers": [LAYER],
        **fields,
    }


def index(**fields: Any) -> Json:
    entry = descriptor(b"image", OCI_MANIFEST)
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry], **fields}


def without(document: Json, *keys: str) -> Json:
    return {key: value for key, value in document.items() if key not in keys}


def parse(document: object, content_type: str | None = None) -> Manifest:
    return parse_manifest(json.dumps(document).encode(), content_type)


def read(entry: Mapping[str, Any]) -> Descriptor:
    return Descriptor(entry["mediaType"], Digest.parse(entry["digest"]), entry["size"])


# --- what is read


@pytest.mark.parametrize("media_type", [OCI_MANIFEST, DOCKER_MANIFEST])
def test_an_image_refers_to_its_config_and_layers(media_type: str) -> None:
    second = descriptor(b"another layer")
    found = parse(image(mediaType=media_type, layers=[LAYER, second]), media_type)
    assert found.media_type == media_type
    assert found.blobs == (read(CONFIG), read(LAYER), read(second))
    assert found.manifests == ()
    assert found.references == found.blobs
    assert (found.subject, found.annotations) == (None, None)


@pytest.mark.parametrize("media_type", [OCI_INDEX, DOCKER_INDEX])
def test_an_index_refers_to_manifests(media_type: str) -> None:
    document = index(mediaType=media_type)
    found = parse(document, media_type)
    assert found.media_type == media_type
    assert found.blobs == ()
    assert found.manifests == found.references == (read(document["manifests"][0]),)


def test_an_index_may_list_nothing() -> None:
    assert parse(index(manifests=[])).references == ()


def test_an_image_may_have_no_layers() -> None:
    assert parse(image(layers=[])).blobs == (read(CONFIG),)


def test_an_artifact_manifest_refers_to_its_blobs() -> None:
    document = {
        "mediaType": OCI_ARTIFACT,
        "artifactType": "application/vnd.example.thing",
        "blobs": [LAYER],
        "subject": descriptor(b"image", OCI_MANIFEST),
    }
    found = parse(document, OCI_ARTIFACT)
    assert found.blobs == (read(LAYER),)
    assert found.artifact_type == "application/vnd.example.thing"
    assert found.subject == read(document["subject"])  # type: ignore[arg-type]


def test_a_type_nobody_knows_is_kept_and_its_references_count() -> None:
    found = parse({"config": CONFIG, "layers": [LAYER]}, "application/vnd.example.v9+json")
    assert found.media_type == "application/vnd.example.v9+json"
    assert found.blobs == (read(CONFIG), read(LAYER))


def test_unknown_fields_mean_nothing() -> None:
    assert parse(image(future={"a": [1, None, {"b": 2.5}]})) == parse(image())


def test_unknown_fields_of_a_descriptor_mean_nothing() -> None:
    more = descriptor(b"layer", data="bGF5ZXI=", platform={"os": "linux"}, annotations={"a": "b"})
    assert parse(image(layers=[more])) == parse(image())


@pytest.mark.parametrize("media_type", sorted(FOREIGN_LAYERS))
def test_a_foreign_layer_need_not_be_here(media_type: str) -> None:
    foreign = descriptor(b"base layer of windows", media_type)
    assert parse(image(layers=[foreign, LAYER])).blobs == (read(CONFIG), read(LAYER))


def test_a_layer_with_urls_need_not_be_here() -> None:
    elsewhere = descriptor(b"far away", urls=["https://example.com/layer"])
    assert parse(image(layers=[elsewhere, LAYER])).blobs == (read(CONFIG), read(LAYER))


@pytest.mark.parametrize("urls", [[], None])
def test_a_layer_with_no_url_must_be_here(urls: list[str] | None) -> None:
    assert parse(image(layers=[{**LAYER, "urls": urls}])).blobs == (read(CONFIG), read(LAYER))


def test_the_digest_of_a_foreign_layer_need_not_even_be_one_we_compute() -> None:
    foreign = descriptor(urls=["https://example.com/"]) | {"digest": "blake3:abc"}
    assert parse(image(layers=[foreign])).blobs == (read(CONFIG),)


# --- what it is


def test_the_content_type_counts_where_the_document_says_nothing() -> None:
    assert parse(without(image(), "mediaType"), OCI_MANIFEST).media_type == OCI_MANIFEST
    assert parse(without(index(), "mediaType"), DOCKER_INDEX).media_type == DOCKER_INDEX


def test_the_document_counts_where_the_request_says_nothing() -> None:
    assert parse(image(mediaType=DOCKER_MANIFEST)).media_type == DOCKER_MANIFEST


@pytest.mark.parametrize("nothing", [None, ""])
def test_a_shape_tells_what_it_is_where_nobody_says_so(nothing: str | None) -> None:
    assert parse(image(mediaType=nothing), nothing).media_type == OCI_MANIFEST
    assert parse(index(mediaType=nothing), nothing).media_type == OCI_INDEX


@pytest.mark.parametrize(
    ("stated", "sent"),
    [
        (OCI_MANIFEST, DOCKER_MANIFEST),
        (OCI_MANIFEST, OCI_INDEX),
        (OCI_INDEX, OCI_MANIFEST),
        (OCI_MANIFEST, "application/json"),
        (OCI_MANIFEST, OCI_MANIFEST.upper()),
    ],
)
def test_two_types_that_disagree_are_refused(stated: str, sent: str) -> None:
    with refused(MANIFEST_INVALID, "but was sent with Content-Type"):
        parse(image(mediaType=stated), sent)


@pytest.mark.parametrize(
    "document",
    [
        index(layers=[]),
        index(layers=[LAYER]),
        index(config=CONFIG),
        index(config=CONFIG, layers=[LAYER]),
    ],
)
def test_an_index_with_parts_of_an_image_is_refused(document: Json) -> None:
    with refused(MANIFEST_INVALID, "cannot have layers or a config"):
        parse(document)


@pytest.mark.parametrize("entries", [[], [descriptor(b"image", OCI_MANIFEST)]])
@pytest.mark.parametrize("media_type", [OCI_MANIFEST, DOCKER_MANIFEST, OCI_ARTIFACT, "text/plain"])
def test_anything_but_an_index_that_lists_manifests_is_refused(
    media_type: str, entries: list[Json]
) -> None:
    with refused(MANIFEST_INVALID, "cannot list manifests"):
        parse(image(mediaType=media_type, manifests=entries))


@pytest.mark.parametrize("nothing", [None, ""])
def test_a_shape_that_is_both_is_refused_where_nobody_says_what_it_is(nothing: str | None) -> None:
    with refused(MANIFEST_INVALID):
        parse(image(mediaType=nothing, manifests=[]), nothing)


@pytest.mark.parametrize("content_type", sorted(DOCKER_SCHEMA1))
def test_docker_schema_1_is_refused_by_its_content_type(content_type: str) -> None:
    with refused(MANIFEST_INVALID, "schema 1"):
        parse_manifest(b"not even looked at", content_type)


@pytest.mark.parametrize("content_type", [None, "application/json", OCI_MANIFEST])
def test_docker_schema_1_is_refused_by_its_version(content_type: str | None) -> None:
    with refused(MANIFEST_INVALID, "schema 1"):
        parse({"schemaVersion": 1, "name": "a", "tag": "b", "fsLayers": []}, content_type)


def test_docker_schema_1_does_not_hide_in_a_media_type() -> None:
    for media_type in DOCKER_SCHEMA1:
        with refused(MANIFEST_INVALID, "schema 1"):
            parse({"mediaType": media_type}, None)


# --- artifact types and subjects


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (image(), IMAGE_CONFIG),
        (image(artifactType="application/vnd.example"), "application/vnd.example"),
        (image(artifactType=None), IMAGE_CONFIG),
        (index(), None),
        (index(artifactType="application/vnd.example"), "application/vnd.example"),
        ({"mediaType": OCI_ARTIFACT, "config": CONFIG}, None),
    ],
)
def test_the_artifact_type_is_stated_or_that_of_the_config(
    document: Json, expected: str | None
) -> None:
    assert parse(document).artifact_type == expected


@pytest.mark.parametrize("make", [image, index])
def test_a_subject_is_read_but_need_not_be_here(make: Any) -> None:
    subject = descriptor(b"about this", OCI_MANIFEST)
    found = parse(make(subject=subject))
    assert found.subject == read(subject)
    assert found.subject not in found.references


def test_a_referrer_shows_what_a_client_chooses_by() -> None:
    content = json.dumps(
        image(subject=descriptor(b"about this"), annotations={"signed-by": "alice"})
    ).encode()
    found = parse_manifest(content, OCI_MANIFEST)
    shown = found.referrer(Digest.of(content), len(content))
    assert shown.media_type == OCI_MANIFEST
    assert shown.digest == str(Digest.of(content))
    assert shown.size == len(content)
    assert shown.artifact_type == IMAGE_CONFIG
    assert shown.annotations == {"signed-by": "alice"}


# --- what is refused


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not JSON"),
        (b" ", "not JSON"),
        (b"{", "not JSON"),
        (b"nonsense", "not JSON"),
        (b"{}{}", "not JSON"),
        (b"{} x", "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b'{"mediaType":"\xff"}', "not JSON"),
        (b'{"unknown":"\xff"}', "not JSON"),
        (b'{"unknown":{"deeper":["\xc3("]}}', "not JSON"),
        (b'{"annotations":{"a":"\\ud800"}}', "not JSON"),
        ("{}".encode("utf-16"), "not JSON"),
        (b"null", "not well-formed"),
        (b"true", "not well-formed"),
        (b"2", "not well-formed"),
        (b'"a"', "not well-formed"),
        (b"[]", "not well-formed"),
        (b"[{}]", "not well-formed"),
    ],
)
def test_what_is_not_a_json_object_is_refused(content: bytes, reason: str) -> None:
    with refused(MANIFEST_INVALID, reason):
        parse_manifest(content, OCI_MANIFEST)


@pytest.mark.parametrize(
    "fields",
    [
        {"schemaVersion": "2"},
        {"schemaVersion": 2.5},
        {"mediaType": 1},
        {"config": []},
        {"config": [CONFIG]},
        {"config": "sha256:abc"},
        {"layers": {}},
        {"layers": LAYER},
        {"layers": [[LAYER]]},
        {"layers": [None]},
        {"layers": "a"},
        {"manifests": {}},
        {"subject": []},
        {"subject": "sha256:abc"},
        {"annotations": []},
        {"annotations": {"a": 1}},
        {"annotations": {"a": None}},
        {"artifactType": {}},
        {"layers": [without(LAYER, "digest")]},
        {"layers": [without(LAYER, "size")]},
        {"layers": [without(LAYER, "mediaType")]},
        {"layers": [LAYER | {"size": "5"}]},
        {"layers": [LAYER | {"size": 5.5}]},
        {"layers": [LAYER | {"size": None}]},
        {"layers": [LAYER | {"digest": None}]},
        {"layers": [LAYER | {"urls": "https://example.com/"}]},
    ],
)
def test_a_field_of_another_kind_is_refused(fields: Json) -> None:
    with refused(MANIFEST_INVALID, "not well-formed"):
        parse(image(**fields))


@pytest.mark.parametrize(
    "document",
    [
        without(image(), "config"),
        without(image(), "layers"),
        image(config=None),
        without(index(), "manifests"),
        {},
        {"schemaVersion": 2},
    ],
)
@pytest.mark.parametrize("content_type", [OCI_MANIFEST, OCI_INDEX])
def test_a_part_that_is_missing_is_missed(document: Json, content_type: str) -> None:
    with refused(MANIFEST_INVALID):
        parse(document, content_type)


def test_an_empty_document_of_no_type_is_refused() -> None:
    with refused(MANIFEST_INVALID, "neither a mediaType nor a Content-Type"):
        parse({})


@pytest.mark.parametrize(
    "document",
    [
        image(layers=[LAYER | {"size": -1}]),
        image(config=CONFIG | {"size": -1}),
        image(subject=descriptor() | {"size": -(2**70)}),
        index(manifests=[descriptor() | {"size": -1}]),
    ],
)
def test_a_negative_size_is_refused(document: Json) -> None:
    with refused(MANIFEST_INVALID, "negative"):
        parse(document)


def test_a_size_beyond_all_disks_is_only_a_claim() -> None:
    (_, layer) = parse(image(layers=[LAYER | {"size": 2**63}])).blobs
    assert layer.size == 2**63


@pytest.mark.parametrize(
    "document",
    [
        image(layers=[LAYER | {"digest": "sha256:short"}]),
        image(config=CONFIG | {"digest": ""}),
        image(subject=descriptor() | {"digest": "../../etc/passwd"}),
        index(manifests=[descriptor() | {"digest": "md5:abc"}]),
    ],
)
def test_a_bad_digest_is_refused(document: Json) -> None:
    with refused(DIGEST_INVALID):
        parse(document)


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_nesting_without_end_is_refused(opening: bytes) -> None:
    with refused(MANIFEST_INVALID):
        parse_manifest(b'{"unknown":' + opening * 200_000, OCI_MANIFEST)
    closing = {b"[": b"]", b'{"a":': b"}"}[opening]
    whole = b'{"unknown":' + opening * 100_000 + b"1" + closing * 100_000 + b"}"
    with refused(MANIFEST_INVALID):
        parse_manifest(whole, OCI_MANIFEST)


@pytest.mark.parametrize(
    "media_type", ["a\r\nSet-Cookie: a=b", "application/\u4e00", "a\0b", "a\n"]
)
def test_a_media_type_that_no_header_can_carry_is_refused(media_type: str) -> None:
    # It becomes the Content-Type of every answer with this manifest.
    with refused(MANIFEST_INVALID):
        parse({"mediaType": media_type})


# --- anything at all

TYPES = st.sampled_from(
    [None, OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_INDEX, "text/plain"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
NEAR_DESCRIPTORS = st.fixed_dictionaries(
    {},
    optional={
        "mediaType": st.sampled_from([LAYER_TYPE, "", *FOREIGN_LAYERS]) | JSON,
        "digest": st.just(str(Digest.of(b"x"))) | JSON,
        "size": st.integers() | JSON,
        "urls": st.lists(st.text(), max_size=2) | JSON,
    },
)
NEAR_MANIFESTS = st.fixed_dictionaries(
    {},
    optional={
        "schemaVersion": st.integers(0, 3) | JSON,
        "mediaType": TYPES | JSON,
        "artifactType": st.text() | JSON,
        "config": NEAR_DESCRIPTORS | JSON,
        "layers": st.lists(NEAR_DESCRIPTORS, max_size=3) | JSON,
        "manifests": st.lists(NEAR_DESCRIPTORS, max_size=3) | JSON,
        "blobs": st.lists(NEAR_DESCRIPTORS, max_size=3) | JSON,
        "subject": NEAR_DESCRIPTORS | JSON,
        "annotations": st.dictionaries(st.text(), st.text(), max_size=3) | JSON,
    },
)


def parses_or_is_refused(content: bytes, content_type: str | None) -> None:
    found = attempt(lambda: parse_manifest(content, content_type))
    if isinstance(found, ErrorRow):
        assert found in {MANIFEST_INVALID, DIGEST_INVALID}
    else:
        assert found.media_type
        assert not (found.blobs and found.manifests)
        assert all(reference.size >= 0 for reference in found.references)


@given(st.binary(), TYPES)
def test_any_bytes_parse_or_are_refused(content: bytes, content_type: str | None) -> None:
    parses_or_is_refused(content, content_type)


@given(JSON | NEAR_MANIFESTS, TYPES)
def test_any_json_parses_or_is_refused(document: object, content_type: str | None) -> None:
    content = json.dumps(document, ensure_ascii=False).encode(errors="surrogatepass")
    parses_or_is_refused(content, content_type)


@given(st.data())
def test_a_damaged_image_parses_or_is_refused(data: st.DataObject) -> None:
    content = bytearray(json.dumps(image()).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    parses_or_is_refused(bytes(content), OCI_MANIFEST)


@pytest.mark.parametrize("platform", ["linux/amd64", {"os": 1}, [1]])
def test_a_platform_matters_in_an_index_only(platform: object) -> None:
    assert parse(image(config={**CONFIG, "platform": platform})) == parse(image())
    entry = descriptor(b"image", OCI_MANIFEST, platform=platform)
    with refused(MANIFEST_INVALID, "platform"):
        parse({"manifests": [entry]}, OCI_INDEX)


def test_a_manifest_of_very_many_fields_is_refused() -> None:
    many = {f"field{number}": 0 for number in range(70_000)}
    with refused(MANIFEST_INVALID, "too many fields"):
        parse(image(**many))
    assert parse(image(**dict([*many.items()][:60_000]))) == parse(image())


def test_an_empty_artifact_type_is_none() -> None:
    assert parse(image(artifactType="")).artifact_type == CONFIG["mediaType"]
    assert parse({"manifests": [], "artifactType": ""}, OCI_INDEX).artifact_type is None


@pytest.mark.parametrize(
    "name", ["Layers", "CONFIG", "mediatype", "ArtifactType", "Subject", "layer\u017f"]
)
def test_a_field_that_differs_in_case_only_is_refused(name: str) -> None:
    with refused(MANIFEST_INVALID, "in case only"):
        parse(image(**{name: None}))


@pytest.mark.parametrize(
    ("platform", "text"),
    [
        ({"os": "linux", "architecture": "amd64"}, "linux/amd64"),
        ({"os": "linux", "architecture": "arm", "variant": "v7"}, "linux/arm/v7"),
        ({"os": "windows", "architecture": "amd64", "os.version": "10"}, "windows/amd64"),
        ({"os": "linux", "architecture": "arm", "variant": None}, "linux/arm"),
        ({}, "/"),
        (None, ""),
    ],
)
def test_an_entry_of_an_index_tells_its_platform(platform: object, text: str) -> None:
    entry = descriptor(b"image", OCI_MANIFEST, platform=platform)
    assert parse({"manifests": [entry]}, OCI_INDEX).manifests[0].platform == text
