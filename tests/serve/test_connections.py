"""Connections over real sockets: how many there may be, whose they are, and that each is alone."""

import errno
import math
import socket
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from ipaddress import ip_network
from typing import Any

import pytest
import structlog
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from appliance.serve.connection import Timeouts
from appliance.serve.connections import Terms
from appliance.serve.proxies import TrustedProxies
from tests.serve.loopback import (
    GET,
    NEVER,
    PATIENCE,
    Client,
    Keys,
    Receive,
    Send,
    Server,
    echo,
    make_keys,
    read_body,
    reply,
    serving,
    start,
)

Scope = dict[str, Any]

ONE, OTHER, THIRD = "127.0.0.1", "127.0.0.2", "127.0.0.3"
"""Addresses to come from."""


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("keys"))


def trusting(*networks: str) -> TrustedProxies:
    return TrustedProxies([ip_network(network) for network in networks])


async def tell(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer who asks, by what, and for which host."""
    host = dict(scope["headers"])[b"host"].decode()
    text = f"{scope['client'][0]} {scope['client'][1]} {scope['scheme']} {host}"
    await reply(send, text.encode())


async def expect_refused(server: Server, source: str) -> None:
    """Make sure that a connection from an address ends without a word."""
    async with Client(stream := await server.dial(source), stream.socket) as client:
        with suppress(trio.BrokenResourceError):  # a peer that has sent nothing is not reset
            await client.send(GET)
        assert await client.whatever_comes() == b""


async def admitted_again(server: Server, source: str) -> Client:
    """Try until there is room: that somebody has left is noticed a little later."""
    with trio.fail_after(PATIENCE):
        while True:
            stream = await server.dial(source)
            client = Client(stream, stream.socket)
            with suppress(trio.BrokenResourceError, AssertionError):
                if (await client.ask()).status == 200:
                    return client
            await stream.aclose()


# --- how many


async def test_there_is_room_for_so_many_in_all() -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(echo, terms=Terms(NEVER, connections=3)))
        clients = []
        for source in (ONE, OTHER, ONE):
            clients.append(await stack.enter_async_context(await server.connect(source=source)))
            assert (await clients[-1].ask()).status == 200
        with structlog.testing.capture_logs() as lines:
            for source in (ONE, OTHER, THIRD, ONE):
                await expect_refused(server, source)
        assert [line["event"] for line in lines] == ["connections refused, there are too many"]
        for client in clients:
            assert (await client.ask()).status == 200
        clients[1].reset()
        await stack.enter_async_context(await admitted_again(server, THIRD))
        await expect_refused(server, THIRD)


async def test_each_address_has_room_of_its_own() -> None:
    terms = Terms(NEVER, connections_per_address=2)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(echo, terms=terms))
        clients = []
        for source in (ONE, OTHER, ONE, OTHER):
            clients.append(await stack.enter_async_context(await server.connect(source=source)))
            assert (await clients[-1].ask()).status == 200
        await expect_refused(server, ONE)
        await expect_refused(server, OTHER)
        await stack.enter_async_context(await admitted_again(server, THIRD))
        await clients[0].stream.aclose()
        await stack.enter_async_context(await admitted_again(server, ONE))
        await expect_refused(server, ONE)
        await expect_refused(server, OTHER)


@pytest.mark.parametrize(
    "ending",
    [
        lambda client: client.send(b"nonsense\n"),
        lambda client: client.send(GET.replace(b"1.1", b"1.0")),
        lambda client: client.half_close(),
    ],
)
async def test_a_place_is_free_again_however_a_connection_ends(
    ending: Callable[[Client], Any],
) -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(echo, terms=Terms(NEVER, connections=1)))
        for _ in range(3):
            async with await admitted_again(server, ONE) as client:
                await expect_refused(server, ONE)
                await ending(client)
                await client.whatever_comes()


async def test_connections_that_wait_for_tls_count(keys: Keys) -> None:
    terms = Terms(NEVER, connections=1)
    async with serving(echo, terms=terms, keys=keys) as server:
        silent = await server.dial()
        await wait_all_tasks_blocked()
        await expect_refused(server, OTHER)
        await silent.aclose()
        await wait_all_tasks_blocked()
        async with await server.connect() as client:
            assert (await client.ask()).status == 200


async def test_a_proxy_brings_more_than_one_address_may() -> None:
    terms = Terms(NEVER, connections=3, connections_per_address=1, proxies=trusting(ONE))
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(echo, terms=terms))
        for source in (ONE, ONE, OTHER):
            client = await stack.enter_async_context(await server.connect(source=source))
            assert (await client.ask()).status == 200
        await expect_refused(server, ONE)


async def test_new_terms_are_for_new_connections() -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(tell, terms=Terms(NEVER)))
        old = [await stack.enter_async_context(await server.connect()) for _ in range(2)]
        for client in old:
            assert (await client.ask()).body.endswith(b" http x")
        server.connections.change(Terms(NEVER, connections=1))
        await expect_refused(server, ONE)
        for client in old:
            assert (await client.ask()).body.endswith(b" http x")
        server.connections.change(Terms(NEVER, proxies=trusting(ONE)))
        new = await stack.enter_async_context(await server.connect())
        assert (await new.ask(forwarded(b"192.0.2.9"))).body == b"192.0.2.9 0 http x"
        assert not (await old[0].ask(forwarded(b"192.0.2.9"))).body.startswith(b"192.0.2.9")


# --- whose they are


def forwarded(addresses: bytes, *fields: bytes) -> bytes:
    lines = [b"GET / HTTP/1.1", b"Host: x", b"X-Forwarded-For: " + addresses, *fields, b"", b""]
    return b"\r\n".join(lines)


PROTO, HOST = b"X-Forwarded-Proto: https", b"X-Forwarded-Host: registry.test:5000"


async def test_a_trusted_proxy_is_believed_and_nobody_else() -> None:
    async with serving(tell, terms=Terms(NEVER, proxies=trusting(ONE))) as server:
        async with await server.connect(source=ONE) as client:
            for asked, told in (
                (GET, f"{ONE} 0 http x"),
                (forwarded(b"192.0.2.9"), "192.0.2.9 0 http x"),
                (forwarded(b"198.51.100.1, 192.0.2.9"), "192.0.2.9 0 http x"),
                (forwarded(b"192.0.2.9", PROTO, HOST), "192.0.2.9 0 https registry.test:5000"),
                (forwarded(b"nonsense", PROTO), f"{ONE} 0 https x"),
            ):
                assert (await client.ask(asked)).body.decode() == told
        async with await server.connect(source=OTHER) as client:
            source = "{} {}".format(*client.sock.getsockname())
            for asked in (GET, forwarded(b"192.0.2.9", PROTO, HOST)):
                assert (await client.ask(asked)).body.decode() == f"{source} http x"


async def test_without_trusted_proxies_nobody_is_believed() -> None:
    async with serving(tell) as server, await server.connect() as client:
        source = "{} {}".format(*client.sock.getsockname())
        asked = forwarded(b"192.0.2.9", PROTO, HOST)
        assert (await client.ask(asked)).body.decode() == f"{source} http x"


async def test_over_tls_the_scheme_is_https_unless_a_proxy_says_otherwise(keys: Keys) -> None:
    terms = Terms(NEVER, proxies=trusting(ONE))
    async with serving(tell, terms=terms, keys=keys) as server, await server.connect() as client:
        assert (await client.ask(forwarded(b"192.0.2.9"))).body == b"192.0.2.9 0 https x"
        found = await client.ask(forwarded(b"192.0.2.9", b"X-Forwarded-Proto: http"))
        assert found.body == b"192.0.2.9 0 http x"


# --- the PROXY protocol

ANNOUNCED = b"PROXY TCP4 192.0.2.9 192.0.2.1 4711 443\r\n"
BLOCK = (
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"
    + socket.inet_aton("192.0.2.9")
    + socket.inet_aton("192.0.2.1")
    + (4711).to_bytes(2)
    + (443).to_bytes(2)
)


def proxied(*networks: str, **limits: int) -> Terms:
    return Terms(NEVER, proxies=trusting(*networks), proxy_protocol=True, **limits)


@pytest.mark.parametrize("header", [ANNOUNCED, BLOCK])
@pytest.mark.parametrize("secure", [False, True])
async def test_a_proxy_announces_whom_it_speaks_for(
    keys: Keys, header: bytes, secure: bool
) -> None:
    async with (
        serving(tell, terms=proxied(ONE), keys=keys if secure else None) as server,
        await server.connect(first=header) as client,
    ):
        scheme = "https" if secure else "http"
        for _ in range(2):
            assert (await client.ask()).body.decode() == f"192.0.2.9 4711 {scheme} x"
        # Whom it speaks for is no proxy and not believed.
        found = await client.ask(forwarded(b"198.51.100.1", HOST))
        assert found.body.decode() == f"192.0.2.9 4711 {scheme} x"


async def test_a_proxy_may_speak_for_another_and_that_one_for_others() -> None:
    terms = proxied(ONE, "192.0.2.9")
    async with (
        serving(tell, terms=terms) as server,
        await server.connect(first=ANNOUNCED) as client,
    ):
        assert (await client.ask(forwarded(b"198.51.100.1"))).body == b"198.51.100.1 0 http x"


async def test_headers_count_for_nothing_where_the_proxy_does_not_say_for_whom_it_speaks() -> None:
    async with (
        serving(tell, terms=proxied(ONE)) as server,
        await server.connect(first=b"PROXY UNKNOWN\r\n") as client,
    ):
        answer = await client.ask(forwarded(b"198.51.100.1"))
        assert answer.body.startswith(f"{ONE} ".encode())


async def test_a_proxy_that_does_not_announce_is_not_served() -> None:
    async with serving(tell, terms=proxied(ONE)) as server:
        for first in (GET, b"PROXY TCP4 nonsense\r\n" + GET, b"\x16\x03\x01\x02\x00\x01"):
            async with await server.connect() as client:
                await client.send(first)
                assert await client.whatever_comes() == b""
        async with await server.connect() as client:
            await client.send(ANNOUNCED[:-5])
            await client.half_close()
            assert await client.whatever_comes() == b""


async def test_nobody_else_can_announce_anything() -> None:
    async with serving(tell, terms=proxied(ONE)) as server:
        async with await server.connect(source=OTHER) as client:
            assert (await client.ask(ANNOUNCED + GET)).status in {400, 501}
        async with await server.connect(source=OTHER) as client:
            source = "{} {}".format(*client.sock.getsockname())
            assert (await client.ask()).body.decode() == f"{source} http x"


async def test_without_the_protocol_a_proxy_announces_nothing() -> None:
    terms = Terms(NEVER, proxies=trusting(ONE))
    async with serving(tell, terms=terms) as server, await server.connect() as client:
        assert (await client.ask(ANNOUNCED + GET)).status in {400, 501}


async def test_those_a_proxy_speaks_for_have_room_of_their_own() -> None:
    async with AsyncExitStack() as stack:
        terms = proxied(ONE, connections=4, connections_per_address=1)
        server = await stack.enter_async_context(serving(tell, terms=terms))
        for number in range(3):
            header = ANNOUNCED.replace(b".2.9 ", b".2.%d " % (10 + number))
            client = await stack.enter_async_context(await server.connect(first=header))
            assert (await client.ask()).status == 200
        again = ANNOUNCED.replace(b".2.9 ", b".2.10 ")
        async with await server.connect(first=again) as client:
            assert await client.whatever_comes() == b""
        fourth = await stack.enter_async_context(await server.connect(first=ANNOUNCED))
        assert (await fourth.ask()).status == 200
        await expect_refused(server, OTHER)


async def test_an_announcement_is_waited_for_as_long_as_a_handshake(
    mock_clock: MockClock, keys: Keys
) -> None:
    terms = Terms(
        Timeouts(handshake=30, idle=600, head=600, stall=600),
        proxies=trusting(ONE),
        proxy_protocol=True,
    )
    async with (
        serving(tell, terms=terms, keys=keys) as server,
        Client(stream := await server.dial(), stream.socket) as client,
    ):
        client.patience = math.inf
        await client.send(ANNOUNCED[:-5])
        await wait_all_tasks_blocked()
        mock_clock.jump(20)
        await client.send(ANNOUNCED[-5:])
        await wait_all_tasks_blocked()
        mock_clock.jump(20)
        assert await client.whatever_comes() == b""


# --- each alone


async def test_an_answer() -> None:
    async with serving(echo) as server, await server.connect() as client:
        assert (await client.ask()).body == b"/ "


async def misbehave(scope: Scope, receive: Receive, send: Send) -> None:
    """Fail before or within the answer, as the path says."""
    if scope["path"] == "/fail":
        raise RuntimeError("before the answer")
    await start(send, 200, [(b"content-length", b"5")])
    if scope["path"] == "/break":
        await send({"type": "http.response.body", "body": b"he", "more_body": True})
        raise RuntimeError("within the answer")
    await send({"type": "http.response.body", "body": b"hello"})


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
    async with serving(misbehave) as server, await server.connect() as other:
        async with await server.connect() as client:
            with suppress(trio.BrokenResourceError):  # what nobody wants to read may be cut off
                await client.send(request_)
                await client.half_close()
            await client.whatever_comes()
        assert (await other.ask()).body == b"hello"


async def test_what_is_unexpected_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise KeyError("bug")

    monkeypatch.setattr("appliance.serve.connections.Http1Connection", failing)
    async with serving(echo) as server:
        with structlog.testing.capture_logs() as lines:
            async with await server.connect() as client:
                await client.whatever_comes()
        assert [line["event"] for line in lines] == ["connection failed unexpectedly"]


async def test_running_out_of_descriptors_is_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    accept, refused = socket.socket.accept, 0

    def failing(sock: socket.socket) -> tuple[socket.socket, Any]:
        nonlocal refused
        if refused < 3:
            refused += 1
            raise OSError(errno.EMFILE if refused == 2 else errno.ECONNABORTED, "now and then")
        return accept(sock)

    async with serving(echo) as server:
        monkeypatch.setattr(socket.socket, "accept", failing)
        with structlog.testing.capture_logs() as lines:
            async with await server.connect() as client:
                assert (await client.ask()).status == 200
        assert refused == 3
        assert [line["event"] for line in lines] == ["no connection accepted"]


# --- closing and aborting


async def slow(scope: Scope, receive: Receive, send: Send) -> None:
    await read_body(receive)
    await reply(send, b"hello")


HALF = b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n1"


async def test_closing_lets_requests_end_and_idle_connections_go() -> None:
    async with serving(slow) as server:
        idle, busy = await server.connect(), await server.connect()
        async with idle, busy:
            await busy.send(HALF)
            assert (await idle.ask()).status == 200
            server.connections.close()
            assert await idle.rest() == b""
            await busy.send(b"2")
            found = await busy.answer()
            assert (found.body, found.field(b"connection")) == (b"hello", b"close")
            assert await busy.rest() == b""
        with pytest.raises(OSError, match="all attempts to connect"):
            await server.dial()


async def test_a_connection_in_its_handshake_is_let_go_when_all_are_closing(keys: Keys) -> None:
    async with serving(slow, keys=keys) as server:
        stream = await server.dial()
        await wait_all_tasks_blocked()
        server.connections.close()
        secure = trio.SSLStream(stream, keys.client, server_hostname="localhost")
        with trio.fail_after(PATIENCE):
            await secure.do_handshake()
        async with Client(secure, stream.socket) as client:
            assert await client.whatever_comes() == b""


async def test_aborting_cuts_everything_off() -> None:
    async with serving(slow) as server:
        busy, silent = await server.connect(), await server.connect()
        async with busy, silent:
            await busy.send(HALF)
            await wait_all_tasks_blocked()
            assert server.connections.abort() == 2
            assert await busy.until_broken() == b""
            assert await silent.until_broken() == b""
        await wait_all_tasks_blocked()
        assert server.connections.abort() == 0
