"""Byte ranges, out and in."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from appliance.oci.errors import RANGE_INVALID, RANGE_UNSATISFIABLE, ErrorRow
from appliance.protocol.ranges import (
    RANGES_MAX,
    ContentRange,
    Span,
    byteranges,
    parse_content_range,
    select_spans,
)
from tests.refused import attempt, refused

# --- out


@pytest.mark.parametrize(
    ("header", "span"),
    [
        ("bytes=0-0", Span(0, 1)),
        ("bytes=0-9", Span(0, 10)),
        ("bytes=3-5", Span(3, 3)),
        ("bytes=9-9", Span(9, 1)),
        ("bytes=3-", Span(3, 7)),
        ("bytes=0-", Span(0, 10)),
        ("bytes=5-100", Span(5, 5)),
        ("bytes=0-999999999999999999", Span(0, 10)),
        ("bytes=-1", Span(9, 1)),
        ("bytes=-10", Span(0, 10)),
        ("bytes=-11", Span(0, 10)),
        ("Bytes = 3-5", Span(3, 3)),
        ("bytes=\t3-5 ", Span(3, 3)),
    ],
)
def test_a_range_chooses_bytes_and_is_cut_at_the_end(header: str, span: Span) -> None:
    assert select_spans(header, 10) == (span,)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "bytes=,",
        "bytes=0-1,a-b",
        "bytes=0-1 3-4",
        "bytes=--1",
        "bytes=+1-2",
        "bytes=1.0-2",
        "bytes=1 - 2",
        "bytes=0x1-0x2",
        "bytes=1-2;",
        "lines=1-2",
        "1-2",
        "bytes=0-1\nbytes=3-4",
        "bytes=" + "1" * 5000 + "-",
    ],
)
def test_what_is_no_range_of_bytes_chooses_all(header: str | None) -> None:
    assert select_spans(header, 10) == ()


@pytest.mark.parametrize(
    ("header", "size"),
    [
        ("bytes=10-", 10),
        ("bytes=10-20", 10),
        ("bytes=999999999999999999-", 10),
        ("bytes=-0", 10),
    ],
)
def test_a_range_that_starts_past_the_end_is_refused(header: str, size: int) -> None:
    with refused(RANGE_UNSATISFIABLE, f"the blob has {size} bytes") as caught:
        select_spans(header, size)
    assert caught.value.headers == (("Content-Range", f"bytes */{size}"),)


@pytest.mark.parametrize("header", ["bytes=5-3", "bytes=500-0", "bytes=0-1,5-3", "bytes=99-98"])
def test_a_range_that_runs_backward_is_refused(header: str) -> None:
    with refused(RANGE_UNSATISFIABLE, "a range ends before it starts") as caught:
        select_spans(header, 10)
    assert caught.value.headers == (("Content-Range", "bytes */10"),)


@pytest.mark.parametrize(
    ("header", "spans"),
    [
        ("bytes=0-1,3-4", [Span(0, 2), Span(3, 2)]),
        ("bytes=0-1, -1", [Span(0, 2), Span(9, 1)]),
        ("bytes=8-,0-1", [Span(8, 2), Span(0, 2)]),
        ("bytes=, 0-1 ,\t,3-4,", [Span(0, 2), Span(3, 2)]),
        ("bytes=0-1,10-", [Span(0, 2)]),
        ("bytes=0-2,2-4", [Span(0, 3), Span(2, 3)]),
    ],
)
def test_several_ranges_choose_several_parts_in_the_order_asked(
    header: str, spans: list[Span]
) -> None:
    assert select_spans(header, 10) == tuple(spans)


def test_parts_that_are_more_than_the_whole_choose_the_whole() -> None:
    assert select_spans("bytes=0-5,4-9", 10) == ()
    assert select_spans("bytes=0-,0-,0-", 10) == ()
    many = ",".join(f"{2 * number}-{2 * number}" for number in range(RANGES_MAX))
    assert len(select_spans(f"bytes={many}", 10_000)) == RANGES_MAX
    assert select_spans(f"bytes={many},9999-", 10_000) == ()


def test_parts_are_framed_as_multipart() -> None:
    content = bytes(range(65, 75))
    body = b"".join(
        part if isinstance(part, bytes) else content[part.offset : part.offset + part.length]
        for part in byteranges([Span(0, 2), Span(8, 1)], 10, "a/b", "xyz")
    )
    assert body == (
        b"--xyz\r\nContent-Type: a/b\r\nContent-Range: bytes 0-1/10\r\n\r\nAB"
        b"\r\n--xyz\r\nContent-Type: a/b\r\nContent-Range: bytes 8-8/10\r\n\r\nI"
        b"\r\n--xyz--\r\n"
    )


def test_an_answer_says_which_bytes_of_how_many() -> None:
    assert Span(3, 4).content_range(10) == "bytes 3-6/10"


@given(st.integers(0, 20), st.integers(0, 25) | st.none(), st.integers(0, 25) | st.none())
def test_spans_are_slices(size: int, first: int | None, last: int | None) -> None:
    content = bytes(range(size))
    header = f"bytes={'' if first is None else first}-{'' if last is None else last}"
    if first is not None:
        expected = content[first : None if last is None else last + 1]
        backward = last is not None and last < first
    else:
        expected = content[-last:] if last else b""
        backward = False
    found = attempt(lambda: select_spans(header, size))
    if not size or (first is None and last is None):
        assert found == ()
    elif expected and not backward:
        assert isinstance(found, tuple)
        (span,) = found
        assert content[span.offset : span.offset + span.length] == expected
        assert span.length == len(expected)
    else:
        assert found is RANGE_UNSATISFIABLE


@given(
    st.text() | st.from_regex(r"bytes=[0-9]{0,2}-[0-9]{0,2}(,[0-9]{0,2}-[0-9]{0,2})*"),
    st.integers(0, 99),
)
def test_any_header_chooses_something_or_is_refused(header: str, size: int) -> None:
    found = attempt(lambda: select_spans(header, size))
    if isinstance(found, tuple):
        assert all(0 <= one.offset < one.offset + one.length <= size for one in found)
        assert sum(one.length for one in found) <= size
    else:
        assert found is RANGE_UNSATISFIABLE


# --- in


@pytest.mark.parametrize(
    ("header", "start", "end"),
    [
        ("0-0", 0, 0),
        ("0-9", 0, 9),
        ("10-19", 10, 19),
        (" 10-19 ", 10, 19),
        ("bytes 10-19/20", 10, 19),
        ("bytes 10-19/*", 10, 19),
        ("bytes=10-19", 10, 19),
        ("bytes 10-19", 10, 19),
        ("10-19/20", 10, 19),
        ("0-999999999999999999", 0, 10**18 - 1),
    ],
)
def test_a_chunk_says_where_it_belongs(header: str, start: int, end: int) -> None:
    found = parse_content_range(header)
    assert found == ContentRange(start, end)
    assert found.length == end - start + 1


@pytest.mark.parametrize(
    "header",
    [
        "",
        "-",
        "0-",
        "-9",
        "9-0",
        "1-0",
        "a-b",
        "0 - 9",
        "+0-9",
        "0--9",
        "0-9,10-19",
        "bytes */10",
        "lines 0-9",
        "0-9/",
        "0-9/a",
        "0-1" + "0" * 18,
        "0-9\n0-9",
        "0-" + "9" * 5000,
    ],
)
def test_a_chunk_that_says_it_badly_is_refused(header: str) -> None:
    with refused(RANGE_INVALID, "start-end"):
        parse_content_range(header)


@given(st.text() | st.from_regex(r"(bytes )?\d*-\d*(/\d*)?"))
def test_any_header_is_a_place_or_refused(header: str) -> None:
    found = attempt(lambda: parse_content_range(header))
    if isinstance(found, ErrorRow):
        assert found is RANGE_INVALID
    else:
        assert 0 <= found.start <= found.end
        assert found.length >= 1
