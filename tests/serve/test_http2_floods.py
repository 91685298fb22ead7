"""HTTP/2 over real sockets: what costs more than it is worth ends the connection, and only that."""

import pytest
import trio
from h2.errors import ErrorCodes

from appliance.serve.http2_wire import STREAMS_MAX
from tests.serve.http2_client import GOOD, Client, frame, serving

DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, END_HEADERS, ACK = 1, 4, 1
CALM = ErrorCodes.ENHANCE_YOUR_CALM


async def flood(client: Client, *frames: bytes, times: int = 5000) -> None:
    """Send and read at once until the server has had enough, which it must have before the end."""

    async def send() -> None:
        for _ in range(times):
            await client.raw(*frames)
        raise AssertionError("the server takes everything")

    async with trio.open_nursery() as nursery:

        async def listen() -> None:
            await client.until_closed()
            nursery.cancel_scope.cancel()

        nursery.start_soon(listen)
        try:
            await send()
        except trio.BrokenResourceError:
            await trio.sleep_forever()


@pytest.mark.parametrize(
    "frames",
    [
        frame(PING, 0, 0, bytes(8)),
        frame(PING, ACK, 0, bytes(8)),
        frame(SETTINGS, 0, 0),
        frame(SETTINGS, 0, 0, b"\0\4\0\0\0\1") + frame(SETTINGS, 0, 0, b"\0\4\0\0\xff\xff"),
        frame(SETTINGS, ACK, 0),
        frame(PRIORITY, 0, 5, b"\0\0\0\3\7"),
        frame(PRIORITY, 0, 1001, b"\0\0\0\0\7"),
        frame(RST, 0, 1, bytes(4)),
        frame(WINDOW, 0, 0, b"\0\0\0\1"),
        frame(WINDOW, 0, 1, b"\0\0\0\1"),
        frame(DATA, 0, 1),
        frame(DATA, 8, 1, b"\x0f" + bytes(15)),
        frame(GOAWAY, 0, 0, bytes(8)),
        frame(0x42, 0, 1, b"x"),
        frame(10, 0, 0, b"\0\0"),
    ],
)
async def test_frames_that_serve_no_request_are_counted(frames: bytes) -> None:
    async with serving() as (client, server):
        await client.request("/read", method="PUT", end=False)
        await flood(client, frames * 10)
        assert client.goodbye == CALM
        await trio.testing.wait_all_tasks_blocked()
        assert server.application.left == ["/read"]


async def test_some_of_them_are_everybodys_right() -> None:
    async with serving() as (client, _):
        for _ in range(300):
            client.h2.ping(bytes(8))
        await client.flush()
        await client.until(lambda: client.pongs == 300)
        # Whoever gets work done may say more: most clients open both windows for every frame.
        stream_id = await client.request("/big?40000000")
        assert len((await client.answer(stream_id)).body) == 40_000_000
        for _ in range(1500):
            assert (await client.get()).status == 200
            await client.raw(frame(PING, 0, 0, bytes(8)), frame(SETTINGS, 0, 0))
        assert client.goodbye is None


async def test_a_window_opened_byte_by_byte_is_no_work() -> None:
    async with serving(window=0) as (client, server):
        stream_id = await client.request("/big?1000000")
        while client.goodbye is None:
            client.h2.increment_flow_control_window(1, stream_id)
            await client.flush()
            await client.read()
        assert client.goodbye == CALM
        await client.until_closed()
        await trio.testing.wait_all_tasks_blocked()
        assert server.application.left == ["/big"]


def started_at_most(began: float) -> int:
    """Of requests that are reset: a hundred at once, ten for each second so far, and the last straw."""
    return 101 + int(10 * (trio.current_time() - began))


async def test_requests_taken_back_at_once_end_the_connection() -> None:
    began = trio.current_time()
    async with serving() as (client, server):
        for _ in range(50):
            stream_id = await client.request("/held")
            client.h2.reset_stream(stream_id, ErrorCodes.CANCEL)
        await client.flush()
        assert (await client.get()).status == 200
        for _ in range(5):
            for _ in range(50):
                stream_id = client.h2.get_next_available_stream_id()
                client.h2.put_head(stream_id, GOOD, end=True)
                client.h2.reset_stream(stream_id, ErrorCodes.CANCEL)
            try:
                await client.flush()
            except trio.BrokenResourceError:
                break
        await client.until_closed()
        assert client.goodbye == CALM
        assert len(server.application.scopes) <= started_at_most(began)


async def test_resets_that_the_client_provokes_are_counted_too() -> None:
    began = trio.current_time()
    async with serving() as (client, server):
        try:
            for _ in range(300):
                stream_id = client.h2.get_next_available_stream_id()
                client.h2.put_head(stream_id, [*GOOD[:3], (":path", "/held")], end=True)
                overflow = frame(WINDOW, 0, stream_id, b"\x7f\xff\xff\xff")
                await client.raw(client.h2.data_to_send(), overflow)
        except trio.BrokenResourceError:
            pass
        await client.until_closed()
        assert client.goodbye == CALM
        assert len(server.application.scopes) <= started_at_most(began)


async def test_requests_still_worked_on_count_although_their_streams_are_gone() -> None:
    async with serving() as (client, server):
        server.connection.wire._resets._left = 1e6
        for _ in range(3 * STREAMS_MAX):
            stream_id = await client.request("/held")
            client.h2.reset_stream(stream_id, ErrorCodes.CANCEL)
        await client.flush()
        last = await client.request("/held")
        await client.until(lambda: last in client.resets)
        assert client.resets[last] == ErrorCodes.REFUSED_STREAM
        assert server.application.running == 2 * STREAMS_MAX
        server.application.go_on.set()
        await trio.testing.wait_all_tasks_blocked()
        assert (await client.get()).status == 200


async def test_a_client_that_reads_no_replies_is_not_read_either() -> None:
    async with serving() as (client, server):
        stream_id = 1

        async def ask() -> None:
            nonlocal stream_id
            while True:
                client.h2.put_head(stream_id, GOOD, end=True)
                client.h2.reset_stream(stream_id, ErrorCodes.CANCEL)
                data = client.h2.data_to_send()
                await client.stream.send_all(data[:-13])
                stream_id += 2

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked(0.1)
            asked = stream_id
            assert server.connection.wire.queued < 256 << 10
            assert len(server.connection.requests) <= 2 * STREAMS_MAX
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert stream_id == asked
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("piece", [b"", bytes(16384)])
async def test_a_head_without_an_end_is_cut_off(piece: bytes) -> None:
    async with serving() as (client, server):
        await client.get()
        await client.raw(frame(HEADERS, END_STREAM, 3, b""))
        await flood(client, frame(CONTINUATION, 0, 3, piece), times=1000)
        assert client.goodbye in {CALM, ErrorCodes.PROTOCOL_ERROR}
        assert len(server.application.scopes) == 1


@pytest.mark.parametrize(
    "block",
    [
        b"\x40\1x\x7f\xe1\x1e" + b"y" * 4000 + b"\xbe" * 2000,  # one field of 4 KB, again and again
        b"\x20" * 70_000,  # the table's size, set again and again
        b"\x82\x84\x87" + b"\xff" * 30,  # an index of astronomical size
        b"\x82\x84\x87\xff\x80\x80\x01",
    ],
)
async def test_a_head_that_explodes_ends_the_connection(block: bytes) -> None:
    async with serving() as (client, _):
        await client.get()
        await client.raw(frame(HEADERS, END_STREAM | END_HEADERS, 3, block))
        await client.until_closed()
        assert client.goodbye in {CALM, ErrorCodes.PROTOCOL_ERROR}


async def test_a_frame_that_is_too_long_is_refused_before_it_has_come() -> None:
    async with serving() as (client, _):
        await client.get()
        await client.raw(b"\xff\xff\xff\0\0\0\0\0\1")
        await client.until_closed()
        assert client.goodbye == ErrorCodes.FRAME_SIZE_ERROR


async def test_more_content_than_the_window_ends_the_connection() -> None:
    async with serving() as (client, _):
        stream_id = await client.request("/held", method="PUT", end=False)
        await client.raw(*[frame(DATA, 0, stream_id, bytes(16384))] * 5)
        await client.until_closed()
        assert client.goodbye == ErrorCodes.FLOW_CONTROL_ERROR


async def test_a_window_that_overflows_costs_what_it_belongs_to() -> None:
    async with serving() as (client, _):
        overflow = b"\x7f\xff\xff\xff"
        stream_id = await client.request("/held")
        await client.raw(frame(WINDOW, 0, stream_id, overflow))
        await client.until(lambda: stream_id in client.resets)
        assert client.resets[stream_id] == ErrorCodes.FLOW_CONTROL_ERROR
        assert (await client.get()).status == 200
        await client.raw(frame(WINDOW, 0, 0, overflow))
        await client.until_closed()
        assert client.goodbye == ErrorCodes.FLOW_CONTROL_ERROR


@pytest.mark.parametrize(
    "frames",
    [
        frame(DATA, 0, 0, b"x"),
        frame(DATA, 0, 99, b"x"),
        frame(HEADERS, END_HEADERS, 2, b"\x82"),
        frame(PUSH, END_HEADERS, 1, b"\0\0\0\2\x82"),
        frame(CONTINUATION, END_HEADERS, 1, b""),
        frame(HEADERS, 0, 3, b"") + frame(PING, 0, 0, bytes(8)),
        frame(PING, 0, 0, b"x"),
        frame(PING, 0, 3, bytes(8)),
        frame(SETTINGS, 0, 0, b"x"),
        frame(SETTINGS, ACK, 0, bytes(6)),
        frame(SETTINGS, 0, 0, b"\0\4\xff\xff\xff\xff"),
        frame(SETTINGS, 0, 0, b"\0\5\0\0\0\1"),
        frame(WINDOW, 0, 0, bytes(4)),
        frame(RST, 0, 0, bytes(4)),
        frame(DATA, 8, 1, b"\xff"),
    ],
)
async def test_what_breaks_the_framing_ends_the_connection(frames: bytes) -> None:
    async with serving() as (client, server):
        await client.request("/read", method="PUT", end=False)
        await client.raw(frames)
        await client.until_closed()
        assert client.goodbye not in {None, ErrorCodes.NO_ERROR}
        await trio.testing.wait_all_tasks_blocked()
        assert server.application.left == ["/read"]


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\0\0", b"PRI * HTTP/3"])
async def test_what_is_not_http2_is_closed(start: bytes) -> None:
    async with serving(start=False) as (client, server):
        await client.raw(start)
        await client.until_closed()
        assert server.application.scopes == []
