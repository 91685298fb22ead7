import math
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
import trio
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from OpenSSL import SSL
from trio.testing import MockClock, check_half_closeable_stream, wait_all_tasks_blocked

from appliance.serve.certificates import Authority, Certificate, CertificateError, load
from appliance.serve.tls import TLSStream, server_context

MEGABYTE = 2**20
VERSIONS = [
    pytest.param(SSL.TLS1_2_VERSION, id="TLS 1.2"),
    pytest.param(SSL.TLS1_3_VERSION, id="TLS 1.3"),
]

ClientStream = trio.SSLStream[trio.SocketStream]


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def issue(ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Certificate]:
    def issue(*names: str, authority: trustme.CA = ca) -> Certificate:
        folder = tmp_path_factory.mktemp("certificate")
        issued = authority.issue_cert(*names)
        for pem in issued.cert_chain_pems:
            pem.write_to_path(folder / "server.crt", append=True)
        issued.private_key_pem.write_to_path(folder / "server.key")
        return load(folder / "server.crt", folder / "server.key")

    return issue


@pytest.fixture(scope="module")
def context(issue: Callable[..., Certificate]) -> SSL.Context:
    return server_context([issue("localhost")], alpn=["http/1.1", "h2"])


@pytest.fixture(scope="module")
def trusting(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return context


def loopback() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    return server, client


async def connected(
    context: SSL.Context,
    *,
    version: int = SSL.TLS1_3_VERSION,
    stall_seconds: float = 600,
    sockets: Callable[[], tuple[socket.socket, socket.socket]] = loopback,
) -> tuple[TLSStream, TLSStream]:
    """A server and a client of our own kind, after the handshake."""
    asking = SSL.Context(SSL.TLS_CLIENT_METHOD)
    asking.set_min_proto_version(version)
    asking.set_max_proto_version(version)
    asking.clear_mode(1)
    left, right = sockets()
    server = TLSStream(left, context, stall_seconds=stall_seconds)
    client = TLSStream(right, asking, stall_seconds=stall_seconds, server_side=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.do_handshake)
        nursery.start_soon(client.do_handshake)
    # A client learns its session tickets when it first receives: have that behind us.
    await server.send_all(b"x")
    assert await client.receive_some() == b"x"
    return server, client


async def clogged(context: SSL.Context, *, version: int) -> tuple[TLSStream, TLSStream]:
    pair = await connected(context, version=version, sockets=socket.socketpair)
    # Single bytes: the write that did not fit is taken for the beginning of whatever comes next.
    for stream in pair:
        with suppress(SSL.WantWriteError):
            while True:
                stream._tls.send(b"x")
    return pair


@asynccontextmanager
async def dialled(
    context: SSL.Context, asking: ssl.SSLContext, *, name: str | None = "localhost"
) -> AsyncIterator[tuple[TLSStream, ClientStream]]:
    """A server of ours and a client of another make."""
    left, right = loopback()
    right.setblocking(False)
    server = TLSStream(left, context, stall_seconds=600)
    client = trio.SSLStream(
        trio.SocketStream(trio.socket.from_stdlib_socket(right)),
        asking,
        server_hostname=name,
        https_compatible=True,
    )
    async with server, client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.do_handshake)
            nursery.start_soon(client.do_handshake)
        yield server, client


async def openssl(context: SSL.Context, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Let the openssl command connect once, and give what it printed."""

    async def serve(listener: trio.SocketListener) -> None:
        stream = TLSStream(await accepted(listener), context, stall_seconds=600)
        async with stream:
            with suppress(trio.BrokenResourceError):
                await stream.do_handshake()
                await stream.send_eof()
                await stream.receive_some()

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    async with listener, trio.open_nursery() as nursery:
        nursery.start_soon(serve, listener)
        result = await trio.run_process(
            ["openssl", "s_client", "-ign_eof", "-connect", f"127.0.0.1:{port}", *arguments],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
        nursery.cancel_scope.cancel()
    return result


async def accepted(listener: trio.SocketListener) -> socket.socket:
    raw, _ = await listener.socket.accept()
    return socket.socket(fileno=raw.detach())


# --- being a stream


@pytest.mark.parametrize("version", VERSIONS)
async def test_tls_stream_is_a_stream(context: SSL.Context, version: int) -> None:
    await check_half_closeable_stream(
        partial(connected, context, version=version), partial(clogged, context, version=version)
    )


@pytest.mark.parametrize("version", VERSIONS)
async def test_much_goes_both_ways_at_once(context: SSL.Context, version: int) -> None:
    server, client = await connected(context, version=version)
    size = 8 * MEGABYTE
    upward, downward = (
        bytes(range(256)) * (size // 256),
        bytes(reversed(range(256))) * (size // 256),
    )

    async def expect(stream: TLSStream, content: bytes) -> None:
        received = bytearray()
        while len(received) < size:
            received += await stream.receive_some()
        assert received == content

    async with server, client, trio.open_nursery() as nursery:
        nursery.start_soon(server.send_all, downward)
        nursery.start_soon(client.send_all, memoryview(upward))
        nursery.start_soon(expect, server, upward)
        nursery.start_soon(expect, client, downward)


async def test_one_write_carries_many_records(context: SSL.Context) -> None:
    server, client = await connected(context)
    async with server, client:
        assert server.try_write(memoryview(bytes(100_000))) == 100_000


async def test_records_are_gathered(context: SSL.Context) -> None:
    server, client = await connected(context)
    async with server, client:
        for _ in range(5):
            await client.send_all(bytes(16 * 1024))
        await wait_all_tasks_blocked()
        assert len(await server.receive_some()) == 64 * 1024
        assert len(await server.receive_some()) == 16 * 1024


async def test_a_short_record_is_not_made_to_wait_for_more(context: SSL.Context) -> None:
    server, client = await connected(context)
    async with server, client:
        await client.send_all(b"GET / HTTP/1.1")
        await client.send_all(b"\r\n\r\n")
        assert await server.receive_some() == b"GET / HTTP/1.1"
        assert await server.receive_some() == b"\r\n\r\n"


async def test_bytes_inside_openssl_are_found_without_the_socket(context: SSL.Context) -> None:
    server, client = await connected(context)
    async with server, client:
        await client.send_all(b"abcdef")
        for letter in b"abcdef":
            assert await server.receive_some(1) == bytes([letter])


async def test_what_arrived_before_a_failure_comes_first(context: SSL.Context) -> None:
    server, client = await connected(context)
    async with server:
        await client.send_all(bytes(20_000))
        client.socket.send(b"this is no TLS record")
        assert len(await server.receive_some()) == 20_000
        for _ in range(2):
            with pytest.raises(trio.BrokenResourceError, match="bad record type"):
                await server.receive_some()
        await client.aclose()


async def test_a_bare_end_reads_as_the_end(context: SSL.Context) -> None:
    server, client = await connected(context)
    async with server:
        client.socket.close()
        for _ in range(3):
            assert await server.receive_some() == b""


async def test_a_clean_end_reads_as_the_end(context: SSL.Context) -> None:
    server, client = await connected(context)
    async with server:
        await client.send_all(bytes(2000))
        await client.aclose()
        assert len(await server.receive_some()) == 2000
        for _ in range(2):
            assert await server.receive_some() == b""


async def test_one_connection_that_fails_leaves_others_alone(context: SSL.Context) -> None:
    # OpenSSL keeps errors per thread: what one connection leaves behind, the next would find.
    server, client = await connected(context)
    idle, other = await connected(context)
    async with server, idle, other:
        client.abort()
        with pytest.raises(trio.BrokenResourceError):
            await server.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await server.send_all(b"x")
        with trio.move_on_after(0):
            await idle.receive_some()
        await other.send_all(b"x")
        assert await idle.receive_some() == b"x"


async def test_new_keys_may_be_asked_for_while_a_record_is_half_sent(context: SSL.Context) -> None:
    size = 32 * MEGABYTE
    sent, heard = trio.Event(), trio.Event()

    async def serve(listener: trio.SocketListener) -> None:
        async with TLSStream(await accepted(listener), context, stall_seconds=600) as stream:
            await stream.do_handshake()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(hear, stream)
                await stream.send_all(bytes(size))
                sent.set()
            await stream.send_all(b"under new keys")

    async def hear(stream: TLSStream) -> None:
        assert await stream.receive_some() == b"under new keys, too\n"
        heard.set()

    async def gather(source: trio.abc.ReceiveStream | None) -> None:
        assert source
        async for part in source:
            printed.extend(part)

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = f"127.0.0.1:{listener.socket.getsockname()[1]}"
    async with listener, trio.open_nursery() as nursery:
        nursery.start_soon(serve, listener)
        process: trio.Process = await nursery.start(
            partial(
                trio.run_process,
                ["openssl", "s_client", "-tls1_3", "-connect", address],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                check=False,
            )
        )
        assert process.stdin
        assert process.stderr
        with trio.move_on_after(0.1):
            await sent.wait()
        assert not sent.is_set()  # as long as nobody takes what s_client prints
        await process.stdin.send_all(b"K\n")  # to s_client: ask the server for new keys
        printed = bytearray()
        while b"KEYUPDATE" not in printed:
            printed += await process.stderr.receive_some()
        await process.stdin.send_all(b"under new keys, too\n")
        await heard.wait()
        async with trio.open_nursery() as gathering:
            gathering.start_soon(gather, process.stderr)
            gathering.start_soon(gather, process.stdout)
        await process.stdin.aclose()
    assert printed.count(0) == size
    assert b"under new keys" in printed


# --- deadlines, cancelling, closing


async def drain(stream: TLSStream) -> None:
    while await stream.receive_some():
        pass


async def test_a_peer_that_takes_nothing_is_reset(
    context: SSL.Context, autojump_clock: MockClock
) -> None:
    server, client = await connected(context, stall_seconds=30)
    before = trio.current_time()
    with trio.CancelScope(shield=True), pytest.raises(trio.BrokenResourceError, match="nothing"):
        await server.send_all(bytes(32 * MEGABYTE))
    assert trio.current_time() - before >= 30
    assert server.socket.fileno() == -1
    with pytest.raises(trio.BrokenResourceError):
        await drain(client)
    await client.aclose()
    await server.aclose()


async def test_abort_frees_a_send_that_is_shielded(context: SSL.Context) -> None:
    server, client = await connected(context, stall_seconds=math.inf)
    freed = trio.Event()

    async def send() -> None:
        with trio.CancelScope(shield=True), pytest.raises(trio.ClosedResourceError):
            await server.send_all(bytes(32 * MEGABYTE))
        freed.set()

    async with client, trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        server.abort()
        await freed.wait()


async def test_closing_in_the_midst_of_a_send_is_no_good_bye(context: SSL.Context) -> None:
    server, client = await connected(context)

    async def send() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await server.send_all(bytes(32 * MEGABYTE))

    async with client, trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        await server.aclose()
        await drain(client)
        assert not client._tls.get_shutdown() & SSL.RECEIVED_SHUTDOWN


async def test_closing_says_good_bye(context: SSL.Context) -> None:
    server, client = await connected(context)
    async with client:
        await server.aclose()
        assert await client.receive_some() == b""
        assert client._tls.get_shutdown() & SSL.RECEIVED_SHUTDOWN


async def test_a_send_cancelled_half_way_breaks_the_stream(context: SSL.Context) -> None:
    server, client = await connected(context)

    async def receive() -> None:
        with pytest.raises(trio.BrokenResourceError, match="middle of a TLS record"):
            await server.receive_some()

    async with server, client, trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        with trio.CancelScope() as scope:
            nursery.start_soon(cancel_when_blocked, scope)
            await server.send_all(bytes(32 * MEGABYTE))
        assert scope.cancelled_caught
        with pytest.raises(trio.BrokenResourceError, match="middle of a TLS record"):
            await server.send_all(b"x")
        await drain(client)
        assert not client._tls.get_shutdown() & SSL.RECEIVED_SHUTDOWN


async def cancel_when_blocked(scope: trio.CancelScope) -> None:
    await wait_all_tasks_blocked()
    scope.cancel()


async def test_a_send_cancelled_before_it_began_breaks_nothing(context: SSL.Context) -> None:
    server, client = await connected(context)
    async with server, client:
        with trio.CancelScope() as scope:
            scope.cancel()
            await server.send_all(bytes(32 * MEGABYTE))
        await server.send_all(b"x")
        assert await client.receive_some() == b"x"


async def test_a_cancelled_receive_loses_nothing(context: SSL.Context) -> None:
    server, client = await connected(context)
    async with server, client:
        with trio.move_on_after(0):
            await server.receive_some()
        await client.send_all(b"x")
        with trio.move_on_after(0):
            await server.receive_some()
        assert await server.receive_some() == b"x"


async def test_nothing_moves_before_the_handshake(context: SSL.Context) -> None:
    left, right = loopback()
    with right:
        async with TLSStream(left, context, stall_seconds=600) as stream:
            for operation in (stream.receive_some, stream.send_eof, partial(stream.send_all, b"x")):
                with pytest.raises(trio.NeedHandshakeError):
                    await operation()
            with pytest.raises(trio.NeedHandshakeError):
                stream.selected_alpn_protocol()


# --- handshakes that fail


async def fail_handshake(context: SSL.Context, sent: bytes) -> tuple[str, bytes]:
    left, right = loopback()
    with right:
        right.sendall(sent)
        right.shutdown(socket.SHUT_WR)
        async with TLSStream(left, context, stall_seconds=600) as stream:
            with pytest.raises(trio.BrokenResourceError) as failure:
                await stream.do_handshake()
        answer = b""
        with suppress(ConnectionResetError):
            while more := right.recv(65536):
                answer += more
    return str(failure.value), answer


async def test_garbage(context: SSL.Context) -> None:
    sentence, _ = await fail_handshake(context, b"\x16\x03\x01\x00\x05garbage" * 10)
    assert sentence.startswith("TLS failed: ")
    sentence, _ = await fail_handshake(context, b"SSH-2.0-OpenSSH_9.2\r\n")
    assert sentence == "TLS failed: wrong version number"


async def test_plain_http_is_told_so(context: SSL.Context) -> None:
    sentence, answer = await fail_handshake(context, b"GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n")
    assert sentence == "TLS failed: http request"
    assert answer.startswith(b"HTTP/1.0 400 Bad Request\r\n")
    assert b"use https://" in answer


@pytest.mark.parametrize("size", [0, 3, 100])
async def test_a_client_that_hangs_up_half_way(context: SSL.Context, size: int) -> None:
    asking = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD))
    asking.set_connect_state()
    with suppress(SSL.WantReadError):
        asking.do_handshake()
    sentence, _ = await fail_handshake(context, asking.bio_read(65536)[:size])
    assert sentence == "the peer hung up during the TLS handshake"


async def test_a_client_that_resets_half_way(context: SSL.Context) -> None:
    left, right = loopback()
    async with TLSStream(left, context, stall_seconds=600) as stream, trio.open_nursery() as n:
        n.start_soon(cancel_after_reset, right)
        with pytest.raises(trio.BrokenResourceError, match="ECONNRESET"):
            await stream.do_handshake()


async def cancel_after_reset(sock: socket.socket) -> None:
    await wait_all_tasks_blocked()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()


async def test_a_handshake_may_be_given_up(context: SSL.Context) -> None:
    left, right = loopback()
    with right:
        async with TLSStream(left, context, stall_seconds=600) as stream:
            with pytest.raises(trio.TooSlowError), trio.fail_after(0):
                await stream.do_handshake()
        assert right.recv(10) == b""


async def test_old_versions_are_refused(context: SSL.Context) -> None:
    for version in ("-tls1", "-tls1_1"):
        result = await openssl(context, version, "-cipher", "ALL:@SECLEVEL=0")
        assert b"alert protocol version" in result.stderr
    for version, expected in (("-tls1_2", b"TLSv1.2"), ("-tls1_3", b"TLSv1.3")):
        result = await openssl(context, version)
        assert b"Protocol  : " + expected in result.stdout or expected + b"," in result.stdout


async def test_only_sound_ciphers(context: SSL.Context) -> None:
    result = await openssl(context, "-tls1_2", "-cipher", "AES128-SHA:ECDHE-ECDSA-AES256-SHA")
    assert b"handshake failure" in result.stderr
    result = await openssl(context, "-tls1_2")
    assert b"Cipher is ECDHE-ECDSA-AES128-GCM-SHA256" in result.stdout
    assert b"Compression: NONE" in result.stdout
    result = await openssl(context, "-tls1_3")
    assert b"Cipher is TLS_AES_128_GCM_SHA256" in result.stdout


# --- what the context chooses


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (["h2", "http/1.1"], "http/1.1"),
        (["h2"], "h2"),
        (["spdy/3", "h2"], "h2"),
        (["acme-tls/1"], None),
        ([], None),
    ],
)
async def test_the_server_chooses_the_protocol(
    context: SSL.Context, ca: trustme.CA, offered: list[str], chosen: str | None
) -> None:
    asking = ssl.create_default_context()
    ca.configure_trust(asking)
    asking.set_alpn_protocols(offered)
    async with dialled(context, asking) as (server, client):
        assert server.selected_alpn_protocol() == chosen
        assert client.selected_alpn_protocol() == chosen


async def test_a_certificate_is_chosen_by_name(
    issue: Callable[..., Certificate],
) -> None:
    context = server_context(
        [
            issue("first.test"),
            issue("*.example.test", "second.test"),
            issue("exact.example.test"),
            issue("second.test", "third.test"),
        ],
        alpn=["http/1.1"],
    )
    asking = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    asking.check_hostname = False
    asking.verify_mode = ssl.CERT_NONE
    asking.set_alpn_protocols(["http/1.1"])
    expected = {
        "first.test": "first.test",
        "second.test": "*.example.test",
        "third.test": "second.test",
        "THIRD.test": "second.test",
        "exact.example.test": "exact.example.test",
        "any.example.test": "*.example.test",
        "one.two.example.test": "first.test",
        "example.test": "first.test",
        "unknown.test": "first.test",
        "127.0.0.1": "first.test",  # which is no server name, so that none is sent
    }
    for asked, first_name in expected.items():
        async with dialled(context, asking, name=asked) as (server, client):
            assert names_of(client)[0] == first_name
            assert server.selected_alpn_protocol() == "http/1.1"


def names_of(client: ClientStream) -> Sequence[str]:
    leaf = x509.load_der_x509_certificate(client.getpeercert(binary_form=True))
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.DNSName)


async def test_intermediates_are_sent_along(
    ca: trustme.CA, issue: Callable[..., Certificate], trusting: ssl.SSLContext
) -> None:
    certificate = issue("localhost", authority=ca.create_child_ca())
    assert len(certificate.chain) == 1
    async with dialled(server_context([certificate], alpn=[]), trusting) as (_, client):
        assert names_of(client) == ["localhost"]


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
async def test_sessions_are_resumed(context: SSL.Context, tmp_path: Path, version: str) -> None:
    session = str(tmp_path / "session")
    common = (version, "-servername", "localhost")
    result = await openssl(context, *common, "-sess_out", session)
    assert b"\nNew, TLSv1." in result.stdout
    result = await openssl(context, *common, "-sess_in", session)
    assert b"\nReused, TLSv1." in result.stdout


def test_a_context_needs_a_certificate() -> None:
    with pytest.raises(ValueError, match="at least one certificate"):
        server_context([], alpn=[])


def test_what_openssl_refuses_is_one_sentence(issue: Callable[..., Certificate]) -> None:
    good = issue("weak.test")
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505
    weak = (
        x509.CertificateBuilder()
        .subject_name(good.leaf.subject)
        .issuer_name(good.leaf.issuer)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(good.not_before)
        .not_valid_after(good.not_after)
        .sign(key, hashes.SHA256())
    )
    certificate = Certificate(
        path=good.path, leaf=weak, chain=(), key=key, names=frozenset(), addresses=frozenset()
    )
    with pytest.raises(CertificateError, match=r"server\.crt cannot be used for TLS \(ee key too"):
        server_context([certificate], alpn=[])


# --- a client that everyone has


async def test_curl_trusts_our_own_authority(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    authority = Authority.open(tmp_path, now=now)
    certificate = authority.server_certificate(["localhost", "127.0.0.1"], now=now)
    context = server_context([certificate], alpn=["http/1.1", "h2"])

    async def serve(listener: trio.SocketListener) -> None:
        while True:
            sock = await accepted(listener)
            async with TLSStream(sock, context, stall_seconds=60) as stream:
                await stream.do_handshake()
                request = await stream.receive_some()
                assert request.startswith(b"GET /v2/ HTTP/1.1\r\n")
                await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    async with listener, trio.open_nursery() as nursery:
        nursery.start_soon(serve, listener)
        for host in ("localhost", "127.0.0.1"):
            url = f"https://{host}:{port}/v2/"
            result = await trio.run_process(
                ["curl", "-sS", "-4", "--cacert", str(authority.certificate_path), url],
                capture_stdout=True,
            )
            assert result.stdout == b"{}"
        nursery.cancel_scope.cancel()
