"""Upload sessions as dialogues: the client's chunks, and what the rules say to each."""

from dataclasses import dataclass

import hypothesis.strategies as st
import pytest
from hypothesis import given

from appliance.oci.errors import RANGE_INVALID, SIZE_INVALID, ErrorRow
from appliance.protocol.ranges import ContentRange
from appliance.protocol.session import Chunk, accept_chunk, range_header
from tests.refused import attempt, refused


@dataclass(frozen=True)
class Sends:
    """A chunk: what its headers say and how many bytes really come."""

    content_range: tuple[int, int] | None
    content_length: int | None
    arrive: int


@dataclass(frozen=True)
class Stands:
    """The answer to an accepted chunk."""

    range: str


def converse(*sent: Sends) -> list[Stands | ErrorRow]:
    """Play a session: an accepted chunk moves it on, a refused one leaves it where it is."""
    offset = 0
    answers: list[Stands | ErrorRow] = []
    for chunk in sent:

        def play(chunk: Sends = chunk, offset: int = offset) -> Stands:
            where = None if chunk.content_range is None else ContentRange(*chunk.content_range)
            accepted = accept_chunk(offset, where, chunk.content_length)
            for received in range(1, chunk.arrive + 1):
                accepted.check_room(received)
            accepted.check_end(chunk.arrive)
            return Stands(range_header(offset + chunk.arrive))

        answer = attempt(play)
        answers.append(answer)
        if isinstance(answer, Stands):
            offset += chunk.arrive
    return answers


def test_chunks_in_order_are_accepted() -> None:
    assert converse(Sends((0, 4), 5, 5), Sends((5, 5), 1, 1), Sends((6, 9), 4, 4)) == [
        Stands("0-4"),
        Stands("0-5"),
        Stands("0-9"),
    ]


def test_a_stream_goes_on_where_the_session_stands() -> None:
    assert converse(
        Sends(None, None, 7), Sends(None, 3, 3), Sends((10, 10), None, 1), Sends(None, None, 0)
    ) == [Stands("0-6"), Stands("0-9"), Stands("0-10"), Stands("0-10")]


def test_a_chunk_sent_twice_is_refused_and_the_next_one_is_not() -> None:
    first, second = Sends((0, 4), 5, 5), Sends((5, 9), 5, 5)
    assert converse(first, first, second) == [Stands("0-4"), RANGE_INVALID, Stands("0-9")]


def test_a_gap_is_refused() -> None:
    assert converse(Sends((1, 4), 4, 4), Sends((0, 0), 1, 1), Sends((2, 2), 1, 1)) == [
        RANGE_INVALID,
        Stands("0-0"),
        RANGE_INVALID,
    ]


def test_a_chunk_that_overlaps_is_refused() -> None:
    assert converse(Sends((0, 4), 5, 5), Sends((4, 9), 6, 6)) == [Stands("0-4"), RANGE_INVALID]


def test_two_lengths_that_differ_are_refused() -> None:
    assert converse(Sends((0, 4), 6, 5)) == [SIZE_INVALID]
    assert converse(Sends((0, 4), 0, 0)) == [SIZE_INVALID]


@pytest.mark.parametrize("arrive", [0, 1, 4, 6, 100])
def test_a_body_of_another_length_than_announced_is_refused(arrive: int) -> None:
    assert converse(Sends((0, 4), None, arrive)) == [SIZE_INVALID]
    assert converse(Sends(None, 5, arrive)) == [SIZE_INVALID]
    assert converse(Sends((0, 4), 5, arrive)) == [SIZE_INVALID]


def test_the_wrong_place_is_refused_before_the_wrong_length() -> None:
    assert converse(Sends((7, 9), 9, 9)) == [RANGE_INVALID]


def test_a_refusal_says_both_numbers() -> None:
    with refused(RANGE_INVALID, "stands at 5, the chunk starts at 7"):
        accept_chunk(5, ContentRange(7, 9), None)
    with refused(SIZE_INVALID, "tells of 5 bytes, Content-Length of 6"):
        accept_chunk(5, ContentRange(5, 9), 6)
    with refused(SIZE_INVALID, "5 bytes were announced, at least 6 arrived"):
        Chunk(5).check_room(6)
    with refused(SIZE_INVALID, "5 bytes were announced, 4 arrived"):
        Chunk(5).check_end(4)


def test_surplus_is_noticed_before_the_body_ends() -> None:
    chunk = accept_chunk(0, ContentRange(0, 4), None)
    chunk.check_room(5)
    with refused(SIZE_INVALID):
        chunk.check_room(6)


def test_nothing_announced_allows_everything() -> None:
    chunk = accept_chunk(0, None, None)
    assert chunk == Chunk(None)
    chunk.check_room(2**60)
    chunk.check_end(0)


def test_an_empty_session_and_one_of_one_byte_read_alike() -> None:
    # "0-0" is what clients of docker's own registry expect of an empty session.
    assert [range_header(size) for size in (0, 1, 2, 10**12)] == [
        "0-0",
        "0-0",
        "0-1",
        f"0-{10**12 - 1}",
    ]


places = st.tuples(st.integers(0, 20), st.integers(0, 9)).map(lambda p: (p[0], p[0] + p[1]))
chunks = st.builds(Sends, places | st.none(), st.integers(0, 10) | st.none(), st.integers(0, 10))


@given(st.lists(chunks, max_size=12))
def test_what_is_accepted_is_without_gap_and_as_announced(sent: list[Sends]) -> None:
    offset = 0
    for chunk, answer in zip(sent, converse(*sent), strict=True):
        right_place = chunk.content_range is None or chunk.content_range[0] == offset
        if not right_place:
            assert answer is RANGE_INVALID
            continue
        lengths = {chunk.content_length, chunk.arrive} - {None}
        if chunk.content_range is not None:
            lengths.add(chunk.content_range[1] - chunk.content_range[0] + 1)
        if len(lengths) > 1:
            assert answer is SIZE_INVALID
        else:
            offset += chunk.arrive
            assert answer == Stands(range_header(offset))
