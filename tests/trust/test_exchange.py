"""A peer that sends a byte now and then, which no timeout of a socket ends."""

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

import httpx2
import pytest
import trustme

from appliance.trust.authority import TrustError, is_trusted_already
from appliance.trust.exchange import NoAnswerError, exchange
from appliance.trust.peer import context_for
from appliance.trust.place import Place
from tests.certificates import server_pem

WITHIN = 0.2


def tls(peer: socket.socket, pem: Path | None) -> socket.socket:
    """Encrypt a connection, where there is a certificate for that."""
    if pem is None:
        return peer
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context.wrap_socket(peer, server_side=True)


@contextmanager
def dripping(head: bytes, pem: Path | None = None) -> Iterator[str]:
    """A server that sends this, and then a byte every tenth of a second for as long as one listens."""
    ended = Event()

    def drip(server: socket.socket) -> None:
        peer, _ = server.accept()
        with suppress(OSError), tls(peer, pem) as peer:
            peer.sendall(head)
            while not ended.wait(WITHIN / 2):
                peer.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = Thread(target=drip, args=(server,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            ended.set()
            thread.join()


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"]
)
def test_an_answer_that_drips_ends(tmp_path: Path, scheme: str, head: bytes) -> None:
    authority = trustme.CA()
    pem = server_pem(tmp_path, authority, "127.0.0.1") if scheme == "https" else None
    context = context_for(authority.cert_pem.bytes().decode())
    started = time.monotonic()
    with (
        dripping(head, pem) as address,
        httpx2.Client(verify=context, trust_env=False, timeout=WITHIN) as client,
        pytest.raises(NoAnswerError, match="comes too slowly"),
    ):
        exchange(client, "GET", f"{scheme}://{address}/", WITHIN, limit=1 << 20)
    assert time.monotonic() - started < 5


def test_a_handshake_that_drips_ends() -> None:
    record = b"\x16\x03\x03\x40\x00"  # the head of a long one
    with dripping(record) as address, pytest.raises(TrustError):
        is_trusted_already(Place.parse(address), WITHIN)
