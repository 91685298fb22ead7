"""Byte ranges, out and in."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from appliance.oci.errors import RANGE_INVALID, RANGE_UNSATISFIABLE, ErrorRow
from appliance.protocol.ranges import ContentRange, Span, parse_content_range, select_span
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
    assert select_span(header, 10) == span


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "bytes=5-3",
        "bytes=0-1,3-4",
        "bytes=0-1, -1",
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
def test_what_is_no_single_range_of_bytes_chooses_all(header: str | None) -> None:
    assert select_span(header, 10) is None


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
        select_span(header, size)
    assert caught.value.headers == (("Content-Range", f"bytes */{size}"),)


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
        backward = last is None
    found = attempt(lambda: select_span(header, size))
    if backward or not size:
        assert found is None
    elif expected:
        assert isinstance(found, Span)
        assert content[found.offset : found.offset + found.length] == expected
        assert found.length == len(expected)
    else:
        assert found is RANGE_UNSATISFIABLE


@given(st.text(), st.integers(0, 2**63))
def test_any_header_chooses_something_or_is_refused(header: str, size: int) -> None:
    found = attempt(lambda: select_span(header, size))
    if isinstance(found, Span):
        assert 0 <= found.offset < found.offset + found.length <= size
    else:
        assert found in {None, RANGE_UNSATISFIABLE}


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
