"""Connections over real sockets: what one of them does never reaches another."""

import errno
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import structlog
import trio

from appliance.serve.connection import Timeouts
from appliance.serve.connections import Connections, Terms
from appliance.serve.listeners import Listening, bind

Message = Mapping[str, Any]
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def greet(
    scope: Message,
    receive: Callable[[], Awaitable[Message]],
    send: Callable[[Message], Awaitable[None]],
) -> None:
    """Answer; `/fail` fails before, `/break` within the answer, `/wait` reads its body first."""
    if scope["path"] == "/fail":
        raise RuntimeError("before the answer")
    if scope["path"] == "/wait":
        while (await receive()).get("more_body"):
            pass
    await send(
        {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]}
    )
    if scope["path"] == "/break":
        raise RuntimeError("within the answer")
    await send({"type": "http.response.body", "body": b"hello"})


class Server:
    def __init__(self, connections: Connections, address: tuple[str, int]) -> None:
        self.connections = connections
        self.address = address

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream(*self.address)

    async def ask(self, request: bytes) -> bytes:
        """Send a request and read until the other side closes or an answer is whole."""
        async with await self.connect() as stream:
            await stream.send_all(request)
            return await read_answer(stream)


async def read_answer(stream: trio.SocketStream) -> bytes:
    answer = b""
    with trio.fail_after(10):
        async for piece in stream:
            answer += piece
            if answer.endswith(b"\r\n\r\nhello"):
                break
    return answer


@asynccontextmanager
async def serving(*, idle_seconds: float = 60, stall_seconds: float = 60) -> AsyncIterator[Server]:
    (sock,) = bind("127.0.0.1", 0)
    timeouts = Timeouts(handshake=10, idle=idle_seconds, head=10, stall=stall_seconds)
    connections = Connections(Terms(timeouts))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connections.serve, [Listening(sock, greet, None)])
        yield Server(connections, sock.getsockname())
        connections.close()
        connections.abort()


async def test_an_answer() -> None:
    async with serving() as server:
        assert (await server.ask(REQUEST)).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /fail HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /break HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x00\x05hello\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA\0B: c\r\n\r\n",
        b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 300_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0",
        b"",
    ],
)
async def test_what_one_client_sends_does_not_reach_another(request_: bytes) -> None:
    async with serving() as server:
        other = await server.connect()
        with trio.move_on_after(10) as patience:
            try:
                async with await server.connect() as stream:
                    await stream.send_all(request_)
                    await stream.send_eof()
                    async for _ in stream:
                        pass
            except trio.BrokenResourceError:
                pass  # cut off in the middle of what nobody wants to read
        assert not patience.cancelled_caught
        await other.send_all(REQUEST)
        assert (await read_answer(other)).startswith(b"HTTP/1.1 200")
        await other.aclose()


async def test_closing_lets_requests_end_and_idle_connections_go() -> None:
    async with serving() as server:
        idle, busy = await server.connect(), await server.connect()
        await busy.send_all(b"PUT /wait HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n1")
        await idle.send_all(REQUEST)
        await read_answer(idle)
        server.connections.close()
        with trio.fail_after(10):
            assert await idle.receive_some() == b""
        await busy.send_all(b"2")
        assert (await read_answer(busy)).startswith(b"HTTP/1.1 200")
        with pytest.raises(OSError, match="all attempts to connect"):
            await server.connect()
        await idle.aclose()
        await busy.aclose()


async def test_aborting_ends_everything() -> None:
    async with serving() as server:
        busy = await server.connect()
        await busy.send_all(b"PUT /wait HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n1")
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert server.connections.abort() == 1
        with trio.fail_after(10), pytest.raises(trio.BrokenResourceError):
            await busy.receive_some()
        await busy.aclose()


async def test_an_idle_connection_is_closed() -> None:
    async with serving(idle_seconds=0.05) as server, await server.connect() as stream:
        with trio.fail_after(10):
            assert await stream.receive_some() == b""


async def test_running_out_of_descriptors_is_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as server:
        refused = 0
        accept = socket.socket.accept

        def failing(sock: socket.socket) -> tuple[socket.socket, Any]:
            nonlocal refused
            if refused < 3:
                refused += 1
                raise OSError(errno.EMFILE if refused == 2 else errno.ECONNABORTED, "now and then")
            return accept(sock)

        monkeypatch.setattr(socket.socket, "accept", failing)
        assert (await server.ask(REQUEST)).startswith(b"HTTP/1.1 200")
        assert refused == 3


def test_binding_says_what_is_wrong() -> None:
    (first,) = bind("127.0.0.1", 0)
    with pytest.raises(OSError, match="in use"):
        bind("127.0.0.1", first.getsockname()[1])
    first.close()
    with pytest.raises(OSError, match="assign"):
        bind("192.0.2.77", 0)


def test_every_address_means_both_families() -> None:
    (sock,) = bind("::", 0)
    with sock, socket.create_connection(("127.0.0.1", sock.getsockname()[1]), timeout=5):
        pass


async def test_what_is_unexpected_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as server:

        def failing(*_: object) -> None:
            raise KeyError("bug")

        monkeypatch.setattr("appliance.serve.connections.Http1Connection", failing)
        with structlog.testing.capture_logs() as lines, suppress(trio.BrokenResourceError):
            await server.ask(REQUEST)
        assert [line["event"] for line in lines] == ["connection failed unexpectedly"]
