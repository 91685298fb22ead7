"""The pace of a body, by a clock that the test moves."""

import hypothesis.strategies as st
from hypothesis import given

from appliance.protocol.pace import BYTES_MIN, Pace


def test_whoever_sends_nothing_has_one_period() -> None:
    assert Pace(30, 1000).deadline == 1030


def test_enough_bytes_begin_another_period() -> None:
    pace = Pace(30, 1000)
    pace.count(BYTES_MIN, 1020)
    assert pace.deadline == 1050
    pace.count(10 * BYTES_MIN, 1021)
    assert pace.deadline == 1051


def test_one_byte_less_than_enough_begins_none() -> None:
    pace = Pace(30, 1000)
    pace.count(BYTES_MIN - 1, 1029)
    assert pace.deadline == 1030
    pace.count(1, 1029.5)
    assert pace.deadline == 1059.5


def test_a_trickle_is_not_enough_however_long_it_lasts() -> None:
    pace = Pace(30, 1000)
    for second in range(30):
        pace.count(100, 1000 + second)
    assert pace.deadline == 1030


def test_bytes_beyond_enough_are_not_saved_for_the_next_period() -> None:
    pace = Pace(30, 1000)
    pace.count(2 * BYTES_MIN - 1, 1001)
    pace.count(BYTES_MIN - 1, 1010)
    assert pace.deadline == 1031
    pace.count(1, 1011)
    assert pace.deadline == 1041


def test_a_turn_that_brought_nothing_changes_nothing() -> None:
    pace = Pace(30, 1000)
    pace.count(0, 1029)
    assert pace.deadline == 1030


@given(
    period=st.integers(1, 100),
    arrivals=st.lists(st.tuples(st.integers(0, 3 * BYTES_MIN), st.integers(0, 50)), max_size=20),
)
def test_a_deadline_moves_only_with_enough_bytes_and_never_backward(
    period: int, arrivals: list[tuple[int, int]]
) -> None:
    now = 0
    pace = Pace(period, now)
    since = 0
    for size, wait in arrivals:
        now += wait
        before = pace.deadline
        pace.count(size, now)
        since += size
        if since >= BYTES_MIN:
            since = 0
            assert pace.deadline == now + period
        else:
            assert pace.deadline == before
        assert pace.deadline >= before
