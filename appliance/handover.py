"""One daemon makes room for the next, and nobody who asks them notices.

    the one that leaves                              the one that comes
    1. makes no checkpoints any more
    2. starts the other one, with its sockets
       and its lock                             →    opens the data folder, as it is
    3.                                          ←    is ready
    4. ends its chores, keeps the upload
       sessions that are being written to       →    accepts connections, sweeps nothing
    5.                                          ←    serves
    6. accepts nothing more, tells systemd
       of the other one, finishes its           →    tells systemd of itself
       transfers
    7. tells its leases, ends                   →    adopts them, and is alone

They speak over a pair of sockets, a line of JSON for each thing they say. What either of them has
in hand ends with it, so that the other one notices by the end of what it hears: until 5 the one
that leaves goes on as if nothing had been. A session that a client goes on with at the other
daemon is asked for at any time from 4 on.

The new process forks once more and lets its parent go, so that it is systemd's child and not that
of a process which is about to end.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Self

import msgspec
import trio

from appliance import work
from appliance.inherited import Inherited
from appliance.registry.leases import Exported
from appliance.settings import SettingsError

VARIABLE = "REGISTRY_HANDOVER"
"""Where in its environment a new daemon finds what it inherits."""

_START_SECONDS = 60.0
_ANSWER_SECONDS = 20.0
_END_SECONDS = 10.0
_NOT_INHERITED = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "WATCHDOG_PID")


class HandoverError(Exception):
    """Why the other daemon does not come or go: a sentence, without its final stop."""


class Passed(msgspec.Struct, frozen=True):
    """The descriptors that a new daemon inherits."""

    channel: int
    lock: int
    control: int
    systemd: list[int]
    before: list[int]


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one daemon says to the other."""

    says: str
    """"ready", "refused", "yours", "serving", "main", "give up" or "leases"; what a later version
    says beside that is passed over."""
    pid: int = 0
    reason: str = ""
    session: str = ""
    leases: Exported | None = None


class Channel:
    """The line between two daemons; it ends when either of them does."""

    def __init__(self, sock: socket.socket) -> None:
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        self._arrived = bytearray()
        self._unexpected: list[Message] = []
        self._turn = trio.Lock()
        self._asked, self._wanted = trio.open_memory_channel[str](1000)

    async def say(self, message: Message) -> None:
        """Say something; raises HandoverError where nobody listens any more."""
        try:
            with trio.fail_after(_ANSWER_SECONDS):
                async with self._turn:
                    await self._stream.send_all(msgspec.json.encode(message) + b"\n")
        except trio.TooSlowError:
            raise HandoverError("the other daemon does not listen") from None
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise HandoverError("the other daemon has ended") from None

    def ask(self, session: str) -> None:
        """Have the other daemon asked to give up an upload session, soon."""
        with suppress(trio.WouldBlock, trio.BrokenResourceError):
            self._asked.send_nowait(session)

    async def pass_on_asking(self) -> None:
        """Say what `ask` was called for, for as long as it can be heard."""
        with suppress(HandoverError):
            async for session in self._wanted:
                await self.say(Message("give up", session=session))

    async def hear(self) -> AsyncIterator[Message]:
        """Hear what the other daemon says, until it ends."""
        for unexpected in self._unexpected:
            yield unexpected
        while (message := await self._next()) is not None:
            yield message

    async def expect(self, says: str) -> Message:
        """Wait for one thing to be said, in time; raises HandoverError where it is not."""
        with trio.move_on_after(_START_SECONDS if says == "ready" else _ANSWER_SECONDS):
            while (message := await self._next()) is not None:
                if message.says == "refused":
                    raise HandoverError(message.reason)
                if message.says == says:
                    return message
                self._unexpected.append(message)
            raise HandoverError("the other daemon has ended; its log tells why")
        raise HandoverError("the other daemon does not answer in time")

    async def close(self) -> None:
        """Hang up."""
        await self._stream.aclose()

    async def _next(self) -> Message | None:
        while (end := self._arrived.find(b"\n")) < 0:
            try:
                piece = await self._stream.receive_some()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return None
            if not piece:
                return None
            self._arrived += piece
        line = bytes(self._arrived[:end])
        del self._arrived[: end + 1]
        try:
            return msgspec.json.decode(line, type=Message)
        except msgspec.DecodeError:  # another version, with other words
            return Message("")


class Predecessor:
    """The daemon that has started this process in order to be followed by it."""

    def __init__(self, sock: socket.socket, passed: Passed) -> None:
        self._sock = sock
        self.lock = passed.lock
        self.control = socket.socket(fileno=passed.control)
        self.inherited = Inherited.from_descriptors(passed.systemd, passed.before)

    @classmethod
    def find(cls, environment: Mapping[str, str]) -> Self | None:
        """Take what was passed on to this process; None where it was started otherwise.

        This process is another one afterwards, its parent having ended: nothing must run in it yet.
        """
        text = environment.get(VARIABLE)
        if text is None:
            return None
        del os.environ[VARIABLE]
        passed = msgspec.json.decode(text, type=Passed)
        if os.fork():
            os._exit(0)
        for number in (passed.channel, passed.lock, passed.control):
            os.set_inheritable(number, False)
        return cls(socket.socket(fileno=passed.channel), passed)

    def refuse(self, faults: list[str]) -> None:
        """Tell it why this process cannot follow; it blocks, for a moment at most."""
        message = Message("refused", reason=" ".join(faults).removesuffix("."))
        self._sock.settimeout(1.0)
        with suppress(OSError):
            self._sock.sendall(msgspec.json.encode(message) + b"\n")

    async def take_over(self) -> Channel:
        """Say that this daemon is ready, and wait until the other one lets go.

        Raises SettingsError where it does not.
        """
        channel = Channel(self._sock)
        try:
            await channel.say(Message("ready", pid=os.getpid()))
            await channel.expect("yours")
        except HandoverError as error:
            raise SettingsError([f"the daemon before is not followed: {error}."]) from error
        return channel


async def start_successor(passed: Passed) -> None:
    """Start the next daemon, as this one was started; raises HandoverError."""
    if os.getpid() == 1:
        raise HandoverError("a container ends with its first process; start another one instead")
    environment = {
        name: value for name, value in os.environ.items() if name not in _NOT_INHERITED
    } | {VARIABLE: msgspec.json.encode(passed).decode()}
    descriptors = (passed.channel, passed.lock, passed.control, *passed.systemd, *passed.before)
    try:
        process = await work.disk(_spawn, environment, descriptors)
        status = await work.disk(process.wait, _START_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HandoverError(f"the next daemon cannot be started: {error}") from error
    if status:
        raise HandoverError(f"the next daemon has ended at once, with status {status}")


@asynccontextmanager
async def killed_unless_done(pid: int) -> AsyncIterator[None]:
    """Kill a daemon that is ready if it does not come to serve: it must not do so later, unnoticed.

    Raises HandoverError where it has ended already.
    """
    try:
        process = os.pidfd_open(pid)
    except OSError as error:
        raise HandoverError(f"the next daemon has ended: {error.strerror}") from error
    try:
        yield
    except BaseException:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, signal.SIGKILL)
        with trio.move_on_after(
            _END_SECONDS, shield=True
        ):  # what it has begun to write must be over
            await trio.lowlevel.wait_readable(process)
        raise
    finally:
        os.close(process)


def _spawn(environment: Mapping[str, str], descriptors: tuple[int, ...]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603  what runs here already
        [sys.executable, *sys.orig_argv[1:]],
        env=environment,
        pass_fds=descriptors,
        stdin=subprocess.DEVNULL,
    )
