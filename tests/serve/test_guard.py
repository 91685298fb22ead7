"""Connections counted, in all and by address."""

from collections import Counter
from collections.abc import Sequence

import hypothesis.strategies as st
import pytest
from hypothesis import given

from appliance.protocol.addresses import network_key
from appliance.serve.guard import ConnectionLimits


def test_there_is_room_up_to_the_total_and_again_once_one_has_left() -> None:
    limits = ConnectionLimits(total=2, per_address=0)
    assert [limits.admit(address) for address in ("10.0.0.1", "10.0.0.2", "10.0.0.3")] == [
        True,
        True,
        False,
    ]
    limits.release("10.0.0.1")
    assert limits.admit("10.0.0.3")


def test_one_address_has_room_of_its_own() -> None:
    limits = ConnectionLimits(total=0, per_address=1)
    assert limits.admit("10.0.0.1")
    assert not limits.admit("10.0.0.1")
    assert limits.admit("10.0.0.2")
    limits.release("10.0.0.1")
    assert limits.admit("10.0.0.1")


def test_a_network_of_ipv6_is_one_address_and_mapped_ipv4_another_spelling() -> None:
    limits = ConnectionLimits(per_address=1)
    assert limits.admit("2001:db8::1")
    assert not limits.admit("2001:db8::ffff:2")
    assert limits.admit("2001:db8:0:1::1")
    assert limits.admit("::ffff:10.0.0.1")
    assert not limits.admit("10.0.0.1")
    limits.release("10.0.0.1")
    limits.release("2001:db8::3")
    assert (limits.open, limits.addresses) == (1, 1)


def test_zero_is_no_limit() -> None:
    limits = ConnectionLimits()
    assert all(limits.admit("10.0.0.1") for _ in range(10_000))
    assert (limits.open, limits.addresses) == (10_000, 1)


def test_a_refused_connection_is_not_counted() -> None:
    limits = ConnectionLimits(total=1, per_address=1)
    limits.admit("10.0.0.1")
    limits.admit("10.0.0.1")
    limits.admit("10.0.0.2")
    assert (limits.open, limits.addresses) == (1, 1)


def test_the_empty_address_counts_in_the_total_alone() -> None:
    limits = ConnectionLimits(total=3, per_address=1)
    assert [limits.admit("") for _ in range(4)] == [True, True, True, False]
    assert (limits.open, limits.addresses) == (3, 0)
    limits.release("")
    assert limits.admit("10.0.0.1")


def test_new_limits_count_for_new_connections() -> None:
    limits = ConnectionLimits(total=0, per_address=0)
    for _ in range(3):
        limits.admit("10.0.0.1")
    limits.limit(total=4, per_address=2)
    assert limits.open == 3
    assert not limits.admit("10.0.0.1")
    limits.release("10.0.0.1")
    assert not limits.admit("10.0.0.1")
    limits.release("10.0.0.1")
    assert limits.admit("10.0.0.1")
    limits.limit(total=2, per_address=0)
    assert not limits.admit("10.0.0.2")


@pytest.mark.parametrize("address", ["10.0.0.2", "2001:db8::1"])
def test_what_was_never_admitted_cannot_be_released(address: str) -> None:
    limits = ConnectionLimits()
    limits.admit("10.0.0.1")
    with pytest.raises(KeyError):
        limits.release(address)
    assert (limits.open, limits.addresses) == (1, 1)


ADDRESSES = ["", "10.0.0.1", "::ffff:10.0.0.1", "10.0.0.2", "2001:db8::1", "2001:db8::2", "fe80::1"]


@given(
    total=st.integers(0, 6),
    per_address=st.integers(0, 3),
    steps=st.lists(st.tuples(st.booleans(), st.sampled_from(ADDRESSES)), max_size=60),
)
def test_counts_are_exact_whatever_comes_and_goes(
    total: int, per_address: int, steps: Sequence[tuple[bool, str]]
) -> None:
    limits = ConnectionLimits(total, per_address)
    present: Counter[str] = Counter()
    for arrives, address in steps:
        key = network_key(address)
        if arrives:
            room = not total or present.total() < total
            if address and per_address:
                room = room and present[key] < per_address
            assert limits.admit(address) == room
            present[key] += room
        elif present[key]:
            limits.release(address)
            present[key] -= 1
        assert limits.open == present.total()
        assert limits.addresses == sum(1 for key in present if key and present[key])
    for key in present.elements():
        limits.release(key.removesuffix("/64"))
    assert (limits.open, limits.addresses) == (0, 0)
