"""Blobs on their way out when something goes wrong on the way."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog
import trio

from appliance.oci.digest import Digest
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


async def test_a_blob_that_lost_bytes_is_not_sent_for_ever(
    registry: Registry, tmp_path: Path
) -> None:
    await push(registry)
    file = tmp_path / "blobs" / "sha256" / DIGEST.hex[:2] / DIGEST.hex
    file.chmod(0o600)
    os.truncate(file, 300_000)
    with trio.fail_after(10), structlog.testing.capture_logs() as lines:
        answer = await registry.ask("GET", PATH)
    assert answer.headers["content-length"] == str(len(BLOB))
    assert answer.body == BLOB[:300_000]
    assert "request failed" in [line["event"] for line in lines]
