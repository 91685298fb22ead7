"""The dialogue of containerd, and with it of Docker 29, BuildKit, nerdctl and Kubernetes.

It keeps its connections, asks without a password until it is told to bring one, sends each blob in
one request of announced length and waits no longer than thirty seconds for the head of an answer.
"""

import faulthandler
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system import bulk, daemon, images
from tests.system.bulk import BLOCK, FIVE_GIBIBYTES
from tests.system.daemon import Daemon
from tests.system.dialogues import (
    BYTES,
    CONFIG,
    EMPTY,
    IMAGE,
    INDEX,
    LAYER,
    Body,
    Speaker,
    challenge,
    described,
    descriptor,
    image,
    only_json,
    refusal,
    unencoded,
    upload_location,
    with_query,
)
from tests.system.tools import eventually
from tests.system.wire import Answer, digest_of

_AGENT = "containerd/2.1.4"
_DECODED = "zstd;q=1.0, gzip;q=0.8, deflate;q=0.5"
_RESOLVED = (
    "application/vnd.docker.distribution.manifest.v2+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, "
    f"{IMAGE}, {INDEX}, */*"
)
_HEADERS_WITHIN_SECONDS = 30.0
"""`ResponseHeaderTimeout` of its transport; then the push has failed."""

_MIRRORED = "ns=docker.io"


@pytest.fixture
def containerd(registry: Daemon) -> Iterator[Speaker]:
    """containerd, which has been asked for a password and keeps it for this host."""
    with Speaker(registry, _AGENT, keeps=True) as speaker:
        challenge(speaker.ask("HEAD", "/v2/dialogue/any/manifests/1", {"Accept": _RESOLVED}))
        speaker.enter(registry.login)
        yield speaker


def accept(media_type: str) -> dict[str, str]:
    """What containerd would like to have, and that it takes anything."""
    return {"Accept": f"{media_type}, */*"}


def push_blob(
    containerd: Speaker, repository: str, data: bytes, media_type: str, query: str = ""
) -> None:
    """Push a blob: look, ask for a place, send it there in one request."""
    digest = digest_of(data)
    target = f"/v2/{repository}/blobs/{digest}{query}"
    if containerd.ask("HEAD", target, accept(media_type)).status == 200:
        return
    begun = containerd.ask("POST", f"/v2/{repository}/blobs/uploads/{query}")
    assert begun.status in {200, 202, 204}, begun
    pushed(put_blob(containerd, begun, digest, data, query=query), digest)


def put_blob(
    containerd: Speaker,
    begun: Answer,
    digest: str,
    body: Body,
    *,
    query: str = "",
    size: int | None = None,
) -> Answer:
    """Send a blob to the place that was found for it, in one request of known length."""
    target = with_query(upload_location(containerd, begun), f"digest={digest.replace(':', '%3A')}")
    if query:
        target = with_query(target, query.removeprefix("?"))
    headers = {"Content-Type": BYTES}
    if size is not None:
        headers["Content-Length"] = str(size)
    return containerd.ask("PUT", target, headers, body)


def pushed(answer: Answer, digest: str) -> None:
    """Check the end of a push, of which containerd believes the digest in the header alone."""
    assert answer.status in {200, 201, 202, 204}, answer
    assert answer.headers["Docker-Content-Digest"] == digest


def push_manifest(
    containerd: Speaker, repository: str, reference: str, manifest: bytes, query: str = ""
) -> str:
    """Push a manifest unless the tag means it already; its digest."""
    digest = digest_of(manifest)
    target = f"/v2/{repository}/manifests/{reference}{query}"
    found = containerd.ask("HEAD", target, accept(IMAGE))
    if found.status == 200 and found.headers["Docker-Content-Digest"] == digest:
        return digest
    assert found.status in {200, 404}
    pushed(containerd.ask("PUT", target, {"Content-Type": IMAGE}, manifest), digest)
    return digest


def fetch(containerd: Speaker, target: str, media_type: str) -> Answer:
    """Fetch content, prepared to decode what would come coded."""
    headers = accept(media_type) | {"Accept-Encoding": _DECODED}
    return unencoded(containerd.ask("GET", target, headers))


def test_without_a_password_containerd_is_asked_for_one_it_can_give(registry: Daemon) -> None:
    with Speaker(registry, _AGENT, keeps=True) as stranger:
        for method, target in (
            ("HEAD", "/v2/dialogue/any/manifests/1"),
            ("GET", "/v2/dialogue/any/manifests/1"),
            ("POST", "/v2/dialogue/any/blobs/uploads/"),
            ("GET", f"/v2/dialogue/any/referrers/{digest_of(b'any')}"),
        ):
            answer = stranger.ask(method, target, accept(IMAGE))
            challenge(answer)
            assert answer.body or method == "HEAD"
        stranger.enter("nobody:wrong")
        challenge(stranger.ask("HEAD", "/v2/dialogue/any/manifests/1", accept(IMAGE)))


def test_an_image_is_pushed_and_pulled_on_one_connection(containerd: Speaker) -> None:
    repository = "dialogue/containerd"
    layers = [images.noise(size, f"containerd {size}") for size in (1, 70_000, 3_000_000)]
    manifest = image(*layers)
    digest = digest_of(manifest)
    for _ in range(2):
        push_blob(containerd, repository, b"{}", CONFIG)
        for layer in layers:
            push_blob(containerd, repository, layer, LAYER)
        push_manifest(containerd, repository, "1", manifest)

    target = f"/v2/{repository}/manifests/1"
    described(containerd.ask("HEAD", target, {"Accept": _RESOLVED}), IMAGE, digest, len(manifest))
    target = f"/v2/{repository}/manifests/{digest}"
    assert fetch(containerd, target, IMAGE).expect(200).body == manifest
    for layer in layers:
        answer = fetch(containerd, f"/v2/{repository}/blobs/{digest_of(layer)}", LAYER).expect(200)
        assert answer.headers["Content-Length"] == str(len(layer))
        assert answer.body == layer
    assert containerd.connections == 1


def test_an_empty_blob_is_pushed_like_any_other(containerd: Speaker) -> None:
    push_blob(containerd, "dialogue/empty-blob", b"", LAYER)
    target = f"/v2/dialogue/empty-blob/blobs/{digest_of(b'')}"
    answer = fetch(containerd, target, LAYER).expect(200)
    assert (answer.body, answer.headers["Content-Length"]) == (b"", "0")


def test_a_blob_is_mounted_or_else_sent_where_the_answer_says(containerd: Speaker) -> None:
    layer = images.noise(10_000, "containerd mounts")
    push_blob(containerd, "dialogue/from", layer, LAYER)
    uploads = "/v2/dialogue/to/blobs/uploads/"
    answer = containerd.ask("POST", f"{uploads}?mount={digest_of(layer)}&from=dialogue/from")
    assert answer.expect(201).headers["Location"]
    target = f"/v2/dialogue/to/blobs/{digest_of(layer)}"
    containerd.ask("HEAD", target, accept(LAYER)).expect(200)

    other = images.noise(10_000, "containerd cannot mount")
    answer = containerd.ask("POST", f"{uploads}?mount={digest_of(other)}&from=dialogue/from")
    pushed(put_blob(containerd, answer.expect(202), digest_of(other), other), digest_of(other))


def test_an_image_is_found_by_one_who_takes_this_for_a_mirror(containerd: Speaker) -> None:
    repository, query = "library/dialogue", f"?{_MIRRORED}"
    layer = images.noise(80_000, "mirrored")
    manifest = image(layer)
    push_blob(containerd, repository, b"{}", CONFIG, query)
    push_blob(containerd, repository, layer, LAYER, query)
    digest = push_manifest(containerd, repository, "latest", manifest, query)

    base = f"/v2/{repository}"
    resolved = containerd.ask("HEAD", f"{base}/manifests/latest{query}", {"Accept": _RESOLVED})
    described(resolved, IMAGE, digest, len(manifest))
    assert fetch(containerd, f"{base}/manifests/{digest}{query}", IMAGE).body == manifest
    assert fetch(containerd, f"{base}/blobs/{digest_of(layer)}{query}", LAYER).body == layer
    referrers = containerd.ask("GET", f"{base}/referrers/{digest}{query}").expect(200)
    assert only_json(referrers)["manifests"] == []


def test_what_a_mirror_does_not_have_is_not_found_and_nothing_worse(containerd: Speaker) -> None:
    nowhere = digest_of(b"not mirrored")
    base, query = "/v2/library/not-mirrored", f"?{_MIRRORED}"
    missing = containerd.ask("HEAD", f"{base}/manifests/1{query}", {"Accept": _RESOLVED})
    assert missing.status == 404
    for target, code in (
        (f"{base}/manifests/1{query}", "MANIFEST_UNKNOWN"),
        (f"{base}/manifests/{nowhere}{query}", "MANIFEST_UNKNOWN"),
        (f"{base}/blobs/{nowhere}{query}", "BLOB_UNKNOWN"),
    ):
        refusal(fetch(containerd, target, IMAGE), 404, code)


def test_parts_fetched_at_once_break_off_without_harm(
    registry: Daemon, containerd: Speaker
) -> None:
    layer = images.noise(8 << 20, "fetched in parts")
    part = 2 << 20
    push_blob(containerd, "dialogue/parts", layer, LAYER)
    target = f"/v2/dialogue/parts/blobs/{digest_of(layer)}"
    headers = accept(LAYER) | {"Accept-Encoding": _DECODED}
    # The first is a request for all of it, of which no more than the first part is read.
    with Speaker(registry, _AGENT, keeps=True) as worker:
        worker.enter(registry.login)
        first = worker.sample(target, headers, part)
        assert first.expect(200).headers["Content-Length"] == str(len(layer))
        got = unencoded(first).body
        for offset in range(part, len(layer), part):
            answer = worker.sample(target, headers | {"Range": f"bytes={offset}-"}, part)
            stated = unencoded(answer.expect(206)).headers["Content-Range"]
            assert stated == f"bytes {offset}-{len(layer) - 1}/{len(layer)}"
            got += answer.body
            # The others of its pool know nothing of this.
            containerd.ask("HEAD", target, accept(LAYER)).expect(200)
        assert worker.connections == 4
    assert got == layer
    assert containerd.connections == 1

    eventually(
        lambda: len(outcomes(registry, "GET", target)) == 4,
        within=30,
        what="the daemon has noticed who left",
    )
    assert set(outcomes(registry, "GET", target)) <= {200, 206, 499}
    assert "Traceback" not in registry.log()


def outcomes(registry: Daemon, method: str, target: str) -> list[int]:
    """How the requests for something ended, according to the log."""
    lines: list[dict[str, Any]] = [
        json.loads(line) for line in registry.log().splitlines() if line.startswith("{")
    ]
    return [
        line["status"]
        for line in lines
        if (line.get("method"), line.get("path")) == (method, target)
    ]


def test_referrers_are_one_document_even_where_there_are_none(containerd: Speaker) -> None:
    repository = "dialogue/referrers"
    for reference in (digest_of(b"unknown there"), digest_of(image())):
        for target in (
            f"/v2/{repository}/referrers/{reference}",
            f"/v2/{repository}/referrers/{reference}?artifactType=application%2Fjson",
        ):
            answer = containerd.ask("GET", target, {"Accept": INDEX}).expect(200)
            assert answer.headers["Content-Type"] == INDEX
            listed = only_json(answer)
            assert (listed["schemaVersion"], listed["mediaType"]) == (2, INDEX)
            assert listed["manifests"] == []
        fallback = f"/v2/{repository}/manifests/{reference.replace(':', '-')}"
        refusal(containerd.ask("GET", fallback, {"Accept": INDEX}), 404, "MANIFEST_UNKNOWN")
        push_blob(containerd, repository, b"{}", CONFIG)
        push_manifest(containerd, repository, "1", image())


def test_a_referrer_is_listed_with_what_containerd_selects_by(containerd: Speaker) -> None:
    repository = "dialogue/referred"
    push_blob(containerd, repository, b"{}", CONFIG)
    subject = push_manifest(containerd, repository, "1", image())
    signature = image(
        subject=descriptor(image(), IMAGE),
        artifactType="application/vnd.example.signature",
        annotations={"org.example.by": "tests"},
    )
    digest = digest_of(signature)
    push_manifest(containerd, repository, digest, signature)
    listed = only_json(containerd.ask("GET", f"/v2/{repository}/referrers/{subject}").expect(200))
    assert listed["manifests"] == [
        {
            "mediaType": IMAGE,
            "digest": digest,
            "size": len(signature),
            "artifactType": "application/vnd.example.signature",
            "annotations": {"org.example.by": "tests"},
        }
    ]
    # An artifact of no declared type goes by the type of its configuration.
    plain = image(subject=descriptor(image(), IMAGE)).replace(CONFIG.encode(), EMPTY.encode())
    push_manifest(containerd, repository, digest_of(plain), plain)
    listed = only_json(containerd.ask("GET", f"/v2/{repository}/referrers/{subject}").expect(200))
    types = {entry["digest"]: entry["artifactType"] for entry in listed["manifests"]}
    assert types[digest_of(plain)] == EMPTY


def test_the_answer_to_five_gibibytes_begins_before_containerd_gives_up(tmp_path: Path) -> None:
    faulthandler.cancel_dump_traceback_later()  # this may take longer than other tests do
    bulk.check_room(tmp_path)
    size = FIVE_GIBIBYTES * BLOCK
    digest = bulk.digest_of_pieces(bulk.content(FIVE_GIBIBYTES, "whole"))
    last = 0.0

    def pieces() -> Iterator[bytes]:
        nonlocal last
        for piece in bulk.content(FIVE_GIBIBYTES, "whole"):
            yield bytes(piece)
        last = time.monotonic()

    with (
        daemon.running(tmp_path / "registry") as registry,
        Speaker(registry, _AGENT, keeps=True) as containerd,
    ):
        containerd.enter(registry.login)
        begun = containerd.ask("POST", "/v2/dialogue/whole/blobs/uploads/").expect(202)
        pushed(put_blob(containerd, begun, digest, pieces(), size=size), digest)
        seconds = time.monotonic() - last
        print(f"\nPUT of 5 GiB in one: answered {seconds:.3f} s after the last byte")
        assert seconds < _HEADERS_WITHIN_SECONDS
        found = containerd.ask("HEAD", f"/v2/dialogue/whole/blobs/{digest}", accept(LAYER))
        assert found.expect(200).headers["Content-Length"] == str(size)
        assert registry.blob_path(digest).stat().st_size == size
