"""Connections over real sockets: a server for any application, and a client worked by hand."""

import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import trio
import trustme

from appliance.serve.certificates import load
from appliance.serve.connection import Timeouts
from appliance.serve.connections import Connections, Terms
from appliance.serve.listeners import Listening, TlsContext, bind
from appliance.serve.tls import server_context

Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]

PATIENCE = 20
"""Seconds after which a test has failed; none waits for them to pass."""

NEVER = Timeouts(handshake=600, idle=600, head=600, stall=600)
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@dataclass(frozen=True)
class Keys:
    """What a server shows, and what its clients trust."""

    server: TlsContext
    client: ssl.SSLContext


def make_keys(folder: Path) -> Keys:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    for pem in issued.cert_chain_pems:
        pem.write_to_path(folder / "server.crt", append=True)
    issued.private_key_pem.write_to_path(folder / "server.key")
    certificate = load(folder / "server.crt", folder / "server.key")
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    return Keys(TlsContext(server_context([certificate], alpn=["http/1.1"])), trusting)


@dataclass(frozen=True)
class Answer:
    status: int
    fields: list[tuple[bytes, bytes]]
    body: bytes = b""
    chunks: list[bytes] = field(default_factory=list)
    """The body as it was cut, if it came in chunks."""

    def field(self, name: bytes) -> bytes | None:
        """Give the one field of that name, if there is one."""
        found = [value for key, value in self.fields if key == name]
        assert len(found) < 2, found
        return found[0] if found else None


class Client:
    """A client of which nothing is hidden."""

    def __init__(self, stream: trio.abc.Stream, sock: trio.socket.SocketType) -> None:
        self.stream = stream
        self.sock = sock
        self.patience: float = PATIENCE
        self._read = bytearray()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await trio.aclose_forcefully(self.stream)

    async def send(self, data: bytes) -> None:
        with trio.fail_after(self.patience):
            await self.stream.send_all(data)

    async def half_close(self) -> None:
        """Send nothing more, but go on listening."""
        assert isinstance(self.stream, trio.SocketStream)
        await self.stream.send_eof()

    def reset(self) -> None:
        """Leave at once, and let the other side know."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    async def more(self) -> bytes:
        """Give what was read in excess, or what comes next; nothing at the end."""
        if self._read:
            read = bytes(self._read)
            self._read.clear()
            return read
        with trio.fail_after(self.patience):
            return bytes(await self.stream.receive_some())

    async def rest(self) -> bytes:
        """Give everything up to the end of the connection."""
        read = b""
        while piece := await self.more():
            read += piece
        return read

    async def whatever_comes(self) -> bytes:
        """Give everything up to where the connection ended, in whichever way."""
        read = b""
        with suppress(trio.BrokenResourceError):
            while piece := await self.more():
                read += piece
        return read

    async def until_broken(self) -> bytes:
        """Give everything up to where the connection broke off; fails if it ended in good order."""
        read = b""
        try:
            while piece := await self.more():
                read += piece
        except trio.BrokenResourceError:
            return read
        raise AssertionError("the connection ended in good order")

    async def is_closed(self) -> bool:
        """Wait for the other side to say something, and tell if that is good-bye."""
        with suppress(trio.BrokenResourceError):
            return await self.more() == b""
        return True

    async def line(self) -> bytes:
        while (end := self._read.find(b"\r\n")) < 0:
            await self._fill()
        line = bytes(self._read[:end])
        del self._read[: end + 2]
        return line

    async def exactly(self, size: int) -> bytes:
        while len(self._read) < size:
            await self._fill()
        content = bytes(self._read[:size])
        del self._read[:size]
        return content

    async def head(self) -> Answer:
        version, status, *_ = (await self.line()).split(b" ")
        assert version == b"HTTP/1.1"
        fields = []
        while line := await self.line():
            name, _, value = line.partition(b": ")
            fields.append((name, value))
        return Answer(int(status), fields)

    async def answer(self, *, to_head: bool = False) -> Answer:
        """Read a whole answer, and not a byte more."""
        head = await self.head()
        if to_head or head.status in {204, 304} or head.status < 200:
            return head
        if head.field(b"transfer-encoding") == b"chunked":
            assert head.field(b"content-length") is None
            chunks = []
            while size := int(await self.line(), 16):
                chunks.append(await self.exactly(size))
                assert await self.line() == b""
            assert await self.line() == b""
            return replace(head, body=b"".join(chunks), chunks=chunks)
        length = head.field(b"content-length")
        body = await self.rest() if length is None else await self.exactly(int(length))
        return replace(head, body=body)

    async def ask(self, request: bytes = GET, *, to_head: bool = False) -> Answer:
        await self.send(request)
        return await self.answer(to_head=to_head)

    async def _fill(self) -> None:
        with trio.fail_after(self.patience):
            piece = await self.stream.receive_some()
        assert piece, f"the connection ended after {bytes(self._read)!r}"
        self._read += piece


@dataclass
class Server:
    connections: Connections
    address: tuple[str, int]
    keys: Keys | None

    async def dial(self, source: str | None = None) -> trio.SocketStream:
        """Connect, and say nothing."""
        with trio.fail_after(PATIENCE):
            return await trio.open_tcp_stream(*self.address, local_address=source)

    async def connect(self, *, source: str | None = None, first: bytes = b"") -> Client:
        """Connect, from some address of this host; what is to be said `first` comes before TLS."""
        transport = await self.dial(source)
        if first:
            await transport.send_all(first)
        if self.keys is None:
            return Client(transport, transport.socket)
        # Not `https_compatible`: an end without good-bye is to be told from one with it.
        stream = trio.SSLStream(transport, self.keys.client, server_hostname="localhost")
        with trio.fail_after(PATIENCE):
            await stream.do_handshake()
        return Client(stream, transport.socket)


@asynccontextmanager
async def serving(
    application: Application,
    *,
    timeouts: Timeouts = NEVER,
    terms: Terms | None = None,
    keys: Keys | None = None,
) -> AsyncIterator[Server]:
    (sock,) = bind("127.0.0.1", 0)
    connections = Connections(terms or Terms(timeouts))
    server = Server(connections, sock.getsockname(), keys)
    listening = Listening(sock, application, keys.server if keys else None)
    with sock:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connections.serve, [listening])
            yield server
            connections.close()
            connections.abort()


async def read_body(receive: Receive) -> bytes:
    """Pull a whole body, as an application would."""
    pieces: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ConnectionError("the client has left")
        pieces.append(message["body"])
        if not message["more_body"]:
            return b"".join(pieces)


async def start(
    send: Send, status: int = 200, fields: list[tuple[bytes, bytes]] | None = None
) -> None:
    await send({"type": "http.response.start", "status": status, "headers": fields or []})


async def finish(send: Send, content: bytes = b"", *, more: bool = False) -> None:
    await send({"type": "http.response.body", "body": content, "more_body": more})


async def reply(send: Send, content: bytes, status: int = 200) -> None:
    await start(send, status, [(b"content-length", b"%d" % len(content))])
    await finish(send, content)


async def echo(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Answer with the path and the body."""
    body = await read_body(receive)
    await reply(send, scope["raw_path"] + b" " + body)
