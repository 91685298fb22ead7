import errno
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import SimpleNamespace

import pytest
import trio
from trio.testing import MockClock, check_half_closeable_stream, wait_all_tasks_blocked

from appliance.serve.plain import PlainStream
from appliance.serve.sockets import Want, _Direction

MEGABYTE = 2**20


def loopback() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    return server, client


async def plain_pair() -> tuple[PlainStream, PlainStream]:
    server, client = loopback()
    return PlainStream(server, stall_seconds=60), PlainStream(client, stall_seconds=60)


async def clogged_pair() -> tuple[PlainStream, PlainStream]:
    # Not TCP, whose probes make room again at moments of their own choosing.
    left, right = (PlainStream(sock, stall_seconds=60) for sock in socket.socketpair())
    for stream in (left, right):
        with suppress(BlockingIOError):
            while True:
                stream.socket.send(b"x" * 4096)
    return left, right


async def test_plain_stream_is_a_stream() -> None:
    await check_half_closeable_stream(plain_pair, clogged_pair)


async def drain(sock: socket.socket) -> None:
    while sock.recv(MEGABYTE):
        await trio.lowlevel.checkpoint()


async def test_a_peer_that_takes_nothing_is_reset(autojump_clock: MockClock) -> None:
    server, client = loopback()
    stream = PlainStream(server, stall_seconds=30)
    with client:
        with pytest.raises(trio.BrokenResourceError, match="took nothing for 30 seconds"):
            await stream.send_all(bytes(32 * MEGABYTE))
        assert server.fileno() == -1
        with pytest.raises(trio.BrokenResourceError, match="took nothing"):
            await stream.receive_some()
        await stream.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive_some()
        with pytest.raises(ConnectionResetError):
            await drain(client)


async def test_a_peer_that_takes_a_little_gets_more_time(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A real kernel has a clock of its own, which would not follow this one's jumps.
    left, right = await clogged_pair()
    queue = iter([100_000, 90_000, 80_000, 79_999])
    monkeypatch.setattr(left, "_queued", lambda: next(queue))
    async with left, right:
        before = trio.current_time()
        with pytest.raises(trio.BrokenResourceError, match="took nothing for 60 seconds"):
            await left.send_all(b"x")
        assert trio.current_time() - before == pytest.approx(180)


async def test_the_queue_is_what_the_peer_has_not_taken() -> None:
    server, client = loopback()
    async with PlainStream(server, stall_seconds=60) as stream:
        assert stream._queued() == 0
        size = 0
        with suppress(BlockingIOError):
            while True:
                size += server.send(bytes(64 * 1024))
        full = stream._queued()
        assert 0 < full <= size
        with client:
            while size:
                size -= len(client.recv(MEGABYTE))
            assert stream._queued() < full


@pytest.mark.parametrize("how", ["abort", "aclose"])
async def test_closing_frees_tasks_that_are_shielded(how: str) -> None:
    server, client = loopback()
    stream = PlainStream(server, stall_seconds=600)
    freed: list[str] = []

    async def expect_closed(operation: Callable[[], Awaitable[object]], name: str) -> None:
        with trio.CancelScope(shield=True), pytest.raises(trio.ClosedResourceError):
            await operation()
        freed.append(name)

    with client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                expect_closed, lambda: stream.send_all(bytes(32 * MEGABYTE)), "sending"
            )
            nursery.start_soon(expect_closed, stream.receive_some, "receiving")
            await wait_all_tasks_blocked()
            if how == "abort":
                stream.abort()
            else:
                await stream.aclose()
        assert sorted(freed) == ["receiving", "sending"]
        with pytest.raises(trio.ClosedResourceError):
            await stream.send_all(b"")
        stream.abort()
        await stream.aclose()


async def test_abort_drops_what_is_queued() -> None:
    server, client = loopback()
    stream = PlainStream(server, stall_seconds=600)
    with client:
        await stream.send_all(b"x" * 10)
        stream.abort()
        with pytest.raises(ConnectionResetError):
            await drain(client)


async def test_a_reset_breaks_the_stream_for_good() -> None:
    left, right = await plain_pair()
    async with left:
        right.abort()
        for _ in range(2):
            with pytest.raises(trio.BrokenResourceError, match="reset by peer"):
                await left.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await left.send_eof()


async def test_a_task_woken_too_late_does_not_touch_a_closed_socket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left, right = await plain_pair()

    def read(_: int) -> Want:
        assert not left._closed
        return Want.READ

    async def wake_up_and_be_overtaken(_: socket.socket) -> None:
        await trio.lowlevel.checkpoint()
        left.abort()

    async with right:
        monkeypatch.setattr(left, "_readable", SimpleNamespace(ready=wake_up_and_be_overtaken))
        monkeypatch.setattr(left, "_read", read)
        with pytest.raises(trio.ClosedResourceError):
            await left.receive_some()


async def test_two_tasks_may_wait_in_one_direction() -> None:
    left, right = socket.socketpair()
    woken: list[int] = []
    with left, right:
        direction = _Direction(trio.lowlevel.wait_readable)

        async def wait(number: int, scope: trio.CancelScope) -> None:
            with scope:
                await direction.ready(left)
                woken.append(number)

        async with trio.open_nursery() as nursery:
            first = trio.CancelScope()
            for number, scope in enumerate([first, trio.CancelScope(), trio.CancelScope()]):
                nursery.start_soon(wait, number, scope)
                await wait_all_tasks_blocked()
            right.send(b"x")
        assert sorted(woken) == [0, 1, 2]


async def test_a_task_behind_takes_over_when_the_first_is_cancelled() -> None:
    left, right = await plain_pair()
    async with left, right:
        received: list[bytes] = []
        direction = left._readable

        async def wait(scope: trio.CancelScope) -> None:
            with scope:
                await direction.ready(left.socket)

        async def receive() -> None:
            received.append(await left.receive_some())

        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()
            nursery.start_soon(wait, scope)
            await wait_all_tasks_blocked()
            nursery.start_soon(receive)
            await wait_all_tasks_blocked()
            scope.cancel()
            await wait_all_tasks_blocked()
            await right.send_all(b"x")
        assert received == [b"x"]


async def test_a_socket_that_cannot_count_its_queue_still_stalls(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOTTY, "Inappropriate ioctl for device")

    monkeypatch.setattr("fcntl.ioctl", refuse)
    server, client = loopback()
    with client, pytest.raises(trio.BrokenResourceError, match="took nothing"):
        await PlainStream(server, stall_seconds=30).send_all(bytes(32 * MEGABYTE))
