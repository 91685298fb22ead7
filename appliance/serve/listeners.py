"""Listening sockets, and every connection that comes of them.

hypercorn's TCPServer carries HTTP over our streams. An exception that it does not expect would end
its whole nursery and with it the server, so each connection is caught here, on its own. Stopping
is done in two steps, by whoever runs this: `close` accepts nothing more and lets idle connections
go, `abort` cuts what still runs.
"""

import errno
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import structlog
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Event, Updated
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from OpenSSL import SSL

from appliance.serve.sockets import PlainStream, SocketStream
from appliance.serve.tls import TLSStream

_BACKLOG = 1024  # docker opens a connection for every request, many at once
_HEAD_MAX = 32 << 10
# What accept(2) reports of a connection that failed before it was ours.
_PASSING = {errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN, errno.EHOSTUNREACH}

_log = structlog.get_logger()


def bind(host: str, port: int) -> list[socket.socket]:
    """Open the sockets for an address, `::` meaning every address; raises OSError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except UnicodeError:
        raise OSError(errno.EINVAL, "it is no host name") from None
    sockets: list[socket.socket] = []
    try:
        for family, _, _, _, address in found:
            sockets.append(_listen(family, address))
    except OSError as error:
        for sock in sockets:
            sock.close()
        if host == "::" and error.errno in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}:
            return [_listen(socket.AF_INET, ("0.0.0.0", port))]  # noqa: S104  the kernel has no IPv6
        raise
    return sockets


def _listen(family: int, address: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address[0] != "::")
        sock.bind(address)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


class TlsContext:
    """The context that new connections get; `current` is replaced when a certificate changes."""

    def __init__(self, current: SSL.Context) -> None:
        self.current = current


@dataclass(frozen=True, slots=True)
class Listening:
    """A listening socket, what answers on it, and whether through TLS."""

    sock: socket.socket
    application: Callable[..., Any]
    tls: TlsContext | None


class Connections:
    """All connections of the daemon, from accept to close."""

    def __init__(
        self, *, handshake_seconds: float, idle_seconds: float, stall_seconds: float
    ) -> None:
        self._config = Config()
        self._config.errorlog = None
        self._config.include_server_header = False
        self._config.h11_max_incomplete_size = _HEAD_MAX
        self._config.keep_alive_max_requests = 1 << 62
        self.limit(
            handshake_seconds=handshake_seconds,
            idle_seconds=idle_seconds,
            stall_seconds=stall_seconds,
        )
        self._context = WorkerContext(None)
        self._streams: set[SocketStream] = set()
        self._accepting = trio.CancelScope()

    def limit(self, *, handshake_seconds: float, idle_seconds: float, stall_seconds: float) -> None:
        """Change how long new connections are waited for."""
        self._config.ssl_handshake_timeout = handshake_seconds
        self._config.keep_alive_timeout = idle_seconds
        self._stall_seconds = stall_seconds

    async def serve(self, listening: Iterable[Listening]) -> None:
        """Accept and serve until `close` is called and the last connection has ended."""
        listening = tuple(listening)
        async with trio.open_nursery() as nursery:
            with self._accepting:
                async with trio.open_nursery() as accepting:
                    for one in listening:
                        accepting.start_soon(self._accept, one, nursery)
            for one in listening:
                one.sock.close()

    async def close(self) -> None:
        """Accept nothing more; connections end with the request they are busy with."""
        self._accepting.cancel()
        await self._context.terminated.set()

    def abort(self) -> int:
        """Cut all connections; return how many there were."""
        streams = tuple(self._streams)
        for stream in streams:
            stream.abort()
        return len(streams)

    async def _accept(self, listening: Listening, nursery: trio.Nursery) -> None:
        listener = _Listener(listening.sock, lambda peer: self._wrap(peer, listening.tls))

        async def handle(stream: SocketStream) -> None:
            await self._serve(stream, listening.application)

        await trio.serve_listeners(handle, [listener], handler_nursery=nursery)

    def _wrap(self, peer: socket.socket, tls: TlsContext | None) -> SocketStream:
        if tls is None:
            return PlainStream(peer, stall_seconds=self._stall_seconds)
        return TLSStream(peer, tls.current, stall_seconds=self._stall_seconds)

    async def _serve(self, stream: SocketStream, application: Callable[..., Any]) -> None:
        self._streams.add(stream)
        try:
            await _Connection(
                ASGIWrapper(application),
                self._config,
                self._context,
                {},
                cast("trio.SSLStream[trio.SocketStream]", stream),
            )
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the peer is gone
        except Exception:  # noqa: BLE001  one connection must never end another
            _log.exception("connection failed unexpectedly")
        finally:
            self._streams.discard(stream)
            with trio.CancelScope(shield=True):  # closing waits for nothing
                await stream.aclose()


class _Connection(TCPServer):
    """hypercorn's connection, which ends when its peer does.

    Left alone, the watch over idleness would hold a dead connection until its time is up.
    """

    _peer_left = False

    async def protocol_send(self, event: Event) -> None:
        if not (self._peer_left and isinstance(event, Updated)):
            await super().protocol_send(event)

    async def _read_data(self) -> None:
        await super()._read_data()
        self._peer_left = True
        await self.idle_task.stop()


class _Listener(trio.abc.Listener[SocketStream]):
    """Accepts on one socket and wraps what comes into a stream."""

    def __init__(self, sock: socket.socket, wrap: Callable[[socket.socket], SocketStream]) -> None:
        self._sock = sock
        self._wrap = wrap

    async def accept(self) -> SocketStream:
        await trio.lowlevel.checkpoint()
        while True:
            try:
                peer, _ = self._sock.accept()
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._sock)
            except OSError as error:
                if error.errno not in _PASSING:
                    raise
            else:
                return self._wrap(peer)

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
