"""HTTP/2 fed with nonsense: whatever arrives, the connection ends, and nothing else does."""

import socket

import structlog
import trio
from hpack import Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.serve.connection import Timeouts
from appliance.serve.http2 import Http2Connection
from appliance.serve.plain import PlainStream
from tests.serve.http2_client import ENDPOINTS, PATIENCE, Application, frame

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0)
BASE = [(":method", "PUT"), (":scheme", "https"), (":authority", "x")]
PATHS = ["/", "/read", "/held", "/listen", "/fail", "/break", "/big?70000", "/204", "x", ""]

blocks = st.builds(
    lambda path, extra: Encoder().encode([*BASE, (":path", path), *extra]),
    st.sampled_from(PATHS),
    st.lists(st.sampled_from([("content-length", "5"), ("te", "x"), (":path", "/"), ("a", "b")])),
)
numbers = st.sampled_from([0, 1, 1, 3, 3, 5, 2, 7, 0x7FFFFFFF])
flags = st.sampled_from([0, 1, 4, 5, 8, 13, 0x20, 0x25, 0xFF])
bodies = st.one_of(
    st.binary(max_size=40),
    st.just(bytes(4)),
    st.just(bytes(8)),
    st.just(b"\0\0\xff\xff"),
    st.just(b"\x7f\xff\xff\xff"),
    st.builds(
        lambda code, value: bytes([0, code, 0, 0, value, 0]),
        st.integers(0, 9),
        numbers.map(lambda number: number & 0xFF),
    ),
)
heads = st.builds(frame, st.just(1), st.sampled_from([4, 5]), numbers, blocks)
others = st.builds(frame, st.integers(0, 12), flags, numbers, bodies)
sequences = st.lists(st.one_of(heads, others), max_size=25).map(b"".join)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Frames with some bytes replaced, taken out or put in."""
    data = bytearray(PREFACE + draw(sequences))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data) - 1))
        data[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(data)


async def feed(data: bytes, size: int) -> int:
    """Send all that in pieces of that size; tell how often the application failed on purpose."""
    theirs, ours = socket.socketpair()
    stream, client = (PlainStream(end, stall_seconds=PATIENCE) for end in (ours, theirs))
    timeouts = Timeouts(handshake=10, idle=PATIENCE, head=PATIENCE, stall=PATIENCE)
    application = Application()
    application.go_on.set()
    connection = Http2Connection(stream, application, ENDPOINTS, timeouts)

    async def serve() -> None:
        await connection.serve()
        stream.close()

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            try:
                for offset in range(0, len(data), size):
                    await client.send_all(data[offset : offset + size])
                await client.send_eof()
                while await client.receive_some():
                    pass
            except trio.BrokenResourceError:
                pass  # it was cut off in the middle of what nobody wants to read
        await client.aclose()
    assert connection.requests == {}
    assert application.running == 0
    return application.failures


def check(data: bytes, size: int) -> None:
    with structlog.testing.capture_logs() as lines:
        failures = trio.run(feed, data, size)
    assert [line["event"] for line in lines] == ["application failed"] * failures


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=300), st.integers(1, 400))
def test_any_bytes_end_somehow(data: bytes, size: int) -> None:
    check(data, size)


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=300), st.integers(1, 400))
def test_any_bytes_after_the_preface_end_somehow(data: bytes, size: int) -> None:
    check(PREFACE + data, size)


@settings(deadline=None, max_examples=300)
@given(sequences, st.integers(1, 2000))
def test_any_frames_end_somehow(data: bytes, size: int) -> None:
    check(PREFACE + data, size)


@settings(deadline=None, max_examples=300)
@given(mutated(), st.integers(1, 2000))
def test_any_broken_frames_end_somehow(data: bytes, size: int) -> None:
    check(data, size)
