"""The answering half of an exchange: heads, JSON, and parts of blobs, over ASGI.

An extension of the server's, where it has it, keeps the bytes of blobs out of here: see
`_send_file`.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from functools import lru_cache
from typing import Any

import msgspec
import trio

from appliance import work
from appliance.oci.errors import STORE_UNAVAILABLE, RegistryError
from appliance.protocol.codings import choose_coding, encode
from appliance.protocol.ranges import Span
from appliance.registry.ports import Region, SupportsFileno

Scope = Mapping[str, Any]
Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApplication = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Iterable[tuple[str, str]]

_CHUNK = 256 << 10
_CODED_MIN = 1 << 10  # bytes; what is smaller fits into one packet as it is
_CODED_AT_ONCE = 64 << 10  # bytes that may be compressed on the loop
_WARNINGS_MAX = 4096  # bytes of all warnings of an answer ("Warnings")
_ALWAYS = (
    (b"docker-distribution-api-version", b"registry/2.0"),
    (b"x-content-type-options", b"nosniff"),
    # What was pushed may look like a page; no browser is to run it under this address.
    (b"content-security-policy", b"default-src 'none'; sandbox"),
)


class ClientGoneError(Exception):
    """The client left before its request had arrived, or before it had its answer."""


class Answering:
    """What a request is answered with, and what has been counted of it for the log."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._extensions: Mapping[str, Any] = scope.get("extensions", {})
        self._fields: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            self._fields.setdefault(name, []).append(value)
        self._added: list[tuple[str, str]] = []
        self._warned = 0
        self.method: str = scope["method"]
        self.status: int | None = None
        """The status of the answer, once it has begun."""
        self.sent = 0
        """Bytes of the answer's body so far."""

    @property
    def is_head(self) -> bool:
        """Tell whether only the head of an answer is wanted."""
        return self.method == "HEAD"

    def headers(self, name: bytes) -> list[bytes]:
        """Return all headers of the request of that lower-case name."""
        return self._fields.get(name, [])

    def header(self, name: bytes) -> str | None:
        """Return the first header of the request of that lower-case name."""
        found = self._fields.get(name)
        return found[0].decode("latin-1") if found else None

    def add_header(self, name: str, value: str) -> None:
        """Have the answer carry one more header, whatever it will be."""
        self._added.append((name, value))

    def warn(self, sentence: str) -> None:
        """Tell the person behind the client something, unless the answer warns of enough already."""
        text = sentence.encode("ascii", "replace").decode()
        quoted = text.replace("\\", "\\\\").replace('"', '\\"')
        value = f'299 - "{quoted}"'
        if self._warned + len(value) <= _WARNINGS_MAX:
            self._warned += len(value)
            self.add_header("Warning", value)

    async def answer(
        self, status: int, headers: Headers = (), content: bytes = b"", size: int | None = None
    ) -> None:
        """Send a whole answer; `size` states the length of a body that HEAD leaves out."""
        length = len(content) if size is None else size
        if status != 204:
            headers = (*headers, ("Content-Length", str(length)))
        await self._start(status, headers)
        await self._send_body(b"" if self.is_head else content, more=False)

    async def answer_json(self, status: int, document: object, headers: Headers = ()) -> None:
        """Send a document as JSON, in a content coding where the client asked for one.

        It is `application/json` unless the headers name another type.
        """
        headers = tuple(headers)
        if not any(name == "Content-Type" for name, _ in headers):
            headers = (*headers, ("Content-Type", "application/json"))
        content = msgspec.json.encode(document)
        if len(content) >= _CODED_MIN:
            headers = (*headers, ("Vary", "Accept-Encoding"))
            asked = [value.decode("latin-1") for value in self.headers(b"accept-encoding")]
            coding = choose_coding(asked)
            if coding is not None:
                headers = (*headers, ("Content-Encoding", coding))
                if len(content) > _CODED_AT_ONCE:
                    content = await work.sending(encode, coding, content)
                else:
                    content = encode(coding, content)
        await self.answer(status, headers, content)

    async def begin_lines(self) -> None:
        """Begin an answer of lines of JSON, of which nobody knows yet how many there will be."""
        await self._start(200, (("Content-Type", "application/jsonl"),))

    async def send_line(self, document: object) -> None:
        """Send one of those lines; raises ClientGoneError once nobody listens."""
        await self._send_body(msgspec.json.encode(document) + b"\n", more=True)

    async def end_lines(self, document: object) -> None:
        """Send the last of those lines; raises ClientGoneError once nobody listens."""
        await self._send_body(msgspec.json.encode(document) + b"\n", more=False)

    async def until_gone(self) -> None:
        """Wait until the client has left."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def answer_region(
        self, status: int, headers: Headers, region: Region, *parts: Span | bytes
    ) -> None:
        """Send parts of a blob, and bytes between them; raises ClientGoneError once nobody listens."""
        length = sum(part.length if isinstance(part, Span) else len(part) for part in parts)
        await self._start(status, (*headers, ("Content-Length", str(length))))
        if not length:
            await self._send_body(b"", more=False)
        elif region.file is not None and "http.response.zerocopysend" in self._extensions:
            await self._send_file(region.file, parts, length)
        else:
            await self._send_watched(region, parts, length)

    async def _send_file(
        self, file: SupportsFileno, parts: Iterable[Span | bytes], length: int
    ) -> None:
        """Let the server send it, which needs no copy here and notices by itself who leaves."""
        for part in parts:
            if isinstance(part, bytes):
                await self._send_body(part, more=self.sent + len(part) < length)
                continue
            message = {
                "type": "http.response.zerocopysend",
                "file": file,
                "offset": part.offset,
                "count": part.length,
                "more_body": self.sent + part.length < length,
            }
            try:
                await self._send(message)
            except ConnectionError:
                raise ClientGoneError from None
            except OSError as error:
                raise STORE_UNAVAILABLE.error("a blob's file cannot be read") from error
            self.sent += part.length

    async def _send_watched(
        self, region: Region, parts: Iterable[Span | bytes], length: int
    ) -> None:
        """Send it piece by piece, while watching for a client that leaves."""
        failure: RegistryError | ClientGoneError | None = None
        gone = False

        async def watch() -> None:
            nonlocal gone
            await self.until_gone()
            gone = True
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            try:
                async with aclosing(_pieces(region, parts)) as pieces:
                    async for piece in pieces:
                        await self._send_body(piece, more=self.sent + len(piece) < length)
            except (RegistryError, ClientGoneError) as error:
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if gone and self.sent < length:
            raise ClientGoneError

    async def _start(self, status: int, headers: Headers) -> None:
        encoded = [
            (_remembered if len(field[1]) <= _REMEMBERED_MAX else _encoded)(field)
            for field in (*headers, *self._added)
        ]
        self.status = status
        await self._send(
            {"type": "http.response.start", "status": status, "headers": [*_ALWAYS, *encoded]}
        )

    async def _send_body(self, piece: bytes, *, more: bool) -> None:
        try:
            await self._send({"type": "http.response.body", "body": piece, "more_body": more})
        except ConnectionError:
            raise ClientGoneError from None
        self.sent += len(piece)


async def _pieces(region: Region, parts: Iterable[Span | bytes]) -> AsyncGenerator[bytes, None]:
    """Read the parts of a blob, a bounded piece at a time."""
    for part in parts:
        if isinstance(part, bytes):
            yield part
            continue
        offset, end = part.offset, part.offset + part.length
        while offset < end:
            piece = await region.read(offset, min(_CHUNK, end - offset))
            if not piece:
                raise STORE_UNAVAILABLE.error("a blob's file is shorter than its record says")
            offset += len(piece)
            yield piece


def _encoded(field: tuple[str, str]) -> tuple[bytes, bytes]:
    name, value = field
    return name.lower().encode(), value.encode("latin-1")


_remembered = lru_cache(maxsize=4096)(_encoded)
_REMEMBERED_MAX = 512
"""Characters of a header that is remembered; most answers repeat those of others."""
