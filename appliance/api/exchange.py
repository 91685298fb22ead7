"""One request and its answer over ASGI, with what every handler needs of both.

Every wait on the client for more of its body ends after `stall_seconds` in which hardly a byte
came; however long a body takes in all, it may, as long as it moves. One of more than `body_max`
bytes is refused, 0 standing for no limit.

An extension of the server's, where it has it, keeps the bytes of blobs out of here: see `drain`.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from functools import cached_property
from urllib.parse import parse_qsl

import trio

from appliance import work
from appliance.api.answering import Answering, ClientGoneError, Receive, Scope, Send
from appliance.oci.errors import (
    BODY_STALLED,
    BODY_TOO_LARGE,
    REQUEST_INVALID,
    SIZE_INVALID,
    ErrorRow,
    RegistryError,
)
from appliance.protocol.addresses import HOST
from appliance.protocol.pace import Pace
from appliance.protocol.routes import Route
from appliance.registry.access import NOBODY, SOMEBODY, Claim
from appliance.registry.ports import Sink

_PARAMETERS_MAX = 4096
_ANNOUNCING = {"1.0", "1.1"}
_NOTHING = [b"0"]
_GATHER = 1 << 20  # bytes handed to a thread at once: few hops, and still little memory


class Exchange(Answering):
    """A request, its answer, and what has been counted of both for the log."""

    route: Route | None = None
    """What is asked for, once that is known; for the logs."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        stall_seconds: float,
        body_max: int = 0,
    ) -> None:
        super().__init__(scope, receive, send)
        self._stall_seconds = stall_seconds
        self._body_max = body_max
        self.raw_path: bytes = scope["raw_path"]
        self.account = SOMEBODY if b"authorization" in self._fields else NOBODY
        """Who is asking; for the logs."""
        self.alleged = ""
        """Whose password was tried, where it was wrong."""
        self.received = 0
        """Bytes of the request's body so far."""
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

    @cached_property
    def claim(self) -> Claim:
        """What the request says about who sends it."""
        return Claim(
            self.headers(b"authorization"),
            self.client,
            self.origin,
            names=self._scope.get("registry.client_names", ()),
            by_browser=b"text/html" in b",".join(self.headers(b"accept")),
        )

    @property
    def origin(self) -> str:
        """How the client calls this registry, without a path; "" where its Host is no name."""
        host = self.header(b"host") or ""
        return f"{self._scope.get('scheme', 'http')}://{host}" if HOST.fullmatch(host) else ""

    def may_have(self, name: bytes) -> bool:
        """Tell at no cost that a parameter is not there; one that may be is to be looked for."""
        return name in self._scope["query_string"]

    @cached_property
    def query(self) -> Mapping[str, str]:
        """The parameters after the `?`; of a repeated one, the first. Raises REQUEST_INVALID."""
        return dict(reversed(self._parameters))

    def parameters(self, name: str) -> list[str]:
        """Return all values of a parameter, in order; raises REQUEST_INVALID."""
        return [value for key, value in self._parameters if key == name]

    @cached_property
    def _parameters(self) -> list[tuple[str, str]]:
        text: bytes = self._scope["query_string"]
        try:
            return parse_qsl(
                text.decode("ascii"),
                keep_blank_values=True,
                errors="strict",
                max_num_fields=_PARAMETERS_MAX,
            )
        except ValueError:
            raise REQUEST_INVALID.error("the query string is malformed") from None

    @property
    def may_bring_more(self) -> bool:
        """Tell whether anything of a body may still come."""
        return self._more_to_come

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

        extension = self._extensions.get("registry.request.drain")
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
