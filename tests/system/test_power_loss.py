"""Nothing acknowledged is lost when the power fails, worked out from what the daemon asks of the disk.

The last tests leave out the syncs of one place each: they must be missed. What commands ask of the
disk is looked at in test_power_loss_commands.py.
"""

import random
import secrets
from collections.abc import Callable, Iterable
from functools import cache, partial
from itertools import cycle
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.soak import power_commands
from tests.soak.model import Violation
from tests.soak.power_careless import FILES, FILES_LATE, FOLDERS, TELLING, catalogue, places
from tests.soak.power_first_start import FirstStart
from tests.soak.recording import Recording
from tests.soak.replay import RULES

PLACES = places()

_Watched: TypeAlias = Recording | FirstStart
_Life: TypeAlias = Callable[..., _Watched]

_serving: _Life = partial(Recording, requests=60)
_starting: _Life = FirstStart
_starting_with_accounts: _Life = partial(FirstStart, accounts=True)

# For each place that asks for a sync: in which life its absence is noticed, and how. What is seen
# as the disk is looked at step by step needs no rule of what a cut leaves; the rest has one.
_LOSSES: dict[str, tuple[_Life, str, str]] = {
    "catalogue/seals.py Seals.carry_over: fdatasync": (_serving, "chance", "a false alarm"),
    "durable.py sync_folder: fsync": (_serving, "", "is not durable"),
    "durable.py make_folder: sync_folder": (
        _starting,
        "promised",
        "the authority is another one",
    ),
    "durable.py replace_file: fsync": (_starting, "promised", "is not a certificate"),
    "durable.py replace_file: sync_folder": (_starting, "promised", "is another one"),
    "storage/staged.py StagedFile._publish: fsync": (_serving, "", "name before its bytes"),
    "storage/staged.py StagedFile._publish: sync_folder": (_serving, "", "is not durable"),
    "storage/files.py FileStore.prepare: sync_folder": (_serving, "", "is not durable"),
    "storage/files.py FileStore.prepare: sync_folder #2": (_serving, "", "is not durable"),
}
# Without these nothing is lost, and why they are there all the same.
_NO_LOSSES: dict[str, _Life] = {
    # A file of sums that has lost its name is made anew, and no sum is known then: the same as
    # before there was one.
    "catalogue/seals.py Seals.__init__: sync_folder": _serving,
    # It keeps the sync at the end of an upload short, and that one covers everything again.
    "storage/staged.py StagedFile._append: fdatasync": _serving,
    # SQLite syncs the same folder when it makes its log, before anything is answered. That it does
    # is its own affair, and it does not say when it fails.
    "storage/files.py FileStore.prepare: sync_folder #3": _serving,
    # The keys for tokens are put into the same folder next, and that is synced then. It stays, as
    # an authority is not to hang on that.
    "serve/certificates.py Authority.open: sync_folder": _starting_with_accounts,
    # The next start finds the certificates under the name they had while waiting for their key.
    "serve/pem.py _take_name: sync_folder": _starting,
}
# The daemon is made careless in this one by another program before it, see the test of that.
_CARELESS = {"catalogue/database.py Database.open: PRAGMA synchronous": catalogue("NORMAL")}


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    seed = secrets.token_hex(4)
    print(f"seed {seed}")
    return Recording(tmp_path_factory.mktemp("power"), seed, requests=400)


def test_every_acknowledged_blob_is_durable_and_every_visible_one_is_whole(
    recording: Recording,
) -> None:
    recording.examine({})


@pytest.mark.parametrize("rule", RULES)
def test_nothing_acknowledged_is_lost_in_a_power_cut(recording: Recording, rule: str) -> None:
    recording.examine(dict.fromkeys(recording.cuts(4), rule))


def test_a_cut_while_the_catalogue_is_being_rewritten_loses_nothing(recording: Recording) -> None:
    recording.examine(_by_every_rule(_spread(recording.checkpoints())))


def test_a_cut_while_garbage_leaves_the_disk_loses_nothing(recording: Recording) -> None:
    recording.examine(_by_every_rule(_spread(recording.sweeps())))


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Callable[[_Life], _Watched]:
    """Each life is recorded once for all the places that may be left out of it."""

    @cache
    def record(life: _Life) -> _Watched:
        return life(tmp_path_factory.mktemp("telling"), "telling", careless=TELLING)

    return record


@pytest.mark.parametrize(
    ("careless", "finding"),
    [
        pytest.param(FILES, "name before its bytes", id="files are not synced"),
        pytest.param(FILES_LATE, "name before its bytes", id="files are synced late"),
        pytest.param(FOLDERS, "is not durable", id="folders are not synced"),
        pytest.param(catalogue("OFF"), "cut at step", id="the catalogue is not synced"),
        *(pytest.param(one, "cut at step", id=place) for place, one in _CARELESS.items()),
    ],
)
def test_a_careless_daemon_is_found_out(tmp_path: Path, careless: str, finding: str) -> None:
    recording = Recording(tmp_path, "careless", requests=60, careless=careless)
    in_cuts = finding == "cut at step"
    cuts = random.sample(recording.answers, 6) if in_cuts else []
    with pytest.raises(Violation, match=finding):
        recording.examine(dict.fromkeys(cuts, "promised"))


@pytest.mark.parametrize("accounts", [False, True])
def test_what_a_first_start_has_told_stays_true(tmp_path: Path, *, accounts: bool) -> None:
    seed = secrets.token_hex(4)
    print(f"seed {seed}")
    start = FirstStart(tmp_path, seed, accounts=accounts)
    start.examine(_by_every_rule(start.cuts(6)))


def test_a_reason_is_known_for_every_sync_in_the_code() -> None:
    commands = [*power_commands.LOSSES, *power_commands.NO_LOSSES]
    assert sorted([*_LOSSES, *_NO_LOSSES, *_CARELESS, *commands]) == sorted(PLACES)


@pytest.mark.parametrize("place", _LOSSES)
def test_no_sync_can_be_left_out(watched: Callable[[_Life], _Watched], place: str) -> None:
    life, rule, finding = _LOSSES[place]
    recorded = watched(life)
    cuts = recorded.promises() if rule else []
    with pytest.raises(Violation, match=finding):
        recorded.examine(dict.fromkeys(cuts, rule), PLACES[place])


@pytest.mark.parametrize("place", _NO_LOSSES)
def test_what_can_be_left_out_is_known(watched: Callable[[_Life], _Watched], place: str) -> None:
    recorded = watched(_NO_LOSSES[place])
    recorded.examine(_by_every_rule(recorded.cuts(len(RULES))), PLACES[place])


def _spread(moments: list[int]) -> list[int]:
    """The first of them, the last, and some between."""
    return sorted({moments[0], moments[-1], *random.sample(moments, len(RULES) - 2)})


def _by_every_rule(cuts: Iterable[int]) -> dict[int, str]:
    return dict(zip(cuts, cycle(random.sample([*RULES], len(RULES))), strict=False))
