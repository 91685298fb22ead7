"""A connected socket as a trio stream that no peer can hold for ever.

Three things set these streams apart from trio's own `SocketStream`.

*Deadlines.* A caller may shield its `send_all` from cancellation, so a deadline
round the call would not help: it lives here. Each time a send has to wait, the peer gets
`stall_seconds` to take something. "Something" cannot be read off the socket becoming writable:
Linux reports that only once a third of the send buffer is free, and that buffer grows to
megabytes, so an honest client on a slow line would look dead for minutes. What counts is the
kernel's queue of bytes not yet acknowledged (SIOCOUTQ): if that shrank by some kilobytes, the peer
is alive and gets another period; a byte now and then is no life, but a way to hold connections for
nothing. A peer that takes nothing is reset, not closed: behind a close the kernel would go
on holding, for minutes, the very megabytes that the peer refuses to take. Receiving has no
deadline; how long a connection may idle is for the protocol above to say.

*Aborting.* `abort()` closes at once from any task of the loop. Whoever waits on the stream is
woken with `trio.ClosedResourceError`, shielded or not. A task may also have been woken by its
socket, but not have run yet, when another one closes the stream, and by the time it runs the
number of the descriptor may belong to a new connection: hence `_require_open` before every
operation, not once per call.

*Two waiters in one direction.* trio lets one task at a time wait for a descriptor to become
readable, and one for writable. Plain sockets need no more, but TLS may want to read in order to
write, and the reverse (see `tls`). A second task parks behind the first and is woken with it.

*Lending.* Bodies move in worker threads, at whole cores' speed, while the loop serves others. For
each turn the stream is lent to one thread, which alone may touch it until it returns: neither
OpenSSL's state nor the descriptor is safe to share. So a stream that is aborted while it is lent
is only shut down, which the thread notices at once, and closed when the thread has let go of it.
The thread uses `try_read_into` and `try_write`, and waits on the socket itself, but briefly; for
longer waits it returns, and the loop waits with the deadline above.

Subclasses say how bytes move: `_read`, `try_read_into`, `try_write` and `_end` try once, without
waiting, and return `Want` when the socket is not ready. All the waiting, guarding and closing is
here.
"""

import array
import fcntl
import operator
import socket
import struct
import termios
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import Enum, auto
from typing import Self, TypeVar

import trio

RECEIVE_SIZE = 64 * 1024
"""How much one `receive_some` brings when the caller does not say."""

_SLICE_SIZE = 256 * 1024
"""The most handed over in one go: a peer that takes gigabytes without pausing must not keep the
loop to itself, nor may cancelling have to wait until it has them all."""

_TAKEN_MIN = 4096
"""Bytes that a peer must take within each period it is waited for."""

_DROPPED_MAX = 64 << 20

GONE = (trio.BrokenResourceError, trio.ClosedResourceError)
"""What a stream raises when nobody is at its other end any more."""

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER, on, for no time at all."""

_T = TypeVar("_T")


class Want(Enum):
    """What the socket must become before an operation can go on."""

    READ = auto()
    WRITE = auto()


class SocketStream(trio.abc.HalfCloseableStream):
    """What plain and TLS streams share; see the top of this file.

    Takes over a connected socket of the standard library, and puts it into non-blocking mode.
    """

    def __init__(self, sock: socket.socket, *, stall_seconds: float) -> None:
        sock.setblocking(False)
        if sock.family in {socket.AF_INET, socket.AF_INET6}:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = sock
        self._stall_seconds = stall_seconds
        self._closed = False
        self._lent = False
        self._eof_sent = False
        self._fault: str | None = None
        self._sending = _Exclusive("another task is sending on this stream")
        self._receiving = _Exclusive("another task is receiving from this stream")
        self._readable = _Direction(trio.lowlevel.wait_readable)
        self._writable = _Direction(trio.lowlevel.wait_writable)

    @abstractmethod
    def _read(self, max_bytes: int) -> bytes | Want:
        """Take what is there, up to `max_bytes`; nothing means that the peer has ended."""

    @abstractmethod
    def try_read_into(self, buffer: memoryview) -> int | Want:
        """Take what is there, up to the buffer's size; 0 means that the peer has ended."""

    @abstractmethod
    def try_write(self, data: memoryview) -> int | Want:
        """Hand over some of `data`; a retry after `Want` brings the same data."""

    def _holds_data(self) -> bool:
        """Tell whether there is something to read that the socket knows nothing of."""
        return False

    @abstractmethod
    def _end(self) -> Want | None:
        """Tell the peer that nothing more will come."""

    def _farewell(self) -> None:
        """Say what can be said without waiting, just before the socket is closed."""

    def cut_short(self) -> None:
        """Note that a write or an end, begun but not finished, will not be retried."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Give what has arrived, waiting if that is nothing; b"" when the peer has ended.

        Raises trio.BrokenResourceError once the connection failed.
        """
        if max_bytes is None:
            max_bytes = RECEIVE_SIZE
        elif operator.index(max_bytes) < 1:
            raise ValueError("max_bytes must be at least 1")
        with self._receiving:
            return await self._drive(lambda: self._read(max_bytes), self._wait)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send everything; raises trio.BrokenResourceError when the peer is gone or stalls.

        A stall closes the connection.
        """
        with self._sending, memoryview(data) as whole:
            self._require_open()
            if self._eof_sent:
                raise trio.ClosedResourceError("nothing can be sent after the end")
            if not whole:
                await trio.lowlevel.checkpoint()
            sent = 0
            while sent < len(whole):
                with whole[sent : sent + _SLICE_SIZE] as part:
                    sent += await self._drive(lambda: self.try_write(part), self._wait_to_send)

    async def receive_next(self) -> bytes:
        """Give what arrives next, as `receive_some` does; for when nothing is likely to be there.

        To wait first, and try then, saves an attempt that would be in vain.
        """
        if self._holds_data():
            return await self.receive_some()
        with self._receiving:
            outcome: bytes | Want = Want.READ
            while isinstance(outcome, Want):
                await self._wait(outcome)
                self._require_open()
                outcome = self._read(RECEIVE_SIZE)
            return outcome

    def send_at_once(self, data: bytes) -> int:
        """Hand over what is taken without waiting; return how much, and `send_all` the rest."""
        with self._sending:
            self._require_open()
            if self._eof_sent:
                raise trio.ClosedResourceError("nothing can be sent after the end")
            outcome = self.try_write(memoryview(data))
            return 0 if isinstance(outcome, Want) else outcome

    def has_arrived(self) -> bool:
        """Tell whether the peer has sent something, or its end, that nobody has received yet."""
        try:
            self.socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError as error:
            return not isinstance(error, BlockingIOError)
        return True

    async def lend(
        self, run: Callable[[Callable[[], _T]], Awaitable[_T]], turn: Callable[[], _T]
    ) -> _T:
        """Have `run` call `turn` in a worker thread, which has the stream to itself meanwhile.

        Whatever happens, the thread is waited for: let it take a fraction of a second.
        """
        with self._sending, self._receiving:
            self._require_open()
            self._lent = True
            try:
                return await run(turn)
            finally:
                self._lent = False
                if self._closed:
                    self._release()

    async def wait_to_write(self, want: Want) -> None:
        """Wait between two turns for what `try_write` wanted.

        Raises trio.BrokenResourceError when the peer stalls, after which the stream is closed.
        """
        with self._sending:
            await self._wait_to_send(want)
            self._require_open()

    async def wait_to_read(self, want: Want) -> None:
        """Wait between two turns for what `try_read_into` wanted; there is no deadline."""
        with self._receiving:
            await self._wait(want)
            self._require_open()

    async def wait_send_all_might_not_block(self) -> None:
        """Return once the socket takes bytes; no deadline, as nothing is under way."""
        with self._sending:
            await trio.lowlevel.checkpoint()
            self._require_open()
            await self._wait(Want.WRITE)
            self._require_open()

    async def send_eof(self) -> None:
        """Tell the peer that nothing more will come; receiving goes on."""
        with self._sending:
            if self._eof_sent:
                await trio.lowlevel.checkpoint()
                return
            await self._drive(self._end, self._wait_to_send)
            self._eof_sent = True

    async def aclose(self) -> None:
        """Close as `close` does, with a checkpoint, as trio's streams are closed."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Close in good order, as far as that needs no waiting."""
        if not self._closed:
            self._closed = True
            # In the midst of a send the peer must see a broken stream, not a good-bye.
            if self._fault is None and not self._eof_sent and not self._sending.held:
                self._farewell()
            self._release()

    async def drop_arriving(self, seconds: float) -> None:
        """Receive and drop what the peer still sends, up to its end, so long and no longer.

        A connection closed over unread data is reset, and the peer might lose what it was sent.
        """
        dropped = 0
        with trio.move_on_after(seconds), suppress(*GONE):
            while dropped < _DROPPED_MAX and (piece := await self.receive_some()):
                dropped += len(piece)

    def abort(self) -> None:
        """Reset the connection now; what the peer has not yet taken is dropped.

        Every task that waits on the stream gets trio.ClosedResourceError.
        """
        self._closed = True
        self._release(reset=True)

    async def _drive(
        self, attempt: Callable[[], _T | Want], wait: Callable[[Want], Awaitable[None]]
    ) -> _T:
        """Try, wait, and try again; a checkpoint whether or not there was anything to wait for."""
        await trio.lowlevel.checkpoint_if_cancelled()
        waited = False
        while True:
            self._require_open()
            outcome = attempt()
            if not isinstance(outcome, Want):
                break
            await wait(outcome)
            waited = True
        if not waited:
            await trio.lowlevel.cancel_shielded_checkpoint()
        return outcome

    async def _wait(self, want: Want) -> None:
        direction = self._readable if want is Want.READ else self._writable
        # If the stream was closed meanwhile, `_require_open` knows why.
        with suppress(trio.ClosedResourceError):
            await direction.ready(self.socket)

    async def _wait_to_send(self, want: Want) -> None:
        queued = self._queued()
        try:
            while True:
                with trio.move_on_after(self._stall_seconds) as patience:
                    await self._wait(want)
                if not patience.cancelled_caught:
                    return
                self._require_open()
                left = self._queued()
                if queued - left < max(1, min(queued, _TAKEN_MIN)):
                    break
                queued = left
        except BaseException:
            self.cut_short()
            raise
        error = self._broken(f"the peer took nothing for {self._stall_seconds:g} seconds")
        self._release(reset=True)
        raise error

    def _queued(self) -> int:
        """Bytes sent that the peer has not acknowledged."""
        count = array.array("i", [0])
        with suppress(OSError):
            fcntl.ioctl(self.socket, termios.TIOCOUTQ, count)
        return count[0]

    def _require_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this stream was closed on our side")
        if self._fault is not None:
            raise trio.BrokenResourceError(self._fault)

    def _broken(self, fault: str) -> trio.BrokenResourceError:
        """Make the error to raise; from now on every operation raises its like."""
        self._fault = fault
        return trio.BrokenResourceError(fault)

    def _release(self, *, reset: bool = False) -> None:
        if self.socket.fileno() == -1:
            return
        if reset:
            with suppress(OSError):
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        if self._lent:
            with suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)
            return
        trio.lowlevel.notify_closing(self.socket)
        self.socket.close()


class _Exclusive:
    """Held by one task; a second one is told so instead of being made to wait."""

    __slots__ = ("_complaint", "held")

    def __init__(self, complaint: str) -> None:
        self._complaint = complaint
        self.held = False

    def __enter__(self) -> Self:
        if self.held:
            raise trio.BusyResourceError(self._complaint)
        self.held = True
        return self

    def __exit__(self, *_: object) -> None:
        self.held = False


class _Direction:
    """Waiting for a socket to become ready one way, for any number of tasks."""

    __slots__ = ("_behind", "_taken", "_wait")

    def __init__(self, wait: Callable[[socket.socket], Awaitable[None]]) -> None:
        self._wait = wait
        self._taken = False
        self._behind = trio.lowlevel.ParkingLot()

    async def ready(self, sock: socket.socket) -> None:
        """Return when it may be worth trying again, which is no promise that it is."""
        if self._taken:
            await self._behind.park()
            return
        self._taken = True
        try:
            await self._wait(sock)
        finally:
            # Also when this task was cancelled: one of the others must take over.
            self._taken = False
            self._behind.unpark_all()
