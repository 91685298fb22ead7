"""Every connection, from accept to close.

Each is caught here, on its own: whatever goes wrong in one never reaches another. Stopping is done
in two steps, by whoever runs this: `close` accepts nothing more and lets idle connections go,
`abort` cuts what still runs. Where another process goes on accepting, `retire` is the first step:
to close an idle connection at the moment at which its client sends a request would lose that one.
"""

import errno
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog
import trio

from appliance import work
from appliance.serve.connection import ASGIApplication, Endpoints, Timeouts
from appliance.serve.guard import ConnectionLimits
from appliance.serve.http1 import Http1Connection
from appliance.serve.listeners import Listening, TlsContext
from appliance.serve.plain import PlainStream
from appliance.serve.proxies import TrustedProxies
from appliance.serve.proxy_protocol import ProxyHeaderError, read_header
from appliance.serve.sockets import GONE, SocketStream
from appliance.serve.tls import TLSStream

if TYPE_CHECKING:
    from appliance.serve.http2 import Http2Connection

# What accept(2) reports of a connection that failed before it was ours.
_PASSING = {
    errno.ECONNABORTED,
    errno.ECONNRESET,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ENONET,
    errno.ENOPROTOOPT,
    errno.EOPNOTSUPP,
    errno.EPERM,
    errno.EPROTO,
    errno.ETIMEDOUT,
}
_SHORTAGE_SECONDS = 0.1
_ACCEPT_AT_ONCE = 16
_EXPIRE_EVERY = 1.0
_REPORT_EVERY = 10.0

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Terms:
    """What connections are subject to."""

    timeouts: Timeouts
    connections: int = 0
    """How many there may be in all; 0 for no limit."""
    connections_per_address: int = 0
    """How many there may be from one address, proxies excepted; 0 for no limit."""
    proxies: TrustedProxies = field(default_factory=lambda: TrustedProxies(()))
    """Whose word on their clients is taken."""
    proxy_protocol: bool = False
    """Whether those put a PROXY header before each connection."""


class Connections:
    """All connections of the daemon."""

    def __init__(self, terms: Terms) -> None:
        self._limits = ConnectionLimits()
        self.change(terms)
        self._streams: set[SocketStream] = set()
        self._served: set[Http1Connection | Http2Connection] = set()
        self._http2: type[Http2Connection] | None = None
        self._accepting = trio.CancelScope()
        self._closing = False
        self._retiring = False
        self._refused = 0
        self._reported = -_REPORT_EVERY

    def change(self, terms: Terms) -> None:
        """Set the terms for new connections."""
        self._terms = terms
        self._limits.limit(total=terms.connections, per_address=terms.connections_per_address)

    async def serve(self, listening: Iterable[Listening]) -> None:
        """Accept and serve until no more is accepted and the last connection has ended."""
        listening = tuple(listening)
        async with trio.open_nursery() as watching:
            watching.start_soon(self._expire)
            async with trio.open_nursery() as nursery:
                with self._accepting:
                    async with trio.open_nursery() as accepting:
                        for one in listening:
                            accepting.start_soon(self._accept, one, nursery)
                for one in listening:
                    one.sock.close()
            watching.cancel_scope.cancel()

    def retire(self) -> None:
        """Accept nothing more; connections end with their next request, or once they are idle."""
        self._retiring = True
        self._accepting.cancel()
        for connection in self._served:
            if isinstance(connection, Http1Connection):
                connection.retire()
            else:
                connection.stop()  # HTTP/2 can tell which requests it did not take

    def close(self) -> None:
        """Accept nothing more; connections end with the request they are busy with."""
        self._closing = True
        self._accepting.cancel()
        for connection in self._served:
            connection.stop()

    def abort(self) -> int:
        """Cut all connections; return how many there were."""
        streams = tuple(self._streams)
        for stream in streams:
            stream.abort()
        return len(streams)

    async def _accept(self, listening: Listening, nursery: trio.Nursery) -> None:
        at_once = 0
        while True:
            try:
                peer, address = listening.sock.accept()
            except BlockingIOError:
                at_once = 0
                await trio.lowlevel.wait_readable(listening.sock)
            except OSError as error:
                if error.errno not in _PASSING:  # a shortage, of descriptors for one
                    _log.error("no connection accepted", reason=error.strerror)
                    await trio.sleep(_SHORTAGE_SECONDS)
            else:
                peer.setblocking(False)
                nursery.start_soon(self._handle, peer, _host_and_port(address), listening)
                at_once += 1
                if at_once % _ACCEPT_AT_ONCE == 0:
                    await trio.lowlevel.checkpoint()

    async def _expire(self) -> None:
        """Let idle connections go: one look at all of them is cheaper than a timer for each."""
        while True:
            await trio.sleep(min(_EXPIRE_EVERY, self._terms.timeouts.idle))
            now = trio.current_time()
            for connection in tuple(self._served):
                if isinstance(connection, Http1Connection):
                    connection.expire(now)

    async def _handle(
        self, peer: socket.socket, address: tuple[str, int], listening: Listening
    ) -> None:
        place = _Place(self._limits)
        stream: SocketStream | None = None
        try:
            with trio.fail_after(self._terms.timeouts.handshake):
                client = await self._admit(place, peer, address)
                if client is None:
                    self._refuse()
                    return
                stream = self._wrap(peer, listening.tls)
                self._streams.add(stream)
                if isinstance(stream, TLSStream):
                    await stream.do_handshake()
            # Who passes on unread what it does not speak for passes on any headers too.
            believed = not self._terms.proxy_protocol or client != address
            await self._serve(stream, client, listening.application, believed=believed)
        except ProxyHeaderError as error:
            _log.debug("no PROXY header", peer=address[0], reason=str(error))
        except (OSError, trio.TooSlowError, *GONE):
            pass  # the peer is gone, or might as well be
        except Exception:  # noqa: BLE001  one connection must never end another
            _log.exception("connection failed unexpectedly")
        finally:
            place.leave()
            if stream is None:
                peer.close()
            else:
                self._streams.discard(stream)
                stream.close()

    async def _admit(
        self, place: "_Place", peer: socket.socket, address: tuple[str, int]
    ) -> tuple[str, int] | None:
        """Find a place for a connection and tell who is at its other end; None without a place."""
        terms = self._terms
        if not address[0]:
            return address  # through the file system: the operator, whatever else goes on
        if not terms.proxies.trusts(address[0]):
            return address if place.take(address[0]) else None
        if not place.take(""):
            return None
        if not terms.proxy_protocol:
            return address
        source = (await read_header(peer)).source
        if source is None:
            return address
        place.leave()
        return source if place.take(source[0]) else None

    def _refuse(self) -> None:
        self._refused += 1
        if trio.current_time() - self._reported >= _REPORT_EVERY:
            _log.warning("connections refused, there are too many", count=self._refused)
            self._reported = trio.current_time()
            self._refused = 0

    def _wrap(self, peer: socket.socket, tls: TlsContext | None) -> SocketStream:
        stall = self._terms.timeouts.stall
        if tls is None:
            return PlainStream(peer, stall_seconds=stall)
        return TLSStream(peer, tls.current, stall_seconds=stall)

    async def _serve(
        self,
        stream: SocketStream,
        client: tuple[str, int],
        application: ASGIApplication,
        *,
        believed: bool,
    ) -> None:
        secure = isinstance(stream, TLSStream)
        proxies = self._terms.proxies
        endpoints = Endpoints(
            client=client,
            server=_host_and_port(stream.socket.getsockname()),
            secure=secure,
            proxies=proxies if believed and proxies.trusts(client[0]) else None,
            client_names=stream.client_names() if isinstance(stream, TLSStream) else (),
        )
        kind: type[Http1Connection | Http2Connection] = Http1Connection
        if isinstance(stream, TLSStream) and stream.selected_alpn_protocol() == "h2":
            if self._http2 is None:
                self._http2 = await work.disk(_load_http2)
            kind = self._http2
        connection = kind(stream, application, endpoints, self._terms.timeouts)
        self._served.add(connection)
        try:
            if self._closing or (self._retiring and not isinstance(connection, Http1Connection)):
                connection.stop()
            elif self._retiring and isinstance(connection, Http1Connection):
                connection.retire()
            await connection.serve()
        finally:
            self._served.discard(connection)


def _host_and_port(address: tuple[str, int] | str | bytes) -> tuple[str, int]:
    """Reduce what a socket says of an end; those in the file system have no such address."""
    return address[:2] if isinstance(address, tuple) else ("", 0)


def _load_http2() -> "type[Http2Connection]":
    """Import what is large and seldom needed: few clients of a registry speak HTTP/2."""
    from appliance.serve.http2 import Http2Connection  # noqa: PLC0415  see above

    return Http2Connection


class _Place:
    """The place that one connection takes among those that are counted, if it takes one."""

    __slots__ = ("_address", "_limits")

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self._address: str | None = None

    def take(self, address: str) -> bool:
        if not self._limits.admit(address):
            return False
        self._address = address
        return True

    def leave(self) -> None:
        if self._address is not None:
            self._limits.release(self._address)
            self._address = None
