"""HTTP/1.1 on the wire, from the first byte of a connection to the last."""

import json
import math
import os
import random
import re
import threading
from collections.abc import Sequence
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import structlog
import trio
from hypothesis import HealthCheck, given, settings
from trio.testing import MockClock, wait_all_tasks_blocked

from appliance.serve.connection import Timeouts
from tests.serve.loopback import (
    GET,
    PATIENCE,
    Application,
    Keys,
    Receive,
    Send,
    echo,
    finish,
    make_keys,
    read_body,
    reply,
    serving,
    start,
)

MEGABYTE = 1 << 20
END = b"\r\n\r\n"
SOON = 0.05
"""Seconds of a deadline that is to pass."""

Scope = dict[str, Any]


@pytest.fixture(scope="module")
def all_keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(params=["plain", "TLS"])
def keys(request: pytest.FixtureRequest, all_keys: Keys) -> Keys | None:
    return all_keys if request.param == "TLS" else None


def impatient(**seconds: float) -> Timeouts:
    return Timeouts(**{"handshake": 600, "idle": 600, "head": 600, "stall": 600} | seconds)


def put(path: bytes, content: bytes, *fields: bytes) -> bytes:
    lines = [b"PUT %b HTTP/1.1" % path, b"Host: x", b"Content-Length: %d" % len(content), *fields]
    return b"\r\n".join([*lines, b"", content])


def chunked(path: bytes, *chunks: bytes, last: bytes = b"0\r\n\r\n") -> bytes:
    head = b"PUT %b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" % path
    return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + last


def error_of(body: bytes) -> dict[str, str]:
    """Give the one error of an answer as the specification has it."""
    (error,) = json.loads(body)["errors"]
    assert isinstance(error, dict)
    return error


# --- one request after the other


async def test_a_connection_serves_many_requests(keys: Keys | None) -> None:
    async with serving(echo, keys=keys) as server, await server.connect() as client:
        for number in range(5):
            answer = await client.ask(put(b"/%d" % number, b"body %d" % number))
            assert (answer.status, answer.body) == (200, b"/%d body %d" % (number, number))
            assert answer.field(b"connection") is None
            assert answer.field(b"transfer-encoding") is None


async def test_requests_that_come_together_are_answered_in_order(keys: Keys | None) -> None:
    requests = [
        GET,
        put(b"/1", b"one"),
        chunked(b"/2", b"t", b"wo"),
        put(b"/3", b""),
        chunked(b"/4"),
        chunked(b"/5", b"0\r\n\r\n", last=b"0\r\nA: b\r\n\r\n"),
        put(b"/6", b"PUT /no HTTP/1.1\r\nHost: x\r\n\r\n"),
        GET,
    ]
    async with serving(echo, keys=keys) as server, await server.connect() as client:
        await client.send(b"".join(requests))
        assert [(await client.answer()).body for _ in requests] == [
            b"/ ",
            b"/1 one",
            b"/2 two",
            b"/3 ",
            b"/4 ",
            b"/5 0\r\n\r\n",
            b"/6 PUT /no HTTP/1.1\r\nHost: x\r\n\r\n",
            b"/ ",
        ]


async def test_requests_may_come_byte_by_byte() -> None:
    requests = [GET, put(b"/1", b"one"), chunked(b"/2", b"t", b"wo"), GET]
    async with serving(echo) as server, await server.connect() as client:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def send() -> None:
                for byte in b"".join(requests):
                    await client.send(bytes([byte]))
                    await wait_all_tasks_blocked()

            bodies = [(await client.answer()).body for _ in requests]
        assert bodies == [b"/ ", b"/1 one", b"/2 two", b"/ "]


@given(
    bodies=st.lists(st.tuples(st.booleans(), st.binary(max_size=40)), min_size=1, max_size=6),
    places=st.lists(st.integers(0, 2000), max_size=6),
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
def test_however_requests_are_cut_they_are_answered_alike(
    bodies: Sequence[tuple[bool, bytes]], places: Sequence[int]
) -> None:
    requests = b"".join(
        chunked(b"/", *[body[i : i + 9] for i in range(0, len(body), 9)])
        if cut
        else put(b"/", body)
        for cut, body in bodies
    )
    ends = sorted({0, len(requests), *(place % len(requests) for place in places)})

    async def ask() -> None:
        async with (
            serving(echo) as server,
            await server.connect() as client,
            trio.open_nursery() as nursery,
        ):

            @nursery.start_soon
            async def send() -> None:
                for begin, end in pairwise(ends):
                    await client.send(requests[begin:end])
                    await wait_all_tasks_blocked()

            for _, body in bodies:
                assert (await client.answer()).body == b"/ " + body

    trio.run(ask)


@pytest.mark.parametrize("empty", [b"\r\n", b"\r\n\r\n", b"\r\n\r\n\r\n"])
async def test_empty_lines_before_a_request_are_passed_over(empty: bytes) -> None:
    async with serving(echo) as server, await server.connect() as client:
        assert (await client.ask(empty + GET)).status == 200
        await client.send(empty)
        await wait_all_tasks_blocked()
        assert (await client.ask()).status == 200
        await client.send(put(b"/", b"body") + empty + GET + empty)
        assert [(await client.answer()).body for _ in range(2)] == [b"/ body", b"/ "]
        assert (await client.ask()).status == 200


# --- what an application is told


async def test_the_scope_says_all_there_is(keys: Keys | None) -> None:
    told: list[Scope] = []

    async def remember(scope: Scope, receive: Receive, send: Send) -> None:
        told.append(scope)
        await reply(send, b"")

    async with serving(remember, keys=keys) as server, await server.connect() as client:
        await client.ask(
            b"GET /a%2Fb?c=d&e HTTP/1.1\r\nHost: x\r\nX-A: b\xe9\r\nX-a:\r\nConnection: te\r\n\r\n"
        )
        await client.ask(b"HEAD http://y:1/ HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n")
        source = client.sock.getsockname()
    first, second = told
    assert set(first.pop("extensions")) == {
        "http.response.zerocopysend",
        "registry.request.drain",
    }
    assert first == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "method": "GET",
        "path": "/a/b",
        "raw_path": b"/a%2Fb",
        "query_string": b"c=d&e",
        "root_path": "",
        "headers": [(b"host", b"x"), (b"x-a", b"b\xe9"), (b"x-a", b""), (b"connection", b"te")],
        "client": source,
        "server": server.address,
        "scheme": "https" if keys else "http",
        "registry.client_names": (),
    }
    assert (second["method"], second["http_version"], second["raw_path"]) == ("HEAD", "1.0", b"/")
    assert second["headers"][0] == (b"host", b"y:1")


async def test_a_body_comes_in_pieces_and_after_it_nothing_until_the_client_leaves() -> None:
    heard: list[Any] = []
    asked, over = trio.Event(), trio.Event()

    async def listen(scope: Scope, receive: Receive, send: Send) -> None:
        heard.append(await receive())
        asked.set()
        while heard[-1]["type"] != "http.disconnect":
            heard.append(await receive())
        over.set()

    async with serving(listen) as server, await server.connect() as client:
        await client.send(put(b"/", b"one")[:-1])
        with trio.fail_after(PATIENCE):
            await asked.wait()
        await client.send(b"e")
        await wait_all_tasks_blocked()
        assert heard == [
            {"type": "http.request", "body": b"on", "more_body": True},
            {"type": "http.request", "body": b"e", "more_body": False},
        ]
        client.reset()
        with trio.fail_after(PATIENCE):
            await over.wait()
    assert heard[2:] == [{"type": "http.disconnect"}]


async def test_watching_for_the_client_to_leave_loses_no_request() -> None:
    watched = trio.Event()

    async def watch(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        with trio.CancelScope() as scope_:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive)
                await wait_all_tasks_blocked()
                watched.set()
                await wait_all_tasks_blocked()
                scope_.cancel()
        await reply(send, scope["raw_path"])

    async with serving(watch) as server, await server.connect() as client:
        await client.send(put(b"/1", b"one"))
        with trio.fail_after(PATIENCE):
            await watched.wait()
        await client.send(put(b"/2", b"two") + put(b"/3", b"three"))
        assert [(await client.answer()).body for _ in range(3)] == [b"/1", b"/2", b"/3"]


async def test_a_client_that_leaves_within_its_body_is_no_longer_waited_for(
    keys: Keys | None,
) -> None:
    heard: list[str] = []
    asked, over = trio.Event(), trio.Event()

    async def listen(scope: Scope, receive: Receive, send: Send) -> None:
        heard.append((await receive())["type"])
        asked.set()
        heard.append((await receive())["type"])
        over.set()

    async with serving(listen, keys=keys) as server, await server.connect() as client:
        await client.send(put(b"/", b"body")[:-1])
        with trio.fail_after(PATIENCE):
            await asked.wait()
            client.reset()
            await over.wait()
    assert heard == ["http.request", "http.disconnect"]


# --- how answers are framed


async def test_answers_have_a_date() -> None:
    async with serving(echo) as server, await server.connect() as client:
        date = (await client.ask()).field(b"date")
    assert date
    assert re.fullmatch(rb"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", date)


async def test_head_and_body_leave_together_and_not_before_the_body(keys: Keys | None) -> None:
    started, go = trio.Event(), trio.Event()

    async def hesitate(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send, 200, [(b"content-length", b"5")])
        started.set()
        await go.wait()
        await finish(send, b"hello")

    async with serving(hesitate, keys=keys) as server, await server.connect() as client:
        await client.send(GET)
        await started.wait()
        with trio.move_on_after(0.02) as waiting:
            await client.stream.receive_some()
        assert waiting.cancelled_caught
        go.set()
        answer = await client.more()
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"\r\n\r\nhello")


@pytest.mark.parametrize("fields", [[], [(b"content-length", b"10")]])
async def test_an_answer_to_head_has_no_body(
    keys: Keys | None, fields: list[tuple[bytes, bytes]]
) -> None:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send, 200, fields)
        await finish(send, b"0123456789" if scope["raw_path"] != b"/left-out" else b"")

    request = b"HEAD %b HTTP/1.1\r\nHost: x\r\n\r\n"
    async with serving(answer, keys=keys) as server, await server.connect() as client:
        assert (await client.ask(request % b"/", to_head=True)).field(b"content-length") == b"10"
        if fields:
            answered = await client.ask(request % b"/left-out", to_head=True)
            assert answered.field(b"content-length") == b"10"
        assert (await client.ask()).body == b"0123456789"


async def test_an_answer_to_head_in_pieces_has_no_body_either() -> None:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send)
        for piece in (b"0", b"123", b""):
            await finish(send, piece, more=bool(piece))

    async with serving(answer) as server, await server.connect() as client:
        for _ in range(2):
            head = await client.ask(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", to_head=True)
            assert head.status == 200
        assert (await client.ask()).body == b"0123"


@pytest.mark.parametrize("status", [204, 304])
async def test_some_answers_never_have_a_body(keys: Keys | None, status: int) -> None:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send, status, [(b"a", b"b")])
        await finish(send)

    async with serving(answer, keys=keys) as server, await server.connect() as client:
        for _ in range(2):
            head = await client.ask()
            assert (head.status, head.field(b"a")) == (status, b"b")
            assert head.field(b"content-length") is None
            assert head.field(b"transfer-encoding") is None
            assert head.field(b"connection") is None


async def test_an_answer_of_one_piece_has_its_length() -> None:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send)
        await finish(send, bytes(int(scope["raw_path"][1:])))

    async with serving(answer) as server, await server.connect() as client:
        for size in (0, 1, 70_000, 2 * MEGABYTE):
            found = await client.ask(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % size)
            assert (found.field(b"content-length"), found.body) == (b"%d" % size, bytes(size))


PIECES = [b"one", b"", b"two", bytes(70_000), b"", b"three"]


async def in_pieces(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer piece by piece; the last one is empty if the path says so."""
    await start(send)
    for piece in PIECES:
        await finish(send, piece, more=True)
    await finish(send, b"" if scope["raw_path"] == b"/" else b"four")


@pytest.mark.parametrize(("path", "last"), [(b"/", []), (b"/four", [b"four"])])
async def test_an_answer_in_pieces_comes_in_chunks(
    keys: Keys | None, path: bytes, last: list[bytes]
) -> None:
    async with serving(in_pieces, keys=keys) as server, await server.connect() as client:
        for _ in range(2):
            found = await client.ask(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path)
            assert found.field(b"transfer-encoding") == b"chunked"
            assert found.chunks == [piece for piece in PIECES if piece] + last


async def test_an_answer_in_pieces_of_known_length_comes_without_chunks() -> None:
    content = b"".join(PIECES)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send, 200, [(b"content-length", b"%d" % len(content))])
        for piece in PIECES:
            await finish(send, piece, more=True)
        await finish(send)

    async with serving(answer) as server, await server.connect() as client:
        for _ in range(2):
            found = await client.ask()
            assert found.field(b"transfer-encoding") is None
            assert found.body == content


@pytest.mark.parametrize("connection", [b"", b"Connection: keep-alive\r\n"])
async def test_an_answer_in_pieces_to_http_1_0_ends_with_the_connection(
    keys: Keys | None, connection: bytes
) -> None:
    async with serving(in_pieces, keys=keys) as server, await server.connect() as client:
        found = await client.ask(b"GET / HTTP/1.0\r\n%b\r\n" % connection)
        assert found.field(b"transfer-encoding") is None
        assert found.field(b"content-length") is None
        assert found.field(b"connection") == b"close"
        assert found.body == b"".join(PIECES)


# --- how long a connection lasts


async def test_http_1_0_may_keep_the_connection(keys: Keys | None) -> None:
    request = b"GET /1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    async with serving(echo, keys=keys) as server, await server.connect() as client:
        for _ in range(3):
            found = await client.ask(request)
            assert (found.body, found.field(b"connection")) == (b"/1 ", b"keep-alive")
        found = await client.ask(b"GET /1 HTTP/1.0\r\n\r\n")
        assert found.field(b"connection") == b"close"
        assert await client.rest() == b""


@pytest.mark.parametrize("said", [b"close", b"Close", b"te, close"])
@pytest.mark.parametrize("body", [b"", b"body"])
async def test_a_client_may_end_the_connection(keys: Keys | None, said: bytes, body: bytes) -> None:
    request = put(b"/", body, b"Connection: " + said)
    async with serving(echo, keys=keys) as server, await server.connect() as client:
        found = await client.ask(request + GET)
        assert (found.body, found.field(b"connection")) == (b"/ " + body, b"close")
        assert await client.rest() == b""


@pytest.mark.parametrize("said", [b"close", b"Close"])
async def test_an_application_may_end_the_connection(said: bytes) -> None:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send, 200, [(b"content-length", b"2"), (b"connection", said)])
        await finish(send, b"ok")

    async with serving(answer) as server, await server.connect() as client:
        found = await client.ask()
        assert (found.body, found.field(b"connection")) == (b"ok", b"close")
        assert await client.rest() == b""


async def test_a_client_that_has_said_all_is_answered_in_full() -> None:
    content = bytes(range(256)) * (8 << 12)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        assert await read_body(receive) == b"body"
        await reply(send, content)

    async with serving(answer) as server, await server.connect() as client:
        await client.send(put(b"/1", b"body") + put(b"/2", b"body"))
        await client.half_close()
        for _ in range(2):
            assert (await client.answer()).body == content
        assert await client.rest() == b""


async def test_a_client_that_said_half_a_request_is_let_go() -> None:
    async with serving(echo) as server:
        for size in (0, 1, 10, len(GET) - 1):
            async with await server.connect() as client:
                await client.send(GET + GET[:size])
                await client.half_close()
                assert (await client.answer()).status == 200
                assert await client.rest() == b""


# --- what breaks the connection


def failing_with(*bodies: tuple[bytes, bool], length: bytes | None) -> Application:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send, 200, [] if length is None else [(b"content-length", length)])
        for content, more in bodies:
            await finish(send, content, more=more)
        if length is None:
            raise ZeroDivisionError

    return answer


@pytest.mark.parametrize(
    "application",
    [
        failing_with((b"1234", True), (b"", False), length=b"5"),
        failing_with((b"1234", True), (b"56", False), length=b"5"),
        failing_with((b"1234", True), length=b"5"),
        failing_with((b"1234", True), length=None),
    ],
)
async def test_half_an_answer_is_never_taken_for_a_whole_one(
    keys: Keys | None, application: Application
) -> None:
    async with serving(application, keys=keys) as server, await server.connect() as client:
        await client.send(GET)
        read = await client.until_broken()
        assert not read.endswith(b"0\r\n\r\n")
        assert read.partition(b"\r\n\r\n")[2] in {b"", b"1234", b"4\r\n1234\r\n"}
        async with await server.connect() as other:
            await other.send(GET)
            await other.until_broken()


@pytest.mark.parametrize(
    "application",
    [
        failing_with((b"1234", False), length=b"5"),
        failing_with((b"123456", False), length=b"5"),
        failing_with(length=b"5"),
        failing_with(length=None),
    ],
)
async def test_an_answer_that_was_wrong_from_the_beginning_is_no_answer(
    application: Application,
) -> None:
    """Its head has not left yet when that turns out, so an error can, or nothing at all."""
    async with serving(application) as server, await server.connect() as client:
        await client.send(GET)
        assert not (await client.whatever_comes()).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("status", [204, 304])
async def test_a_body_where_there_cannot_be_one_is_not_sent(status: int) -> None:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send, status)
        await finish(send, b"body")

    async with serving(answer) as server, await server.connect() as client:
        await client.send(GET)
        assert b"body" not in await client.whatever_comes()


async def test_what_an_application_says_after_its_answer_does_not_reach_the_client(
    keys: Keys | None,
) -> None:
    async def talk(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send)
        await finish(send, b"all", more=True)
        await finish(send)
        await finish(send, b"and more")

    async def talk_of_a_length(scope: Scope, receive: Receive, send: Send) -> None:
        await reply(send, b"all")
        await finish(send, b"and more")

    for application in (talk, talk_of_a_length):
        async with serving(application, keys=keys) as server, await server.connect() as client:
            await client.send(GET + b"GET / HTTP/1.0\r\n\r\n")
            assert (await client.answer()).body == b"all"
            read = await client.whatever_comes()
            assert not read or read.startswith(b"HTTP/1.1 200")
            assert b"and more" not in read


@pytest.mark.parametrize(
    "message",
    [
        {"type": "http.response.body", "body": b"too early"},
        {"type": "http.response.push"},
    ],
)
async def test_what_an_application_must_not_say_is_its_own_failure(message: Scope) -> None:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        await send(message)

    with structlog.testing.capture_logs() as lines:
        async with serving(answer) as server, await server.connect() as client:
            assert (await client.ask()).status == 500
    assert [line["event"] for line in lines] == ["application failed"]


async def test_an_application_that_fails_before_its_answer_is_an_internal_error(
    keys: Keys | None,
) -> None:
    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["raw_path"] == b"/started":
            await start(send)
        if scope["raw_path"] == b"/silent":
            return
        raise ZeroDivisionError

    async with serving(fail, keys=keys) as server:
        for path in (b"/", b"/started", b"/silent"):
            with structlog.testing.capture_logs() as lines:
                async with await server.connect() as client:
                    found = await client.ask(put(path, b"body"))
                    assert (found.status, found.field(b"connection")) == (500, b"close")
                    assert found.field(b"content-type") == b"application/json"
                    assert error_of(found.body)["message"] == "internal error"
                    assert await client.rest() == b""
            assert [line["event"] for line in lines] == (
                [] if path == b"/silent" else ["application failed"]
            )


# --- requests that are refused


async def refused(request: bytes, keys: Keys | None = None, *, before: int = 0) -> tuple[int, str]:
    """Send something that is refused after some answers; give status and sentence."""
    async with serving(echo, keys=keys) as server, await server.connect() as client:
        await client.send(request)
        for _ in range(before):
            assert (await client.answer()).status == 200
        found = await client.answer()
        assert found.field(b"connection") == b"close"
        assert found.field(b"content-type") == b"application/json"
        assert found.field(b"date")
        error = error_of(found.body)
        assert error["code"]
        assert await client.rest() == b""
    return found.status, error["message"]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: x\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA\0: b\r\n\r\n", 400),
        (put(b"/", b"5", b"Content-Length: 1"), 400),
        (put(b"/", b"5", b"Transfer-Encoding: chunked"), 400),
        (b"FROB / HTTP/1.1\r\nHost: x\r\n\r\n", 501),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 101 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 300_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 40_000 + b"\r\n\r\n", 431),
        (b"GET /" + b"a" * 300_000, 431),
        (chunked(b"/", b"body", last=b"nonsense\r\n"), 400),
        (chunked(b"/", b"body", last=b"5\r\nhello!\r\n"), 400),
        (chunked(b"/", b"body", last=b"5;" + b"a" * 5000), 400),
    ],
)
async def test_what_cannot_be_served_is_refused_as_the_specification_has_it(
    keys: Keys | None, request_: bytes, status: int
) -> None:
    assert (await refused(request_, keys))[0] == status


@pytest.mark.parametrize("garbage", [b"\0\1\2", b"}", b"get / http", b"A\n"])
async def test_garbage_behind_a_request_is_refused_after_its_answer(garbage: bytes) -> None:
    assert (await refused(GET + put(b"/", b"body") + garbage, before=2))[0] == 400


async def test_a_body_that_is_cut_off_is_refused() -> None:
    for request in (put(b"/", b"body")[:-1], chunked(b"/", b"body", last=b"")):
        async with serving(echo) as server, await server.connect() as client:
            await client.send(request)
            await client.half_close()
            found = await client.answer()
            assert (found.status, found.field(b"connection")) == (400, b"close")
            assert "before it was complete" in error_of(found.body)["message"]


# --- deadlines


async def test_a_head_that_does_not_come_is_not_waited_for(keys: Keys | None) -> None:
    timeouts = impatient(head=SOON)
    async with serving(echo, timeouts=timeouts, keys=keys) as server:
        for before in (b"", GET):
            async with await server.connect() as client:
                await client.send(before + GET[:-1])
                if before:
                    assert (await client.answer()).status == 200
                found = await client.answer()
                assert (found.status, found.field(b"connection")) == (408, b"close")
                assert "did not arrive within" in error_of(found.body)["message"]
                assert await client.rest() == b""


async def test_a_trickle_is_no_head(mock_clock: MockClock) -> None:
    timeouts = impatient(head=30)
    async with serving(echo, timeouts=timeouts) as server, await server.connect() as client:
        client.patience = math.inf
        for byte in GET[:3]:
            await client.send(bytes([byte]))
            await wait_all_tasks_blocked()
            mock_clock.jump(11)
        assert (await client.answer()).status == 408


async def test_a_connection_nobody_uses_ends_without_a_word(keys: Keys | None) -> None:
    timeouts = impatient(idle=SOON)
    async with serving(echo, timeouts=timeouts, keys=keys) as server:
        async with await server.connect() as client:
            assert await client.rest() == b""
        async with await server.connect() as client:
            assert (await client.ask(GET + put(b"/", b"body"))).status == 200
            assert (await client.answer()).status == 200
            assert await client.rest() == b""


async def test_each_request_has_a_time_of_its_own(mock_clock: MockClock) -> None:
    async def dally(scope: Scope, receive: Receive, send: Send) -> None:
        await read_body(receive)
        mock_clock.jump(1000)
        await trio.lowlevel.checkpoint()
        await reply(send, b"at last")

    timeouts = impatient(idle=30, head=20)
    async with serving(dally, timeouts=timeouts) as server, await server.connect() as client:
        client.patience = math.inf
        for _ in range(3):
            await wait_all_tasks_blocked()
            mock_clock.jump(29)
            await client.send(GET[:5])
            await wait_all_tasks_blocked()
            mock_clock.jump(19)
            await client.send(GET[5:])
            assert (await client.answer()).body == b"at last"


async def test_a_request_that_comes_with_the_deadline_is_answered(mock_clock: MockClock) -> None:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        await reply(send, b"in time")

    timeouts = impatient(idle=30)
    async with serving(answer, timeouts=timeouts) as server, await server.connect() as client:
        client.patience = math.inf
        assert (await client.ask()).body == b"in time"
        await wait_all_tasks_blocked()
        mock_clock.jump(29)
        await wait_all_tasks_blocked()
        assert os.write(client.sock.fileno(), GET) == len(GET)  # and nobody runs in between
        mock_clock.jump(1)
        assert (await client.answer()).body == b"in time"


async def test_a_client_that_takes_nothing_is_let_go(keys: Keys | None) -> None:
    outcome: list[type] = []
    over = trio.Event()

    async def flood(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await reply(send, bytes(32 * MEGABYTE))
        except ConnectionError as error:
            outcome.append(ConnectionError)
            raise ConnectionError from error
        finally:
            over.set()

    timeouts = impatient(stall=SOON)
    async with (
        serving(flood, timeouts=timeouts, keys=keys) as server,
        await server.connect() as client,
    ):
        await client.send(GET)
        with trio.fail_after(PATIENCE):
            await over.wait()
        await client.until_broken()
    assert outcome == [ConnectionError]


# --- clients that wait to be told, and answers that come early

EXPECTING = put(b"/", b"body", b"Expect: 100-continue")


async def test_a_client_that_waits_to_be_told_is_told_when_somebody_asks(
    keys: Keys | None,
) -> None:
    started, go = trio.Event(), trio.Event()

    async def hesitate(scope: Scope, receive: Receive, send: Send) -> None:
        started.set()
        await go.wait()
        await echo(scope, receive, send)

    async with serving(hesitate, keys=keys) as server, await server.connect() as client:
        await client.send(EXPECTING[:-4])
        await started.wait()
        with trio.move_on_after(0.02) as waiting:
            await client.stream.receive_some()
        assert waiting.cancelled_caught
        go.set()
        head = await client.answer()
        assert (head.status, head.fields) == (100, [])
        await client.send(b"body")
        assert (await client.answer()).body == b"/ body"
        assert (await client.ask()).body == b"/ "


async def test_a_client_that_does_not_wait_need_not_be_told() -> None:
    async with serving(echo) as server, await server.connect() as client:
        assert (await client.ask(EXPECTING)).body == b"/ body"
        assert (await client.ask()).body == b"/ "


async def test_a_client_is_told_once(keys: Keys | None) -> None:
    async with serving(echo, keys=keys) as server, await server.connect() as client:
        await client.send(EXPECTING[:-4])
        assert (await client.answer()).status == 100
        for byte in b"body":
            await client.send(bytes([byte]))
            await wait_all_tasks_blocked()
        assert (await client.answer()).body == b"/ body"


async def turn_away(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer without a look at the body, or after a look at its first piece."""
    if scope["raw_path"] == b"/look":
        await receive()
    await reply(send, b"not here", 403)


async def test_a_client_that_is_answered_first_keeps_its_body(keys: Keys | None) -> None:
    async with serving(turn_away, keys=keys) as server, await server.connect() as client:
        found = await client.ask(EXPECTING[:-4])
        assert (found.status, found.field(b"connection")) == (403, b"close")
        assert await client.rest() == b""


@pytest.mark.parametrize("path", [b"/", b"/look"])
@pytest.mark.parametrize("form", ["sized", "chunked"])
async def test_a_client_that_is_answered_while_it_sends_can_read_the_answer(
    keys: Keys | None, path: bytes, form: str
) -> None:
    body = bytes(8 * MEGABYTE)
    request = put(path, body) if form == "sized" else chunked(path, body)
    async with serving(turn_away, keys=keys) as server, await server.connect() as client:
        await client.send(request)
        found = await client.answer()
        assert (found.status, found.body) == (403, b"not here")
        assert found.field(b"connection") == b"close"
        assert await client.rest() == b""


@pytest.mark.parametrize("path", [b"/", b"/look"])
async def test_a_body_that_is_there_already_does_not_cost_the_connection(
    keys: Keys | None, path: bytes
) -> None:
    async with serving(turn_away, keys=keys) as server, await server.connect() as client:
        for request in (put(path, b"body"), chunked(path, b"bo", b"dy"), EXPECTING):
            found = await client.ask(request)
            assert (found.status, found.field(b"connection")) == (403, None)
        await client.send(put(path, b"body") + put(path, b"body") + GET)
        for _ in range(3):
            found = await client.answer()
            assert (found.status, found.field(b"connection")) == (403, None)


async def test_an_answer_may_begin_before_the_body_has_come(keys: Keys | None) -> None:
    async def talk(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send)
        await finish(send, b"go on", more=True)
        await finish(send, await read_body(receive))

    async with serving(talk, keys=keys) as server, await server.connect() as client:
        await client.send(put(b"/", b"body")[:-2])
        assert (await client.head()).status == 200
        assert await client.exactly(10) == b"5\r\ngo on\r\n"
        await client.send(b"dy")
        assert await client.exactly(14) == b"4\r\nbody\r\n0\r\n\r\n"


# --- stopping


async def test_stopping_ends_what_is_idle_and_nothing_else(keys: Keys | None) -> None:
    started, go = trio.Event(), trio.Event()

    async def hesitate(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["raw_path"] == b"/slow":
            started.set()
            await go.wait()
        await echo(scope, receive, send)

    async with serving(hesitate, keys=keys) as server:
        unused, idle, busy, writing = [await server.connect() for _ in range(4)]
        async with unused, idle, busy, writing:
            await idle.ask()
            await busy.send(put(b"/slow", b"body") + GET)
            await writing.send(GET[:10])
            await started.wait()
            await wait_all_tasks_blocked()
            server.connections.close()
            assert await unused.rest() == b""
            assert await idle.rest() == b""
            go.set()
            found = await busy.answer()
            assert (found.body, found.field(b"connection")) == (b"/slow body", b"close")
            assert await busy.is_closed()
            await writing.send(GET[10:])
            found = await writing.answer()
            assert (found.status, found.field(b"connection")) == (200, b"close")
            assert await writing.rest() == b""


async def test_aborting_ends_everything(keys: Keys | None) -> None:
    started = trio.Event()

    async def hesitate(scope: Scope, receive: Receive, send: Send) -> None:
        started.set()
        await read_body(receive)

    async with serving(hesitate, keys=keys) as server, await server.connect() as client:
        await client.send(put(b"/", b"body")[:-1])
        await started.wait()
        assert server.connections.abort() == 1
        assert await client.until_broken() == b""


# --- files


@pytest.fixture(scope="module")
def content() -> bytes:
    return random.Random(4711).randbytes(3 * MEGABYTE)  # noqa: S311  no secret


@pytest.fixture(scope="module")
def file(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "file"
    path.write_bytes(content)
    return path


@pytest.fixture(scope="module")
def huge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More than the kernel keeps for anybody who does not read."""
    path = tmp_path_factory.mktemp("files") / "huge"
    with path.open("wb") as opened:
        opened.truncate(64 * MEGABYTE)
    return path


class FileServer:
    """Sends the part of a file that a path asks for, and remembers how that went."""

    def __init__(self, path: Path, *, length: int | None = None) -> None:
        self.outcomes: list[object] = []
        self.over = trio.Event()
        self._path = path
        self._length = length

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        offset, count = map(int, scope["raw_path"][1:].split(b"-"))
        length = count if self._length is None else self._length
        try:
            with self._path.open("rb", buffering=0) as opened:
                await start(send, 200, [(b"content-length", b"%d" % length)])
                message = {"type": "http.response.zerocopysend", "file": opened, "count": count}
                await send(message | ({"offset": offset} if offset else {}))
            self.outcomes.append(count)
        except OSError as error:
            self.outcomes.append(error)
            raise
        finally:
            self.over.set()


def part(offset: int, count: int, method: bytes = b"GET") -> bytes:
    return b"%b /%d-%d HTTP/1.1\r\nHost: x\r\n\r\n" % (method, offset, count)


SIZE = 3 * MEGABYTE
PARTS = [
    (0, SIZE),
    (0, 1),
    (SIZE - 1, 1),
    (1, SIZE - 2),
    (1000, 65536),
    (1000, 65537),
    (0, 300_000),
    (SIZE - 300_000, 300_000),
]


async def test_any_part_of_a_file_is_sent(keys: Keys | None, file: Path, content: bytes) -> None:
    application = FileServer(file)
    async with serving(application, keys=keys) as server, await server.connect() as client:
        for offset, count in PARTS:
            found = await client.ask(part(offset, count))
            assert found.field(b"content-length") == b"%d" % count
            assert found.body == content[offset : offset + count]
        await client.send(b"".join(part(*asked) for asked in PARTS))
        for offset, count in PARTS:
            assert (await client.answer()).body == content[offset : offset + count]
    # Only now: a client may have all before the server knows that it has.
    assert application.outcomes == [count for _, count in PARTS] * 2


async def test_of_a_file_head_sends_nothing(keys: Keys | None, file: Path) -> None:
    application = FileServer(file)
    async with serving(application, keys=keys) as server, await server.connect() as client:
        for _ in range(2):
            found = await client.ask(part(0, SIZE, b"HEAD"), to_head=True)
            assert found.field(b"content-length") == b"%d" % SIZE


async def test_a_client_that_has_said_all_gets_the_whole_file(file: Path, content: bytes) -> None:
    async with serving(FileServer(file)) as server, await server.connect() as client:
        await client.send(part(0, SIZE) + part(5, 10))
        await client.half_close()
        assert (await client.answer()).body == content
        assert (await client.answer()).body == content[5:15]
        assert await client.rest() == b""


async def test_a_file_may_be_a_part_of_an_answer(
    keys: Keys | None, file: Path, content: bytes
) -> None:
    async def frame(scope: Scope, receive: Receive, send: Send) -> None:
        await start(send, 200, [(b"content-length", b"%d" % (SIZE + 10))])
        await finish(send, b"<<<<<", more=True)
        with file.open("rb", buffering=0) as opened:
            message = {"type": "http.response.zerocopysend", "file": opened, "count": SIZE}
            await send(message | {"offset": 0, "more_body": True})
        await finish(send, b">>>>>")

    async with serving(frame, keys=keys) as server, await server.connect() as client:
        for _ in range(2):
            assert (await client.ask()).body == b"<<<<<" + content + b">>>>>"


@pytest.mark.parametrize(
    ("offset", "count"),
    [
        (0, SIZE + 1),
        (SIZE - 10, 11),
        (SIZE - 10, 100_000),
        (SIZE, 1),
        (2 * SIZE, 1),
        (10, 2 * SIZE),
    ],
)
async def test_a_file_that_ends_too_early_breaks_the_connection(
    keys: Keys | None, file: Path, content: bytes, offset: int, count: int
) -> None:
    application = FileServer(file)
    async with serving(application, keys=keys) as server, await server.connect() as client:
        await client.send(part(offset, count))
        read = await client.until_broken()
        assert content[offset:].startswith(read.partition(END)[2])
        await application.over.wait()
        (outcome,) = application.outcomes
        assert isinstance(outcome, OSError)
        assert not isinstance(outcome, ConnectionError)


@pytest.mark.parametrize("length", [9, 11])
async def test_a_file_of_another_length_than_was_announced_breaks_the_connection(
    file: Path, length: int
) -> None:
    application = FileServer(file, length=length)
    async with serving(application) as server, await server.connect() as client:
        await client.send(part(0, 10))
        read = await client.whatever_comes()
        assert not read.startswith(b"HTTP/1.1 200") or len(read.partition(END)[2]) < length


async def test_a_client_that_leaves_ends_its_download(keys: Keys | None, huge: Path) -> None:
    application = FileServer(huge)
    async with serving(application, keys=keys) as server:
        async with await server.connect() as client:
            await client.send(part(0, 64 * MEGABYTE))
            await client.head()
            client.reset()
        with trio.fail_after(PATIENCE):
            await application.over.wait()
    (outcome,) = application.outcomes
    assert isinstance(outcome, ConnectionError)


async def test_a_client_that_takes_nothing_of_its_download_is_let_go(
    keys: Keys | None, huge: Path
) -> None:
    application, timeouts = FileServer(huge), impatient(stall=SOON)
    async with (
        serving(application, timeouts=timeouts, keys=keys) as server,
        await server.connect() as client,
    ):
        await client.send(part(0, 64 * MEGABYTE))
        await client.head()
        with trio.fail_after(PATIENCE):
            await application.over.wait()
        await client.until_broken()
    (outcome,) = application.outcomes
    assert isinstance(outcome, ConnectionError)


async def test_a_client_that_pauses_gets_its_download_all_the_same(
    keys: Keys | None, tmp_path: Path
) -> None:
    size = 24 * MEGABYTE
    pattern = random.Random(4711).randbytes(MEGABYTE)  # noqa: S311  no secret
    (tmp_path / "file").write_bytes(pattern * 24)
    application = FileServer(tmp_path / "file")
    async with serving(application, keys=keys) as server, await server.connect() as client:
        await client.send(part(0, size))
        head = await client.head()
        assert head.status == 200
        for _ in range(24):
            with trio.move_on_after(0.02):  # until the server waits, which is seldom necessary
                await application.over.wait()
            assert await client.exactly(MEGABYTE) == pattern
        assert (await client.ask(part(0, 10))).body == pattern[:10]


async def test_those_who_stall_keep_nobody_from_their_downloads(
    keys: Keys | None, huge: Path
) -> None:
    application = FileServer(huge)
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(application, keys=keys))
        for _ in range(50):
            client = await stack.enter_async_context(await server.connect())
            await client.send(part(0, 64 * MEGABYTE))
            await client.head()
        async with await server.connect() as client:
            assert (await client.ask(part(0, 4 * MEGABYTE))).body == bytes(4 * MEGABYTE)
            assert (await client.ask(part(0, 1))).body == b"\0"
        assert 4 * MEGABYTE in application.outcomes
        assert 64 * MEGABYTE not in application.outcomes


# --- bodies that go straight to where they belong


class Drain:
    """Has the body of each request put into `bodies`, and remembers how that went."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.bodies: list[bytes] = []
        self.outcomes: list[Exception | None] = []
        self.begun = trio.Event()
        self.over = trio.Event()
        self._failure = failure
        self._loop_thread = threading.get_ident()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        taken = bytearray()

        def sink(pieces: Sequence[memoryview]) -> None:
            assert threading.get_ident() != self._loop_thread
            trio.from_thread.run_sync(self.begun.set)
            if self._failure is not None:
                raise self._failure
            for piece in pieces:
                taken.extend(piece)

        outcome: Exception | None = None
        try:
            await scope["extensions"]["registry.request.drain"]["drain"](sink)
        except Exception as error:
            outcome = error
            if not isinstance(error, ZeroDivisionError):
                raise
        finally:
            self.outcomes.append(outcome)
            self.bodies.append(bytes(taken))
            self.over.set()
        if outcome is None:
            await reply(send, b"%d" % len(taken))
        else:
            await reply(send, b"no good", 507)


async def test_a_body_is_drained(keys: Keys | None, content: bytes) -> None:
    application = Drain()
    async with serving(application, keys=keys) as server, await server.connect() as client:
        for body in (content, b"x", b"", content[:70_000], content):
            found = await client.ask(put(b"/", body))
            assert (found.status, found.body) == (200, b"%d" % len(body))
            found = await client.ask(
                chunked(b"/", *[body[at : at + 100_001] for at in range(0, len(body), 100_001)])
            )
            assert (found.status, found.body) == (200, b"%d" % len(body))
            assert application.bodies[-2:] == [body, body]
    assert application.outcomes == [None] * 10


async def test_a_body_of_tiny_chunks_is_drained(keys: Keys | None, content: bytes) -> None:
    body = content[:20_000]
    application = Drain()
    request = chunked(b"/", *[body[at : at + 7] for at in range(0, len(body), 7)])
    async with serving(application, keys=keys) as server, await server.connect() as client:
        assert (await client.ask(request + GET)).body == b"20000"
        assert (await client.answer()).body == b"0"
    assert application.bodies == [body, b""]


async def test_what_comes_behind_a_body_is_not_drained(keys: Keys | None, content: bytes) -> None:
    application = Drain()
    requests = [
        put(b"/", b"one"),
        chunked(b"/", b"t", b"wo"),
        put(b"/", content),
        GET,
        chunked(b"/", content, last=b"0;a=b\r\nA: b\r\n\r\n"),
        put(b"/", b"PUT /no HTTP/1.1\r\nHost: x\r\n\r\n"),
        chunked(b"/", b"0\r\n\r\n"),
    ]
    async with serving(application, keys=keys) as server, await server.connect() as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, b"".join(requests))
            answers = [(await client.answer()).body for _ in requests]
        assert answers == [b"3", b"3", b"%d" % SIZE, b"0", b"%d" % SIZE, b"29", b"5"]
        assert application.bodies[5:] == [b"PUT /no HTTP/1.1\r\nHost: x\r\n\r\n", b"0\r\n\r\n"]
        assert application.bodies[2] == application.bodies[4] == content


async def test_a_body_may_be_drained_as_slowly_as_it_comes(keys: Keys | None) -> None:
    for request in (put(b"/", b"some body"), chunked(b"/", b"some", b" bo", b"dy")):
        application = Drain()
        async with serving(application, keys=keys) as server, await server.connect() as client:
            for byte in request[:-1]:
                await client.send(bytes([byte]))
                await trio.lowlevel.checkpoint()
            assert not application.over.is_set()
            await client.send(request[-1:])
            assert (await client.answer()).body == b"9"
            assert (await client.ask()).body == b"0"
        assert application.bodies == [b"some body", b""]


async def test_a_client_that_waits_to_be_told_is_told_to_fill_the_drain(
    keys: Keys | None,
) -> None:
    application = Drain()
    async with serving(application, keys=keys) as server, await server.connect() as client:
        await client.send(EXPECTING[:-4])
        assert (await client.answer()).status == 100
        await client.send(b"body")
        assert (await client.answer()).body == b"4"


async def test_part_of_a_body_may_be_received_and_the_rest_drained(content: bytes) -> None:
    async def mixed(scope: Scope, receive: Receive, send: Send) -> None:
        taken = bytearray((await receive())["body"])
        assert taken
        drain = scope["extensions"]["registry.request.drain"]["drain"]
        await drain(lambda pieces: taken.extend(b"".join(pieces)))
        await drain(lambda _: pytest.fail("there is nothing left"))
        assert (await receive())["type"] == "http.disconnect"
        await reply(send, b"same" if taken == content else b"different")

    async with serving(mixed) as server, await server.connect() as client:
        await client.send(put(b"/", content))
        await client.half_close()
        assert (await client.answer()).body == b"same"


async def test_a_sink_that_fails_fails_the_application_and_not_the_answer(
    keys: Keys | None, content: bytes
) -> None:
    for request in (put(b"/", content * 3), chunked(b"/", content * 3)):
        application = Drain(ZeroDivisionError())
        async with serving(application, keys=keys) as server, await server.connect() as client:
            await client.send(request)
            found = await client.answer()
            assert (found.status, found.body) == (507, b"no good")
            assert found.field(b"connection") == b"close"
            assert await client.rest() == b""
        assert [type(outcome) for outcome in application.outcomes] == [ZeroDivisionError]


async def test_a_sink_that_fails_with_all_there_does_not_cost_the_connection() -> None:
    application = Drain(ZeroDivisionError())
    async with serving(application) as server, await server.connect() as client:
        for request in (put(b"/", b"body"), chunked(b"/", b"body")):
            for _ in range(2):
                found = await client.ask(request)
                assert (found.status, found.body) == (507, b"no good")
                assert found.field(b"connection") is None


@pytest.mark.parametrize("form", ["sized", "chunked"])
async def test_a_client_that_leaves_within_its_body_ends_the_draining(
    keys: Keys | None, form: str
) -> None:
    application = Drain()
    body = bytes(300_000)
    request = put(b"/", body) if form == "sized" else chunked(b"/", body)
    async with serving(application, keys=keys) as server, await server.connect() as client:
        await client.send(request[:-10])
        with trio.fail_after(PATIENCE):
            await application.begun.wait()
            client.reset()
            await application.over.wait()
    (outcome,) = application.outcomes
    assert isinstance(outcome, ConnectionError)
    assert len(application.bodies[0]) <= 300_000


@pytest.mark.parametrize("form", ["sized", "chunked"])
async def test_a_body_that_ends_too_early_is_refused_and_what_came_was_drained(form: str) -> None:
    application = Drain()
    request = put(b"/", bytes(300_000)) if form == "sized" else chunked(b"/", bytes(300_000))
    async with serving(application) as server, await server.connect() as client:
        await client.send(request[:-7] if form == "sized" else request[:-14])
        await client.half_close()
        found = await client.answer()
        assert (found.status, found.field(b"connection")) == (400, b"close")
        assert "before it was complete" in error_of(found.body)["message"]
        assert await client.rest() == b""
    (outcome,) = application.outcomes
    assert isinstance(outcome, ConnectionError)
    assert application.bodies == [bytes(299_993)]


async def test_a_body_that_stalls_is_no_longer_waited_for(keys: Keys | None) -> None:
    for request in (put(b"/", bytes(300_000)), chunked(b"/", bytes(300_000))):
        application, timeouts = Drain(), impatient(stall=SOON)
        async with (
            serving(application, timeouts=timeouts, keys=keys) as server,
            await server.connect() as client,
        ):
            await client.send(request[:-10])
            with trio.fail_after(PATIENCE):
                await application.over.wait()
        (outcome,) = application.outcomes
        assert isinstance(outcome, TimeoutError)


async def test_a_trickle_is_a_body_that_stalls(mock_clock: MockClock) -> None:
    application, timeouts = Drain(), impatient(stall=3000)
    async with serving(application, timeouts=timeouts) as server, await server.connect() as client:
        client.patience = math.inf
        await client.send(put(b"/", bytes(MEGABYTE))[:300])
        await application.begun.wait()
        for _ in range(3):
            await client.send(b"x")
            mock_clock.jump(1100)
        mock_clock.rate = 1
        with trio.fail_after(PATIENCE):
            await application.over.wait()
    (outcome,) = application.outcomes
    assert isinstance(outcome, TimeoutError)


@pytest.mark.parametrize("last", [b"nonsense\r\n", b"5\r\nhello!\r\n", b"5\nhello\r\n0\r\n\r\n"])
async def test_a_body_in_bad_chunks_is_refused(keys: Keys | None, last: bytes) -> None:
    application = Drain()
    async with serving(application, keys=keys) as server, await server.connect() as client:
        found = await client.ask(chunked(b"/", bytes(300_000), last=last))
        assert (found.status, found.field(b"connection")) == (400, b"close")
        assert error_of(found.body)["code"]
        assert await client.rest() == b""
    (outcome,) = application.outcomes
    assert isinstance(outcome, ConnectionError)


async def test_those_who_stall_keep_nobody_from_their_uploads(content: bytes) -> None:
    application = Drain()
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(serving(application))
        for _ in range(50):
            client = await stack.enter_async_context(await server.connect())
            await client.send(put(b"/", content)[:100_000])
        async with await server.connect() as client:
            assert (await client.ask(put(b"/", content))).body == b"%d" % SIZE
        assert application.bodies == [content]


async def test_aborting_ends_what_is_in_a_thread(keys: Keys | None, huge: Path) -> None:
    download, upload = FileServer(huge), Drain()

    async def both(scope: Scope, receive: Receive, send: Send) -> None:
        await (download if scope["method"] == "GET" else upload)(scope, receive, send)

    async with (
        serving(both, keys=keys) as server,
        await server.connect() as reader,
        await server.connect() as writer,
    ):
        await reader.send(part(0, 64 * MEGABYTE))
        await reader.head()
        await writer.send(put(b"/", bytes(300_000))[:-1])
        await upload.begun.wait()
        assert server.connections.abort() == 2
        with trio.fail_after(PATIENCE):
            await download.over.wait()
            await upload.over.wait()
        assert len(await reader.whatever_comes()) < 64 * MEGABYTE
        assert await writer.whatever_comes() == b""
    for outcome in (*download.outcomes, *upload.outcomes):
        assert isinstance(outcome, ConnectionError)
