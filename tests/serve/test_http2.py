"""HTTP/2 over real sockets: what a client of good will gets, and what one stream costs another."""

import pytest
import trio
from h2.errors import ErrorCodes
from trio.testing import MockClock

from appliance.serve.http2_wire import STREAM_WINDOW, STREAMS_MAX
from tests.serve.http2_client import CHUNK, PATIENCE, serving

MIB = 1 << 20


def expected(size: int) -> bytes:
    return (CHUNK * (size // len(CHUNK) + 1))[:size]


# -- requests and answers


async def test_a_request_is_described_and_answered() -> None:
    async with serving() as (client, server):
        answer = await client.answer(
            await client.request("/a%20b?c=%2F", method="POST", x_thing="1", cookie="d=e")
        )
    assert (answer.status, answer.body) == (200, b"hello")
    assert answer.headers["content-length"] == "5"
    assert answer.headers["date"].endswith(" GMT")
    (scope,) = server.application.scopes
    assert scope["headers"] == [(b"host", b"x"), (b"x-thing", b"1"), (b"cookie", b"d=e")]
    assert scope["type"] == "http"
    assert scope["http_version"] == "2"
    assert scope["method"] == "POST"
    assert scope["path"] == "/a b"
    assert scope["raw_path"] == b"/a%20b"
    assert scope["query_string"] == b"c=%2F"
    assert scope["root_path"] == ""
    assert scope["scheme"] == "https"
    assert scope["client"] == ("192.0.2.1", 9)
    assert scope["server"] == ("192.0.2.2", 443)
    assert scope["extensions"] == {}


async def test_a_host_header_stands_in_for_the_authority() -> None:
    async with serving() as (client, server):
        fields = [(":method", "OPTIONS"), (":scheme", "https"), (":path", "*"), ("host", "y")]
        assert (await client.answer(await client.head(fields))).status == 200
    assert server.application.scopes[0]["headers"] == [(b"host", b"y")]
    assert server.application.scopes[0]["path"] == "*"


async def test_a_body_reaches_the_application_whole() -> None:
    async with serving() as (client, _):
        for size in (0, 1, 65535, 65536, 5 * MIB):
            stream_id = await client.request("/read", method="PUT", end=False)
            await client.body(stream_id, bytes(size))
            assert (await client.answer(stream_id)).body == b"%d" % size


@pytest.mark.parametrize("piece", [1000, 256 << 10])
async def test_a_body_may_come_in_frames_of_any_size(piece: int) -> None:
    async with serving() as (client, _):
        stream_id = await client.request("/read", method="PUT", end=False)
        await client.until(lambda: client.h2.local_flow_control_window(stream_id) == STREAM_WINDOW)
        await client.body(stream_id, bytes(2 * MIB), piece=piece)
        assert (await client.answer(stream_id)).body == b"%d" % (2 * MIB)


async def test_padding_and_trailers_are_no_content() -> None:
    async with serving() as (client, _):
        stream_id = await client.request("/read", method="PUT", end=False)
        for _ in range(600):  # as much padding as there is room in the window at first
            client.h2.send_data(stream_id, b"1", pad_length=100)
            await client.flush()
        client.h2.send_headers(stream_id, [("x-trailer", "1")], end_stream=True)
        await client.flush()
        assert (await client.answer(stream_id)).body == b"600"


async def test_an_answer_comes_back_whole() -> None:
    async with serving() as (client, _):
        for size in (1, 65535, 65536, 3 * MIB):
            assert (await client.get(f"/big?{size}")).body == expected(size)


async def test_large_frames_and_windows_are_used() -> None:
    async with serving(window=4 * MIB) as (client, _):
        client.h2.max_inbound_frame_size = 64 << 10
        await client.raw(b"\0\0\6\4\0\0\0\0\0" + b"\0\5" + (64 << 10).to_bytes(4, "big"))
        assert (await client.get(f"/big?{3 * MIB}")).body == expected(3 * MIB)


@pytest.mark.parametrize("path", ["/204", "/304"])
async def test_answers_without_a_body_end_with_their_head(path: str) -> None:
    async with serving() as (client, _):
        answer = await client.get(path)
        assert (answer.status, answer.body) == (int(path[1:]), b"")
        assert "content-length" not in answer.headers


async def test_head_gets_the_head_alone() -> None:
    async with serving() as (client, _):
        answer = await client.answer(await client.request(f"/big?{MIB}", method="HEAD"))
        assert (answer.status, answer.body) == (200, b"")
        assert answer.headers["content-length"] == str(MIB)


async def test_headers_of_another_version_are_left_out() -> None:
    async with serving() as (client, _):
        assert "connection" not in (await client.get("/close")).headers


async def test_a_client_that_waits_for_permission_gets_it_when_the_body_is_wanted() -> None:
    async with serving() as (client, server):
        asked = await client.request("/held-read", method="PUT", end=False, expect="100-continue")
        await client.get()
        assert client.informed == []
        server.application.go_on.set()
        await client.until(lambda: client.informed == [asked])
        await client.body(asked, b"12")
        assert (await client.answer(asked)).body == b"2"
        unasked = await client.request("/", method="PUT", end=False, expect="100-continue")
        await client.answer(unasked)
        assert client.informed == [asked]


# -- one stream and the others


async def test_one_stream_nobody_reads_does_not_hold_up_the_others() -> None:
    async with serving() as (client, server):
        unread = await client.request("/held-read", method="PUT", end=False)
        while size := min(client.h2.local_flow_control_window(unread), 16384):
            client.h2.send_data(unread, bytes(size))
            await client.flush()
        others = [await client.request("/read", method="PUT", end=False) for _ in range(7)]
        for stream_id in others:
            await client.body(stream_id, bytes(4 * MIB))
        for stream_id in others:
            assert (await client.answer(stream_id)).body == b"%d" % (4 * MIB)
        assert client.h2.local_flow_control_window(unread) == 0
        server.application.go_on.set()
        await client.body(unread, bytes(MIB))
        assert (await client.answer(unread)).body == b"%d" % (65535 + MIB)


async def test_a_stream_opens_wide_once_it_is_read_and_no_wider() -> None:
    async with serving() as (client, _):
        stream_id = await client.request("/read", method="PUT", end=False)
        await client.until(lambda: client.h2.local_flow_control_window(stream_id) > 65535)
        assert client.h2.local_flow_control_window(stream_id) == STREAM_WINDOW
        await client.body(stream_id, bytes(4 * MIB), end=False)
        assert client.h2.local_flow_control_window(stream_id) <= STREAM_WINDOW
        await client.body(stream_id, b"")
        assert (await client.answer(stream_id)).body == b"%d" % (4 * MIB)


async def test_of_eight_streams_one_that_stalls_does_not_hold_up_seven() -> None:
    async with serving() as (client, _):
        ids = [await client.request(f"/big?{2 * MIB}") for _ in range(8)]
        client.stalled.add(ids[0])
        for stream_id in ids[1:]:
            assert (await client.answer(stream_id)).body == expected(2 * MIB)
        assert len(client.bodies[ids[0]]) == 65535
        client.stalled.clear()
        client.h2.increment_flow_control_window(65535, ids[0])
        await client.flush()
        assert (await client.answer(ids[0])).body == expected(2 * MIB)


async def test_a_stream_that_takes_nothing_is_reset_and_the_others_go_on(
    mock_clock: MockClock,
) -> None:
    async with serving(stall=60, idle=1000) as (client, server):
        stuck = await client.request(f"/big?{MIB}")
        client.stalled.add(stuck)
        for _ in range(6):  # a byte now and then is nothing
            await trio.testing.wait_all_tasks_blocked()
            assert stuck not in client.resets
            mock_clock.jump(13)
            assert (await client.get()).body == b"hello"
            if stuck not in client.resets:
                client.h2.increment_flow_control_window(1, stuck)
                await client.flush()
        await client.until(lambda: stuck in client.resets)
        assert client.resets[stuck] == ErrorCodes.CANCEL
        assert (await client.get()).body == b"hello"
        assert server.application.left == ["/big"]


async def test_a_slow_stream_is_left_alone(mock_clock: MockClock) -> None:
    async with serving(stall=60, idle=1000) as (client, _):
        slow = await client.request(f"/big?{MIB}")
        client.stalled.add(slow)
        while slow not in client.ended:
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(50)
            client.h2.increment_flow_control_window(20_000, slow)
            await client.flush()
            await client.get()
        assert (await client.answer(slow)).body == expected(MIB)


async def test_the_end_of_an_answer_is_waited_for_no_longer_either(mock_clock: MockClock) -> None:
    async with serving(stall=60, idle=1000, window=10) as (client, server):
        stuck = await client.request("/big?20")
        client.stalled.add(stuck)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(61)
        await client.until(lambda: stuck in client.resets)
        assert server.application.running == 0
        assert (await client.get()).body == b"hello"


async def test_an_early_answer_stops_the_sender_and_the_connection_goes_on() -> None:
    async with serving() as (client, server):
        seen = []
        for path in ("/", "/big?100000"):
            seen.append(path)
            stream_id = await client.request(path, method="PUT", end=False)
            await client.body(stream_id, bytes(MIB))
            answer = await client.answer(stream_id)
            assert answer.status == 200
            await client.until(lambda: len(client.resets) == len(seen))
            assert client.resets[stream_id] == ErrorCodes.NO_ERROR
            # What crossed the reset does not matter, and is given back to the connection.
            for _ in range(20):
                await client.raw(b"\0\x40\0\0\0" + stream_id.to_bytes(4, "big") + bytes(16384))
            stream_id = await client.request("/read", method="PUT", end=False)
            await client.body(stream_id, bytes(MIB))
            assert (await client.answer(stream_id)).body == b"%d" % MIB
        await trio.testing.wait_all_tasks_blocked()
        assert server.connection.requests == {}


async def test_ten_thousand_streams_leave_nothing_behind() -> None:
    async with serving() as (client, server):
        for number in range(10_000):
            # Some end early, some are reset; all are forgotten.
            early = number % 100 == 0
            stream_id = await client.request("/", end=not early)
            await client.answer(stream_id)
            for seen in (client.heads, client.bodies):
                seen.clear()
        await trio.testing.wait_all_tasks_blocked()
        wire = server.connection.wire
        assert server.connection.requests == {}
        assert len(wire.streams) <= 2
        assert len(wire._closed_streams) <= wire.MAX_CLOSED_STREAMS
        assert server.connection.streams == {}
        assert server.connection.stream_buffers == {}
        assert wire.queued == 0


async def test_streams_beyond_the_limit_are_refused_alone() -> None:
    async with serving() as (client, server):
        await client.until(lambda: client.h2.remote_settings.max_concurrent_streams == STREAMS_MAX)
        client.h2.remote_settings._settings.clear()
        client.h2.remote_settings.update({3: STREAMS_MAX + 10, 4: 65535, 5: 16384})
        client.h2.remote_settings.acknowledge()
        ids = [await client.request("/held") for _ in range(STREAMS_MAX + 1)]
        await client.until(lambda: ids[-1] in client.resets)
        assert client.resets == {ids[-1]: ErrorCodes.REFUSED_STREAM}
        server.application.go_on.set()
        for stream_id in ids[:-1]:
            assert (await client.answer(stream_id)).body == b"hello"


async def test_a_client_that_resets_its_request_is_told_to_have_left() -> None:
    async with serving() as (client, server):
        paths = {"/listen": True, "/read": False, "/big?1000000": True}
        for path, end in paths.items():
            stream_id = await client.request(path, end=end)
            client.stalled.add(stream_id)
            await trio.testing.wait_all_tasks_blocked()
            client.h2.reset_stream(stream_id, ErrorCodes.CANCEL)
            await client.flush()
            assert (await client.get()).body == b"hello"
        await trio.testing.wait_all_tasks_blocked()
        assert server.application.left == ["/listen", "/read", "/big"]
        assert server.application.running == 0


async def test_a_client_that_disappears_ends_its_requests() -> None:
    async with serving() as (client, server):
        for path, end in {"/listen": True, "/read": False, "/big?1000000": True}.items():
            client.stalled.add(await client.request(path, end=end))
        await trio.testing.wait_all_tasks_blocked()
        await client.stream.aclose()
        with trio.fail_after(PATIENCE):
            await server.over.wait()
        assert sorted(server.application.left) == ["/big", "/listen", "/read"]
