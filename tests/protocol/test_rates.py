"""Token buckets, by a clock that stands still until it is moved."""

from collections.abc import Sequence

import hypothesis.strategies as st
import pytest
from hypothesis import given

from appliance.protocol.rates import BURST_SECONDS, KEYS_MAX, Rates


class Clock:
    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def passing(rates: Rates, key: str, tries: int = 1000) -> int:
    """How many requests of a key pass one after the other, at most `tries`."""
    for number in range(tries):
        if rates.wait(key):
            return number
    return tries


@pytest.fixture
def clock() -> Clock:
    return Clock(4711.0)


def test_a_burst_passes_and_the_next_request_waits_for_a_token(clock: Clock) -> None:
    rates = Rates(per_second=4, burst=3, clock=clock)
    assert [rates.wait("a") for _ in range(4)] == [0.0, 0.0, 0.0, pytest.approx(0.25)]


def test_whoever_waits_as_long_as_told_may_pass_once(clock: Clock) -> None:
    rates = Rates(per_second=4, burst=3, clock=clock)
    passing(rates, "a")
    clock.now += rates.wait("a")
    assert rates.wait("a") == 0.0
    assert rates.wait("a") == pytest.approx(0.25)


def test_asking_too_early_makes_nobody_wait_longer(clock: Clock) -> None:
    rates = Rates(per_second=1, burst=1, clock=clock)
    rates.wait("a")
    assert {rates.wait("a") for _ in range(100)} == {1.0}
    clock.now += 0.75
    assert rates.wait("a") == pytest.approx(0.25)


def test_a_bucket_fills_up_to_its_burst_and_no_further(clock: Clock) -> None:
    rates = Rates(per_second=10, burst=5, clock=clock)
    assert passing(rates, "a") == 5
    clock.now += 0.3
    assert passing(rates, "a") == 3
    clock.now += 1e6
    assert passing(rates, "a") == 5


def test_one_key_does_not_use_up_another_s(clock: Clock) -> None:
    rates = Rates(per_second=1, burst=2, clock=clock)
    assert passing(rates, "a") == 2
    assert passing(rates, "b") == 2


def test_unless_told_otherwise_a_burst_is_some_seconds_worth(clock: Clock) -> None:
    assert passing(Rates(per_second=3, clock=clock), "a") == 3 * BURST_SECONDS


@pytest.mark.parametrize(("per_second", "burst"), [(0.01, None), (0.01, 0), (5, 0.5)])
def test_one_request_always_passes(clock: Clock, per_second: float, burst: float | None) -> None:
    rates = Rates(per_second=per_second, burst=burst, clock=clock)
    assert passing(rates, "a") == 1
    assert rates.wait("a") == pytest.approx(1 / per_second)


def test_without_a_limit_all_pass_and_nothing_is_remembered(clock: Clock) -> None:
    rates = Rates(per_second=0, clock=clock)
    assert passing(rates, "a") == 1000
    assert len(rates) == 0


def test_strangers_cannot_make_it_grow(clock: Clock) -> None:
    rates = Rates(per_second=1, burst=100, clock=clock)
    for number in range(3 * KEYS_MAX):
        assert rates.wait(str(number)) == 0.0
        assert len(rates) <= KEYS_MAX


def test_strangers_do_not_have_an_empty_bucket_forgotten(clock: Clock) -> None:
    rates = Rates(per_second=1, burst=100, clock=clock)
    assert passing(rates, "greedy") == 100
    for number in range(3 * KEYS_MAX):
        rates.wait(str(number))
    assert rates.wait("greedy") == pytest.approx(1)


def test_of_many_buckets_the_emptier_ones_are_remembered(clock: Clock) -> None:
    rates = Rates(per_second=1, burst=100, clock=clock)
    for number in range(KEYS_MAX):
        for _ in range(1 + number % 4):
            rates.wait(str(number))
    rates.wait("one more")
    assert passing(rates, "0") == 100  # had one token less, and that is forgotten
    assert [passing(rates, str(number)) for number in (1, 2, 3)] == [98, 97, 96]


def test_full_buckets_are_forgotten_before_any_other(clock: Clock) -> None:
    rates = Rates(per_second=1, burst=100, clock=clock)
    for number in range(KEYS_MAX - 1):
        rates.wait(str(number))
    clock.now += 1
    rates.wait("late")
    rates.wait("later")
    assert len(rates) == 2
    assert passing(rates, "late") == 99


@given(
    per_second=st.floats(0.01, 1e6),
    burst=st.floats(1, 1e6),
    start=st.floats(0, 1e8),
    steps=st.lists(st.floats(0, 1e4), max_size=50),
)
def test_whoever_waits_as_told_passes_at_any_rate_and_time(
    per_second: float, burst: float, start: float, steps: Sequence[float]
) -> None:
    clock = Clock(start)
    rates = Rates(per_second=per_second, burst=burst, clock=clock)
    for step in steps:
        clock.now += step
        clock.now += rates.wait("a")
        assert rates.wait("a") >= 0.0


@given(
    burst=st.integers(1, 20),
    pauses=st.lists(st.integers(0, 64).map(lambda number: number / 16), max_size=100),
)
def test_no_more_pass_than_the_burst_and_what_has_come_in_since(
    burst: int, pauses: Sequence[float]
) -> None:
    clock = Clock()
    rates = Rates(per_second=2, burst=burst, clock=clock)
    tokens = float(burst)
    for pause in pauses:
        clock.now += pause
        tokens = min(tokens + 2 * pause, burst)
        wait = rates.wait("a")
        assert (wait == 0.0) == (tokens >= 1)
        if tokens >= 1:
            tokens -= 1
        else:
            assert wait == pytest.approx((1 - tokens) / 2)
