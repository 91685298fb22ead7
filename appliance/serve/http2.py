"""HTTP/2 for one connection, spoken to an ASGI application (RFC 9113).

hypercorn's H2Protocol is the frame: it starts the connection, has h2 make events of what arrives,
and ends it where h2 objects. Its streams, buffers and priorities are replaced. There, a connection
that still gets data for a request already answered ends with a KeyError, a request that nobody
reads stops all the others, and nothing is counted that only costs.

*Three kinds of tasks* work on a connection. One reads, and never waits for a request: what arrives
is kept where it belongs, within the windows (see `http2_wire`). One writes, and gives every request
that has something to send its turn, so that one without a window costs the others nothing. And each
request has one in which the application runs (see `http2_stream`). They meet in plain attributes:
between two awaits nothing else happens.

*Nothing grows without bound.* Reading waits while more replies are queued than the client takes;
writing is watched by the stream's own deadline. A client that resets its request does not cancel
the application, which learns of it when it next receives or sends; so what counts against the limit
is requests still worked on, not only streams still open.

*The end.* Asked to stop, we say GOAWAY, and the connection lasts until its last request does.
Where the client may still be sending, our side is ended first and what comes is dropped for a
while: a connection closed over unread data is reset, and the client might lose its answer.
"""

from collections import deque
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, cast

import structlog
import trio
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RequestReceived,
    StreamEnded,
    StreamReset,
)
from h2.exceptions import StreamClosedError
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Event as TransportEvent
from hypercorn.events import RawData
from hypercorn.protocol.h2 import H2Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from appliance.serve.connection import ASGIApplication, Endpoints, Timeouts
from appliance.serve.heads import RefusalError
from appliance.serve.http2_stream import Request
from appliance.serve.http2_wire import STREAMS_MAX, Buffer, Wire
from appliance.serve.sockets import GONE, SocketStream

if TYPE_CHECKING:
    from hypercorn.typing import ASGIFramework

_READ_SIZE = 256 << 10
_SLICE_SIZE = 16 << 10  # handed to h2 at once: a thousand tiny frames, or most of a large one
_SLICE_SECONDS = 0.01  # after which others get their turn
_WRITE_SIZE = 256 << 10
_TURN_SIZE = 64 << 10  # what one request may send while others wait
_REPLIES_MAX = 64 << 10
_LINGER_SECONDS = 2.0

_log = structlog.get_logger()


class Http2Connection(H2Protocol):
    """One connection, from its first request to its last."""

    def __init__(
        self,
        stream: SocketStream,
        application: ASGIApplication,
        endpoints: Endpoints,
        timeouts: Timeouts,
    ) -> None:
        super().__init__(
            ASGIWrapper(cast("ASGIFramework", application)),
            Config(),
            WorkerContext(None),
            TaskGroup(),
            ConnectionState({}),
            endpoints.secure,
            endpoints.client,
            endpoints.server,
            self._fail,
        )
        self.stream = stream
        self.endpoints = endpoints
        self.timeouts = timeouts
        self.wire = self.connection = Wire()
        self.requests: dict[int, Request] = {}
        """Those the application works on, by stream."""
        self.stopping = False
        self._application = application
        self._queue: deque[Request] = deque()
        self._news = trio.Event()
        self._relief = trio.lowlevel.ParkingLot()
        self._patience = trio.CancelScope()
        self._idle_at = self._head_at = inf
        self._frames_seen = 0
        self._lingering = False

    async def serve(self) -> None:
        """Answer requests until either side has had enough; the stream is left open."""
        if self.closed:
            await trio.lowlevel.checkpoint()
            return
        async with self.task_group:
            await self.initiate()
            with suppress(*GONE):
                await self._read()
            self._lose()
            if self._lingering:
                await self.stream.drop_arriving(_LINGER_SECONDS)

    def stop(self) -> None:
        """End with the requests under way, or now if there are none."""
        if self.stopping or self.closed:
            return
        self.stopping = True
        self.wire.go_away(ErrorCodes.NO_ERROR)
        self._wake()
        if not self.requests:
            self._lose()

    # -- reading

    async def _read(self) -> None:
        """Receive until nothing more is to be expected, or wanted."""
        self._idle_at = trio.current_time() + self.timeouts.idle
        while not self.closed:
            # The scope holds the waiting alone: what came with the deadline is to be answered.
            with trio.CancelScope() as self._patience:
                self._set_deadline()
                data = await self.stream.receive_some(_READ_SIZE)
            if self._patience.cancelled_caught:
                break
            if not data:
                return
            await self._digest(data)
        if not self.closed:
            self._lingering = self.wire.head_begun
            self.wire.go_away(ErrorCodes.NO_ERROR)

    async def _digest(self, data: bytes) -> None:
        since = trio.current_time()
        for offset in range(0, len(data), _SLICE_SIZE):
            await self.handle(RawData(data[offset : offset + _SLICE_SIZE]))
            while self.wire.queued > _REPLIES_MAX and not self.closed:
                await self._relief.park()
            if self.closed:
                return
            if trio.current_time() - since > _SLICE_SECONDS:
                await trio.lowlevel.checkpoint()
                since = trio.current_time()

    def _set_deadline(self) -> None:
        frames = self.wire.frames_received
        if not self.wire.head_begun:
            self._head_at = inf
        elif self._head_at == inf or frames != self._frames_seen:
            self._head_at = trio.current_time() + self.timeouts.head
        self._frames_seen = frames
        self._patience.deadline = min(self._head_at, self._idle_at)

    async def _handle_events(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, RequestReceived):
                self._begin(event)
            elif isinstance(event, ConnectionTerminated):
                self.stopping = True
                if not self.requests:
                    self._lose()
            elif isinstance(event, (DataReceived, StreamEnded, StreamReset)):
                request = self.requests.get(event.stream_id)
                if request is None:
                    continue
                if isinstance(event, DataReceived):
                    content = event.data
                    request.feed(content, event.flow_controlled_length - len(content))
                elif isinstance(event, StreamEnded):
                    request.end()
                else:
                    request.lose()
        await self._flush()

    def _begin(self, event: RequestReceived) -> None:
        stream_id = event.stream_id
        if (
            self.stopping
            or self.wire.open_inbound_streams > STREAMS_MAX
            or len(self.requests) >= 2 * STREAMS_MAX
        ):
            with suppress(StreamClosedError):  # the client may have reset it in the same breath
                self.wire.reset_stream(stream_id, ErrorCodes.REFUSED_STREAM)
            return
        request = Request(
            self.wire,
            stream_id,
            event.headers,
            stall_seconds=self.timeouts.stall,
            queue=self._queue.append,
            wake=self._wake,
        )
        self.requests[stream_id] = request
        self._idle_at = inf
        self.task_group.spawn(self._answer, stream_id, request)

    async def _answer(self, stream_id: int, request: Request) -> None:
        """Have the application answer."""
        try:
            scope = request.scope(self.endpoints)
            await self._application(scope, request.receive, request.send)
        except RefusalError as error:
            with suppress(ConnectionError):
                await request.refuse(error)
        except ConnectionError:
            pass
        except Exception:  # noqa: BLE001  one request must never end another
            _log.exception("application failed")
        await request.finish()
        del self.requests[stream_id]
        if self.requests or self.closed:
            return
        if self.stopping:
            self._lingering = True
            self._lose()
        else:
            self._idle_at = trio.current_time() + self.timeouts.idle
            self._set_deadline()

    # -- writing

    async def _flush(self) -> None:
        self._wake()

    def _wake(self) -> None:
        self._news.set()

    async def send_task(self) -> None:
        """Write what is queued, until nothing more will be."""
        try:
            while True:
                self._news = trio.Event()
                batch = self._batch()
                self._relief.unpark_all()
                if batch:
                    await self.stream.send_all(batch)
                elif self.closed:
                    break
                else:
                    await self._news.wait()
            if self._lingering:
                await self.stream.send_eof()
        except GONE:
            self._lose()

    def _batch(self) -> bytes:
        """Collect what can be sent now: replies and heads, then content, turn by turn."""
        pieces: list[Buffer] = [self.wire.data_to_send()]
        room, idle = _WRITE_SIZE, 0
        while room > 0 and idle < len(self._queue):
            request = self._queue.popleft()
            frames = request.take(min(room, _TURN_SIZE))
            if request.queued:
                self._queue.append(request)
            room -= sum(map(len, frames))
            idle = 0 if frames else idle + request.queued
            pieces += frames
        return b"".join(pieces)

    # -- the end

    async def _fail(self, event: TransportEvent) -> None:
        """Take note that h2 has given up; the GOAWAY is queued."""
        del event
        self._lingering = True
        self._lose()

    def _lose(self) -> None:
        """Let everybody know that the connection is over."""
        self.closed = True
        for request in self.requests.values():
            request.lose()
        self._patience.cancel()
        self._relief.unpark_all()
        self._wake()
