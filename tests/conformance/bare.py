"""A request over a connection of its own, with what came back down to the last byte."""

import socket
import ssl
from urllib.parse import urlsplit

from tests.conformance.client import Registry

_TIMEOUT_SECONDS = 60


def spoken(registry: Registry, method: str, path: str) -> tuple[bytes, bytes]:
    """Ask over HTTP/1.1 until the other end hangs up: the head of the answer, and what follows it.

    Clients stop reading where an answer ought to end, and never see what comes after that.
    """
    url = urlsplit(registry.target.url)
    port = url.port or (443 if url.scheme == "https" else 80)
    lines = [f"{method} {path} HTTP/1.1", f"Host: {url.netloc}", "Accept: */*", "Connection: close"]
    if registry.login is not None:
        lines.append(f"Authorization: {registry.login}")
    asked = "\r\n".join([*lines, "", ""]).encode()
    with socket.create_connection((url.hostname or "", port), _TIMEOUT_SECONDS) as plain:
        if url.scheme == "http":
            said = _exchange(plain, asked)
        else:
            with _context(registry).wrap_socket(plain, server_hostname=url.hostname) as behind_tls:
                said = _exchange(behind_tls, asked)
    head, end, rest = said.partition(b"\r\n\r\n")
    assert end, f"{method} {path}: {said[:100]!r} is no answer"
    return head, rest


def _context(registry: Registry) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=registry.target.ca)
    if registry.target.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _exchange(connection: socket.socket, asked: bytes) -> bytes:
    connection.sendall(asked)
    said = b""
    while piece := connection.recv(1 << 16):
        said += piece
    return said
