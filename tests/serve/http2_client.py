"""An HTTP/2 client worked by hand, and an application for it to talk to."""

import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import trio
from h2.config import H2Configuration
from h2.connection import AllowedStreamIDs, ConnectionInputs, H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    InformationalResponseReceived,
    PingAckReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from h2.stream import StreamInputs
from hyperframe.frame import ContinuationFrame, Frame, GoAwayFrame, HeadersFrame

from appliance.serve.connection import Endpoints, Timeouts
from appliance.serve.http2 import Http2Connection
from appliance.serve.plain import PlainStream

if TYPE_CHECKING:
    import hashlib

Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

PATIENCE = 20
ENDPOINTS = Endpoints(client=("192.0.2.1", 9), server=("192.0.2.2", 443), secure=True, proxies=None)
GOOD = [(":method", "GET"), (":scheme", "https"), (":authority", "x"), (":path", "/")]
CHUNK = bytes(range(256)) * 256


class Application:
    """Does what the path says; remembers what was asked and how it went."""

    def __init__(self) -> None:
        self.scopes: list[Message] = []
        self.left: list[str] = []
        """Paths of requests that were told of the client's leaving."""
        self.go_on = trio.Event()
        self.running = 0
        self.failures = 0
        """How often it failed on purpose."""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        self.running += 1
        try:
            await self._answer(scope, receive, send)
        except ConnectionError:
            self.left.append(scope["path"])
            raise
        except RuntimeError:
            self.failures += 1
            raise
        finally:
            self.running -= 1

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> None:
        status, body = 200, b"hello"
        match scope["path"]:
            case "/fail":
                raise RuntimeError("before the answer")
            case "/silent":
                return
            case "/204" | "/304":
                status = int(scope["path"][1:])
            case "/read":
                body = b"%d" % await self._read(receive)
            case "/held":
                await self.go_on.wait()
            case "/held-read":
                await self.go_on.wait()
                body = b"%d" % await self._read(receive)
            case "/listen":
                await self._read(receive)
                assert (await receive())["type"] == "http.disconnect"
                raise ConnectionAbortedError
            case "/big":
                await self._big(int(scope["query_string"]), send)
                return
            case _:
                pass
        headers: list[tuple[bytes, bytes]] = []
        if scope["path"] == "/close":
            headers = [(b"connection", b"close")]
        if scope["path"] == "/long":
            headers = [(b"content-length", b"6")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        if scope["path"] == "/break":
            await send({"type": "http.response.body", "body": body, "more_body": True})
            raise RuntimeError("within the answer")
        await send({"type": "http.response.body", "body": b"" if status != 200 else body})

    async def _read(self, receive: Receive) -> int:
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionAbortedError
            size += len(message["body"])
            more = message["more_body"]
        return size

    async def _big(self, size: int, send: Send) -> None:
        length = b"%d" % size
        headers = [(b"content-length", length)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while size:
            piece = CHUNK[:size]
            size -= len(piece)
            await send({"type": "http.response.body", "body": piece, "more_body": size > 0})


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class _ClientWire(H2Connection):
    """h2's client, which sends what it is told to, and goes on after a GOAWAY as it should."""

    def put_head(self, stream_id: int, fields: list[tuple[str, str]], *, end: bool) -> None:
        stream = self._get_or_create_stream(stream_id, AllowedStreamIDs.ODD)
        self.state_machine.process_input(ConnectionInputs.SEND_HEADERS)
        stream.state_machine.process_input(StreamInputs.SEND_HEADERS)
        if end:
            stream.state_machine.process_input(StreamInputs.SEND_END_STREAM)
        stream.request_method = dict(fields).get(":method", "").encode()
        block = self.encoder.encode([(name.encode(), value.encode()) for name, value in fields])
        frames: list[Frame] = [HeadersFrame(stream_id, block[:16384])]
        frames += [
            ContinuationFrame(stream_id, block[offset : offset + 16384])
            for offset in range(16384, len(block), 16384)
        ]
        if end:
            frames[0].flags.add("END_STREAM")
        frames[-1].flags.add("END_HEADERS")
        self._prepare_for_sending(frames)

    def _receive_goaway_frame(self, frame: GoAwayFrame) -> tuple[list[Frame], list[Event]]:
        event = ConnectionTerminated()
        event.error_code = frame.error_code
        return [], [event]


class Client:
    """A connection from the client's side; nothing happens but by its methods."""

    def __init__(self, stream: trio.abc.Stream, *, window: int = 65535) -> None:
        self.stream = stream
        self.window = window
        self._sending = trio.Lock()
        self.h2 = _ClientWire(H2Configuration(header_encoding="utf-8"))
        self.stalled: set[int] = set()
        """Streams whose content is not acknowledged."""
        self.heads: dict[int, dict[str, str]] = {}
        self.bodies: dict[int, bytearray] = {}
        self.hashes: dict[int, hashlib._Hash] = {}
        """Where bodies go that are too large to be kept."""
        self.ended: set[int] = set()
        self.resets: dict[int, int] = {}
        self.informed: list[int] = []
        self.pongs = 0
        self.goodbye: int | None = None
        """The code of the server's GOAWAY."""

    async def start(self) -> None:
        """Send the preface, with a connection window that never matters."""
        self.h2.local_settings.initial_window_size = self.window
        self.h2.local_settings.acknowledge()
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(1 << 30)
        await self.flush()

    async def flush(self) -> None:
        if data := self.h2.data_to_send():
            await self.raw(data)

    async def request(
        self, path: str = "/", *, method: str = "GET", end: bool = True, **headers: str
    ) -> int:
        fields = [(":method", method), (":scheme", "https"), (":authority", "x"), (":path", path)]
        fields += [(name.replace("_", "-"), value) for name, value in headers.items()]
        return await self.head(fields, end=end)

    async def head(self, fields: list[tuple[str, str]], *, end: bool = True) -> int:
        stream_id = self.h2.get_next_available_stream_id()
        self.h2.put_head(stream_id, fields, end=end)
        await self.flush()
        return stream_id

    async def body(
        self, stream_id: int, content: bytes, *, end: bool = True, piece: int = 16384
    ) -> None:
        """Send content as the windows allow; returns early when the server resets the stream."""
        rest = memoryview(content)
        while rest and stream_id not in self.resets:
            size = min(self.h2.local_flow_control_window(stream_id), piece, len(rest))
            if size:
                self.h2.send_data(stream_id, bytes(rest[:size]), end and size == len(rest))
                rest = rest[size:]
                await self.flush()
            else:
                await self.read()
        if end and not content:
            self.h2.end_stream(stream_id)
            await self.flush()

    async def raw(self, *frames: bytes) -> None:
        """Send frames that h2 knows nothing of."""
        async with self._sending:
            await self.stream.send_all(b"".join(frames))

    async def read(self) -> bool:
        """Take what arrives next; False when the server has ended."""
        data = await self.stream.receive_some(1 << 20)
        for event in self.h2.receive_data(data):
            self._note(event)
        await self.flush()
        return bool(data)

    async def until(self, holds: Callable[[], bool], *, within: float = PATIENCE) -> None:
        with trio.fail_after(within):
            while not holds():
                assert await self.read(), "the server has left"

    async def until_closed(self) -> None:
        """Read to the end of the connection, however it comes."""
        with trio.fail_after(PATIENCE):
            try:
                while await self.read():
                    pass
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

    async def answer(self, stream_id: int) -> Answer:
        await self.until(lambda: stream_id in self.ended)
        head = self.heads[stream_id]
        return Answer(int(head[":status"]), head, bytes(self.bodies.get(stream_id, b"")))

    async def get(self, path: str = "/") -> Answer:
        return await self.answer(await self.request(path))

    def _note(self, event: Event) -> None:
        if isinstance(event, ResponseReceived):
            self.heads[event.stream_id] = {str(n): str(v) for n, v in event.headers}
        elif isinstance(event, InformationalResponseReceived):
            self.informed.append(event.stream_id)
        elif isinstance(event, DataReceived):
            if event.stream_id in self.hashes:
                self.hashes[event.stream_id].update(event.data)
            else:
                self.bodies.setdefault(event.stream_id, bytearray()).extend(event.data)
            if event.stream_id not in self.stalled and event.flow_controlled_length:
                size = event.flow_controlled_length
                self.h2.acknowledge_received_data(size, event.stream_id)
        elif isinstance(event, StreamEnded):
            self.ended.add(event.stream_id)
        elif isinstance(event, StreamReset):
            self.resets[event.stream_id] = int(event.error_code)
        elif isinstance(event, PingAckReceived):
            self.pongs += 1
        elif isinstance(event, ConnectionTerminated):
            self.goodbye = int(event.error_code or 0)


class Server(NamedTuple):
    connection: Http2Connection
    application: Application
    over: trio.Event
    """Set once `serve` has returned."""


@asynccontextmanager
async def serving(
    *,
    idle: float = 60,
    head: float = 60,
    stall: float = 60,
    window: int = 65535,
    start: bool = True,
) -> AsyncIterator[tuple[Client, Server]]:
    """Serve one connection over a pair of sockets; whatever is left of it is cut at the end."""
    theirs, ours = socket.socketpair()
    timeouts = Timeouts(handshake=10, idle=idle, head=head, stall=stall)
    stream = PlainStream(ours, stall_seconds=stall)
    application = Application()
    connection = Http2Connection(stream, application, ENDPOINTS, timeouts)
    over = trio.Event()

    async def serve() -> None:
        await connection.serve()
        stream.close()
        over.set()

    client = Client(PlainStream(theirs, stall_seconds=PATIENCE), window=window)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        if start:
            await client.start()
        try:
            yield client, Server(connection, application, over)
        finally:
            application.go_on.set()
            stream.abort()
            await client.stream.aclose()
        with trio.fail_after(PATIENCE):
            await over.wait()


def frame(kind: int, flags: int, stream_id: int, body: bytes = b"") -> bytes:
    """A frame as bytes, right or wrong."""
    head = struct.pack(">BHBBL", len(body) >> 16, len(body) & 0xFFFF, kind, flags, stream_id)
    return head + body
