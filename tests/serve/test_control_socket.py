"""A listening socket in the file system: who may use it, and that it is never crowded out."""

import os
import stat
from pathlib import Path
from typing import Any

import trio

from appliance.serve.connections import Connections, Terms
from appliance.serve.listeners import Listening, bind, bind_path, connect_path
from tests.serve.loopback import GET, NEVER, PATIENCE, Client, Receive, Send, read_body, reply


async def who(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    await read_body(receive)
    await reply(send, repr((scope["client"], scope["server"], scope["scheme"])).encode())


def test_only_its_owner_may_open_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with bind_path(tmp_path / "socket"):
            assert stat.S_IMODE((tmp_path / "socket").stat().st_mode) == 0o600
    finally:
        os.umask(before)


def test_one_that_was_left_over_is_replaced(tmp_path: Path) -> None:
    bind_path(tmp_path / "socket").close()
    with bind_path(tmp_path / "socket") as listening, connect_path(tmp_path / "socket", 5):
        listening.accept()[0].close()


def test_a_path_longer_than_an_address_will_do(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    with bind_path(folder / "socket") as listening, connect_path(folder / "socket", 5):
        listening.accept()[0].close()


async def test_it_is_answered_though_there_is_no_room_for_anybody_else(tmp_path: Path) -> None:
    (sock,) = bind("127.0.0.1", 0)
    local = bind_path(tmp_path / "socket")
    connections = Connections(Terms(NEVER, connections=1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            connections.serve, [Listening(sock, who, None), Listening(local, who, None)]
        )
        crowd = await trio.open_tcp_stream(*sock.getsockname())
        async with Client(crowd, crowd.socket) as first:
            await first.send(GET)
            assert (await first.answer()).status == 200
            with trio.fail_after(PATIENCE):
                stream = await trio.open_unix_socket(tmp_path / "socket")
            async with Client(stream, stream.socket) as operator:
                await operator.send(GET)
                assert (await operator.answer()).body == b"(('', 0), ('', 0), 'http')"
            named = trio.socket.socket(trio.socket.AF_UNIX)
            await named.bind(f"\0{tmp_path}")  # an address that no file stands for
            await named.connect(str(tmp_path / "socket"))
            async with Client(trio.SocketStream(named), named) as operator:
                await operator.send(GET)
                assert (await operator.answer()).body == b"(('', 0), ('', 0), 'http')"
        connections.close()
        connections.abort()
