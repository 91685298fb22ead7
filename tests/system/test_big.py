"""A blob of five gibibytes: in and out at constant memory, and committed as fast as a small one."""

import faulthandler
import hashlib
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.system import bulk, daemon, images
from tests.system.bulk import BLOCK, ENOUGH_SECONDS, FIVE_GIBIBYTES, MEBIBYTE
from tests.system.daemon import Daemon
from tests.system.wire import finished

_MEMORY_LIMIT = 150 * MEBIBYTE


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A registry of its own, for its memory is measured, with room for the blob."""
    folder = tmp_path_factory.mktemp("big")
    bulk.check_room(folder)
    with daemon.running(folder) as running:
        yield running


def chunked(pieces: Iterator[memoryview], seen: Any) -> Iterator[bytes]:
    """The pieces in chunked coding, hashed on their way."""
    for piece in pieces:
        seen.update(piece)
        yield b"".join((b"%X\r\n" % len(piece), piece, b"\r\n"))
    yield b"0\r\n\r\n"


def send(registry: Daemon, pieces: Iterator[memoryview]) -> tuple[str, float, float]:
    """Push a blob in one streamed chunk; its digest, the seconds of the chunk and of the commit."""
    faulthandler.cancel_dump_traceback_later()  # this may take longer than other tests do
    client = registry.client()
    session = client.start_upload("big/blob")
    seen = hashlib.sha256()
    connection = client.connection(within=ENOUGH_SECONDS)
    try:
        headers = client.authorization() | {"Transfer-Encoding": "chunked"}
        begun = time.monotonic()
        connection.putrequest("PATCH", session)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        for bytes_ in chunked(pieces, seen):
            connection.send(bytes_)
        response = connection.getresponse()
        assert response.status == 202, response.read()
        response.read()
        sent = time.monotonic()
        target = finished(response.headers["Location"], f"sha256:{seen.hexdigest()}")
        connection.request("PUT", target, headers=client.authorization())
        response = connection.getresponse()
        assert response.status == 201, response.read()
        response.read()
        done = time.monotonic()
    finally:
        connection.close()
    return f"sha256:{seen.hexdigest()}", sent - begun, done - sent


@pytest.fixture(scope="module")
def pushed(roomy: Daemon) -> tuple[str, float, float]:
    """The big blob, pushed."""
    return send(roomy, bulk.content(FIVE_GIBIBYTES))


def test_five_gibibytes_go_in_at_constant_memory(
    roomy: Daemon, pushed: tuple[str, float, float]
) -> None:
    digest, seconds, _ = pushed
    memory = roomy.peak_memory()
    print(f"\n5 GiB in: {seconds:.1f} s, {5 * 1024 / seconds:.0f} MiB/s,", end=" ")
    print(f"at most {memory / MEBIBYTE:.0f} MiB of memory")
    assert roomy.blob_path(digest).stat().st_size == FIVE_GIBIBYTES * BLOCK
    assert memory < _MEMORY_LIMIT


def test_the_last_request_of_an_upload_costs_the_same_for_any_size(
    roomy: Daemon, pushed: tuple[str, float, float]
) -> None:
    *_, big = pushed
    *_, small = send(roomy, iter([memoryview(images.noise(MEBIBYTE, "small"))]))
    print(f"\nfinal PUT: {small:.3f} s for 1 MiB, {big:.3f} s for 5 GiB")
    assert big < 5
    assert big < small + 2


def test_five_gibibytes_come_out_as_they_went_in_at_constant_memory(
    roomy: Daemon, pushed: tuple[str, float, float]
) -> None:
    faulthandler.cancel_dump_traceback_later()  # this may take longer than other tests do
    digest, *_ = pushed
    client = roomy.client()
    connection = client.connection(within=ENOUGH_SECONDS)
    try:
        begun = time.monotonic()
        connection.request("GET", f"/v2/big/blob/blobs/{digest}", headers=client.authorization())
        response = connection.getresponse()
        assert response.status == 200
        assert int(response.headers["Content-Length"]) == FIVE_GIBIBYTES * BLOCK
        assert bulk.receive(response) == (digest, FIVE_GIBIBYTES * BLOCK)
        seconds = time.monotonic() - begun
    finally:
        connection.close()
    memory = roomy.peak_memory()
    print(f"\n5 GiB out: {seconds:.1f} s, {5 * 1024 / seconds:.0f} MiB/s,", end=" ")
    print(f"at most {memory / MEBIBYTE:.0f} MiB of memory")
    assert memory < _MEMORY_LIMIT
