"""Leases by themselves: how long they last, and that they stay few."""

import trio
import trio.testing

from appliance.oci.digest import Digest
from appliance.registry import leases as module
from appliance.registry.leases import Leases

ONE, OTHER = ("here", Digest.of(b"one")), ("here", Digest.of(b"other"))


def make() -> tuple[Leases, list[float]]:
    now = [0.0]
    leases = Leases(10, lambda: now[0])
    now[0] = 100.0
    return leases, now


def test_a_lease_lasts_so_long() -> None:
    leases, now = make()
    assert leases.take(*ONE) is None
    now[0] += 9.9
    assert leases.claim([ONE, OTHER]) == {OTHER}
    leases.settle([OTHER])
    now[0] += 0.2
    assert leases.claim([ONE]) == {ONE}


def test_everything_is_leased_at_the_start() -> None:
    leases = Leases(10, lambda: 0.0)
    assert leases.claim([ONE]) == set()
    leases.touch_all_before(9)
    assert leases.claim([ONE]) == set()
    leases.touch_all_before(11)
    assert leases.claim([ONE]) == {ONE}


async def test_who_comes_during_a_claim_waits_for_its_end() -> None:
    leases, _ = make()
    claimed = leases.claim([ONE])
    settled = leases.take(*ONE)
    assert settled is not None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(leases.secure, *ONE)
        await trio.testing.wait_all_tasks_blocked()
        leases.settle(claimed)
    assert settled.is_set()
    assert leases.claim([ONE]) == set()


def test_beyond_a_bound_one_moment_stands_for_all() -> None:
    leases, now = make()
    for number in range(module.PAIRS_MAX + 1):
        leases.take("here", Digest("sha256", f"{number:064x}"))
    assert len(leases) == 0
    assert leases.claim([ONE]) == set()
    now[0] += 10.1
    assert leases.claim([ONE]) == {ONE}


def test_another_process_goes_on_with_leases_and_their_ages() -> None:
    leases, now = make()
    leases.take(*ONE)
    now[0] += 6
    after = Leases(10, lambda: now[0] + 1000)
    assert after.claim([ONE, OTHER]) == set()
    after.adopt(leases.export())
    assert after.claim([ONE, OTHER]) == {OTHER}
    now[0] += 5
    assert after.claim([ONE]) == {ONE}


def test_what_was_leased_meanwhile_stays_leased() -> None:
    leases, now = make()
    leases.take(*ONE)
    now[0] += 11
    after = Leases(10, lambda: now[0])
    after.take(*ONE)
    after.adopt(leases.export())
    assert after.claim([ONE, OTHER]) == {OTHER}


def test_that_all_was_leased_meanwhile_counts_more_than_what_is_adopted() -> None:
    leases, now = make()
    after = Leases(10, lambda: now[0])
    now[0] += 1
    after.touch_all_before(0)
    after.adopt(leases.export())
    assert after.claim([ONE]) == set()
