"""HTTP/2 over real sockets: what is malformed, what fails, and how connections end."""

import pytest
import structlog
import trio
from h2.errors import ErrorCodes
from trio.testing import MockClock

from tests.serve.http2_client import GOOD, PATIENCE, serving

MIB = 1 << 20


@pytest.mark.parametrize(
    "fields",
    [
        GOOD[:3],
        GOOD[1:],
        [*GOOD[:3], (":path", "")],
        [*GOOD, (":path", "/")],
        [*GOOD, ("connection", "close")],
        [*GOOD, ("transfer-encoding", "chunked")],
        [*GOOD, ("te", "gzip")],
        [*GOOD, ("X-Upper", "1")],
        [*GOOD, ("", "1")],
        [*GOOD, ("x", "a\nb")],
        [*GOOD, ("host", "y")],
        [*GOOD, (":status", "100")],
        [("x", "1"), *GOOD],
        [*GOOD, ("content-length", "5")],
        [*GOOD, ("content-length", "x")],
        [*GOOD, ("content-length", "0"), ("content-length", "1")],
        [(":method", "CONNECT"), (":authority", "x"), (":path", "/"), (":scheme", "https")],
    ],
)
async def test_a_malformed_head_costs_its_own_stream(fields: list[tuple[str, str]]) -> None:
    async with serving() as (client, server):
        other = await client.request("/held")
        stream_id = await client.head(fields)
        await client.until(lambda: stream_id in client.resets)
        assert client.resets == {stream_id: ErrorCodes.PROTOCOL_ERROR}
        server.application.go_on.set()
        assert (await client.answer(other)).body == b"hello"
        assert len(server.application.scopes) == 1


@pytest.mark.parametrize(
    "fields",
    [
        [(":method", "CONNECT"), (":authority", "x")],
        [*GOOD[:3], (":path", "x")],
        [*GOOD[:3], (":path", "https://x/")],
        [*GOOD[:3], (":path", "/a#b")],
        [*GOOD[:3], (":path", "/\x7f")],
        [*GOOD[:3], (":path", "*")],
        [*GOOD[1:], (":method", "G T")],
        [*GOOD[1:], (":method", "GÄT")],
    ],
)
async def test_what_cannot_be_served_is_answered(fields: list[tuple[str, str]]) -> None:
    async with serving() as (client, server):
        for end in (True, False):
            answer = await client.answer(await client.head(fields, end=end))
            assert answer.status == 400
            assert b'"errors"' in answer.body
        assert (await client.get()).body == b"hello"
        assert len(server.application.scopes) == 1


@pytest.mark.parametrize("extra", [[("x", "y")] * 100, [("x", "y" * 33_000)]])
async def test_a_head_that_is_too_large_is_answered(extra: list[tuple[str, str]]) -> None:
    async with serving() as (client, _):
        assert (await client.answer(await client.head(GOOD + extra))).status == 431
        assert (await client.get()).body == b"hello"


@pytest.mark.parametrize("announced", ["1", "3"])
@pytest.mark.parametrize("trailers", [True, False])
async def test_a_body_of_another_length_than_announced_costs_its_own_stream(
    announced: str, *, trailers: bool
) -> None:
    async with serving() as (client, server):
        stream_id = await client.request("/read", end=False, content_length=announced)
        client.h2.send_data(stream_id, b"12", end_stream=not trailers)
        if trailers:
            client.h2.send_headers(stream_id, [("x", "y")], end_stream=True)
        await client.flush()
        await client.until(lambda: stream_id in client.resets)
        assert client.resets[stream_id] == ErrorCodes.PROTOCOL_ERROR
        assert (await client.get()).body == b"hello"
        assert server.application.left == ["/read"]


async def test_trailers_that_end_nothing_cost_their_own_stream() -> None:
    async with serving() as (client, _):
        stream_id = await client.request("/read", end=False)
        client.h2.send_headers(stream_id, [("x", "y")], end_stream=True)
        data = bytearray(client.h2.data_to_send())
        data[4] &= ~1  # END_STREAM
        await client.raw(bytes(data))
        await client.until(lambda: stream_id in client.resets)
        assert (await client.get()).body == b"hello"


async def test_data_after_the_end_costs_its_own_stream() -> None:
    async with serving() as (client, server):
        stream_id = await client.request("/held")
        await client.raw(b"\0\0\1\0\0" + stream_id.to_bytes(4, "big") + b"x")
        await client.until(lambda: stream_id in client.resets)
        assert client.resets[stream_id] == ErrorCodes.STREAM_CLOSED
        server.application.go_on.set()
        assert (await client.get()).body == b"hello"


@pytest.mark.parametrize("path", ["/fail", "/silent"])
async def test_an_application_without_an_answer_gives_500(path: str) -> None:
    async with serving() as (client, _):
        with structlog.testing.capture_logs() as lines:
            assert (await client.get(path)).status == 500
        assert [line["event"] for line in lines] == ["application failed"] * (path == "/fail")
        assert (await client.get()).body == b"hello"


@pytest.mark.parametrize("path", ["/break", "/long"])
async def test_half_an_answer_cannot_be_taken_for_a_whole_one(path: str) -> None:
    async with serving() as (client, _):
        with structlog.testing.capture_logs() as lines:
            stream_id = await client.request(path)
            await client.until(lambda: stream_id in client.resets)
        assert client.resets[stream_id] == ErrorCodes.INTERNAL_ERROR
        assert [line["event"] for line in lines] == ["application failed"]
        assert stream_id not in client.ended
        assert (await client.get()).body == b"hello"


# -- the connection's end


async def test_an_idle_connection_is_closed_whatever_it_chats(mock_clock: MockClock) -> None:
    async with serving(idle=60) as (client, server):
        await client.get()
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(31)
        client.h2.ping(bytes(8))
        await client.flush()
        await client.until(lambda: client.pongs == 1)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(31)
        await client.until_closed()
        assert client.goodbye == ErrorCodes.NO_ERROR
        await server.over.wait()


async def test_a_busy_connection_is_not_idle(mock_clock: MockClock) -> None:
    async with serving(idle=60) as (client, server):
        stream_id = await client.request("/held")
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(1000)
        await trio.testing.wait_all_tasks_blocked()
        server.application.go_on.set()
        assert (await client.answer(stream_id)).body == b"hello"
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(61)
        await client.until_closed()
        assert client.goodbye == ErrorCodes.NO_ERROR


@pytest.mark.parametrize("sent", [8, 30])
async def test_a_head_begun_must_be_finished(sent: int, mock_clock: MockClock) -> None:
    async with serving(head=30, idle=1000) as (client, _):
        await client.get()
        held = await client.request("/held")
        client.h2.put_head(held + 2, GOOD, end=True)
        data = bytearray(client.h2.data_to_send()) + b"\0\0\0\x09\0\0\0\0\5" * 3
        data[4] &= ~4  # END_HEADERS
        await client.raw(bytes(data[:sent]))
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(20)
        await client.raw(bytes(data[sent : sent + 1]))
        await trio.testing.wait_all_tasks_blocked()
        assert client.goodbye is None
        mock_clock.jump(11)
        await client.until_closed()
        assert client.goodbye == ErrorCodes.NO_ERROR


async def test_a_preface_must_come_at_all(mock_clock: MockClock) -> None:
    async with serving(idle=60, start=False) as (client, server):
        await client.raw(b"PRI * HTTP")
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(61)
        await server.over.wait()


async def test_stopping_lets_requests_end_and_refuses_new_ones() -> None:
    async with serving() as (client, server):
        busy = await client.request("/held")
        body = await client.request("/read", end=False)
        await client.get()
        server.connection.stop()
        server.connection.stop()
        hasty = client.h2.get_next_available_stream_id()
        client.h2.put_head(hasty, GOOD, end=True)
        client.h2.reset_stream(hasty)
        late = await client.request("/")
        await client.until(lambda: client.goodbye == ErrorCodes.NO_ERROR)
        server.application.go_on.set()
        await client.body(body, bytes(MIB))
        assert (await client.answer(busy)).body == b"hello"
        assert (await client.answer(body)).body == b"%d" % MIB
        assert client.resets[late] == ErrorCodes.REFUSED_STREAM
        await client.until_closed()


async def test_stopping_an_idle_connection_ends_it_at_once() -> None:
    async with serving() as (client, server):
        await client.get()
        server.connection.stop()
        with trio.fail_after(PATIENCE):
            await server.over.wait()
        await client.until_closed()
        assert client.goodbye == ErrorCodes.NO_ERROR


async def test_stopping_before_anything_was_served_is_the_end() -> None:
    async with serving(start=False) as (_, server):
        server.connection.stop()
        with trio.fail_after(PATIENCE):
            await server.over.wait()


async def test_a_client_that_says_goodbye_still_gets_its_answers() -> None:
    async with serving() as (client, server):
        stream_id = await client.request("/held")
        await client.raw(b"\0\0\x08\7\0\0\0\0\0" + bytes(8))
        server.application.go_on.set()
        assert (await client.answer(stream_id)).body == b"hello"
        await client.until_closed()
