"""The dialogue of Docker Engine up to 28, and of the classic image store after that.

It makes a connection for every request, asks `GET /v2/` first and sends a password only where that
answer asked for one. A layer goes in one chunk of unknown length, and how much of it arrived is read
from a `Range` that has no unit.
"""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest

from tests.system import images
from tests.system.daemon import USER, Daemon
from tests.system.dialogues import (
    API_VERSION,
    IMAGE,
    Speaker,
    challenge,
    described,
    image,
    refusal,
    session_size,
    unencoded,
    upload_location,
    with_query,
)
from tests.system.wire import Answer, digest_of

_AGENT = (
    "docker/28.5.2 go/go1.24.9 git-commit/89c5e8f kernel/6.1.0-40-amd64 os/linux arch/amd64 "
    r"UpstreamClient(Docker-Client/28.5.2 \(linux\))"
)
# One header line for each, as Go writes a header that was added to.
_ACCEPT = (
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.index.v1+json",
    IMAGE,
    "application/json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
)
_PIECE = 32 << 10  # what Go copies at once
_PUSHED_AT_ONCE = 5
_NOWHERE = digest_of(b"never pushed")


@pytest.fixture
def docker(registry: Daemon) -> Iterator[Speaker]:
    """Docker, logged in."""
    with engine(registry) as speaker:
        yield speaker


def engine(registry: Daemon) -> Speaker:
    """Docker after its first question, which is whether to send a password."""
    speaker = Speaker(registry, _AGENT, keeps=False)
    ping = speaker.ask("GET", "/v2/")
    challenge(ping)
    assert ping.headers[API_VERSION] == "registry/2.0"
    speaker.enter(registry.login)
    return speaker


def stat(docker: Speaker, repository: str, digest: str) -> int | None:
    """Look whether a layer is there; its size, which docker takes from the header alone."""
    answer = docker.ask("HEAD", f"/v2/{repository}/blobs/{digest}")
    if answer.status == 404:
        return None
    answer.expect(200)
    assert answer.headers["Content-Length"], "docker: missing or empty Content-Length header"
    return int(answer.headers["Content-Length"])


def try_mount(docker: Speaker, repository: str, digest: str, source: str) -> Answer:
    """Ask for a layer of another repository; nothing but 201 and 202 lets docker go on."""
    query = f"from={quote(source, safe='')}&mount={quote(digest, safe='')}"
    answer = docker.ask("POST", f"/v2/{repository}/blobs/uploads/?{query}")
    assert answer.status in {201, 202}, answer
    return answer


def begin_upload(docker: Speaker, repository: str) -> Answer:
    """Open a session."""
    return begun(docker, docker.ask("POST", f"/v2/{repository}/blobs/uploads/"))


def begun(docker: Speaker, answer: Answer) -> Answer:
    """Check that a session was opened."""
    answer.expect(202)
    assert answer.headers["Docker-Upload-UUID"]
    assert upload_location(docker, answer)
    assert answer.headers["Content-Length"] == "0"
    return answer


def stream(docker: Speaker, session: Answer, data: bytes) -> str:
    """Send a layer as its tar file comes out of the compressor; where the upload then is."""
    pieces = [data[start : start + _PIECE] for start in range(0, len(data), _PIECE)]
    answer = docker.ask("PATCH", upload_location(docker, session), body=iter(pieces))
    answer.expect(202)
    assert answer.headers["Docker-Upload-UUID"] == session.headers["Docker-Upload-UUID"]
    assert session_size(answer) == max(len(data), 1)
    return upload_location(docker, answer)


def commit(docker: Speaker, location: str, repository: str, data: bytes) -> None:
    """End an upload, and look whether the layer is there now."""
    digest = digest_of(data)
    target = with_query(location, f"digest={quote(digest, safe='')}")
    assert 200 <= docker.ask("PUT", target).status < 300
    assert stat(docker, repository, digest) == len(data)


def push_layer(docker: Speaker, repository: str, data: bytes, *sources: str) -> bool:
    """Push a layer, first trying the repositories that might have it; whether one had."""
    digest = digest_of(data)
    if stat(docker, repository, digest) is not None:
        return True
    session: Answer | None = None
    for source in sources:
        answer = try_mount(docker, repository, digest, source)
        if session is not None:
            docker.ask("DELETE", upload_location(docker, session)).expect(204)
            session = None
        if answer.status == 201:
            assert stat(docker, repository, digest) == len(data)
            return True
        session = begun(docker, answer)
    session = session or begin_upload(docker, repository)
    commit(docker, stream(docker, session, data), repository, data)
    return False


def push_manifest(docker: Speaker, repository: str, tag: str, manifest: bytes) -> str:
    """Push a manifest; the digest that docker then prints."""
    target = f"/v2/{repository}/manifests/{tag}"
    answer = docker.ask("PUT", target, {"Content-Type": IMAGE}, manifest)
    assert 200 <= answer.status < 300, answer
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", answer.headers["Docker-Content-Digest"])
    return answer.headers["Docker-Content-Digest"]


def test_the_first_question_is_answered_so_that_docker_logs_in(registry: Daemon) -> None:
    with engine(registry) as docker:
        welcome = docker.ask("GET", "/v2/").expect(200)
        assert welcome.headers[API_VERSION] == "registry/2.0"
        docker.enter(f"{USER}:wrong")
        refused = docker.ask("GET", "/v2/")
        challenge(refused)
        refusal(refused, 401, "UNAUTHORIZED")
        assert refused.headers[API_VERSION] == "registry/2.0"
        assert docker.connections == 3


def test_an_image_is_pushed_and_pulled_on_a_connection_for_each_request(docker: Speaker) -> None:
    repository = "dialogue/docker"
    layers = [images.noise(size, f"docker {size}") for size in (1, 100_000, 1_000_000)]
    for layer in layers:
        assert not push_layer(docker, repository, layer)
        assert push_layer(docker, repository, layer)
    push_layer(docker, repository, b"{}")
    manifest = image(*layers)
    digest = push_manifest(docker, repository, "1", manifest)
    assert digest == digest_of(manifest)
    asked = docker.connections

    tagged = docker.ask("HEAD", f"/v2/{repository}/manifests/1", {"Accept": _ACCEPT})
    described(tagged, IMAGE, digest, len(manifest))
    pulled = docker.ask("GET", f"/v2/{repository}/manifests/{digest}", {"Accept": _ACCEPT})
    assert unencoded(pulled.expect(200)).body == manifest
    assert pulled.headers["Content-Type"] == IMAGE
    for layer in layers:
        answer = docker.ask("GET", f"/v2/{repository}/blobs/{digest_of(layer)}")
        assert unencoded(answer.expect(200)).body == layer
        assert answer.headers["Content-Length"] == str(len(layer))
    assert docker.connections == asked + 2 + len(layers)


def test_five_layers_go_in_at_once(registry: Daemon) -> None:
    layers = [images.noise(200_000, f"at once {number}") for number in range(10)]

    def push(layer: bytes) -> int:
        with engine(registry) as docker:
            push_layer(docker, "dialogue/at-once", layer, "dialogue/nobody", "dialogue/nothing")
            return docker.connections

    with ThreadPoolExecutor(_PUSHED_AT_ONCE) as pool:
        assert sum(pool.map(push, layers)) > 50
    with engine(registry) as docker:
        push_layer(docker, "dialogue/at-once", b"{}")
        push_manifest(docker, "dialogue/at-once", "1", image(*layers))


def test_a_layer_without_a_byte_says_0_0_and_not_0_minus_1(docker: Speaker) -> None:
    session = begin_upload(docker, "dialogue/empty")
    answer = docker.ask("PATCH", upload_location(docker, session), body=iter(()))
    assert answer.expect(202).headers["Range"] == "0-0"
    commit(docker, upload_location(docker, answer), "dialogue/empty", b"")


def test_a_layer_is_mounted_from_the_first_repository_that_has_it(docker: Speaker) -> None:
    layer = images.noise(50_000, "mounted")
    push_layer(docker, "dialogue/source", layer)
    uploaded = docker.connections
    assert push_layer(docker, "dialogue/target", layer, "dialogue/no", "dialogue/source")
    # Its HEAD, two mounts, one session cancelled, its HEAD again.
    assert docker.connections == uploaded + 5
    answer = docker.ask("GET", f"/v2/dialogue/target/blobs/{digest_of(layer)}")
    assert answer.expect(200).body == layer


@pytest.mark.parametrize("source", ["dialogue/no/such", "UPPER/case", "a//b", "", "../../etc", "é"])
def test_a_mount_from_where_there_is_nothing_becomes_an_upload(
    docker: Speaker, source: str
) -> None:
    layer = images.noise(1000, f"mount {source}")
    session = begun(docker, try_mount(docker, "dialogue/fallback", digest_of(layer), source))
    commit(docker, stream(docker, session, layer), "dialogue/fallback", layer)


def test_a_session_nobody_needs_any_more_is_cancelled(docker: Speaker) -> None:
    location = upload_location(docker, begin_upload(docker, "dialogue/cancelled"))
    docker.ask("DELETE", location).expect(204)
    refusal(docker.ask("GET", location), 404, "BLOB_UPLOAD_UNKNOWN")
    refusal(docker.ask("PATCH", location, body=iter([b"late"])), 404, "BLOB_UPLOAD_UNKNOWN")
    # Docker cancels without looking whether there is anything left to cancel.
    refusal(docker.ask("DELETE", location), 404, "BLOB_UPLOAD_UNKNOWN")


def test_a_manifest_that_docker_has_is_not_sent_again(docker: Speaker) -> None:
    push_layer(docker, "dialogue/known", b"{}")
    digest = push_manifest(docker, "dialogue/known", "1", image())
    target = "/v2/dialogue/known/manifests/1"
    etag = docker.ask("GET", target, {"Accept": _ACCEPT}).expect(200).headers["ETag"]
    for known in (etag, f'"{digest}"'):
        again = docker.ask("GET", target, {"Accept": _ACCEPT, "If-None-Match": known})
        assert again.expect(304).body == b""
    assert docker.ask("HEAD", target, {"If-None-Match": etag}).status == 304
    other = {"Accept": _ACCEPT, "If-None-Match": f'"{_NOWHERE}"'}
    assert docker.ask("GET", target, other).expect(200).body == image()


def test_a_pull_that_broke_off_goes_on_where_it_stood(docker: Speaker) -> None:
    layer = images.noise(300_000, "broken off")
    push_layer(docker, "dialogue/resumed", layer)
    target = f"/v2/dialogue/resumed/blobs/{digest_of(layer)}"
    begin = docker.sample(target, {}, 100_000).body
    assert len(begin) == 100_000
    rest = docker.ask("GET", target, {"Range": f"bytes={len(begin)}-"}).expect(206)
    # Docker refuses a range that does not begin where it asked, or does not end with the layer.
    assert rest.headers["Content-Range"] == f"bytes 100000-{len(layer) - 1}/{len(layer)}"
    assert rest.headers["Content-Length"] == str(len(layer) - len(begin))
    assert begin + rest.body == layer


def test_a_layer_with_another_digest_is_refused_in_words(docker: Speaker) -> None:
    location = stream(docker, begin_upload(docker, "dialogue/wrong"), b"some bytes")
    said = refusal(
        docker.ask("PUT", with_query(location, f"digest={_NOWHERE}")), 400, "DIGEST_INVALID"
    )
    assert digest_of(b"some bytes") in said


def test_a_manifest_whose_layer_is_missing_is_refused_in_words(docker: Speaker) -> None:
    push_layer(docker, "dialogue/partial", b"{}")
    target = "/v2/dialogue/partial/manifests/1"
    headers = {"Content-Type": IMAGE}
    answer = docker.ask("PUT", target, headers, image(b"never pushed"))
    refusal(answer, 400, "MANIFEST_BLOB_UNKNOWN")
    assert _NOWHERE in answer.body.decode()


@pytest.mark.parametrize(
    ("method", "target", "status", "code"),
    [
        ("GET", f"/v2/dialogue/none/blobs/{_NOWHERE}", 404, "BLOB_UNKNOWN"),
        ("GET", "/v2/dialogue/none/blobs/sha256:short", 400, "DIGEST_INVALID"),
        ("GET", "/v2/dialogue/none/manifests/1", 404, "MANIFEST_UNKNOWN"),
        ("GET", f"/v2/dialogue/none/manifests/{_NOWHERE}", 404, "MANIFEST_UNKNOWN"),
        ("GET", "/v2/dialogue/none/tags/list", 404, "NAME_UNKNOWN"),
        ("GET", "/v2/UPPER/manifests/1", 400, "NAME_INVALID"),
        ("GET", "/v2/what/is/this", 404, "UNSUPPORTED"),
        ("POST", "/v2/UPPER/blobs/uploads/", 400, "NAME_INVALID"),
        ("PATCH", "/v2/dialogue/none/blobs/uploads/none", 404, "BLOB_UPLOAD_UNKNOWN"),
        ("PUT", "/v2/dialogue/none/manifests/1", 400, "MANIFEST_INVALID"),
        ("PUT", "/v2/dialogue/none/tags/list", 405, "UNSUPPORTED"),
    ],
)
def test_every_refusal_is_one_docker_can_show(
    docker: Speaker, method: str, target: str, status: int, code: str
) -> None:
    answer = docker.ask(method, target)
    refusal(answer, status, code)
    assert answer.headers[API_VERSION] == "registry/2.0"
