"""One request over HTTP/2 and its response, spoken to an ASGI application.

The application pulls the body by `receive` and answers by `send`. What it has not yet taken of the
body is held here, and the client's window says how much that can be. Of the response one message
at most is held: `send` waits until the one before is on its way, so a client that opens no window
holds a chunk and a task, for a while, and nothing of anybody else's.

A response's head leaves with the first of its body. When the application has answered and returned
while the client is still sending, the stream is ended by a reset that says NO_ERROR: the answer
counts, and the rest need not be sent (RFC 9113, 8.1).
"""

import re
from collections.abc import Callable, Iterable
from http import HTTPStatus
from math import inf
from urllib.parse import unquote

import trio
from h2.errors import ErrorCodes

from appliance.protocol.pace import Pace
from appliance.serve.connection import (
    ASGI,
    DISCONNECT,
    WITHOUT_BODY,
    Endpoints,
    Fields,
    Message,
    Scope,
)
from appliance.serve.heads import (
    FIELDS_MAX,
    HEAD_MAX,
    RefusalError,
    date,
    malformed,
)
from appliance.serve.http2_wire import Buffer, Wire

_CONTINUE = [(b":status", b"100")]

_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TARGET = re.compile(rb"/[!\"$-~]*")  # what is visible, but for the fragment's mark
_FIELD_OVERHEAD = 32  # bytes that a field counts beside its own (RFC 9113, 6.5.2)


class Request:
    """A request from its head to the end of its response.

    The connection tells what the client does by `feed`, `end` and `lose`, and takes what is to be
    sent by `take`; `wake` is called when there is something.
    """

    __slots__ = (
        "_arrived",
        "_begun",
        "_bodiless",
        "_content",
        "_ended",
        "_expects_continue",
        "_final",
        "_finished",
        "_head",
        "_invited",
        "_missing",
        "_news",
        "_queue",
        "_queued",
        "_stall_seconds",
        "_start",
        "_stream_id",
        "_taken",
        "_told_end",
        "_wake",
        "_wire",
        "gone",
    )

    def __init__(
        self,
        wire: Wire,
        stream_id: int,
        head: Fields,
        *,
        stall_seconds: float,
        queue: "Callable[[Request], None]",
        wake: Callable[[], None],
    ) -> None:
        self.gone = False
        """Whether nothing can be sent any more."""
        self._wire = wire
        self._stream_id = stream_id
        self._head = head
        self._stall_seconds = stall_seconds
        self._queue = queue
        self._wake = wake
        self._news = trio.lowlevel.ParkingLot()
        self._arrived: list[bytes] = []
        self._expects_continue = self._invited = self._ended = self._told_end = False
        self._start: Message | None = None
        self._begun = self._bodiless = self._finished = False
        self._missing: float = inf  # bytes of the response's body that its head announced
        self._content = memoryview(b"")
        self._queued = self._final = False
        self._taken = 0

    # -- what the connection tells

    def feed(self, content: bytes, overhead: int) -> None:
        """Take a piece of the body; `overhead` is what its padding took from the window."""
        self._wire.give_back(self._stream_id, overhead)
        # What nobody will read stays counted, so that no more of it comes.
        if content and not self._finished and not self.gone:
            self._arrived.append(content)
            self._news.unpark_all()

    def end(self) -> None:
        """Take note that the body is complete."""
        self._ended = True
        self._news.unpark_all()

    def lose(self) -> None:
        """Take note that the stream is over; whoever waits for the client learns it now."""
        self.gone = True
        self._arrived.clear()
        self._content = memoryview(b"")
        self._queued = False
        self._news.unpark_all()

    def take(self, most: int) -> list[Buffer]:
        """Give what the windows let pass of what is to be sent, about `most` bytes, as frames."""
        if not self._queued:
            return []
        window = self._wire.local_flow_control_window(self._stream_id)
        size = min(len(self._content), window, most)
        if self._content and size <= 0:
            return []
        part, self._content = self._content[:size], self._content[size:]
        self._queued = bool(self._content)
        self._taken += size
        self._news.unpark_all()
        end = self._final and not self._queued
        return self._wire.data_frames(self._stream_id, part, end=end)

    @property
    def queued(self) -> bool:
        """Whether there is something to be sent."""
        return self._queued

    # -- what the application sees

    def scope(self, endpoints: Endpoints) -> Scope:
        """Make the ASGI scope; raises RefusalError for what cannot be served."""
        pseudo = {name: value for name, value in self._head if name.startswith(b":")}
        fields = [(name, value) for name, value in self._head if not name.startswith(b":")]
        self._bodiless = pseudo[b":method"] == b"HEAD"
        _check_size(self._head)
        method, target = pseudo[b":method"], pseudo.get(b":path", b"")
        if not _METHOD.fullmatch(method):
            raise malformed("the method is malformed")
        if not _TARGET.fullmatch(target) and (method, target) != (b"OPTIONS", b"*"):
            raise malformed("the target is not a path")
        if b":authority" in pseudo:
            host = (b"host", pseudo[b":authority"])
            fields = [host, *(field for field in fields if field[0] != b"host")]
        self._expects_continue = any(
            name == b"expect" and value.lower() == b"100-continue" for name, value in fields
        )
        raw_path, _, query = target.partition(b"?")
        return endpoints.describe(fields) | {
            "type": "http",
            "asgi": ASGI,
            "http_version": "2",
            "method": method.decode("ascii"),
            "path": unquote(raw_path),
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "extensions": {},
        }

    async def receive(self) -> Message:
        """Give the next piece of the body, or, after it, word that the client has left."""
        await trio.lowlevel.checkpoint()
        if not self._invited:
            self._invite()
        while not self.gone:
            if not self._told_end and (self._arrived or self._ended):
                return self._next_piece()
            if self._told_end and self._finished:
                break
            await self._news.park()
        return DISCONNECT

    async def send(self, message: Message) -> None:
        """Take a part of the response; raises ConnectionError when the client is gone."""
        match message["type"]:
            case "http.response.start":
                if self._start is not None:
                    raise RuntimeError("the response has started already")
                self._start = message
            case "http.response.body":
                content, more = message.get("body", b""), message.get("more_body", False)
                await self._send_content(content, more=more)
            case kind:
                raise RuntimeError(f"{kind} is not understood here")

    # -- how it ends

    async def refuse(self, error: RefusalError) -> None:
        """Answer in the application's place."""
        headers = [(b"content-type", b"application/json")]
        self._start = {"status": error.status.value, "headers": headers}
        await self._send_content(error.document, more=False)

    async def finish(self) -> None:
        """Bring the stream to its end, whatever the application left of it."""
        try:
            if not self._finished:
                self._require_client()
                if self._begun:
                    self.reset(ErrorCodes.INTERNAL_ERROR)
                else:
                    sentence = "internal error"
                    await self.refuse(RefusalError(HTTPStatus.INTERNAL_SERVER_ERROR, sentence))
            await self._on_its_way()
        except ConnectionError:
            return
        if not self._ended:
            self.reset(ErrorCodes.NO_ERROR)

    def reset(self, code: ErrorCodes) -> None:
        """End the stream at once."""
        self._wire.reset_stream(self._stream_id, code)
        self.lose()
        self._wake()

    def _invite(self) -> None:
        self._invited = True
        if self._ended or self.gone:
            return
        if self._expects_continue and not self._arrived and not self._begun:
            self._wire.send_headers(self._stream_id, _CONTINUE)
        self._wire.widen(self._stream_id)
        self._wake()

    def _next_piece(self) -> Message:
        content = self._arrived[0] if len(self._arrived) == 1 else b"".join(self._arrived)
        self._arrived.clear()
        self._told_end = self._ended
        self._wire.give_back(self._stream_id, len(content))
        self._wake()
        return {"type": "http.request", "body": content, "more_body": not self._told_end}

    async def _send_content(self, content: bytes, *, more: bool) -> None:
        self._require_client()
        if self._finished:
            raise RuntimeError("the response is over")
        await self._on_its_way()
        over = self._bodiless if self._begun else self._begin(content, more=more)
        if not self._bodiless:
            self._count(len(content), more=more)
        if not over and (content or not more):
            self._content, self._final, self._queued = memoryview(bytes(content)), not more, True
            self._queue(self)
        self._finished = not more
        self._wake()

    def _begin(self, content: bytes, *, more: bool) -> bool:
        """Queue the response's head; tell whether it is the whole response."""
        if self._start is None:
            raise RuntimeError("the response has not started")
        status: int = self._start["status"]
        fields = [(b":status", b"%d" % status), *self._start.get("headers", ())]
        announced = [int(value) for name, value in fields if name == b"content-length"]
        fields.append((b"date", date()))
        self._bodiless = self._bodiless or status in WITHOUT_BODY
        if announced:
            self._missing = announced[0]
        elif not more and not self._bodiless:
            self._missing = len(content)
            fields.append((b"content-length", b"%d" % self._missing))
        over = self._bodiless or not (content or more)
        self._wire.send_headers(self._stream_id, fields, end_stream=over)
        self._begun = True
        return over

    def _count(self, size: int, *, more: bool) -> None:
        self._missing -= size
        if self._missing < 0:
            raise RuntimeError("the response is longer than its Content-Length")
        if not more and 0 < self._missing < inf:
            raise RuntimeError("the response is shorter than its Content-Length")

    async def _on_its_way(self) -> None:
        """Wait until nothing is held here; raises ConnectionError if that is not to be."""
        if self._queued:
            await self._keep_watch()
        self._require_client()

    async def _keep_watch(self) -> None:
        """Wait likewise, and reset a stream whose client opens its window too slowly."""
        taken = self._taken
        pace = Pace(self._stall_seconds, trio.current_time())
        while self._queued:
            with trio.move_on_at(pace.deadline):
                await self._news.park()
            now = trio.current_time()
            pace.count(self._taken - taken, now)
            taken = self._taken
            if self._queued and now >= pace.deadline:
                if self._wire.local_flow_control_window(self._stream_id) <= 0:
                    self.reset(ErrorCodes.CANCEL)
                # With a window it is the connection that is slow, and watched by itself.
                pace = Pace(self._stall_seconds, now)

    def _require_client(self) -> None:
        if self.gone:
            raise ConnectionAbortedError("the client has left")


def _check_size(head: Iterable[tuple[bytes, bytes]]) -> None:
    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    sizes = [len(name) + len(value) + _FIELD_OVERHEAD for name, value in head]
    if sum(sizes) > HEAD_MAX:
        raise RefusalError(status, f"more than {HEAD_MAX} bytes of header")
    if len(sizes) > FIELDS_MAX:
        raise RefusalError(status, f"more than {FIELDS_MAX} header fields")
