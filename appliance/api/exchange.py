"""One request and its answer over ASGI, with what every handler needs of both.

Every wait on the client for more of its body ends after `stall_seconds` in which hardly a byte
came; however long a body takes in all, it may, as long as it moves. One of more than `body_max`
bytes is refused, 0 standing for no limit.

Two extensions of the server's, where it has them, keep the bytes of blobs out of here: see
`_send_file` and `drain`.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from functools import cached_property, lru_cache
from typing import Any
from urllib.parse import parse_qsl

import msgspec
import trio

from appliance import work
from appliance.oci.errors import (
    BODY_STALLED,
    BODY_TOO_LARGE,
    REQUEST_INVALID,
    SIZE_INVALID,
    STORE_UNAVAILABLE,
    ErrorRow,
    RegistryError,
)
from appliance.protocol.pace import Pace
from appliance.protocol.ranges import Span
from appliance.registry.ports import Region, Sink, SupportsFileno

Scope = Mapping[str, Any]
Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApplication = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Iterable[tuple[str, str]]

_CHUNK = 256 << 10
_PARAMETERS_MAX = 32
_ANNOUNCING = {"1.0", "1.1"}
_NOTHING = [b"0"]
_GATHER = 1 << 20  # bytes handed to a thread at once: few hops, and still little memory
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

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        stall_seconds: float,
        body_max: int = 0,
    ) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._stall_seconds = stall_seconds
        self._body_max = body_max
        self._fields: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            self._fields.setdefault(name, []).append(value)
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
        self._more_to_come = (
            scope["http_version"] not in _ANNOUNCING
            or b"transfer-encoding" in self._fields
            or self._fields.get(b"content-length", _NOTHING) != _NOTHING
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
        return self._fields.get(name, [])

    def header(self, name: bytes) -> str | None:
        """Return the first header of that lower-case name."""
        found = self._fields.get(name)
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

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Yield the body as it comes.

        Raises BODY_TOO_LARGE, BODY_STALLED when too little comes for too long, and ClientGoneError
        when nothing will.
        """
        pace = Pace(self._stall_seconds, trio.current_time())
        while self._more_to_come:
            with trio.move_on_at(pace.deadline) as deadline:
                message = await self._receive()
            if deadline.cancelled_caught:
                raise self._stalled()
            if message["type"] == "http.disconnect":
                self._more_to_come = False
                raise ClientGoneError
            piece = message.get("body", b"")
            self._more_to_come = message.get("more_body", False)
            if piece:
                now = trio.current_time()
                pace.count(len(piece), now)
                if self._more_to_come and now > pace.deadline:
                    raise self._stalled()
                self._count(len(piece))
                yield piece

    async def drain(self, sink: Sink) -> None:
        """Hand the whole body to `sink`, in order, by worker threads, one call at a time.

        Raises what `pieces` raises, and what the sink raises.
        """
        if not self._more_to_come:
            return

        if self._body_max and (self.content_length or 0) > self._body_max:
            raise self._too_large()

        def take(content: Sequence[bytes | memoryview]) -> None:
            self._count(sum(map(len, content)))
            sink(content)

        extension = self._scope.get("extensions", {}).get("registry.request.drain")
        if extension is None:
            await self._gather(sink)
            return
        try:
            await extension["drain"](take)
        except TimeoutError:
            raise self._stalled() from None
        except ConnectionError:
            raise ClientGoneError from None
        finally:
            self._more_to_come = False

    async def _gather(self, sink: Sink) -> None:
        """Let a thread have a piece at a time, neither tiny nor huge."""
        gathered: list[bytes] = []
        waiting = 0
        try:
            async with aclosing(self.pieces()) as pieces:
                async for piece in pieces:
                    gathered.append(piece)
                    waiting += len(piece)
                    if waiting >= _GATHER:
                        content, gathered, waiting = gathered, [], 0
                        await work.disk(sink, content)
        finally:
            if gathered:
                with trio.CancelScope(shield=True):  # one bounded write of what has been received
                    await work.disk(sink, gathered)

    def _count(self, size: int) -> None:
        self.received += size
        if self._body_max and self.received > self._body_max:
            raise self._too_large()

    def _too_large(self) -> RegistryError:
        return BODY_TOO_LARGE.error(
            f"this registry takes at most {self._body_max} bytes in one request;"
            " its operator sets that by limits.max_body"
        )

    def _stalled(self) -> RegistryError:
        return BODY_STALLED.error(
            f"hardly a byte of the body arrived for {self._stall_seconds:g} seconds"
        )

    async def read(self, limit: int, row: ErrorRow) -> bytes:
        """Return the whole body; raises an error of that row as soon as it exceeds the limit."""
        limit = min(limit, self._body_max or limit)
        excess = f"at most {limit} bytes are accepted"
        if (self.content_length or 0) > limit:
            raise row.error(excess)
        content = bytearray()
        async with aclosing(self.pieces()) as pieces:
            async for piece in pieces:
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
        """Send part of a blob; raises ClientGoneError once nobody listens."""
        await self._start(status, (*headers, ("Content-Length", str(span.length))))
        direct = "http.response.zerocopysend" in self._scope.get("extensions", {})
        if direct and region.file is not None and span.length:
            await self._send_file(region.file, span)
        else:
            await self._send_watched(region, span)

    async def _send_file(self, file: SupportsFileno, span: Span) -> None:
        """Let the server send it, which needs no copy here and notices by itself who leaves."""
        try:
            await self._send(
                {
                    "type": "http.response.zerocopysend",
                    "file": file,
                    "offset": span.offset,
                    "count": span.length,
                }
            )
        except ConnectionError:
            raise ClientGoneError from None
        except OSError as error:
            raise STORE_UNAVAILABLE.error("a blob's file cannot be read") from error
        self.sent += span.length

    async def _send_watched(self, region: Region, span: Span) -> None:
        """Send it piece by piece, while watching for a client that leaves."""
        failure: RegistryError | ClientGoneError | None = None
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
            except (RegistryError, ClientGoneError) as error:
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
        encoded = [
            (_remembered if len(field[1]) <= _REMEMBERED_MAX else _encoded)(field)
            for field in headers
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


def _encoded(field: tuple[str, str]) -> tuple[bytes, bytes]:
    name, value = field
    return name.lower().encode(), value.encode("latin-1")


_remembered = lru_cache(maxsize=4096)(_encoded)
_REMEMBERED_MAX = 512
"""Characters of a header that is remembered; most answers repeat those of others."""
