"""The dialogues of go-containerregistry (crane, ko, kaniko, cosign), oras and regclient.

The first streams layers whose digest it does not know before their end, the second attaches
artifacts to images and must be told that the registry keeps account of them, the third cuts layers
into chunks and goes on where a refusal says.
"""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.system import daemon, images
from tests.system.daemon import Daemon
from tests.system.dialogues import (
    BYTES,
    CONFIG,
    EMPTY,
    IMAGE,
    INDEX,
    Headers,
    Speaker,
    challenge,
    described,
    descriptor,
    image,
    only_json,
    refusal,
    session_size,
    unencoded,
    upload_location,
    with_query,
)
from tests.system.wire import Answer, digest_of

_CRANE = "crane/0.20.6 go-containerregistry/0.20.6"
_ORAS = "oras/1.3.0"
_REGCTL = "regclient/regctl (v0.9.2)"
_ZERO = "sha256:" + "0" * 64
_SPDX = "application/spdx+json"


def client(registry: Daemon, agent: str) -> Iterator[Speaker]:
    """A tool that asks first, without a password, and then keeps its connection."""
    with Speaker(registry, agent, keeps=True) as speaker:
        challenge(speaker.ask("GET", "/v2/"))
        speaker.enter(registry.login)
        yield speaker


@pytest.fixture
def crane(registry: Daemon) -> Iterator[Speaker]:
    yield from client(registry, _CRANE)


@pytest.fixture
def oras(registry: Daemon) -> Iterator[Speaker]:
    yield from client(registry, _ORAS)


@pytest.fixture
def regctl(registry: Daemon) -> Iterator[Speaker]:
    yield from client(registry, _REGCTL)


def ending(speaker: Speaker, answer: Answer, digest: str) -> str:
    """Where an upload is asked to become a blob."""
    return with_query(upload_location(speaker, answer), f"digest={quote(digest, safe='')}")


def put_manifest(speaker: Speaker, repository: str, reference: str, manifest: bytes) -> Answer:
    """Push a manifest."""
    target = f"/v2/{repository}/manifests/{reference}"
    answer = speaker.ask("PUT", target, {"Content-Type": IMAGE}, manifest)
    return answer.expect(201)


# -- go-containerregistry


def crane_pushes(
    crane: Speaker, repository: str, data: bytes, *, source: str = "", streamed: bool = False
) -> bool:
    """Push a layer; whether it was mounted."""
    uploads = f"/v2/{repository}/blobs/uploads/"
    digest = digest_of(data)
    if not streamed:
        found = crane.ask("HEAD", f"/v2/{repository}/blobs/{digest}")
        if found.status == 200:
            return False
        assert found.status == 404
    if source:
        uploads += (
            f"?from={quote(source, safe='')}&mount={quote(digest, safe='')}"
            f"&origin={quote(crane.address, safe='')}"
        )
    begun = crane.ask("POST", uploads, {"Content-Type": "application/json"})
    if begun.status == 201:
        return True
    pieces = iter([data[:1000], data[1000:]]) if len(data) > 1000 else iter([data])
    answer = crane.ask(
        "PATCH",
        upload_location(crane, begun.expect(202)),
        {"Content-Type": BYTES},
        pieces if streamed else data,
    )
    assert answer.status in {201, 202, 204}, answer
    crane.ask("PUT", ending(crane, answer, digest), {"Content-Type": BYTES}).expect(201)
    return False


def test_crane_pushes_and_pulls_an_image(crane: Speaker) -> None:
    repository = "dialogue/crane"
    layers = [images.noise(size, f"crane {size}") for size in (10, 500_000)]
    crane_pushes(crane, repository, layers[0])
    crane_pushes(crane, repository, layers[1], streamed=True)
    crane_pushes(crane, repository, b"{}")
    manifest = image(*layers)
    target = f"/v2/{repository}/manifests/1"
    assert crane.ask("HEAD", target, {"Accept": f"{IMAGE},{INDEX}"}).status == 404
    put_manifest(crane, repository, "1", manifest)
    head = crane.ask("HEAD", target, {"Accept": f"{IMAGE},{INDEX}"})
    described(head, IMAGE, digest_of(manifest), len(manifest))
    assert unencoded(crane.ask("GET", target)).body == manifest
    for layer in layers:
        answer = crane.ask("GET", f"/v2/{repository}/blobs/{digest_of(layer)}").expect(200)
        assert unencoded(answer).body == layer
    assert crane.connections == 1


def test_crane_mounts_and_where_it_cannot_goes_on_with_the_session(crane: Speaker) -> None:
    layer = images.noise(20_000, "crane mounts")
    assert not crane_pushes(crane, "dialogue/crane/to", layer, source="dialogue/crane/from")
    assert crane_pushes(crane, "dialogue/crane/other", layer, source="dialogue/crane/to")
    crane.ask("HEAD", f"/v2/dialogue/crane/other/blobs/{digest_of(layer)}").expect(200)


# -- regclient


def send_chunk(regctl: Speaker, session: Answer, offset: int, data: bytes) -> Answer:
    """Send a chunk and say where it belongs."""
    headers = {
        "Content-Type": BYTES,
        "Content-Range": f"{offset}-{offset + len(data) - 1}",
    }
    return regctl.ask("PATCH", upload_location(regctl, session), headers, data)


def test_regctl_sends_a_blob_in_chunks(regctl: Speaker) -> None:
    data = images.noise(1_000_000, "regctl")
    repository = "dialogue/regctl"
    # It first tries a mount from anywhere, which is one from nowhere here.
    mount = f"?mount={quote(digest_of(data), safe='')}"
    session = regctl.ask("POST", f"/v2/{repository}/blobs/uploads/{mount}").expect(202)
    for offset in range(0, len(data), 300_000):
        chunk = data[offset : offset + 300_000]
        session = send_chunk(regctl, session, offset, chunk).expect(202)
        assert session_size(session) == offset + len(chunk)
    headers: Headers = {"Content-Type": BYTES}
    answer = regctl.ask("PUT", ending(regctl, session, digest_of(data)), headers).expect(201)
    assert answer.headers["Docker-Content-Digest"] == digest_of(data)
    assert regctl.connections == 1


def test_the_last_chunk_may_come_with_the_end(regctl: Speaker) -> None:
    data = images.noise(100_000, "regctl ends")
    session = regctl.ask("POST", "/v2/dialogue/regctl/blobs/uploads/").expect(202)
    session = send_chunk(regctl, session, 0, data[:60_000]).expect(202)
    headers = {"Content-Type": BYTES, "Content-Range": f"60000-{len(data) - 1}"}
    target = ending(regctl, session, digest_of(data))
    regctl.ask("PUT", target, headers, data[60_000:]).expect(201)
    blob = regctl.ask("GET", f"/v2/dialogue/regctl/blobs/{digest_of(data)}")
    assert blob.expect(200).body == data


@pytest.mark.parametrize("claimed", [0, 30_000, 60_000])
def test_a_chunk_in_the_wrong_place_is_refused_and_the_upload_goes_on(
    regctl: Speaker, claimed: int
) -> None:
    data = images.noise(100_000, f"regctl resumes {claimed}")
    begun = regctl.ask("POST", "/v2/dialogue/regctl/blobs/uploads/").expect(202)
    session = send_chunk(regctl, begun, 0, data[:40_000]).expect(202)
    refused = send_chunk(regctl, session, claimed, data[claimed : claimed + 40_000])
    refusal(refused, 416, "BLOB_UPLOAD_INVALID")
    # Some read the place from the refusal, others ask for it.
    assert session_size(refused) == 40_000
    asked = regctl.ask("GET", upload_location(regctl, refused)).expect(204)
    assert asked.body == b""
    stands = session_size(asked)
    assert stands == 40_000
    session = send_chunk(regctl, asked, stands, data[stands:]).expect(202)
    regctl.ask("PUT", ending(regctl, session, digest_of(data))).expect(201)


def test_a_blob_that_failed_whole_is_sent_in_chunks(regctl: Speaker) -> None:
    data = images.noise(50_000, "regctl falls back")
    session = regctl.ask("POST", "/v2/dialogue/regctl/blobs/uploads/").expect(202)
    # A body that is not what was announced: the session is over, and another is opened.
    target = ending(regctl, session, digest_of(data))
    refusal(regctl.ask("PUT", target, body=data[:-1] + b"?"), 400, "DIGEST_INVALID")
    refusal(send_chunk(regctl, session, 0, data), 404, "BLOB_UPLOAD_UNKNOWN")
    session = regctl.ask("POST", "/v2/dialogue/regctl/blobs/uploads/").expect(202)
    session = send_chunk(regctl, session, 0, data).expect(202)
    regctl.ask("PUT", ending(regctl, session, digest_of(data))).expect(201)


def test_chunks_are_as_long_as_the_registry_wants_them(tmp_path: Path) -> None:
    data = images.noise(200_000, "regctl chunks")
    settings = {"limits": {"chunk_min": "64KiB"}}
    with daemon.running(tmp_path / "registry", settings=settings) as registry:
        for regctl in client(registry, _REGCTL):
            session = regctl.ask("POST", "/v2/dialogue/regctl/blobs/uploads/").expect(202)
            wanted = int(session.headers["OCI-Chunk-Min-Length"])
            assert wanted == 65_536
            for offset in range(0, len(data), wanted):
                chunk = data[offset : offset + wanted]
                session = send_chunk(regctl, session, offset, chunk).expect(202)
            regctl.ask("PUT", ending(regctl, session, digest_of(data))).expect(201)


def test_without_that_setting_chunks_are_as_long_as_the_client_wants(regctl: Speaker) -> None:
    session = regctl.ask("POST", "/v2/dialogue/regctl/blobs/uploads/").expect(202)
    assert session.headers["OCI-Chunk-Min-Length"] in {None, "0"}
    for offset in range(3):
        session = send_chunk(regctl, session, offset, b"x").expect(202)
    regctl.ask("DELETE", upload_location(regctl, session)).expect(204)


# -- oras


def oras_pushes(oras: Speaker, repository: str, data: bytes) -> None:
    """Push a blob, whole."""
    if oras.ask("HEAD", f"/v2/{repository}/blobs/{digest_of(data)}").status == 200:
        return
    begun = oras.ask("POST", f"/v2/{repository}/blobs/uploads/").expect(202)
    target = ending(oras, begun, digest_of(data))
    oras.ask("PUT", target, {"Content-Type": BYTES}, data).expect(201)


def attach(oras: Speaker, repository: str, subject: bytes, artifact_type: str, by: str) -> str:
    """Attach an artifact to a manifest; its digest."""
    artifact = image(
        config=b"{}",
        subject=descriptor(subject, IMAGE),
        artifactType=artifact_type,
        annotations={"org.example.by": by},
    ).replace(CONFIG.encode(), EMPTY.encode())
    answer = put_manifest(oras, repository, digest_of(artifact), artifact)
    # Told nothing, oras and cosign would keep a list of their own under a tag.
    assert answer.headers["OCI-Subject"] == digest_of(subject)
    return digest_of(artifact)


def referrers(oras: Speaker, repository: str, digest: str, query: str = "") -> Answer:
    """Ask what refers to a manifest."""
    answer = oras.ask("GET", f"/v2/{repository}/referrers/{digest}{query}").expect(200)
    assert answer.headers["Content-Type"] == INDEX
    return answer


@pytest.mark.parametrize("repository", ["dialogue/never-pushed-to", "dialogue/oras"])
def test_oras_finds_out_that_referrers_are_kept(oras: Speaker, repository: str) -> None:
    if repository == "dialogue/oras":
        oras_pushes(oras, repository, b"{}")
        put_manifest(oras, repository, "1", image())
    assert only_json(referrers(oras, repository, _ZERO))["manifests"] == []


def test_what_is_attached_is_listed_and_selected_by_type(oras: Speaker) -> None:
    repository = "dialogue/attached"
    oras_pushes(oras, repository, b"{}")
    subject = image(annotations={"org.example.about": "attaching"})
    about = digest_of(subject)
    # The artifact may come first: it is known from then on that it is about something to come.
    early = attach(oras, repository, subject, _SPDX, "early")
    put_manifest(oras, repository, "1", subject)
    late = attach(oras, repository, subject, "application/vnd.example+json", "late")

    listed = only_json(referrers(oras, repository, about))["manifests"]
    assert {entry["digest"] for entry in listed} == {early, late}
    selected = referrers(oras, repository, about, f"?artifactType={quote(_SPDX, safe='')}")
    assert selected.headers["OCI-Filters-Applied"] == "artifactType"
    [entry] = only_json(selected)["manifests"]
    assert (entry["digest"], entry["artifactType"]) == (early, _SPDX)
    assert entry["annotations"] == {"org.example.by": "early"}

    tags = only_json(oras.ask("GET", f"/v2/{repository}/tags/list").expect(200))["tags"]
    assert tags == ["1"]
    fallback = oras.ask("GET", f"/v2/{repository}/manifests/{about.replace(':', '-')}")
    refusal(fallback, 404, "MANIFEST_UNKNOWN")


def test_a_long_list_of_referrers_comes_in_pages(oras: Speaker) -> None:
    repository = "dialogue/pages"
    oras_pushes(oras, repository, b"{}")
    subject = image(annotations={"org.example.about": "pages"})
    put_manifest(oras, repository, "1", subject)
    attached = {attach(oras, repository, subject, _SPDX, str(number)) for number in range(5)}
    found: list[str] = []
    query = f"?artifactType={quote(_SPDX, safe='')}&n=2"
    for _ in range(5):
        answer = referrers(oras, repository, digest_of(subject), query)
        page = [entry["digest"] for entry in only_json(answer)["manifests"]]
        assert len(page) <= 2
        found += page
        link = answer.headers["Link"]
        if link is None:
            break
        target, _, relation = link.removeprefix("<").partition(">")
        assert relation.replace(" ", "") in {';rel="next"', ";rel=next"}
        query = "?" + target.partition("?")[2]
    assert sorted(found) == sorted(attached)


def test_a_manifest_about_nothing_is_not_said_to_be_about_something(oras: Speaker) -> None:
    oras_pushes(oras, "dialogue/plain", b"{}")
    answer = put_manifest(oras, "dialogue/plain", "1", image())
    assert answer.headers["OCI-Subject"] is None
