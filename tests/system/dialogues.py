"""Clients on the wire: what they send byte for byte, and what they check of what comes back.

Each family of clients has habits its documentation does not tell of: how often it connects, which
headers it sends in which spelling, whether it announces a body's length. `http.client` would settle
all that its own way, so requests are written here by hand and only answers are read by the library.
An answer is read from what its connection brings and from nothing else, so that a byte too many
spoils the next one, as it would for a client.
"""

import base64
import gzip
import io
import json
import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from http.client import HTTPResponse
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import urlsplit

from tests.system.daemon import Daemon
from tests.system.wire import Answer, digest_of

IMAGE = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
BYTES = "application/octet-stream"
EMPTY = "application/vnd.oci.empty.v1+json"

API_VERSION = "Docker-Distribution-Api-Version"
NO_ACCOUNT = ":"
"""What containers/image logs in with when it has no account: neither name nor password."""

Headers = Mapping[str, str | Sequence[str]]
Body = bytes | Iterable[bytes]

_CHALLENGE = re.compile(r'Basic realm="((?:[^"\\]|\\.)*)"', re.IGNORECASE)
_PROGRESS = re.compile(r"0-(\d+)", re.ASCII)
_WITH_BODY = {"POST", "PUT", "PATCH"}


class _Incoming(io.BufferedReader):
    """What one connection brings, for one answer after the other."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(socket.SocketIO(connection, "r"))
        self.continued = False

    def readline(self, size: int | None = -1, /) -> bytes:
        """Read a line, and note one that `HTTPResponse` passes over in silence."""
        line = super().readline(size)
        self.continued |= line.startswith(b"HTTP/1.1 100 ")
        return line

    def makefile(self, _mode: str) -> Self:
        """What `HTTPResponse` asks of a socket, and closes at the end of an answer."""
        return self

    def close(self) -> None:
        """Stay open: the connection is not over with its first answer."""


class Speaker:
    """A client with the habits of one family; `keeps` says whether connections are used again."""

    def __init__(self, registry: Daemon, agent: str, *, keeps: bool) -> None:
        self._client = registry.client(login=None)
        self._agent = agent
        self._keeps = keeps
        self._authorization: str | None = None
        self._connection: socket.socket | None = None
        self._incoming: _Incoming | None = None
        self.connections = 0
        """How many connections it has made so far."""
        self.was_given_leave = False
        """Whether the last answer was preceded by leave to send the body."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.hang_up()

    @property
    def address(self) -> str:
        """The registry's host and port."""
        return self._client.address

    def enter(self, login: str | None) -> None:
        """From now on send a name and a password, or none."""
        self._authorization = (
            None if login is None else "Basic " + base64.b64encode(login.encode()).decode()
        )

    def hang_up(self) -> None:
        """End the connection, whatever is on it; the next request makes another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = self._incoming = None

    def send(
        self, method: str, target: str, headers: Headers | None = None, body: Body | None = None
    ) -> None:
        """Send a request; a body whose pieces are given goes in chunked coding."""
        connection, _ = self._connected()
        given = dict(headers or {})
        lines: dict[str, str | Sequence[str]] = {"Host": self.address, "User-Agent": self._agent}
        if isinstance(body, bytes):
            given.setdefault("Content-Length", str(len(body)))
        elif body is None and method in _WITH_BODY:
            given.setdefault("Content-Length", "0")
        elif body is not None and "Content-Length" not in given:
            given["Transfer-Encoding"] = "chunked"
        if self._authorization is not None:
            given.setdefault("Authorization", self._authorization)
        if not self._keeps:
            given["Connection"] = "close"
        # Go asks for this by itself wherever it would decode without telling.
        if method != "HEAD" and "Range" not in given:
            given.setdefault("Accept-Encoding", "gzip")
        lines |= given
        fields = [
            f"{name}: {value}\r\n"
            for name, values in lines.items()
            for value in ([values] if isinstance(values, str) else values)
        ]
        head = f"{method} {target} HTTP/1.1\r\n{''.join(fields)}\r\n".encode()
        if body is None or isinstance(body, bytes):
            connection.sendall(head + (body or b""))
            return
        connection.sendall(head)
        chunked = "Transfer-Encoding" in lines
        for piece in body:
            if chunked:
                connection.sendall(b"".join((b"%x\r\n" % len(piece), piece, b"\r\n")))
            else:
                connection.sendall(piece)
        if chunked:
            connection.sendall(b"0\r\n\r\n")

    def read(self, method: str) -> Answer:
        """Read the answer to what was sent, whole; the connection then goes on, or must end."""
        response = self._begun(method)
        answer = Answer(response.status, response.headers, response.read())
        if not self._keeps:
            assert response.will_close, "told that the connection ends, the server keeps it"
            assert self._connected()[1].read(1) == b"", "more than an answer came"
            self.hang_up()
        elif response.will_close:
            self.hang_up()
        return answer

    def ask(
        self, method: str, target: str, headers: Headers | None = None, body: Body | None = None
    ) -> Answer:
        """Send a request and read its answer."""
        self.send(method, target, headers, body)
        return self.read(method)

    def sample(self, target: str, headers: Headers, size: int) -> Answer:
        """Ask for something, read no more than so many bytes of it and break off."""
        self.send("GET", target, headers)
        response = self._begun("GET")
        answer = Answer(response.status, response.headers, response.read(size))
        self.hang_up()
        return answer

    def ask_leave(self, method: str, target: str, size: int, headers: Headers) -> None:
        """Send the head of a request, and its body only if told to."""
        asking = {"Content-Length": str(size), "Expect": "100-continue"}
        self.send(method, target, {**headers, **asking}, iter(()))

    def wait_for_leave(self) -> None:
        """Be told to send the body."""
        incoming = self._connected()[1]
        assert incoming.readline() == b"HTTP/1.1 100 Continue\r\n"
        while incoming.readline() != b"\r\n":
            pass

    def pour(self, data: bytes) -> None:
        """Send a body by itself."""
        self._connected()[0].sendall(data)

    def _begun(self, method: str) -> HTTPResponse:
        incoming = self._connected()[1]
        incoming.continued = False
        response = HTTPResponse(cast("socket.socket", incoming), method=method)
        response.begin()
        self.was_given_leave = incoming.continued
        return response

    def _connected(self) -> tuple[socket.socket, _Incoming]:
        if self._connection is None or self._incoming is None:
            self._connection = self._client.connect()
            self._incoming = _Incoming(self._connection)
            self.connections += 1
        return self._connection, self._incoming


# -- what clients read out of answers


def only_json(answer: Answer) -> Any:
    """Read a body as a strict decoder does: one document, nothing after it, nothing odd in it."""

    def odd(text: str) -> None:
        raise AssertionError(f"{text} is not JSON")

    # Lists and errors may come coded: Go asked for that, and decodes before anybody looks.
    coded = answer.headers["Content-Encoding"] == "gzip"
    return json.loads(gzip.decompress(answer.body) if coded else answer.body, parse_constant=odd)


def refusal(answer: Answer, status: int, code: str) -> str:
    """Insist on an error as clients can show it; its sentence."""
    answer.expect(status)
    assert answer.headers["Content-Type"] == "application/json"
    [error, *_] = only_json(answer)["errors"]
    assert error["code"] == code, error
    assert isinstance(error["message"], str)
    assert error["message"]
    return str(error["message"])


def challenge(answer: Answer) -> str:
    """Insist on being asked for a password and for nothing else; the realm."""
    answer.expect(401)
    schemes = answer.headers.get_all("WWW-Authenticate") or []
    [realm] = [found[1] for scheme in schemes if (found := _CHALLENGE.fullmatch(scheme))]
    assert not any("bearer" in scheme.lower() for scheme in schemes), "there are no tokens here"
    return realm


def unencoded(answer: Answer) -> Answer:
    """Insist on bytes as they are: a coded body has another length and other ranges."""
    assert answer.headers["Content-Encoding"] in {None, "identity"}
    return answer


def upload_location(speaker: Speaker, answer: Answer) -> str:
    """Where an upload goes on, as a request target; the place is never another host's."""
    parts = urlsplit(answer.headers["Location"])
    assert parts.path.startswith("/v2/")
    assert (parts.scheme, parts.netloc) in {("", ""), ("https", speaker.address)}
    return f"{parts.path}?{parts.query}" if parts.query else parts.path


def with_query(target: str, query: str) -> str:
    """A target with one parameter more."""
    return f"{target}{'&' if '?' in target else '?'}{query}"


def session_size(answer: Answer) -> int:
    """How far an upload has come, read as docker and regclient do: two numbers, no unit."""
    stated = answer.headers["Range"]
    found = _PROGRESS.fullmatch(stated)
    assert found, f"no client understands the range {stated!r}"
    return int(found[1]) + 1


def described(answer: Answer, media_type: str, digest: str, size: int) -> None:
    """Insist on the three headers that make a descriptor of a HEAD."""
    answer.expect(200)
    assert answer.headers["Content-Type"] == media_type
    assert answer.headers["Docker-Content-Digest"] == digest
    assert answer.headers["Content-Length"] == str(size)


# -- what is pushed


def image(*layers: bytes, config: bytes = b"{}", **more: Any) -> bytes:
    """A manifest over some blobs."""
    content = {
        "schemaVersion": 2,
        "mediaType": IMAGE,
        "config": descriptor(config, CONFIG),
        "layers": [descriptor(layer, LAYER) for layer in layers],
        **more,
    }
    return json.dumps(content).encode()


def descriptor(data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
    """What points at some bytes."""
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data), **more}
