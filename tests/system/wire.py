"""The distribution API spoken by hand: requests as a client sends them, or as none should."""

import base64
import hashlib
import http.client
import json
import socket
import ssl
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tests.system.images import Layout

_MANIFESTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)

Body = bytes | Iterable[bytes]


def digest_of(data: bytes) -> str:
    """The sha256 digest of some bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Answer(NamedTuple):
    """What came back."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> Any:
        """Read the body as JSON."""
        return json.loads(self.body)

    def location(self) -> str:
        """Where to go on, as a request target."""
        parts = urlsplit(self.headers["Location"])
        return f"{parts.path}?{parts.query}" if parts.query else parts.path

    def expect(self, status: int) -> "Answer":
        """Insist on a status; the answer itself."""
        assert self.status == status, f"{self.status} instead of {status}: {self.body[:1000]!r}"
        return self


class Client:
    """Somebody who talks to one registry; every request makes its own connection, as docker's do."""

    def __init__(self, address: str, *, ca: Path | None, login: str | None) -> None:
        self.address = address
        self.login = login
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._context = None if ca is None else ssl.create_default_context(cafile=ca)

    def authorization(self) -> dict[str, str]:
        """The header that says who asks."""
        if self.login is None:
            return {}
        return {"Authorization": "Basic " + base64.b64encode(self.login.encode()).decode()}

    def connection(self, *, within: float = 30) -> http.client.HTTPConnection:
        """One connection for several requests; the caller closes it."""
        if self._context is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=within)
        return http.client.HTTPSConnection(
            self._host, self._port, timeout=within, context=self._context
        )

    def connect(self, *, within: float = 30) -> socket.socket:
        """A bare connection, behind TLS when the registry wants it; the caller closes it."""
        plain = socket.create_connection((self._host, self._port), timeout=within)
        if self._context is None:
            return plain
        return self._context.wrap_socket(plain, server_hostname=self._host)

    def head(self, method: str, target: str, headers: Mapping[str, str] | None = None) -> bytes:
        """A request's head as bytes, with who asks, for sending by hand."""
        lines = {"Host": self.address} | self.authorization() | dict(headers or {})
        fields = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return f"{method} {target} HTTP/1.1\r\n{fields}\r\n".encode()

    def request(
        self,
        method: str,
        target: str,
        body: Body | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        within: float = 30,
    ) -> Answer:
        """One request on a connection of its own; an iterable body is sent in chunked coding."""
        connection = self.connection(within=within)
        try:
            connection.request(
                method,
                target,
                body,
                self.authorization() | dict(headers or {}),
                encode_chunked=body is not None and not isinstance(body, bytes),
            )
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def start_upload(self, repository: str) -> str:
        """Open an upload session; where its first chunk goes."""
        return self.request("POST", f"/v2/{repository}/blobs/uploads/").expect(202).location()

    def send_chunk(self, session: str, offset: int, data: bytes) -> str:
        """Append one chunk; where the next goes."""
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Range": f"{offset}-{offset + len(data) - 1}",
        }
        return self.request("PATCH", session, data, headers).expect(202).location()

    def finish_upload(self, session: str, digest: str, data: bytes = b"") -> Answer:
        """Ask that the upload become a blob."""
        return self.request("PUT", finished(session, digest), data)

    def push_blob(self, repository: str, data: bytes) -> str:
        """Push one blob the way docker does: POST, one streamed PATCH, an empty PUT."""
        digest = digest_of(data)
        session = self.start_upload(repository)
        session = self.request("PATCH", session, [data] if data else []).expect(202).location()
        self.finish_upload(session, digest).expect(201)
        return digest

    def get_blob(self, repository: str, digest: str) -> Answer:
        """One blob, whole."""
        return self.request("GET", f"/v2/{repository}/blobs/{digest}")

    def put_manifest(self, repository: str, reference: str, data: bytes) -> Answer:
        """Push a manifest under the media type it names itself."""
        headers = {"Content-Type": json.loads(data)["mediaType"]}
        return self.request("PUT", f"/v2/{repository}/manifests/{reference}", data, headers)

    def get_manifest(self, repository: str, reference: str) -> Answer:
        """A manifest, whatever its type."""
        target = f"/v2/{repository}/manifests/{reference}"
        return self.request("GET", target, headers={"Accept": ", ".join(_MANIFESTS)})

    def push_layout(self, repository: str, tag: str, layout: Layout) -> str:
        """Push all that a layout holds under a tag; the digest the tag then means."""
        top = layout.top()
        manifest = layout.manifest(top)
        for image in manifest.get("manifests", []):
            self._push_image(repository, image["digest"], layout.read(image["digest"]), layout)
        self._push_image(repository, tag, layout.read(top), layout)
        return top

    def _push_image(self, repository: str, reference: str, data: bytes, layout: Layout) -> None:
        content = json.loads(data)
        for blob in [content["config"], *content["layers"]] if "layers" in content else []:
            self.push_blob(repository, layout.read(blob["digest"]))
        self.put_manifest(repository, reference, data).expect(201)

    def pull_image(self, repository: str, reference: str) -> dict[str, bytes]:
        """Everything an image consists of by digest, the manifest first, each part checked."""
        manifest = self.get_manifest(repository, reference).expect(200)
        digest = digest_of(manifest.body)
        assert manifest.headers["Docker-Content-Digest"] == digest
        parts = {digest: manifest.body}
        content = manifest.json()
        for child in content.get("manifests", []):
            parts |= self.pull_image(repository, child["digest"])
        for blob in [content["config"], *content["layers"]] if "layers" in content else []:
            data = self.get_blob(repository, blob["digest"]).expect(200).body
            assert (digest_of(data), len(data)) == (blob["digest"], blob["size"])
            parts[blob["digest"]] = data
        return parts


def finished(session: str, digest: str) -> str:
    """The target of the request that ends an upload."""
    return f"{session}{'&' if '?' in session else '?'}digest={digest}"


def read_answer(connection: socket.socket) -> Answer:
    """The answer to what was sent by hand."""
    response = http.client.HTTPResponse(connection)
    try:
        response.begin()
        return Answer(response.status, response.headers, response.read())
    finally:
        response.close()


def break_off(connection: socket.socket, *, reset: bool) -> None:
    """Leave without a farewell: by a reset, or by an end in the middle of TLS."""
    if reset:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
