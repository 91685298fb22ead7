"""Peers that mean harm, over raw sockets to a live process with short deadlines.

Each is answered rightly or cut off, the process goes on serving others meanwhile, and nothing of it
stays behind: no descriptor, no memory to speak of, no traceback in the log.
"""

import os
import re
import resource
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    Frame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from tests.system import daemon, images
from tests.system.daemon import Daemon
from tests.system.tools import eventually
from tests.system.wire import Client, digest_of, finished

_MEBIBYTE = 1 << 20
_GROWTH_MAX = 24 * _MEBIBYTE
_BLOB = images.noise(32 * _MEBIBYTE, "adversary")
only_tls = pytest.mark.parametrize("registry", ["tls"], indirect=True, scope="module")
only_plain = pytest.mark.parametrize("registry", ["plain"], indirect=True, scope="module")
_LIMITS = {"handshake": "2s", "head": "2s", "stall": "2s", "idle": "30s"}


@pytest.fixture(scope="module", params=["tls", "plain"])
def registry(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    """A registry that waits for nobody long, holding one blob."""
    settings: dict[str, dict[str, object]] = {"limits": {**_LIMITS, "connections_per_address": 0}}
    if request.param == "plain":
        settings["tls"] = {"mode": "off"}
    with daemon.running(tmp_path_factory.mktemp("adversary"), settings=settings) as running:
        running.client().push_blob("target", _BLOB)
        yield running


@pytest.fixture(autouse=True)
def leaves_nothing(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test does: the same process serves on, with as many descriptors as before."""
    registry: Daemon = request.getfixturevalue(
        "registry2" if "registry2" in request.fixturenames else "registry"
    )
    before, pid, memory = registry.open_files(), registry.pid, resident(registry)
    yield
    assert registry.client().request("GET", "/v2/").status == 200
    eventually(
        lambda: registry.open_files() <= before + 1,
        within=15,
        what=lambda: f"{registry.open_files()} descriptors become {before} again",
    )
    assert registry.pid == pid
    assert "Traceback" not in registry.log()
    assert resident(registry) < memory + _GROWTH_MAX


def resident(registry: Daemon) -> int:
    """Bytes of memory that the process holds now."""
    pages = Path(f"/proc/{registry.pid}/statm").read_text().split()[1]
    return int(pages) * resource.getpagesize()


def everything(connection: socket.socket) -> bytes:
    """All that comes until the other side ends or breaks the connection."""
    received = bytearray()
    with suppress(ConnectionError, ssl.SSLError):
        while piece := connection.recv(1 << 16):
            received += piece
    return bytes(received)


def converse(connection: socket.socket, sent: bytes) -> bytes:
    """Send bytes while listening, in one thread as OpenSSL wants it; all that comes until the end."""
    connection.setblocking(False)
    waiting = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
    left, received = memoryview(sent), bytearray()
    while True:
        with suppress(*waiting):
            left = left[connection.send(left) if left else 0 :]
        with suppress(*waiting):
            while piece := connection.recv(1 << 16):
                received += piece
            return bytes(received)
        select.select([connection], [connection] if left else [], [], 30)


def statuses(received: bytes) -> list[int]:
    """The statuses of all answers in what was received."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]


def exchange(client: Client, sent: bytes) -> list[int]:
    """Send bytes, and give the statuses of what comes until the connection ends."""
    with client.connect(within=20) as connection:
        with suppress(ConnectionError, ssl.SSLError):
            connection.sendall(sent)
        return statuses(everything(connection))


def reset(connection: socket.socket) -> None:
    """Break a connection by a TCP reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


# --- smuggling: two readers must not see two different requests

_SECOND = b"GET /v2/_catalog HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    ("fields", "body", "status"),
    [
        (b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\nG", 400),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 6\r\n", b"0\r\n\r\nG", 400),
        (b"Content-Length: 0\r\nContent-Length: 40\r\n", b"", 400),
        (b"Content-Length: 0\r\nContent-Length: 0\r\n", b"", 400),
        (b"Content-Length: 0, 40\r\n", b"", 400),
        (b"Content-Length: +0\r\n", b"", 400),
        (b"Content-Length: -1\r\n", b"", 400),
        (b"Content-Length: 0x10\r\n", b"", 400),
        (b"Content-Length : 0\r\n", b"", 400),
        (b"Transfer-Encoding : chunked\r\n", b"0\r\n\r\n", 400),
        (b"Transfer-Encoding:\x0bchunked\r\n", b"0\r\n\r\n", 400),
        (b"Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n", 400),
        (b"Transfer-Encoding: identity\r\n", b"0\r\n\r\n", 400),
        (b"Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n", 501),
        (b"Transfer-Encoding: chunked, chunked\r\n", b"0\r\n\r\n", 400),
        (b"X: y\r\n Transfer-Encoding: chunked\r\n", b"0\r\n\r\n", 400),
        (b"X: y\nContent-Length: 40\r\n", b"", 400),
        (b"X: y\rContent-Length: 40\r\n", b"", 400),
        (b"X: \0\r\n", b"", 400),
        (b"Host: other\r\n", b"", 400),
    ],
)
def test_an_ambiguous_request_is_refused_and_what_follows_it_is_never_read(
    registry: Daemon, fields: bytes, body: bytes, status: int
) -> None:
    head = b"POST /v2/target/blobs/uploads/ HTTP/1.1\r\nHost: x\r\n"
    assert exchange(registry.client(), head + fields + b"\r\n" + body + _SECOND) == [status]


@pytest.mark.parametrize(
    "body",
    [
        b"5\nhello\r\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"5 \r\r\nhello\r\n0\r\n\r\n",
        b"5;\nx\r\nhello\r\n0\r\n\r\n",
        b"fffffffffffffffff\r\n",
        b"\r\n5\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\r\nX : y\r\n\r\n",
        b"5\r\nhello\r\n0\r\n\0: y\r\n\r\n",
    ],
)
def test_a_chunked_body_that_is_malformed_ends_the_connection(
    registry: Daemon, body: bytes
) -> None:
    client = registry.client()
    session = client.start_upload("target")
    head = client.head("PATCH", session, {"Transfer-Encoding": "chunked"})
    assert exchange(client, head + body + _SECOND) == [400]


# --- too much


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 40_000 + b"\r\n\r\n", 431),
        (b"GET /v2/ HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 101 + b"\r\n", 431),
        (b"GET /" + b"x" * 300_000, 431),
        (b"X" * 3_000_000, 431),
        (b"GET /v2/ HTTP/1.1\r\nHost: x\r\n" + b"X" * 300_000, 431),
    ],
)
def test_an_oversized_head_is_refused_before_it_ends(
    registry: Daemon, sent: bytes, status: int
) -> None:
    assert exchange(registry.client(), sent) == [status]


@pytest.mark.parametrize(
    "sent", [b"\0" * 100_000, b"\xff" * 100_000, b"\n" * 100_000, b"{}\r\n\r\n"]
)
def test_garbage_is_refused_at_once(registry: Daemon, sent: bytes) -> None:
    assert exchange(registry.client(), sent) == [400]


def test_a_thousand_pipelined_requests_are_answered_in_order(registry: Daemon) -> None:
    client = registry.client()
    ask = client.head("GET", "/v2/") + client.head("GET", "/v2/nothing/tags/list")
    with client.connect(within=30) as connection:
        last = client.head("GET", "/v2/", {"Connection": "close"})
        assert statuses(converse(connection, ask * 500 + last)) == [200, 404] * 500 + [200]


# --- too slow


def test_heads_that_never_end_are_given_up_and_others_are_served(registry: Daemon) -> None:
    client = registry.client()
    with ExitStack() as stack:
        slow = [stack.enter_context(client.connect(within=20)) for _ in range(100)]
        for connection in slow:
            connection.sendall(b"GET /v2/ HTTP/1.1\r\nHost: x\r\n")
        assert client.request("GET", "/v2/").status == 200
        assert [statuses(everything(connection)) for connection in slow] == [[408]] * 100


def test_a_body_that_trickles_is_given_up(registry: Daemon) -> None:
    client = registry.client()
    session = client.start_upload("target")
    with client.connect(within=30) as connection:
        connection.sendall(client.head("PATCH", session, {"Content-Length": "100000"}))
        ended = threading.Event()

        def trickle() -> None:
            with suppress(OSError):
                while not ended.wait(0.05):
                    connection.send(b"x")

        # One thread reads and one writes, which OpenSSL allows only where it is plain TCP.
        if isinstance(connection, ssl.SSLSocket):
            connection.sendall(b"x" * 10)
            assert statuses(everything(connection)) == [408]
        else:
            writer = threading.Thread(target=trickle)
            writer.start()
            try:
                assert statuses(everything(connection)) == [408]
            finally:
                ended.set()
                writer.join()


def test_readers_that_take_nothing_are_cut_off(registry: Daemon) -> None:
    client = registry.client()
    ask = client.head("GET", f"/v2/target/blobs/{digest_of(_BLOB)}")
    before = registry.open_files()
    with ExitStack() as stack:
        for _ in range(50):
            connection = stack.enter_context(client.connect(within=20))
            connection.sendall(ask)
        eventually(lambda: registry.open_files() > before + 50, within=20, what="all are served")
        assert client.request("GET", "/v2/").status == 200
        eventually(
            lambda: registry.open_files() <= before + 1, within=30, what="all are cut off again"
        )


@only_tls
def test_a_handshake_that_does_not_come_is_given_up(registry: Daemon) -> None:
    host, _, port = registry.address.rpartition(":")
    with ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection((host, int(port)), timeout=20))
            for _ in range(50)
        ]
        for connection in silent[:25]:
            connection.sendall(b"\x16\x03\x01\x02\x00\x01")
        assert [everything(connection) for connection in silent] == [b""] * 50


# --- connections that end oddly


def test_a_client_that_has_ended_its_side_still_gets_everything(registry: Daemon) -> None:
    client = registry.client()
    ask = client.head("GET", f"/v2/target/blobs/{digest_of(_BLOB)}", {"Connection": "close"})
    with client.connect(within=30) as connection:
        connection.sendall(ask)
        if not isinstance(connection, ssl.SSLSocket):
            connection.shutdown(socket.SHUT_WR)
        head, _, body = everything(connection).partition(b"\r\n\r\n")
    assert statuses(head) == [200]
    assert body == _BLOB


@only_plain
def test_a_body_that_ends_too_early_is_told_so(registry: Daemon) -> None:
    client = registry.client()
    session = client.start_upload("target")
    with client.connect() as connection:
        connection.sendall(client.head("PATCH", session, {"Content-Length": "100"}) + b"x" * 10)
        connection.shutdown(socket.SHUT_WR)
        assert statuses(everything(connection)) == [400]


@only_tls
def test_garbage_after_the_end_of_tls_is_no_request(registry: Daemon) -> None:
    client = registry.client()
    connection = client.connect(within=20)
    assert isinstance(connection, ssl.SSLSocket)
    with suppress(OSError):
        bare = connection.unwrap()
        with closing(bare), suppress(OSError):
            bare.sendall(client.head("GET", "/v2/") + os.urandom(10_000))
            assert b"HTTP/" not in everything(bare)
    connection.close()


@only_tls
def test_garbage_within_tls_records_ends_the_connection(registry: Daemon) -> None:
    client = registry.client()
    with client.connect(within=20) as connection:
        bare = socket.socket(fileno=os.dup(connection.fileno()))
        bare.settimeout(20)
        with closing(bare):
            bare.sendall(b"\x17\x03\x03\x40\x00" + os.urandom(1 << 14))
            assert b"HTTP/" not in everything(bare)


@pytest.mark.parametrize("at", ["connected", "in the head", "in the body", "in the answer"])
def test_hundreds_of_resets_leave_nothing(registry: Daemon, at: str) -> None:
    client = registry.client()
    session = client.start_upload("target")
    sent = {
        "connected": b"",
        "in the head": b"GET /v2/ HT",
        "in the body": client.head("PATCH", session, {"Content-Length": "100000"}) + b"x" * 1000,
        "in the answer": client.head("GET", f"/v2/target/blobs/{digest_of(_BLOB)}"),
    }[at]

    def strike(_: int) -> None:
        connection = client.connect(within=20)
        with suppress(OSError):
            connection.sendall(sent)
            if at == "in the answer":
                connection.recv(1000)
        reset(connection)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(strike, range(300)))
    assert client.finish_upload(client.start_upload("other"), digest_of(b"x"), b"x").status == 201


def test_ten_thousand_connections_opened_and_dropped_leave_nothing(registry: Daemon) -> None:
    host, _, port = registry.address.rpartition(":")

    def drop(number: int) -> None:
        for _ in range(10):
            connection = socket.create_connection((host, int(port)), timeout=20)
            if number % 2:
                reset(connection)
            else:
                connection.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(drop, range(1000)))


# --- HTTP/2


@pytest.fixture(scope="module")
def registry2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A registry that speaks HTTP/2 to all who can."""
    settings: dict[str, dict[str, object]] = {
        "tls": {"alpn": ["h2", "http/1.1"]},
        "limits": {**_LIMITS},
    }
    with daemon.running(tmp_path_factory.mktemp("adversary2"), settings=settings) as running:
        running.client().push_blob("target", _BLOB)
        connection, _ = speak(running)  # so that what HTTP/2 needs is loaded before any comparison
        connection.close()
        yield running


def speak(registry: Daemon) -> tuple[ssl.SSLSocket, H2Connection]:
    """Connect and say hello in HTTP/2."""
    context = ssl.create_default_context(cafile=registry.ca)
    context.set_alpn_protocols(["h2"])
    host, _, port = registry.address.rpartition(":")
    plain = socket.create_connection((host, int(port)), timeout=20)
    connection = context.wrap_socket(plain, server_hostname=host)
    assert connection.selected_alpn_protocol() == "h2"
    state = H2Connection(H2Configuration(client_side=True))
    state.initiate_connection()
    connection.sendall(state.data_to_send())
    return connection, state


def request(stream: int, client: Client, *, path: str = "/v2/", end: bool = True) -> HeadersFrame:
    """The frame that begins a request."""
    fields = [
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", client.address),
        (":path", path),
        *((name.lower(), value) for name, value in client.authorization().items()),
    ]
    flags = ["END_HEADERS", "END_STREAM"] if end else ["END_HEADERS"]
    # An encoder of its own adds nothing to the dynamic table that later frames would refer to.
    encoder = Encoder()
    encoder.header_table_size = 0
    return HeadersFrame(stream, encoder.encode(fields), flags=flags)


def _resets(client: Client) -> Iterator[Frame]:
    for stream in range(1, 40_001, 2):
        yield request(stream, client)
        yield RstStreamFrame(stream, error_code=8)


def _continuations(client: Client) -> Iterator[Frame]:
    yield HeadersFrame(1, request(1, client).data)
    for _ in range(20_000):
        yield ContinuationFrame(1, b"")


def _long_continuations(client: Client) -> Iterator[Frame]:
    yield HeadersFrame(1, request(1, client).data)
    for _ in range(1_000):
        yield ContinuationFrame(1, b"\x00\x01x" + b"\x7f\x81\x7e" + b"x" * 16_000)


def _pings(client: Client) -> Iterator[Frame]:
    del client
    for _ in range(200_000):
        yield PingFrame(0, b"12345678")


def _settings(client: Client) -> Iterator[Frame]:
    del client
    for number in range(100_000):
        yield SettingsFrame(0, settings={SettingsFrame.INITIAL_WINDOW_SIZE: number + 1})


def _windows(client: Client) -> Iterator[Frame]:
    yield request(1, client, end=False)
    for _ in range(200_000):
        yield WindowUpdateFrame(1, window_increment=1)


def _priorities(client: Client) -> Iterator[Frame]:
    del client
    for stream in range(1, 200_001, 2):
        yield PriorityFrame(stream, depends_on=0, stream_weight=1)


@pytest.mark.parametrize(
    "flood",
    [_resets, _continuations, _long_continuations, _pings, _settings, _windows, _priorities],
)
def test_a_flood_of_frames_ends_its_connection_alone(
    registry2: Daemon, flood: Callable[[Client], Iterator[Frame]]
) -> None:
    client = registry2.client()
    connection, _ = speak(registry2)
    with closing(connection):
        batch = bytearray()
        # A registry that puts up with it all is found out by the client's own deadline.
        with suppress(ConnectionError, ssl.SSLError):
            for frame in flood(client):
                batch += frame.serialize()
                if len(batch) > 1 << 16:
                    connection.sendall(batch)
                    batch.clear()
            connection.sendall(batch)
            everything(connection)
        assert client.request("GET", "/v2/").status == 200


def test_an_upload_to_nowhere_over_http_2_leaves_the_registry_alive(registry2: Daemon) -> None:
    client = registry2.client()
    connection, state = speak(registry2)
    with closing(connection):
        head = request(1, client, path="/v2/target/nothing", end=False)
        connection.sendall(head.serialize())
        # Data without end for a request that has been answered already.
        state_window = state.outbound_flow_control_window
        with suppress(ConnectionError, ssl.SSLError):
            for _ in range(state_window // 16_384):
                connection.sendall(struct.pack(">I", 16_384)[1:] + b"\0\0\0\0\0\1" + bytes(16_384))
    assert client.request("GET", "/v2/").status == 200


def test_a_session_survives_all_this(registry: Daemon) -> None:
    client = registry.client()
    session = client.start_upload("target")
    session = client.send_chunk(session, 0, _BLOB[:1000])
    connection = client.connect()
    connection.sendall(client.head("PATCH", session, {"Content-Length": "1000"}) + _BLOB[1000:1500])
    eventually(
        lambda: client.request("GET", session).headers["Range"] == "0-1499",
        within=10,
        what="what came is kept",
    )
    reset(connection)
    rest = client.request("PUT", finished(session, digest_of(_BLOB)), _BLOB[1500:])
    assert rest.status == 201
