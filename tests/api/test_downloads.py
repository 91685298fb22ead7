"""Blobs on their way out when something goes wrong on the way."""

import errno
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio

from appliance.oci.digest import Digest
from appliance.storage.files import FileRegion
from tests.api.driver import ALICE, Registry, basic

BLOB = os.urandom(1 << 20)
DIGEST = Digest.of(BLOB)
PATH = f"/v2/some/app/blobs/{DIGEST}"


async def push(registry: Registry) -> None:
    pushed = f"/v2/some/app/blobs/uploads/?digest={DIGEST}"
    assert (await registry.ask("POST", pushed, body=BLOB)).status == 201


def scope() -> Mapping[str, Any]:
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "raw_path": PATH.encode(),
        "query_string": b"",
        "headers": [(b"authorization", basic(*ALICE).encode())],
        "client": None,
    }


async def test_a_client_that_leaves_is_sent_no_more(registry: Registry) -> None:
    await push(registry)
    left = trio.Event()
    sent = 0

    async def receive() -> Mapping[str, Any]:
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Mapping[str, Any]) -> None:
        nonlocal sent
        sent += len(message.get("body", b""))
        if sent:
            left.set()

    with structlog.testing.capture_logs() as lines:
        await registry.application(scope(), receive, send)
    assert 0 < sent < len(BLOB)
    assert [(line["status"], line["sent"] < len(BLOB)) for line in lines] == [(499, True)]


async def test_a_blob_that_lost_bytes_is_unknown(registry: Registry, tmp_path: Path) -> None:
    await push(registry)
    file = tmp_path / "blobs" / "sha256" / DIGEST.hex[:2] / DIGEST.hex
    file.chmod(0o600)
    os.truncate(file, 300_000)
    asked: list[Mapping[str, str]] = [{}, {"range": "bytes=0-9"}]
    for headers in asked:
        answer = await registry.ask("GET", PATH, headers)
        assert (answer.status, answer.code) == (404, "BLOB_UNKNOWN")
    await push(registry)
    assert (await registry.ask("GET", PATH)).body == BLOB


async def test_a_blob_that_loses_bytes_while_it_is_sent_is_not_sent_for_ever(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await push(registry)
    file = tmp_path / "blobs" / "sha256" / DIGEST.hex[:2] / DIGEST.hex
    file.chmod(0o600)
    opening = registry.store.open

    @asynccontextmanager
    async def open_and_lose(digest: Digest) -> AsyncIterator[FileRegion]:
        async with opening(digest) as region:
            os.truncate(file, 300_000)
            yield region

    monkeypatch.setattr(registry.store, "open", open_and_lose)
    with trio.fail_after(10), structlog.testing.capture_logs() as lines:
        answer = await registry.ask("GET", PATH)
    assert answer.headers["content-length"] == str(len(BLOB))
    assert BLOB.startswith(answer.body)
    assert len(answer.body) <= 300_000
    assert "request failed" in [line["event"] for line in lines]


# --- files that the server sends by itself


class DirectServer:
    """Takes files whole and remembers what it was told; may fail instead."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.messages: list[Mapping[str, Any]] = []
        self.sent = b""
        self._failure = failure

    async def receive(self) -> Mapping[str, Any]:
        raise AssertionError("nobody needs to watch for the client")

    async def send(self, message: Mapping[str, Any]) -> None:
        self.messages.append(message)
        if message["type"] == "http.response.zerocopysend":
            if self._failure is not None:
                raise self._failure
            offset, count = message.get("offset", 0), message["count"]
            self.sent += os.pread(message["file"].fileno(), count, offset)
        await trio.lowlevel.checkpoint()

    @property
    def kinds(self) -> list[str]:
        return [message["type"].removeprefix("http.response.") for message in self.messages]


def direct_scope(**more: object) -> Mapping[str, Any]:
    return {**scope(), "extensions": {"http.response.zerocopysend": {}}, **more}


async def test_a_server_that_can_is_given_the_file(registry: Registry) -> None:
    await push(registry)
    server = DirectServer()
    with structlog.testing.capture_logs() as lines:
        await registry.application(direct_scope(), server.receive, server.send)
    assert server.kinds == ["start", "zerocopysend"]
    assert server.messages[0]["status"] == 200
    assert (b"content-length", b"%d" % len(BLOB)) in server.messages[0]["headers"]
    assert not server.messages[1].get("more_body", False)
    assert server.sent == BLOB
    assert [(line["status"], line["sent"]) for line in lines] == [(200, len(BLOB))]


async def test_of_a_range_it_is_given_the_place(registry: Registry) -> None:
    await push(registry)
    server = DirectServer()
    asked = [*scope()["headers"], (b"range", b"bytes=1000-70999")]
    with structlog.testing.capture_logs() as lines:
        await registry.application(direct_scope(headers=asked), server.receive, server.send)
    assert server.messages[0]["status"] == 206
    assert server.sent == BLOB[1000:71000]
    assert [(line["status"], line["sent"]) for line in lines] == [(206, 70000)]


async def test_head_gives_it_nothing(registry: Registry) -> None:
    await push(registry)
    server = DirectServer()
    await registry.application(direct_scope(method="HEAD"), server.receive, server.send)
    assert server.kinds == ["start", "body"]
    assert (b"content-length", b"%d" % len(BLOB)) in server.messages[0]["headers"]
    assert server.messages[1]["body"] == b""


async def test_an_empty_blob_is_an_ordinary_answer(registry: Registry) -> None:
    empty = Digest.of(b"")
    created = f"/v2/some/app/blobs/uploads/?digest={empty}"
    assert (await registry.ask("POST", created)).status == 201

    async def receive() -> Mapping[str, Any]:
        await trio.sleep_forever()
        raise AssertionError

    server = DirectServer()
    path = f"/v2/some/app/blobs/{empty}".encode()
    await registry.application(direct_scope(raw_path=path), receive, server.send)
    assert server.kinds == ["start", "body"]
    assert (b"content-length", b"0") in server.messages[0]["headers"]


async def test_a_client_that_leaves_its_file_is_logged_as_gone(registry: Registry) -> None:
    await push(registry)
    for failure in (ConnectionAbortedError("left"), BrokenPipeError(), ConnectionResetError()):
        server = DirectServer(failure)
        with structlog.testing.capture_logs() as lines:
            await registry.application(direct_scope(), server.receive, server.send)
        assert server.kinds == ["start", "zerocopysend"]
        assert [(line["event"], line["status"], line["sent"]) for line in lines] == [
            ("request", 499, 0)
        ]


async def test_a_file_that_cannot_be_sent_is_logged_and_not_answered_twice(
    registry: Registry,
) -> None:
    await push(registry)
    server = DirectServer(OSError(errno.EIO, "the file is shorter than it was"))
    with structlog.testing.capture_logs() as lines:
        await registry.application(direct_scope(), server.receive, server.send)
    assert server.kinds == ["start", "zerocopysend"]
    assert [line["event"] for line in lines] == ["request failed", "request"]
    assert lines[0]["log_level"] == "error"


async def test_a_client_that_leaves_an_ordinary_answer_is_logged_as_gone(
    registry: Registry,
) -> None:
    async def receive() -> Mapping[str, Any]:
        await trio.sleep_forever()
        raise AssertionError

    async def send(message: Mapping[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        if message["type"] == "http.response.body":
            raise ConnectionResetError

    await push(registry)
    base = {**scope(), "raw_path": b"/v2/"}
    for asked in (base, {**base, "raw_path": b"/nonsense"}, {**base, "headers": []}):
        with structlog.testing.capture_logs() as lines:
            await registry.application(asked, receive, send)
        assert [(line["event"], line["status"]) for line in lines] == [("request", 499)]


async def test_a_client_that_leaves_a_download_in_pieces_is_logged_as_gone(
    registry: Registry,
) -> None:
    async def receive() -> Mapping[str, Any]:
        await trio.sleep_forever()
        raise AssertionError

    async def send(message: Mapping[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        if message["type"] == "http.response.body":
            raise ConnectionResetError

    await push(registry)
    with structlog.testing.capture_logs() as lines:
        await registry.application(scope(), receive, send)
    assert [(line["event"], line.get("status")) for line in lines] == [("request", 499)]
