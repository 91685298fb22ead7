"""HTTP/1.1 over one blocking TLS connection, with as little work on this side as possible."""

import re
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterable
from functools import cache
from urllib.parse import urlsplit

import msgspec

# Nothing measured here lets a client wait for so long; a server that does is at fault.
PATIENCE_SECONDS = 120

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_LOCATION = re.compile(rb"\r\nlocation: *([^\r]+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_LAST_CHUNK = b"\r\n0\r\n\r\n"
_LAST = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
_READ = 1 << 16
_BULK = 1 << 18
# Going to sleep after every record would cost more than reading it does.
_NAP_SECONDS = 0.01
_MEDIA_TYPES = (
    "application/vnd.docker.distribution.manifest.v2+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, "
    "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json"
)


class Target(msgspec.Struct, frozen=True):
    """Where a registry answers, whom its certificate is from, who asks, and from which address."""

    host: str
    port: int
    authority: str
    authorization: str = ""
    source: str = ""

    def request(self, method: str, path: str, *fields: str) -> bytes:
        """The head of a request."""
        lines = [
            f"{method} {path} HTTP/1.1",
            f"Host: {self.host}:{self.port}",
            "User-Agent: docker/20.10.24",
        ]
        if self.authorization:
            lines.append(f"Authorization: {self.authorization}")
        if "/manifests/" in path:
            lines.append(f"Accept: {_MEDIA_TYPES}")
        return "\r\n".join([*lines, *fields, "", ""]).encode()


class AnswerError(Exception):
    """An answer that no measurement can be made of."""


@cache
def _context(authority: str) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authority)


class Connection:
    """One connection to a registry; every new one makes a full handshake."""

    def __init__(self, target: Target, *, window: int | None = None) -> None:
        self.target = target
        self._window = window
        self.socket = self._open()

    def _open(self) -> ssl.SSLSocket:
        plain = socket.socket()
        if self._window is not None:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._window)
        # Deadlines of the kernel's: with Python's own every read would be preceded by a poll.
        patience = struct.pack("ll", PATIENCE_SECONDS, 0)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, patience)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.target.source:
            plain.bind((self.target.source, 0))
        plain.connect((self.target.host, self.target.port))
        return _context(self.target.authority).wrap_socket(plain, server_hostname=self.target.host)

    def close(self) -> None:
        """Hang up."""
        self.socket.close()

    def reopen(self) -> None:
        """Begin anew, as after an answer that was said to be the last."""
        self.close()
        self.socket = self._open()

    @property
    def cipher(self) -> str:
        """What was agreed upon."""
        suite = self.socket.cipher()
        return f"{self.socket.version()} {suite[0] if suite else 'without a cipher'}"

    def head(self, *statuses: int) -> tuple[bytes, bytes]:
        """The head of the answer, of a status that is wanted, and what came of the body with it."""
        data = b""
        while (end := data.find(b"\r\n\r\n")) < 0:
            if not (more := self.socket.recv(_READ)):
                raise AnswerError(f"the end instead of an answer, after {data!r}")
            data += more
        head = data[:end]
        if status_of(head) not in statuses:
            wanted = " or ".join(map(str, statuses))
            raise AnswerError(f"not {wanted} but {data[:1000].decode(errors='replace')}")
        return head, data[end + 4 :]

    def exchange(
        self, request: bytes, *, status: int = 200, or_else: int | None = None
    ) -> tuple[bytes, bytes]:
        """Ask for something small; the answer's head and body."""
        self.socket.sendall(request)
        statuses = (status,) if or_else is None else (status, or_else)
        return self.answer(*statuses, bodiless=request.startswith(b"HEAD "))

    def answer(self, *statuses: int, bodiless: bool = False) -> tuple[bytes, bytes]:
        """Read a small answer to its end; its head and its body."""
        head, body = self.head(*statuses)
        chunked = not bodiless and _CHUNKED.search(head) is not None
        length = 0 if bodiless or chunked else length_of(head)
        while len(body) < length or (chunked and not body.endswith(_LAST_CHUNK)):
            if not (more := self.socket.recv(_READ)):
                raise AnswerError(f"the end after {len(body)} bytes")
            body += more
        if _LAST.search(head):
            self.reopen()
        return head, body

    def download(
        self,
        request: bytes,
        size: int,
        *,
        status: int = 200,
        rate: float = 0,
        seen: Callable[[memoryview], object] | None = None,
    ) -> None:
        """Ask, and read a big answer to its end, at so many bytes a second at most."""
        buffer = memoryview(bytearray(_BULK))
        self.socket.sendall(request)
        head, body = self.head(status)
        if length_of(head) != size:
            raise AnswerError(f"{length_of(head)} bytes instead of {size}")
        if seen is not None:
            seen(memoryview(body))
        left = size - len(body)
        begun = time.monotonic()
        while left:
            if not (count := self.socket.recv_into(buffer)):
                raise AnswerError(f"the end, {left} bytes early")
            left -= count
            if rate:
                _keep_pace(begun, size - left, rate)
            if seen is not None:
                seen(buffer[:count])

    def upload(
        self, request: bytes, body: Iterable[memoryview | bytes], *, rate: float = 0
    ) -> None:
        """Send a request with a big body, at so many bytes a second at most."""
        self.socket.sendall(request)
        begun, sent = time.monotonic(), 0
        for piece in body:
            if not rate:
                self.socket.sendall(piece)
                continue
            for start in range(0, len(piece), _READ):
                self.socket.sendall(piece[start : start + _READ])
                sent += min(_READ, len(piece) - start)
                _keep_pace(begun, sent, rate)


def status_of(head: bytes) -> int:
    """What became of a request."""
    return int(head[9:12])


def length_of(head: bytes) -> int:
    """How long a body is that is not in chunks."""
    found = _LENGTH.search(head)
    if found is None:
        raise AnswerError(f"no Content-Length in {head!r}")
    return int(found[1])


def location_of(head: bytes) -> str:
    """Where to go on, as a request target."""
    found = _LOCATION.search(head)
    if found is None:
        raise AnswerError(f"no Location in {head!r}")
    parts = urlsplit(found[1].decode())
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


def _keep_pace(begun: float, done: int, rate: float) -> None:
    early = begun + done / rate - time.monotonic()
    if early > _NAP_SECONDS:
        time.sleep(early)
