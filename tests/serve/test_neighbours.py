"""What connections owe each other: a turn, their own faults only, and nothing left behind."""

import gc
import os
import socket
import ssl
import threading
from contextlib import suppress

import pytest
import trio
from cryptography.hazmat.bindings.openssl.binding import Binding
from h2.errors import ErrorCodes

from appliance import log
from appliance.api.answering import _remembered
from appliance.api.redirect import RedirectToTls
from appliance.serve import pump
from appliance.serve.bodies import SizedBody
from appliance.serve.connection import ASGIApplication, Endpoints, Receive, Scope, Send
from appliance.serve.heads import RefusalError, check_partial
from appliance.serve.http1 import Http1Connection
from appliance.serve.plain import PlainStream
from appliance.serve.tls import TLSStream
from tests.api.driver import call
from tests.serve import http2_client
from tests.serve.loopback import GET, NEVER, Keys, echo, make_keys, reply, serving

ENDPOINTS = Endpoints(client=("192.0.2.1", 9), server=("192.0.2.2", 80), secure=False, proxies=None)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("keys"))


def connection_for(sock: socket.socket, application: ASGIApplication = echo) -> Http1Connection:
    return Http1Connection(PlainStream(sock, stall_seconds=60), application, ENDPOINTS, NEVER)


# --- memory


async def test_a_body_that_was_cut_off_keeps_nothing_of_its_connection() -> None:
    for _ in range(5):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.sendall(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf")
            theirs.shutdown(socket.SHUT_WR)
            await connection_for(ours).serve()
    gc.collect()
    assert not [thing for thing in gc.get_objects() if isinstance(thing, Http1Connection)]


async def test_what_strangers_ask_for_is_not_remembered_whatever_its_size() -> None:
    redirect = RedirectToTls(port=443, public_url="", stall_seconds=5)
    before = _remembered.cache_info().currsize
    for number in range(20):
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "raw_path": b"/" + b"x" * 20_000 + b"%d" % number,
            "query_string": b"",
            "headers": [(b"host", b"x")],
        }
        assert (await call(redirect, scope)).status == 308
    assert _remembered.cache_info().currsize <= before + 2


# --- turns


async def test_who_asks_for_a_thousand_things_at_once_lets_others_ask_in_between() -> None:
    ours, theirs = socket.socketpair()
    answered = 0
    seen: list[int] = []

    async def count(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal answered
        answered += 1
        await reply(send, b"")

    async def other() -> None:
        while answered < 100:
            seen.append(answered)
            await trio.lowlevel.checkpoint()

    with ours, theirs:
        theirs.sendall(GET * 100)
        theirs.shutdown(socket.SHUT_WR)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            await connection_for(ours, count).serve()
    assert len(set(seen)) > 50


@pytest.mark.parametrize("line", [b"a\r\n", b"a: b\r\n"])
def test_a_head_of_too_many_lines_is_refused_while_it_comes(line: bytes) -> None:
    with pytest.raises(RefusalError):
        check_partial(bytearray(b"GET / HTTP/1.1\r\n" + line * 101))
    check_partial(bytearray(b"GET / HTTP/1.1\r\n" + line * 100))


async def test_a_request_that_is_there_when_stopping_begins_is_answered() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        served = connection_for(ours)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.serve)
            await trio.testing.wait_all_tasks_blocked()
            theirs.sendall(GET)
            served.stop()
        assert theirs.recv(1000).startswith(b"HTTP/1.1 200")


async def test_a_download_that_is_reset_does_not_stop_the_one_beside_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http2_client, "CHUNK", bytes(256 << 10))
    size = 20 << 20
    async with http2_client.serving(window=1 << 30) as (client, server):
        both = [await client.request(f"/big?{size}") for _ in range(2)]
        client.stalled |= set(both)
        for _ in range(3):
            await client.read()
        await trio.testing.wait_all_tasks_blocked(0.05)
        first = next(request._stream_id for request in server.connection._queue)
        (other,) = set(both) - {first}
        client.h2.reset_stream(first, ErrorCodes.CANCEL)
        await client.flush()
        # Nothing but the reset may wake the server: not even acknowledgements.
        monkeypatch.setattr(client, "flush", trio.lowlevel.checkpoint)
        with trio.fail_after(20):
            while other not in client.ended:
                await client.read()


# --- faults


async def test_what_came_before_a_reset_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        stream = PlainStream(ours, stall_seconds=60)
        outcomes = iter([5, trio.BrokenResourceError("reset")])

        def read(buffer: memoryview) -> int:
            outcome = next(outcomes, trio.BrokenResourceError("reset"))
            if isinstance(outcome, Exception):
                raise outcome
            buffer[:5] = b"hello"
            return 5

        monkeypatch.setattr(stream, "try_read_into", read)
        got: list[bytes] = []
        with pytest.raises(trio.BrokenResourceError):
            await pump.drain(
                stream,
                SizedBody(100),
                bytearray(),
                lambda pieces: got.extend(map(bytes, pieces)),
                stall_seconds=60,
            )
    assert got == [b"hello"]


async def test_one_connection_is_not_blamed_for_another(keys: Keys) -> None:
    library = Binding().lib
    async with serving(echo, keys=keys) as server:
        transport = await server.dial()
        client = trio.SSLStream(transport, keys.client, server_hostname="localhost")
        await client.do_handshake()
        await trio.testing.wait_all_tasks_blocked()
        (stream,) = server.connections._streams
        assert isinstance(stream, TLSStream)
        transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        transport.socket.close()

        def send_much() -> None:
            for _ in range(100):
                stream.try_write(memoryview(bytes(16_384)))

        with pytest.raises(trio.BrokenResourceError):
            send_much()
        assert library.ERR_peek_error() == 0


async def test_a_farewell_that_came_with_the_request_ends_the_connection(keys: Keys) -> None:
    def ask_and_leave(address: tuple[str, int]) -> None:
        with socket.create_connection(address, timeout=20) as plain:
            client = keys.client.wrap_socket(plain, server_hostname="localhost")
            bare = socket.socket(fileno=os.dup(client.fileno()))
            with client, bare:
                client.sendall(GET)
                with suppress(ssl.SSLError):
                    client.unwrap()  # good-bye goes out; what comes is the answer, not theirs
                bare.settimeout(20)
                while bare.recv(1000):
                    pass

    async with serving(echo, keys=keys) as server:
        await trio.to_thread.run_sync(ask_and_leave, server.address)  # noqa: TID251  a client


# --- the log


def test_a_write_that_fails_costs_its_lines_and_no_others() -> None:
    reading, writing = os.pipe()
    writer = log._Writer(writing)
    stand_in = os.open("/dev/full", os.O_WRONLY)
    keep = os.dup(writing)
    os.dup2(stand_in, writing)
    writer.msg("lost")
    assert writer._thread is not None
    for _ in range(1000):
        if writer._lost:
            break
        threading.Event().wait(0.01)
    os.dup2(keep, writing)
    writer.msg("kept")
    written = b""
    while b"kept" not in written:
        written += os.read(reading, 1000)
    assert b"1 lines were lost" in written
    for descriptor in (reading, writing, stand_in, keep):
        os.close(descriptor)


def test_lines_that_nobody_reads_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_WAITING_MAX", 1000)
    monkeypatch.setattr(log._Writer, "_run", lambda _: None)
    writer = log._Writer(-1)
    for _ in range(100):
        writer.msg("x" * 99)
    assert len(writer._lines) == 10
    assert writer._lost == 90
