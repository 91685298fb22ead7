"""One request of an HTTP/1.1 connection and its response (RFC 9112, ASGI 3.0).

A response's head waits for the first of its body, and both leave in one write. Bodies pass through
as they come, or, by the two extensions that `http1` tells of, move between socket and file without
passing through the application.
"""

from collections.abc import Awaitable
from contextlib import suppress
from http import HTTPStatus
from math import inf

import trio

from appliance.serve import pump
from appliance.serve.bodies import decoder_for
from appliance.serve.connection import (
    ASGI,
    DISCONNECT,
    WITHOUT_BODY,
    Endpoints,
    Message,
    Scope,
    Timeouts,
)
from appliance.serve.heads import (
    CONTINUE,
    HEAD_MAX,
    RefusalError,
    RequestHead,
    malformed,
    response_head,
)
from appliance.serve.sockets import GONE, SocketStream

_LINGER_SECONDS = 10.0
_JOIN_MAX = 64 << 10
_NOTHING_MORE = {"type": "http.request", "body": b"", "more_body": False}


class Channel:
    """What a connection has and its requests use."""

    def __init__(self, stream: SocketStream, endpoints: Endpoints, timeouts: Timeouts) -> None:
        self.stream = stream
        self.endpoints = endpoints
        self.timeouts = timeouts
        self.arrived = bytearray()
        """What has been received and belongs to no request yet."""
        self.stopping = False
        self.retiring = False
        """Whether the request under way is to be the last."""

    async def linger(self) -> None:
        """End our side, then drop what still arrives, for a while."""
        with trio.move_on_after(_LINGER_SECONDS), suppress(*GONE):
            await self.stream.send_eof()
            await self.stream.drop_arriving(_LINGER_SECONDS)


class Request:
    """One request and its response."""

    __slots__ = (
        "_channel",
        "_chunked",
        "_close",
        "_decoder",
        "_finished",
        "_head",
        "_invited",
        "_missing",
        "_refusal",
        "_start",
        "_started",
        "_told_end",
    )

    def __init__(self, channel: Channel, head: RequestHead) -> None:
        self._channel = channel
        self._head = head
        self._decoder = decoder_for(head)
        self._invited = not head.expects_continue
        self._told_end = False
        self._refusal: RefusalError | None = None
        self._start: Message | None = None
        self._started = self._finished = self._chunked = self._close = False
        self._missing: float = inf  # bytes of the response's body that its head announced

    def scope(self) -> Scope:
        """Make the ASGI scope."""
        head = self._head
        return self._channel.endpoints.describe(head.fields) | {
            "type": "http",
            "asgi": ASGI,
            "http_version": head.version,
            "method": head.method,
            "path": head.path,
            "raw_path": head.raw_path,
            "query_string": head.query,
            "root_path": "",
            "extensions": {
                "http.response.zerocopysend": {},
                "registry.request.drain": {"drain": self.drain},
            },
        }

    async def receive(self) -> Message:
        """Give the next piece of the body, or, after it, word that the client has left."""
        if self._decoder.finished:
            if not self._told_end:
                self._told_end = True
                return _NOTHING_MORE
            return await self._departure()
        try:
            await self._invite()
            content = await self._content()
        except RefusalError as error:
            self._refusal = error
            return DISCONNECT
        except GONE:
            return DISCONNECT
        if content is None:
            self._refusal = _cut_off()
            return DISCONNECT
        self._told_end = self._decoder.finished
        return {"type": "http.request", "body": content, "more_body": not self._told_end}

    async def drain(self, sink: pump.Sink) -> None:
        """Hand the whole body to a sink; see `http1`."""
        channel = self._channel
        try:
            await self._invite()
            await pump.drain(
                channel.stream,
                self._decoder,
                channel.arrived,
                sink,
                stall_seconds=channel.timeouts.stall,
            )
        except RefusalError as error:
            self._refusal = error
            raise ConnectionAbortedError(error.sentence) from error
        except EOFError as error:
            self._refusal = _cut_off()
            raise ConnectionAbortedError("the client has left") from error
        except GONE as error:
            raise ConnectionAbortedError("the client has left") from error
        self._told_end = True

    async def send(self, message: Message) -> None:
        """Take a part of the response; raises ConnectionError when the client is gone."""
        if self._finished:
            raise RuntimeError("the response has ended already")
        match message["type"]:
            case "http.response.start":
                if self._start is not None:
                    raise RuntimeError("the response has started already")
                self._start = message
            case "http.response.body":
                content, more = message.get("body", b""), message.get("more_body", False)
                await self._sending(self._send_content(content, more=more), more=more)
            case "http.response.zerocopysend":
                more = message.get("more_body", False)
                await self._sending(self._send_file(message, more=more), more=more)
            case kind:
                raise RuntimeError(f"{kind} is not understood here")

    async def end(self) -> bool:
        """Finish what the application left; tell whether the connection can be used again."""
        channel = self._channel
        if not self._finished:
            if self._started:
                channel.stream.abort()  # the client must not take half a body for a whole one
                return False
            if self._refusal is None:
                self._refusal = RefusalError(HTTPStatus.INTERNAL_SERVER_ERROR, "internal error")
            raise self._refusal
        if self._refusal is None and channel.arrived and not self._decoder.finished:
            with suppress(RefusalError):
                self._decode(bytes(channel.arrived))
        if not self._decoder.finished:
            await channel.linger()
            return False
        return not self._close

    async def _invite(self) -> None:
        if not self._invited:
            self._invited = True
            if not self._channel.arrived and self._start is None:
                await self._channel.stream.send_all(CONTINUE)

    async def _content(self) -> bytes | None:
        """Receive until there is content or the body is over; None when the client has left."""
        channel = self._channel
        while True:
            piece = bytes(channel.arrived) or await channel.stream.receive_some()
            if not piece:
                return None
            content = self._decode(piece)
            if content or self._decoder.finished:
                return content

    def _decode(self, piece: bytes) -> bytes:
        content, own = self._decoder.decode(memoryview(piece))
        self._channel.arrived[:] = piece[own:]
        return b"".join(content)

    async def _departure(self) -> Message:
        channel = self._channel
        with suppress(*GONE):
            while piece := await channel.stream.receive_some():
                channel.arrived += piece
                if len(channel.arrived) > HEAD_MAX:
                    await trio.sleep_forever()
        return DISCONNECT

    async def _sending(self, sending: Awaitable[None], *, more: bool) -> None:
        try:
            await sending
        except GONE as error:
            raise ConnectionAbortedError("the client has left") from error
        self._finished = not more

    async def _send_content(self, content: bytes, *, more: bool) -> None:
        stream = self._channel.stream
        head = b"" if self._started else self._begin(None if more else len(content))
        content = self._framed(content, more=more)
        if len(content) > _JOIN_MAX:
            if head:
                await stream.send_all(head)
            await stream.send_all(content)
        elif head or content:
            message = head + content
            # No checkpoint: there is one before the next request.
            sent = stream.send_at_once(message)
            if sent < len(message):
                await stream.send_all(message[sent:])

    async def _send_file(self, message: Message, *, more: bool) -> None:
        count = message["count"]
        head = b"" if self._started else self._begin(None if more else count)
        if self._chunked:
            raise RuntimeError("a file is sent with a Content-Length")
        self._count(count, more=more)
        stream = self._channel.stream
        if self._head.method == "HEAD":
            await stream.send_all(head)
        else:
            file = message["file"]
            await pump.send_file(stream, head, file.fileno(), message.get("offset", 0), count)

    def _begin(self, whole: int | None) -> bytes:
        """Write the response's head; `whole` is the size of a body that comes all at once."""
        if self._start is None:
            raise RuntimeError("the response has not started")
        status, fields = self._start["status"], self._start.get("headers", ())
        head, channel = self._head, self._channel
        announced = whole
        self._close = not head.keep_alive or channel.stopping or channel.retiring
        if not self._decoder.finished:
            arrived = memoryview(bytes(channel.arrived))
            self._close = self._close or self._decoder.missing_after(arrived) != 0
        extra = []
        for name, value in fields:
            if name == b"content-length":
                announced = int(value)
                whole = None
            elif name == b"connection":
                fields = [field for field in fields if field[0] != b"connection"]
                self._close = self._close or value.lower() == b"close"
        if status in WITHOUT_BODY:
            announced = 0
        elif whole is not None:
            extra.append(b"content-length: %d\r\n" % whole)
        elif announced is None and head.version == "1.1":
            self._chunked = True
            extra.append(b"transfer-encoding: chunked\r\n")
        elif announced is None:
            self._close = True
        if self._close:
            extra.append(b"connection: close\r\n")
        elif head.version == "1.0":
            extra.append(b"connection: keep-alive\r\n")
        self._missing = inf if announced is None else announced
        self._started = True
        return response_head(status, fields, *extra)

    def _framed(self, content: bytes, *, more: bool) -> bytes:
        """Give the content as it goes over the connection."""
        if self._head.method == "HEAD":
            return b""
        if self._chunked:
            chunk = b"%x\r\n%b\r\n" % (len(content), content) if content else b""
            return chunk if more else chunk + b"0\r\n\r\n"
        self._count(len(content), more=more)
        return content

    def _count(self, size: int, *, more: bool) -> None:
        self._missing -= size
        if self._missing < 0 or (not more and 0 < self._missing < inf):
            raise RuntimeError("the response is not as long as its Content-Length says")


def _cut_off() -> RefusalError:
    return malformed("the body ended before it was complete")
