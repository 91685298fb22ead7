"""The dialogue of containers/image: podman, skopeo, buildah and CRI-O.

It asks `GET /v2/` once, without a password, and from then on sends one with everything, even when it
has none. What it opened in vain it deletes, and must be able to. Large layers it may pull in parts,
many in one request.
"""

import email
import re
from collections.abc import Iterator, Sequence
from email.message import Message

import pytest

from appliance.settings import Limits
from tests.system import daemon, images
from tests.system.daemon import Daemon
from tests.system.dialogues import (
    API_VERSION,
    BYTES,
    IMAGE,
    INDEX,
    NO_ACCOUNT,
    Body,
    Headers,
    Speaker,
    challenge,
    image,
    only_json,
    refusal,
    unencoded,
    upload_location,
    with_query,
)
from tests.system.wire import Answer, digest_of

_AGENT = "containers/5.36.0 (github.com/containers/image)"
_ACCEPT = (
    IMAGE,
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    INDEX,
)
_IDLE_SECONDS = 90
"""`IdleConnTimeout` of its transport: for so long it takes an unused connection for a good one."""
_RANGES_AT_ONCE = 1024
"""How many missing pieces containers/storage asks for in one request."""

_WHOLE = re.compile(r"bytes (\d+)-(\d+)/(\d+)", re.ASCII)

Span = tuple[int, int]


@pytest.fixture
def podman(registry: Daemon) -> Iterator[Speaker]:
    """podman, logged in."""
    with tool(registry, registry.login) as speaker:
        yield speaker


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A registry from which anybody may pull."""
    folder = tmp_path_factory.mktemp("public")
    with daemon.running(folder, settings={"auth": {"anonymous": ["pull"]}}) as running:
        yield running


def tool(registry: Daemon, login: str) -> Speaker:
    """A tool of the family after its only unauthenticated request."""
    speaker = Speaker(registry, _AGENT, keeps=True)
    ping = ask(speaker, "GET", "/v2/")
    if "Bearer" not in ping.headers["WWW-Authenticate"]:  # passwords do where tokens are offered
        challenge(ping)
    assert ping.headers[API_VERSION] == "registry/2.0"
    speaker.enter(login)
    return speaker


def ask(
    speaker: Speaker,
    method: str,
    target: str,
    headers: Headers | None = None,
    body: Body | None = None,
) -> Answer:
    """Ask as this family does, which names the version of the API in requests too."""
    given = {"Docker-Distribution-Api-Version": "registry/2.0", **(headers or {})}
    return speaker.ask(method, target, given, body)


def push_blob(podman: Speaker, repository: str, data: bytes, *, known_size: bool = True) -> str:
    """Push a blob: look, open a session, one chunk, an empty end; its digest."""
    digest = digest_of(data)
    found = ask(podman, "HEAD", f"/v2/{repository}/blobs/{digest}")
    if found.status == 200:
        assert found.headers["Content-Length"] == str(len(data))
        return digest
    assert found.status == 404
    begun = ask(podman, "POST", f"/v2/{repository}/blobs/uploads/").expect(202)
    chunk: Body = data if known_size else iter([data])
    answer = ask(
        podman, "PATCH", upload_location(podman, begun), {"Content-Type": BYTES}, chunk
    ).expect(202)
    target = with_query(upload_location(podman, answer), f"digest={digest.replace(':', '%3A')}")
    ask(podman, "PUT", target, {"Content-Type": BYTES}).expect(201)
    return digest


def push_image(podman: Speaker, repository: str, *layers: bytes) -> bytes:
    """Push an image under the tag 1; its manifest."""
    for data in (*layers, b"{}"):
        push_blob(podman, repository, data)
    manifest = image(*layers)
    target = f"/v2/{repository}/manifests/1"
    answer = ask(podman, "PUT", target, {"Content-Type": IMAGE}, manifest)
    assert 200 <= answer.status < 300
    return manifest


def test_an_image_is_pushed_and_pulled_on_one_connection(podman: Speaker) -> None:
    repository = "dialogue/podman"
    layers = [images.noise(size, f"podman {size}") for size in (1, 90_000, 2_000_000)]
    push_blob(podman, repository, layers[1], known_size=False)
    manifest = push_image(podman, repository, *layers)
    pulled = ask(podman, "GET", f"/v2/{repository}/manifests/1", {"Accept": _ACCEPT})
    assert unencoded(pulled.expect(200)).body == manifest
    assert pulled.headers["Content-Type"] == IMAGE
    for layer in layers:
        answer = ask(podman, "GET", f"/v2/{repository}/blobs/{digest_of(layer)}").expect(200)
        assert unencoded(answer).body == layer
        assert answer.headers["Content-Length"] == str(len(layer))
    assert podman.connections == 1


def test_what_a_mount_opened_in_vain_may_be_deleted_by_who_may_push(podman: Speaker) -> None:
    layer = images.noise(30_000, "podman mounts")
    query = f"?from=dialogue%2Felsewhere&mount={digest_of(layer).replace(':', '%3A')}"
    answer = ask(podman, "POST", f"/v2/dialogue/mounting/blobs/uploads/{query}").expect(202)
    location = upload_location(podman, answer)
    ask(podman, "DELETE", location).expect(204)
    refusal(ask(podman, "GET", location), 404, "BLOB_UPLOAD_UNKNOWN")
    push_blob(podman, "dialogue/elsewhere", layer)
    answer = ask(podman, "POST", f"/v2/dialogue/mounting/blobs/uploads/{query}").expect(201)
    assert answer.headers["Location"]


def test_signatures_that_nobody_attached_are_manifests_unknown(podman: Speaker) -> None:
    manifest = push_image(podman, "dialogue/unsigned", images.noise(1000, "unsigned"))
    tag = digest_of(manifest).replace(":", "-") + ".sig"
    target = f"/v2/dialogue/unsigned/manifests/{tag}"
    refusal(ask(podman, "GET", target, {"Accept": _ACCEPT}), 404, "MANIFEST_UNKNOWN")


def test_anybody_pulls_with_an_empty_name_and_an_empty_password(public: Daemon) -> None:
    layer = images.noise(40_000, "public")
    with tool(public, public.login) as owner:
        manifest = push_image(owner, "dialogue/public", layer)
    with tool(public, NO_ACCOUNT) as anybody:
        pulled = ask(anybody, "GET", "/v2/dialogue/public/manifests/1", {"Accept": _ACCEPT})
        assert pulled.expect(200).body == manifest
        target = f"/v2/dialogue/public/blobs/{digest_of(layer)}"
        assert ask(anybody, "GET", target).expect(200).body == layer
        tags = ask(anybody, "GET", "/v2/dialogue/public/tags/list").expect(200)
        assert only_json(tags)["tags"] == ["1"]
        for method, target in (
            ("POST", "/v2/dialogue/public/blobs/uploads/"),
            ("PUT", "/v2/dialogue/public/manifests/2"),
            ("DELETE", "/v2/dialogue/public/manifests/1"),
        ):
            refused = ask(anybody, method, target)
            assert refused.headers["WWW-Authenticate"].startswith("Bearer realm=")
            refusal(refused, 401, "UNAUTHORIZED")


def test_an_empty_name_and_an_empty_password_open_nothing_else(registry: Daemon) -> None:
    with tool(registry, NO_ACCOUNT) as anybody:
        challenge(ask(anybody, "GET", "/v2/dialogue/podman/manifests/1", {"Accept": _ACCEPT}))


def test_a_pull_that_broke_off_goes_on_where_it_stood(podman: Speaker) -> None:
    layer = images.noise(3 << 20, "podman resumes")
    digest = push_blob(podman, "dialogue/continued", layer)
    target = f"/v2/dialogue/continued/blobs/{digest}"
    begin = podman.sample(target, {}, 2 << 20).body
    answer = ask(podman, "GET", target, {"Range": f"bytes={len(begin)}-"}).expect(206)
    [stated] = answer.headers.get_all("Content-Range") or []
    found = _WHOLE.fullmatch(stated)
    assert found
    assert tuple(map(int, found.groups())) == (len(begin), len(layer) - 1, len(layer))
    assert begin + answer.body == layer


def test_an_idle_connection_outlives_the_trust_of_its_client() -> None:
    assert Limits().idle > _IDLE_SECONDS


# -- partial pulls


def ranges(spans: Sequence[Span]) -> dict[str, str]:
    """Ask for some bytes, each pair from the first to the last."""
    return {"Range": "bytes=" + ",".join(f"{first}-{last}" for first, last in spans)}


def parts(answer: Answer) -> list[Message]:
    """Take an answer of several parts to pieces."""
    answer.expect(206)
    stated = answer.headers["Content-Type"]
    assert stated.startswith("multipart/byteranges")
    message = email.message_from_bytes(
        b"MIME-Version: 1.0\r\nContent-Type: " + stated.encode() + b"\r\n\r\n" + answer.body
    )
    assert message.is_multipart()
    assert not message.defects
    found = message.get_payload()
    assert isinstance(found, list)
    return [part for part in found if isinstance(part, Message)]


def payload(part: Message) -> bytes:
    """The bytes of one part."""
    data = part.get_payload(decode=True)
    assert isinstance(data, bytes)
    return data


def assert_parts(answer: Answer, spans: Sequence[Span], blob: bytes) -> None:
    """As many parts as were asked for, in that order, each with its place: no client sorts them."""
    found = parts(answer)
    assert [part["Content-Range"] for part in found] == [
        f"bytes {first}-{last}/{len(blob)}" for first, last in spans
    ]
    assert all(part["Content-Type"] == BYTES for part in found)
    for part, (first, last) in zip(found, spans, strict=True):
        assert payload(part) == blob[first : last + 1]


@pytest.fixture(scope="module")
def layer() -> bytes:
    """A layer that holds whatever might be taken for the end of a part or of a line."""
    return b"\r\n--\r\n\n\r--" * 100 + images.noise(1 << 20, "partial") + b"\r\n--\r\n"


@pytest.fixture
def partial(podman: Speaker, layer: bytes) -> str:
    """Where that layer is."""
    return f"/v2/dialogue/partial/blobs/{push_blob(podman, 'dialogue/partial', layer)}"


def test_one_span_comes_by_itself(podman: Speaker, partial: str, layer: bytes) -> None:
    answer = ask(podman, "GET", partial, ranges([(5, 70_000)])).expect(206)
    assert answer.headers["Content-Type"] == BYTES
    assert answer.headers["Content-Range"] == f"bytes 5-70000/{len(layer)}"
    assert answer.body == layer[5:70_001]


def test_spans_come_as_the_parts_of_one_answer(podman: Speaker, partial: str, layer: bytes) -> None:
    end = len(layer) - 1
    spans = [(0, 9), (10, 10), (1000, 70_000), (200_000, 200_000), (end - 5, end)]
    answer = ask(podman, "GET", partial, ranges(spans))
    assert_parts(unencoded(answer), spans, layer)
    # One that did not count its parts right would spoil what follows.
    assert answer.headers["Content-Length"] == str(len(answer.body))
    assert ask(podman, "GET", partial, ranges([(0, 0)])).expect(206).body == layer[:1]
    assert podman.connections == 1


def test_as_many_spans_come_as_podman_asks_for_at_once(
    podman: Speaker, partial: str, layer: bytes
) -> None:
    step = len(layer) // _RANGES_AT_ONCE
    spans = [(start * step, start * step + step // 2) for start in range(_RANGES_AT_ONCE)]
    answer = ask(podman, "GET", partial, ranges(spans))
    # It asks for fewer after 400, and finds its spans itself in all of it; nothing else will do.
    if answer.status == 400:
        answer = ask(podman, "GET", partial, ranges(spans[: _RANGES_AT_ONCE // 2]))
        spans = spans[: _RANGES_AT_ONCE // 2]
    if answer.status == 200:
        assert answer.body == layer
    else:
        assert_parts(answer, spans, layer)


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(["0-"] * 3000, id="all of it over and over"),
        pytest.param(["-1000000"] * 500, id="the end over and over"),
        pytest.param([f"{first}-" for first in range(2000)], id="nearly all of it each time"),
        pytest.param(["0-0"] * 5000, id="the same byte over and over"),
        pytest.param([f"{first * 2}-{first * 2}" for first in range(2500)], id="each second byte"),
    ],
)
def test_asking_for_the_same_again_and_again_costs_no_more_than_the_blob(
    podman: Speaker, partial: str, layer: bytes, asked: list[str]
) -> None:
    answer = ask(podman, "GET", partial, {"Range": "bytes=" + ",".join(asked)})
    assert len(answer.body) <= len(layer)
    if answer.status == 200:
        assert answer.body == layer
    elif answer.status == 206:
        assert sum(len(payload(part)) for part in parts(answer)) <= len(layer)
    else:
        answer.expect(400)
    assert ask(podman, "HEAD", partial).expect(200).headers["Content-Length"] == str(len(layer))


def test_a_layer_that_is_asked_for_in_parts_is_told_by_its_etag(
    podman: Speaker, partial: str
) -> None:
    whole = ask(podman, "HEAD", partial).expect(200)
    answer = ask(podman, "GET", partial, ranges([(0, 1), (3, 4)]))
    for name in ("ETag", "Docker-Content-Digest", "Accept-Ranges"):
        assert answer.headers[name] == whole.headers[name]
