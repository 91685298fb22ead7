"""Where bodies end, however the bytes come."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import h11
import hypothesis.strategies as st
import pytest
from hypothesis import example, given, settings

from appliance.serve.bodies import BodyDecoder, ChunkedBody, SizedBody, decoder_for
from appliance.serve.heads import RefusalError, parse_head

LINE_MAX = 4096
TRAILERS_MAX = 8192
NEXT = b"GET /next HTTP/1.1\r\nHost: x\r\n\r\n"


def feed(decoder: BodyDecoder, pieces: Sequence[bytes]) -> tuple[bytes, bytes]:
    """Give content and leftover of what comes in pieces."""
    content, left = b"", b""
    for piece in pieces:
        if decoder.finished:
            left += piece
            continue
        found, own = decoder.decode(memoryview(piece))
        assert own == len(piece) or decoder.finished
        content += b"".join(found)
        left += piece[own:]
    return content, left


def whole(decoder: BodyDecoder, arrived: bytes) -> tuple[bytes, bytes]:
    return feed(decoder, [arrived])


def bytewise(decoder: BodyDecoder, arrived: bytes) -> tuple[bytes, bytes]:
    return feed(decoder, [arrived[at : at + 1] for at in range(len(arrived))])


def refusing(pieces: Sequence[bytes]) -> int:
    """Tell how many bytes of a chunked body were given when it was refused."""
    decoder = ChunkedBody()
    given = 0
    for piece in pieces:
        given += len(piece)
        try:
            decoder.decode(memoryview(piece))
        except RefusalError:
            return given
    raise AssertionError("nothing was refused")


def cuts(text: bytes, places: Sequence[int]) -> list[bytes]:
    """Cut at some places, which may be beyond the end or the same."""
    ends = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[start:end] for start, end in pairwise(ends)] or [text]


PLACES = st.lists(st.integers(0, 10_000), max_size=30)

# --- of a length


def test_the_decoder_is_the_one_the_head_asks_for() -> None:
    head = b"PUT / HTTP/1.1\r\nHost: x\r\n%b\r\n"
    sized = decoder_for(parse_head(head % b"Content-Length: 5\r\n"))
    assert not sized.finished
    assert whole(sized, b"hello" + NEXT) == (b"hello", NEXT)
    chunked = decoder_for(parse_head(head % b"Transfer-Encoding: chunked\r\n"))
    assert not chunked.finished
    assert whole(chunked, b"5\r\nhello\r\n0\r\n\r\n" + NEXT) == (b"hello", NEXT)


@pytest.mark.parametrize("field", [b"", b"Content-Length: 0\r\n"])
def test_without_a_body_it_has_ended_before_it_began(field: bytes) -> None:
    decoder = decoder_for(parse_head(b"PUT / HTTP/1.1\r\nHost: x\r\n%b\r\n" % field))
    assert decoder.finished
    assert decoder.decode(memoryview(NEXT)) == ([], 0)


@given(st.binary(max_size=60), PLACES)
def test_a_sized_body_ends_where_it_was_announced(content: bytes, places: list[int]) -> None:
    decoder = SizedBody(len(content))
    assert feed(decoder, cuts(content + NEXT, places)) == (content, NEXT)
    assert decoder.finished


def test_a_sized_body_that_is_cut_short_is_not_over() -> None:
    decoder = SizedBody(5)
    assert whole(decoder, b"hell") == (b"hell", b"")
    assert not decoder.finished


def test_a_sized_body_may_be_longer_than_any_disk() -> None:
    decoder = SizedBody(2**64 - 1)
    assert whole(decoder, b"hello") == (b"hello", b"")
    assert not decoder.finished


def test_what_is_missing_of_a_sized_body_is_known() -> None:
    decoder = SizedBody(10)
    decoder.decode(memoryview(b"123"))
    assert [decoder.missing_after(memoryview(bytes(size))) for size in (0, 1, 6, 7, 8)] == [
        7,
        6,
        1,
        0,
        0,
    ]


# --- in chunks


Feeding = Callable[[BodyDecoder, bytes], tuple[bytes, bytes]]


@pytest.mark.parametrize("feeding", [whole, bytewise])
@pytest.mark.parametrize(
    ("body", "content"),
    [
        (b"0\r\n\r\n", b""),
        (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", b"hello"),
        (b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
        (b"a\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
        (b"000000000000005\r\nhello\r\n000\r\n\r\n", b"hello"),
        (b"5;a\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b'5;a=b;c="d e;\xe9"\r\nhello\r\n0;end\r\n\r\n', b"hello"),
        (b"5 \r\nhello\r\n0\t\r\n\r\n", b"hello"),
        (b"5 ; a = b\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"2\r\n\r\n\r\n0\r\n\r\n", b"\r\n"),
        (b"5\r\n0\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n"),
        (b"5\r\nhello\r\n0\r\nA: b\r\n\r\n", b"hello"),
        (b"5\r\nhello\r\n0\r\nA:\r\nB-c: \t d \xff\r\n\r\n", b"hello"),
        (b"0\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", b""),
        (b"5;%b\r\nhello\r\n0\r\n\r\n" % (b"a" * (LINE_MAX - 10)), b"hello"),
        (b"0\r\n%b\r\n" % (b"A: %b\r\n" % (b"a" * 1000) * 8), b""),
    ],
)
def test_chunks_are_put_together(feeding: Feeding, body: bytes, content: bytes) -> None:
    decoder = ChunkedBody()
    assert feeding(decoder, body + NEXT) == (content, NEXT)
    assert decoder.finished
    for size in (*range(min(len(body), 60)), len(body) - 1):
        decoder = ChunkedBody()
        feeding(decoder, body[:size])
        assert not decoder.finished


@pytest.mark.parametrize(
    "body",
    [
        b"\r\n",
        b"\n",
        b"x\r\n",
        b"-5\r\nhello\r\n",
        b"+5\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b"5_0\r\n",
        b" 5\r\nhello\r\n",
        b"\t5\r\nhello\r\n",
        b"5 5\r\nhello\r\n",
        b"5,5\r\n",
        b"5.0\r\n",
        b"g\r\n",
        b"\xd9\xa5\r\n",
        b"0000000000000000000000005\r\n",
        b"10000000000000000\r\n",
        b"fffffffffffffffff\r\n",
        b";a\r\n",
        b"5;a\0\r\n",
        b"5;a\x7f\r\n",
        b"5;a\rb\r\n",
        b"5\r\r\n",
        b"5\nhello\r\n0\r\n\r\n",
        b"5;a\nhello\r\n0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhello!\r\n0\r\n\r\n",
        b"5\r\nhello\r\r\n0\r\n\r\n",
        b"5\r\nhello\r\n\r\n0\r\n\r\n",
        b"6\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n0\n\r\n",
        b"5\r\nhello\r\n0\r\n\n",
        b"0\r\nA\r\n\r\n",
        b"0\r\nA b: c\r\n\r\n",
        b"0\r\nA : b\r\n\r\n",
        b"0\r\n: b\r\n\r\n",
        b"0\r\nA: b\n\r\n",
        b"0\r\nA: b\0\r\n\r\n",
        b"0\r\nA: b\rc\r\n\r\n",
        b"0\r\nA: b\r\n c\r\n\r\n",
        b"0\r\n A: b\r\n\r\n",
        b"0\r\nA\xe9: b\r\n\r\n",
        b"0\r\nGET / HTTP/1.1\r\n\r\n",
    ],
)
def test_what_ends_elsewhere_for_somebody_else_is_refused(body: bytes) -> None:
    with pytest.raises(RefusalError) as caught:
        whole(ChunkedBody(), body)
    assert caught.value.status == 400
    refusing([body[at : at + 1] for at in range(len(body))])


@pytest.mark.parametrize("size", [1, 7, 100, 4095, 4096, 4097, 100_000])
@pytest.mark.parametrize(
    "begun", [b"", b"5;", b"5\r\nhello", b"5\r\nhello\r\n", b"0\r\n", b"0\r\nA:"]
)
def test_a_line_that_does_not_end_is_not_kept(begun: bytes, size: int) -> None:
    rest = [b"1" * size] * (2 * LINE_MAX // size + 2)
    if begun:
        rest.insert(0, begun)
    assert refusing(rest) <= len(begun) + LINE_MAX + 1 + size


@pytest.mark.parametrize("size", [1, 100, 100_000])
def test_blanks_and_noughts_without_end_are_refused(size: int) -> None:
    for text in (b"0", b" ", b"\r"):
        pieces = [b"5" if text != b"0" else b"0", *[text * size] * (2 * LINE_MAX // size + 2)]
        assert refusing(pieces) <= LINE_MAX + 2 + size


def test_trailers_without_end_are_refused() -> None:
    pieces = [b"0\r\n", *[b"A: %b\r\n" % (b"b" * 100)] * 1000]
    assert refusing(pieces) <= 2 * TRAILERS_MAX
    assert refusing([b"".join(pieces)])
    assert refusing([b"0\r\n", *[b"A:\r\n"] * 10_000]) <= 4 * TRAILERS_MAX


def test_a_line_one_byte_too_long_is_refused() -> None:
    fitting = b"5;" + b"a" * (LINE_MAX - 4) + b"\r\n"
    assert len(fitting) == LINE_MAX
    assert whole(ChunkedBody(), fitting + b"hello\r\n0\r\n\r\n") == (b"hello", b"")
    refusing([b"5;a" + fitting[2:]])
    refusing([b"5;a" + fitting[2:-1], b"\n"])


# --- any pieces, any bytes


@dataclass(frozen=True)
class Written:
    """A body in chunks, and what is in it."""

    body: bytes
    content: bytes


SIZES = st.tuples(st.integers(0, 5), st.booleans())
QUOTED = st.text("abc ;=\t\xe9\"'", max_size=10).map(lambda text: text.encode("latin-1"))
EXTENSION = st.just(b"") | QUOTED.map(lambda text: b";" + text)
TRAILER = st.tuples(st.sampled_from([b"A", b"x-Y_z!"]), QUOTED).map(lambda field: b"%b:%b" % field)


@st.composite
def bodies(
    draw: st.DrawFn, extensions: st.SearchStrategy[bytes] = EXTENSION, blanks: str = " \t"
) -> Written:
    body, content = b"", b""
    for chunk in [*draw(st.lists(st.binary(min_size=1, max_size=40), max_size=6)), b""]:
        noughts, upper = draw(SIZES)
        size = b"0" * noughts + (b"%X" if upper else b"%x") % len(chunk)
        body += size + draw(st.text(blanks, max_size=2)).encode() + draw(extensions) + b"\r\n"
        if chunk:
            body += chunk + b"\r\n"
            content += chunk
    trailers = draw(st.lists(TRAILER, max_size=3))
    return Written(body + b"".join(b"%b\r\n" % line for line in trailers) + b"\r\n", content)


@given(bodies(), st.sampled_from([b"", b"\r\n", NEXT, b"0\r\n\r\n"]), PLACES)
@settings(max_examples=300)
def test_however_a_body_is_cut_its_content_is_the_same(
    written: Written, behind: bytes, places: list[int]
) -> None:
    decoder = ChunkedBody()
    arrived = written.body + behind
    assert feed(decoder, cuts(arrived, places)) == (written.content, behind)
    assert decoder.finished


@given(bodies(), st.integers(0, 10_000))
def test_a_body_of_which_the_end_is_missing_is_not_over(written: Written, place: int) -> None:
    decoder = ChunkedBody()
    content, left = whole(decoder, written.body[: place % len(written.body)])
    assert not decoder.finished
    assert written.content.startswith(content)
    assert not left


def heard(decoder: BodyDecoder, pieces: Sequence[bytes]) -> tuple[bytes, bytes] | None:
    """Give content and leftover, or nothing where the body is refused."""
    try:
        return feed(decoder, pieces)
    except RefusalError:
        return None


SNIPPETS = st.sampled_from(
    [b"0", b"5", b"a", b"\r\n", b"\r", b"\n", b"hello", b";", b":", b" ", b"A: b", b"\0", b"\xff"]
)
MUDDLE = st.lists(SNIPPETS, max_size=30).map(b"".join)


@given(st.binary(max_size=100) | MUDDLE, PLACES)
@example(b"5", [])
@settings(max_examples=500)
def test_any_bytes_are_a_body_or_refused_or_wait_for_more_however_they_come(
    arrived: bytes, places: list[int]
) -> None:
    once = ChunkedBody()
    expected = heard(once, [arrived])
    for pieces in (cuts(arrived, places), [arrived[at : at + 1] for at in range(len(arrived))]):
        decoder = ChunkedBody()
        assert heard(decoder, pieces) == expected
        if expected is not None:
            assert decoder.finished == once.finished


@given(bodies(), st.integers(0, 10_000), st.integers(0, 255), PLACES)
@settings(max_examples=300)
def test_a_body_of_which_one_byte_is_another_is_read_in_one_way(
    written: Written, place: int, byte: int, places: list[int]
) -> None:
    arrived = bytearray(written.body + NEXT)
    arrived[place % len(written.body)] = byte
    expected = heard(ChunkedBody(), [bytes(arrived)])
    assert heard(ChunkedBody(), cuts(bytes(arrived), places)) == expected


# --- beside another reader


def read_by_h11(body: bytes) -> tuple[bytes, bytes] | None:
    """Give content and leftover as h11 understands them; nothing where it refuses."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert isinstance(connection.next_event(), h11.Request)
    connection.receive_data(body)
    content = b""
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError:
            return None
        if isinstance(event, h11.Data):
            content += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            return content, connection.trailing_data[0]
        else:
            assert event is h11.NEED_DATA
            return content, b""


@given(bodies(st.just(b"") | st.just(b";a=b"), blanks=""))
def test_h11_reads_the_same(written: Written) -> None:
    assert read_by_h11(written.body + NEXT) == (written.content, NEXT)
    assert whole(ChunkedBody(), written.body + NEXT) == (written.content, NEXT)


@given(MUDDLE.map(lambda text: b"5\r\nhello\r\n" + text))
@settings(max_examples=300)
def test_what_ends_here_ends_there_for_h11_or_is_refused_by_it(arrived: bytes) -> None:
    decoder = ChunkedBody()
    ours = heard(decoder, [arrived])
    theirs = read_by_h11(arrived)
    if ours is not None and decoder.finished and theirs is not None:
        assert ours == theirs


# --- without copying


def test_content_is_not_copied() -> None:
    arrived = bytearray(b"5\r\nhello\r\n0\r\n\r\n")
    (found,), _ = ChunkedBody().decode(memoryview(arrived))
    arrived[3:8] = b"HELLO"
    assert bytes(found) == b"HELLO"
    (found,), _ = SizedBody(5).decode(memoryview(arrived)[3:])
    arrived[3:8] = b"hello"
    assert bytes(found) == b"hello"
