"""PROXY headers, out of bytes and out of sockets."""

import re
import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

import hypothesis.strategies as st
import pytest
import trio
from hypothesis import given
from trio.testing import wait_all_tasks_blocked

from appliance.serve.proxy_protocol import (
    BLOCK_MAX,
    LINE_MAX,
    ProxyHeader,
    ProxyHeaderError,
    parse,
    read_header,
)

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
HELLO = b"\x16\x03\x01 a TLS hello"


def block(command: int, kind: int, content: bytes, announced: int | None = None) -> bytes:
    size = len(content) if announced is None else announced
    return SIGNATURE + bytes([command, kind]) + size.to_bytes(2) + content


def inet(source: str, port: int, extensions: bytes = b"") -> bytes:
    address = ip_address(source)
    content = address.packed * 2 + port.to_bytes(2) + b"\x01\xbb" + extensions
    return block(0x21, 0x11 if address.version == 4 else 0x21, content)


LINES = [
    (b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 443\r\n", ("192.0.2.7", 4711)),
    (b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", ("255.255.255.255", 65535)),
    (b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", ("0.0.0.0", 0)),  # noqa: S104  only text here
    (b"PROXY TCP6 2001:DB8::7 ::1 4711 443\r\n", ("2001:db8::7", 4711)),
    (b"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:10.0.0.1 4711 443\r\n", ("192.0.2.7", 4711)),
    (b"PROXY UNKNOWN\r\n", None),
    (b"PROXY UNKNOWN anything \r \n \xff at all\r\n", None),
    (b"PROXY UNKNOWN " + b"x" * (LINE_MAX - 16) + b"\r\n", None),
    (b"PROXY TCP6" + b" ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff" * 2 + b" 65535 65535\r\n", ...),
]
BLOCKS = [
    (inet("192.0.2.7", 4711), ("192.0.2.7", 4711)),
    (inet("2001:db8::7", 65535), ("2001:db8::7", 65535)),
    (inet("::ffff:192.0.2.7", 1), ("192.0.2.7", 1)),
    (inet("192.0.2.7", 4711, b"\x04\x00\x02ab"), ("192.0.2.7", 4711)),
    (inet("192.0.2.7", 4711, b"no extension at all"), ("192.0.2.7", 4711)),
    (inet("192.0.2.7", 0, bytes(BLOCK_MAX - 12)), ("192.0.2.7", 0)),
    (block(0x20, 0x00, b""), None),
    (block(0x20, 0x11, bytes(12)), None),
    (block(0x20, 0xFF, b"anything"), None),
    (block(0x21, 0x00, b""), None),
    (block(0x21, 0x00, b"anything"), None),
    (block(0x21, 0x10, bytes(12)), None),
    (block(0x21, 0x01, bytes(12)), None),
    (block(0x21, 0x12, bytes(12)), None),
    (block(0x21, 0x22, bytes(36)), None),
    (block(0x21, 0x31, bytes(216)), None),
    (block(0x21, 0x32, bytes(216)), None),
]
HEADERS = [
    (header, ("ffff:" * 7 + "ffff", 65535) if source is ... else source)
    for header, source in (*LINES, *BLOCKS)
]
GOOD = [header for header, _ in HEADERS]

BAD = [
    (b"GET / HTTP/1.1\r\n", "begins with something else"),
    (b"\x16\x03\x01", "begins with something else"),
    (b"proxy TCP4 192.0.2.7 10.0.0.1 4711 443\r\n", "begins with something else"),
    (b"PROXY\r\n", "begins with something else"),
    (b"\r\n\r\n\r\n", "begins with something else"),
    (b"PROXY \r\n", "line is malformed"),
    (b"PROXY TCP5 192.0.2.7 10.0.0.1 4711 443\r\n", "line is malformed"),
    (b"PROXY UNKNOWNS\r\n", "line is malformed"),
    (b"PROXY TCP4  192.0.2.7 10.0.0.1 4711 443\r\n", "line is malformed"),
    (b"PROXY TCP4 192.0.2.7 10.0.0.1 4711\r\n", "line is malformed"),
    (b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 443 \r\n", "line is malformed"),
    (b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 443\n\r\n", "line is malformed"),
    (b"PROXY TCP4 192.0.2.7 10.0.0.1 04711 443\r\n", "line is malformed"),
    (b"PROXY TCP4 192.0.2.7 10.0.0.1 -1 443\r\n", "line is malformed"),
    (b"PROXY TCP4 192.0.2.7 10.0.0.1 123456 443\r\n", "line is malformed"),
    (b"PROXY TCP6 fe80::1%eth0 ::1 4711 443\r\n", "line is malformed"),
    (b"PROXY TCP4 192.0.2.7 10.0.0.1 65536 443\r\n", "port above 65535"),
    (b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 65536\r\n", "port above 65535"),
    (b"PROXY TCP4 192.0.2.07 10.0.0.1 4711 443\r\n", "not TCP4"),
    (b"PROXY TCP4 192.0.2.7 10.0.0.256 4711 443\r\n", "not TCP4"),
    (b"PROXY TCP4 ::1 ::1 4711 443\r\n", "not TCP4"),
    (b"PROXY TCP6 192.0.2.7 10.0.0.1 4711 443\r\n", "not TCP6"),
    (b"PROXY UNKNOWN " + b"x" * (LINE_MAX - 15) + b"\r\n", "does not end within 107 bytes"),
    (b"PROXY " + b"x" * LINE_MAX, "does not end within 107 bytes"),
    (block(0x11, 0x11, bytes(12)), "unknown: 0x11"),
    (block(0x22, 0x11, bytes(12)), "unknown: 0x22"),
    (block(0x21, 0x41, bytes(12)), "unknown: 0x41"),
    (block(0x21, 0x13, bytes(12)), "unknown: 0x13"),
    (block(0x21, 0x11, bytes(11)), "cut short"),
    (block(0x21, 0x21, bytes(35)), "cut short"),
    (block(0x21, 0x11, b"", announced=BLOCK_MAX + 1), "more than 4096 bytes"),
    (block(0x20, 0x00, b"", announced=0xFFFF), "more than 4096 bytes"),
]


def outcome(buffer: bytes) -> ProxyHeader | str | None:
    try:
        return parse(buffer)
    except ProxyHeaderError as error:
        return str(error)


# --- bytes


@pytest.mark.parametrize(("header", "source"), HEADERS)
def test_a_header_names_its_source(header: bytes, source: tuple[str, int] | None) -> None:
    assert parse(header) == ProxyHeader(source, len(header))


@pytest.mark.parametrize("header", GOOD)
def test_what_follows_a_header_is_not_part_of_it(header: bytes) -> None:
    assert parse(header + HELLO) == parse(header + b"\r\n") == parse(header)


@pytest.mark.parametrize("header", GOOD)
def test_a_header_is_found_once_it_is_whole_and_no_sooner(header: bytes) -> None:
    assert {parse(header[:size]) for size in range(len(header))} == {None}


@pytest.mark.parametrize(("header", "reason"), BAD)
def test_anything_else_is_refused(header: bytes, reason: str) -> None:
    with pytest.raises(ProxyHeaderError, match=re.escape(reason)):
        parse(header)


@given(st.ip_addresses(), st.integers(0, 65535))
def test_both_versions_say_the_same(source: IPv4Address | IPv6Address, port: int) -> None:
    line = f"PROXY TCP{source.version} {source} {source} {port} {port}\r\n".encode()
    first, second = parse(line), parse(inet(str(source), port))
    assert first is not None
    assert second is not None
    assert first.source == second.source


def mutated(header: bytes) -> st.SearchStrategy[bytes]:
    def change(where: int, what: bytes) -> bytes:
        return header[:where] + what + header[where + len(what) :]

    return st.builds(change, st.integers(0, len(header)), st.binary(max_size=3))


garbage = (
    st.binary(max_size=150)
    | st.binary(max_size=150).map(b"PROXY ".__add__)
    | st.binary(max_size=150).map(SIGNATURE.__add__)
    | st.sampled_from(GOOD).flatmap(mutated)
)


@given(garbage)
def test_any_bytes_are_a_header_or_not_yet_or_refused(buffer: bytes) -> None:
    found = outcome(buffer)
    assert not isinstance(found, ProxyHeader) or found.size <= len(buffer)


@given(garbage, st.binary(max_size=20))
def test_what_was_decided_stays_so_whatever_follows(buffer: bytes, rest: bytes) -> None:
    found = outcome(buffer)
    if found is not None:
        assert outcome(buffer + rest) == found


# --- sockets


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    server, proxy = socket.socketpair()
    server.setblocking(False)
    with server, proxy:
        yield server, proxy


@pytest.mark.parametrize(("header", "source"), HEADERS)
async def test_a_header_is_taken_out_of_the_socket_and_not_a_byte_more(
    pair: tuple[socket.socket, socket.socket], header: bytes, source: tuple[str, int] | None
) -> None:
    server, proxy = pair
    proxy.sendall(header + HELLO)
    assert await read_header(server) == ProxyHeader(source, len(header))
    assert server.recv(1000) == HELLO


@pytest.mark.parametrize("header", [GOOD[0], GOOD[4], GOOD[5], inet("192.0.2.7", 4711, bytes(9))])
@pytest.mark.parametrize("piece", [1, 2, 3, 7, 15, 16, 17])
async def test_a_header_may_come_in_pieces(
    pair: tuple[socket.socket, socket.socket], header: bytes, piece: int
) -> None:
    server, proxy = pair
    found: list[ProxyHeader] = []

    async def read() -> None:
        found.append(await read_header(server))

    stream = header + HELLO
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        for start in range(0, len(stream), piece):
            await wait_all_tasks_blocked()
            assert bool(found) == (start >= len(header))
            proxy.sendall(stream[start : start + piece])
    assert found == [parse(header)]
    assert server.recv(1000) == HELLO


@pytest.mark.parametrize(("header", "reason"), BAD)
async def test_a_socket_with_anything_else_is_refused(
    pair: tuple[socket.socket, socket.socket], header: bytes, reason: str
) -> None:
    server, proxy = pair
    proxy.sendall(header)
    with pytest.raises(ProxyHeaderError, match=re.escape(reason)):
        await read_header(server)


@pytest.mark.parametrize("start", [b"", b"P", b"PROXY UNKNOWN\r", SIGNATURE, GOOD[-1][:50]])
async def test_a_connection_that_ends_too_early_is_refused(
    pair: tuple[socket.socket, socket.socket], start: bytes
) -> None:
    server, proxy = pair
    proxy.sendall(start)
    proxy.close()
    with pytest.raises(ProxyHeaderError, match="ended before it did"):
        await read_header(server)


async def test_whoever_sends_nothing_is_waited_for_until_the_caller_loses_patience(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    server, proxy = pair
    proxy.sendall(b"PROXY ")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_header, server)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert nursery.cancel_scope.cancelled_caught


async def test_a_connection_that_breaks_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    server.setblocking(False)
    proxy.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    proxy.close()
    with server, pytest.raises(ConnectionResetError):
        await read_header(server)
