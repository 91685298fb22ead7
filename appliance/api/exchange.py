"""One request and its answer over ASGI, with what every handler needs of both.

Every wait on the client for more of its body ends after `stall_seconds` without a byte; however
long a body takes in all, it may, as long as it moves.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing, suppress
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import trio

from appliance.oci.errors import (
    BODY_STALLED,
    REQUEST_INVALID,
    SIZE_INVALID,
    STORE_UNAVAILABLE,
    ErrorRow,
    RegistryError,
)
from appliance.protocol.ranges import Span
from appliance.registry.ports import Region

Scope = Mapping[str, Any]
Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApplication = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Iterable[tuple[str, str]]

_CHUNK = 256 << 10
_PARAMETERS_MAX = 32
_LINGER_SECONDS = 10.0
_LINGER_MAX = 64 << 20
_ALWAYS = (
    (b"docker-distribution-api-version", b"registry/2.0"),
    (b"x-content-type-options", b"nosniff"),
    # What was pushed may look like a page; no browser is to run it under this address.
    (b"content-security-policy", b"default-src 'none'; sandbox"),
)


class ClientGoneError(Exception):
    """The client left before its request had arrived, or before it had its answer."""


class Exchange:
    """A request, its answer, and what has been counted of both for the log."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, *, stall_seconds: float) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._stall_seconds = stall_seconds
        self.method: str = scope["method"]
        self.raw_path: bytes = scope["raw_path"]
        self.account = ""
        """Who is asking, once the gate knows; for the log."""
        self.status: int | None = None
        """The status of the answer, once it has begun."""
        self.received = 0
        """Bytes of the request's body so far."""
        self.sent = 0
        """Bytes of the answer's body so far."""
        # Before HTTP/2 a body is announced (RFC 9112 6.3), so most requests need no look for one.
        self._more_to_come = scope["http_version"] not in {"1.0", "1.1"} or bool(
            self.headers(b"transfer-encoding") or self.header(b"content-length") not in {None, "0"}
        )

    @property
    def client(self) -> str:
        """The address the request came from, IPv4 in its own notation on any socket."""
        peer = self._scope.get("client")
        return peer[0].removeprefix("::ffff:") if peer else ""

    @property
    def is_head(self) -> bool:
        """Tell whether only the head of an answer is wanted."""
        return self.method == "HEAD"

    @cached_property
    def query(self) -> Mapping[str, str]:
        """The parameters after the `?`; of a repeated one, the first. Raises REQUEST_INVALID."""
        text: bytes = self._scope["query_string"]
        try:
            pairs = parse_qsl(
                text.decode("ascii"),
                keep_blank_values=True,
                errors="strict",
                max_num_fields=_PARAMETERS_MAX,
            )
        except ValueError:
            raise REQUEST_INVALID.error("the query string is malformed") from None
        return dict(reversed(pairs))

    def headers(self, name: bytes) -> list[bytes]:
        """Return all headers of that lower-case name."""
        return [value for key, value in self._scope["headers"] if key == name]

    def header(self, name: bytes) -> str | None:
        """Return the first header of that lower-case name."""
        found = self.headers(name)
        return found[0].decode("latin-1") if found else None

    @property
    def content_length(self) -> int | None:
        """How many bytes of body the client announced, if it did; raises SIZE_INVALID."""
        text = self.header(b"content-length")
        if text is None:
            return None
        if not (text.isascii() and text.isdigit() and len(text) < 19):
            raise SIZE_INVALID.error("Content-Length is not a number of bytes")
        return int(text)

    def check_framing(self) -> None:
        """Refuse a body of two lengths, which two readers could end in two places (RFC 9112 6.3)."""
        if self.headers(b"content-length") and self.headers(b"transfer-encoding"):
            raise REQUEST_INVALID.error(
                "Content-Length and Transfer-Encoding exclude each other",
                headers=(("Connection", "close"),),
            )

    async def body(self) -> AsyncGenerator[bytes, None]:
        """Yield the body as it comes.

        Raises BODY_STALLED when nothing comes for too long, ClientGoneError when nothing will.
        """
        while self._more_to_come:
            with trio.move_on_after(self._stall_seconds) as deadline:
                message = await self._receive()
            if deadline.cancelled_caught:
                raise BODY_STALLED.error(
                    f"no byte of the body arrived for {self._stall_seconds:g} seconds"
                )
            if message["type"] == "http.disconnect":
                self._more_to_come = False
                raise ClientGoneError
            piece = message.get("body", b"")
            self._more_to_come = message.get("more_body", False)
            if piece:
                self.received += len(piece)
                yield piece

    async def read(self, limit: int, row: ErrorRow) -> bytes:
        """Return the whole body; raises an error of that row as soon as it exceeds the limit."""
        excess = f"at most {limit} bytes are accepted"
        if (self.content_length or 0) > limit:
            raise row.error(excess)
        content = bytearray()
        async with aclosing(self.body()) as body:
            async for piece in body:
                content += piece
                if len(content) > limit:
                    raise row.error(excess)
        return bytes(content)

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
        """Send a document as JSON, as `application/json` unless the headers name another type."""
        headers = tuple(headers)
        if not any(name == "Content-Type" for name, _ in headers):
            headers = (*headers, ("Content-Type", "application/json"))
        await self.answer(status, headers, msgspec.json.encode(document))

    async def answer_region(
        self, status: int, headers: Headers, region: Region, span: Span
    ) -> None:
        """Send part of a blob, piece by piece; raises ClientGoneError once nobody listens."""
        await self._start(status, (*headers, ("Content-Length", str(span.length))))
        failure: RegistryError | None = None
        gone = False

        async def watch() -> None:
            nonlocal gone
            while (await self._receive())["type"] != "http.disconnect":
                pass
            gone = True
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            try:
                await self._send_region(region, span)
            except RegistryError as error:
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if gone and self.sent < span.length:
            raise ClientGoneError

    async def _send_region(self, region: Region, span: Span) -> None:
        offset, end = span.offset, span.offset + span.length
        while offset < end:
            piece = await region.read(offset, min(_CHUNK, end - offset))
            if not piece:
                raise STORE_UNAVAILABLE.error("a blob's file is shorter than its record says")
            offset += len(piece)
            await self._send_body(piece, more=offset < end)
        if not span.length:
            await self._send_body(b"", more=False)

    async def _start(self, status: int, headers: Headers) -> None:
        encoded = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
        self.status = status
        await self._send(
            {"type": "http.response.start", "status": status, "headers": [*_ALWAYS, *encoded]}
        )

    async def _send_body(self, piece: bytes, *, more: bool) -> None:
        if not more and self._more_to_come:
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})
            await self._linger()
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})
        else:
            await self._send({"type": "http.response.body", "body": piece, "more_body": more})
        self.sent += len(piece)

    async def _linger(self) -> None:
        """Read and drop what the client still sends after its answer, for a while.

        The answer is on its way in full. Were the connection closed upon it, a client in the
        midst of sending would see a broken connection and never read why.
        """
        dropped = 0
        with trio.move_on_after(_LINGER_SECONDS), suppress(ClientGoneError, RegistryError):
            async with aclosing(self.body()) as rest:
                async for piece in rest:
                    dropped += len(piece)
                    if dropped > _LINGER_MAX:
                        break
