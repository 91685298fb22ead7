"""Bodies in worker threads: from a file to a connection, from a connection into a sink.

Encrypting and hashing at full speed on the loop would keep everybody else waiting, and one core
idle. A body moves in turns: the stream is lent to a thread, which works until the body is done, or
its turn is over, or the peer has been unwilling for a moment. Then the loop waits for the peer,
and the next turn begins. So no peer, however slow, holds a thread, and more bodies than threads
share them in the order in which they come.

The buffers belong to the turns and not to the bodies: five hundred stalled readers hold none. What
a stalled write had begun is read from the file again when it goes on, which OpenSSL allows as long
as the bytes are the same, and those of a blob are.
"""

import errno
import os
import select
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from queue import Empty, SimpleQueue

import trio

from appliance import work
from appliance.protocol.pace import Pace
from appliance.serve.bodies import BodyDecoder
from appliance.serve.plain import PlainStream
from appliance.serve.sockets import SocketStream, Want

Sink = Callable[[Sequence[memoryview]], None]

_BUFFER_SIZE = 256 << 10
_TURN_SECONDS = 0.1
_PATIENCE_MS = 2
"""How long a thread waits for the peer before it returns."""

_ENOUGH = 128 << 10
"""Bytes that are worth waking up for."""

_SENDFILE_MAX = 4 << 20
_TOGETHER_MAX = 64 << 10
"""Bodies up to this size leave with their heads, in one write, if the page cache has them."""


class _Buffers:
    """As many buffers as there were ever turns at one time."""

    def __init__(self) -> None:
        self._free: SimpleQueue[bytearray] = SimpleQueue()

    @contextmanager
    def one(self) -> Iterator[memoryview]:
        try:
            buffer = self._free.get_nowait()
        except Empty:
            buffer = bytearray(_BUFFER_SIZE)
        try:
            with memoryview(buffer) as view:
                yield view
        finally:
            self._free.put(buffer)


_buffers = _Buffers()


async def send_file(
    stream: SocketStream, head: bytes, descriptor: int, offset: int, count: int
) -> None:
    """Send a head and then `count` bytes of a file from `offset` on.

    Raises trio.BrokenResourceError when the peer is gone or takes nothing, and OSError when the
    file cannot be read or ends too early; the message is broken then, and the stream of no use.
    """
    if count <= _TOGETHER_MAX:
        content = _cached(descriptor, offset, count)
        if content is not None:
            await stream.send_all(head + content)
            return
    sending: _CopiedSending | _PlainSending
    if isinstance(stream, PlainStream):
        await stream.send_all(head)
        sending = _PlainSending(stream, descriptor, offset, count)
    else:
        sending = _CopiedSending(stream, head, descriptor, offset, count)
    try:
        while sending.left:
            want = await stream.lend(work.sending, sending.turn)
            if want is not None:
                await stream.wait_to_write(want)
    except BaseException:
        stream.cut_short()
        raise


def _cached(descriptor: int, offset: int, count: int) -> bytes | None:
    """Read from the page cache; None if the device would have to be asked."""
    content = bytearray(count)
    try:
        length = os.preadv(descriptor, [content], offset, os.RWF_NOWAIT)
    except OSError:
        return None  # not cached, or a file system that cannot tell: the thread will see
    return bytes(content) if length == count else None


class _CopiedSending:
    """A head and a part of a file on their way through a stream that encrypts."""

    def __init__(
        self, stream: SocketStream, head: bytes, descriptor: int, offset: int, count: int
    ) -> None:
        self._stream = stream
        self._head = head
        self._descriptor = descriptor
        self._offset = offset
        self._count = count

    @property
    def left(self) -> int:
        """Bytes still to be handed over."""
        return len(self._head) + self._count

    def turn(self) -> Want | None:
        """Send until nothing is left or the turn is over, or tell what the peer must do first."""
        end = time.monotonic() + _TURN_SECONDS
        with _buffers.one() as buffer:
            while self.left and time.monotonic() < end:
                part = buffer[: self._fill(buffer)]
                while isinstance(outcome := self._stream.try_write(part), Want):
                    if not _moves(self._stream, outcome):
                        return outcome
                of_head = min(outcome, len(self._head))
                self._head = self._head[of_head:]
                self._offset += outcome - of_head
                self._count -= outcome - of_head
        return None

    def _fill(self, buffer: memoryview) -> int:
        """Bring what comes next into the buffer; the same again until it has been sent."""
        start = len(self._head)
        end = min(len(buffer), self.left)
        buffer[:start] = self._head
        if start < end:
            length = os.preadv(self._descriptor, [buffer[start:end]], self._offset)
            if length < end - start:
                raise _too_short()
        return end


class _PlainSending:
    """A part of a file on its way through a bare socket, without passing through this process."""

    def __init__(self, stream: PlainStream, descriptor: int, offset: int, count: int) -> None:
        self._stream = stream
        self._descriptor = descriptor
        self._offset = offset
        self.left = count

    def turn(self) -> Want | None:
        """Send until nothing is left or the turn is over, or tell what the peer must do first."""
        end = time.monotonic() + _TURN_SECONDS
        while self.left and time.monotonic() < end:
            part = min(self.left, _SENDFILE_MAX)
            outcome = self._stream.try_send_file(self._descriptor, self._offset, part)
            if isinstance(outcome, Want):
                if not _moves(self._stream, outcome):
                    return outcome
            elif outcome:
                self._offset += outcome
                self.left -= outcome
            else:
                raise _too_short()
        return None


def _too_short() -> OSError:
    return OSError(errno.EIO, "the file is shorter than it was")


def _moves(stream: SocketStream, want: Want) -> bool:
    """Wait a moment for what the peer must do."""
    peer = select.poll()
    peer.register(stream.socket, select.POLLIN if want is Want.READ else select.POLLOUT)
    return bool(peer.poll(_PATIENCE_MS))


async def drain(
    stream: SocketStream,
    decoder: BodyDecoder,
    arrived: bytearray,
    sink: Sink,
    *,
    stall_seconds: float,
) -> None:
    """Hand the rest of a body to `sink`, piece by piece, in worker threads, one call at a time.

    The views are good during the call only. What has `arrived` comes first; what turns out not to
    belong to the body is there afterwards. Raises what the sink raises, EOFError when the peer
    ends too early, RefusalError for bad framing, TimeoutError when too little arrives in a period
    of `stall_seconds`, and trio.BrokenResourceError.
    """
    draining = _Draining(stream, decoder, arrived, sink)
    pace = Pace(stall_seconds, trio.current_time())
    while not decoder.finished:
        before = draining.taken
        want = await stream.lend(work.receiving, draining.turn)
        pace.count(draining.taken - before, trio.current_time())
        if trio.current_time() >= pace.deadline and not decoder.finished:
            raise TimeoutError
        if want is not None:
            with trio.move_on_at(pace.deadline) as patience:
                await stream.wait_to_read(want)
            if patience.cancelled_caught:
                raise TimeoutError


class _Draining:
    """A body on its way in, of which `taken` bytes have arrived here."""

    def __init__(
        self, stream: SocketStream, decoder: BodyDecoder, arrived: bytearray, sink: Sink
    ) -> None:
        self._stream = stream
        self._decoder = decoder
        self._arrived = arrived
        self._sink = sink
        self.taken = 0

    def turn(self) -> Want | None:
        """Receive until the body or the turn is over, or tell what the peer must do first."""
        end = time.monotonic() + _TURN_SECONDS
        if self._arrived:
            before = bytes(self._arrived)
            self._arrived.clear()
            self._take(memoryview(before))
        with _buffers.one() as buffer:
            while not self._decoder.finished and time.monotonic() < end:
                filled, want = self._fill(buffer, end)
                if filled:
                    self._take(buffer[:filled])
                if want is not None and not self._decoder.finished:
                    return want
        return None

    def _fill(self, buffer: memoryview, end: float) -> tuple[int, Want | None]:
        """Gather what comes at once, so that hashing and writing are done in large pieces."""
        filled = 0
        waited = False
        while filled < len(buffer):
            try:
                outcome = self._stream.try_read_into(buffer[filled:])
            except trio.BrokenResourceError:
                if filled:
                    break  # first what has arrived; the next attempt raises again
                raise
            if isinstance(outcome, Want):
                missing = self._decoder.missing_after(buffer[:filled])
                if waited or missing == 0 or time.monotonic() >= end:
                    return filled, outcome
                enough = min(missing or _ENOUGH, _ENOUGH, len(buffer) - filled)
                waited = not self._let_gather(enough)
            elif outcome:
                filled += outcome
            elif filled:
                break  # the end will be found again next time
            else:
                raise EOFError
        return filled, None

    def _let_gather(self, enough: int) -> bool:
        """Wait a moment for that many bytes: waking for each record would cost more than it."""
        sock = self._stream.socket
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, enough)
        try:
            return _moves(self._stream, Want.READ)
        finally:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)

    def _take(self, arrived: memoryview) -> None:
        self.taken += len(arrived)
        content, own = self._decoder.decode(arrived)
        self._arrived += arrived[own:]
        if content:
            self._sink(content)
