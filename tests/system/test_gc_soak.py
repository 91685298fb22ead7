"""Nothing in use is removed while garbage goes; `python -m tests.soak --gc-storm` goes on for longer.

The last tests make the daemon careless in one place each: what that does must be noticed. Where it
matters for some milliseconds only, they make it slow there, too; the sweep itself goes on at once,
where it would rest for several times as long.
"""

import secrets
from pathlib import Path

import pytest

from tests.soak.gc_storm import Storm
from tests.soak.model import Violation

_WITHOUT_REST = """
import appliance.registry.sweep
appliance.registry.sweep._REST = 0
appliance.registry.sweep._BATCH = 32
"""
_LEASES_DO_NOT_HOLD = """
import trio
from appliance.registry.leases import Leases
def claim(leases, pairs):
    claimed = set(pairs)
    leases._claimed |= {pair: trio.Event() for pair in claimed - leases._claimed.keys()}
    return claimed
Leases.claim = claim
"""
_NOBODY_WAITS_FOR_A_CLAIM = """
import trio
from appliance.catalogue.garbage import Garbage
from appliance.registry.leases import Leases
Leases.take = lambda leases, *pair: leases._touch(pair)
remove_links = Garbage.remove_links
async def slowly(garbage, pairs):
    await trio.sleep(0.3)
    return await remove_links(garbage, pairs)
Garbage.remove_links = slowly
"""
_NO_LOCKS = """
import time
from contextlib import asynccontextmanager
from appliance.registry.locks import DigestLocks
from appliance.storage.files import FileStore
@asynccontextmanager
async def hold(locks, digests):
    yield
DigestLocks.hold = hold
put_away = FileStore._put_away
def slowly(store, digests):
    time.sleep(0.1)
    put_away(store, digests)
FileStore._put_away = slowly
"""


def test_whatever_is_in_use_outlives_a_storm_of_sweeps(tmp_path: Path) -> None:
    storm = Storm(tmp_path, secrets.token_hex(4))
    storm.run(60)
    tally = storm.tally
    assert tally.swept["blobs removed"] > 100
    assert tally.noticed["images pulled whole"] > 100
    assert tally.noticed["blobs about to go: found"]
    assert tally.noticed["blobs about to go: uploaded again"]
    assert tally.noticed["blobs going now: found"]
    assert tally.noticed["blobs going now: gone"]


@pytest.mark.parametrize(
    ("careless", "finding"),
    [
        pytest.param(_LEASES_DO_NOT_HOLD, "is over|are over", id="leases do not hold"),
        pytest.param(_NOBODY_WAITS_FOR_A_CLAIM, "is over|are over", id="nobody waits for a claim"),
        pytest.param(_NO_LOCKS, "must be there|have no file", id="no locks"),
    ],
)
def test_a_careless_sweep_is_found_out(tmp_path: Path, careless: str, finding: str) -> None:
    with pytest.raises(Violation, match=finding):
        Storm(tmp_path, secrets.token_hex(4), careless=_WITHOUT_REST + careless).run(60)
