"""What a command has said is done outlives a power cut, and half of it does no harm.

Worked out from what the commands ask of the disk, as in test_power_loss.py. The last tests leave
out the syncs of one place each: they must be missed.
"""

import random
import secrets
from collections.abc import Callable, Iterable
from itertools import cycle

import pytest

from tests.soak.model import Violation
from tests.soak.power_careless import places
from tests.soak.power_commands import COMMANDS, LOSSES, NO_LOSSES, Command, Life
from tests.soak.replay import RULES

PLACES = places()
_CUTS = 4

_Record = Callable[[type[Command]], Life]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> _Record:
    """Each command is recorded once."""

    lives: dict[type[Command], Life] = {}

    def record(command: type[Command]) -> Life:
        if command not in lives:
            lives[command] = Life(tmp_path_factory.mktemp(command.__name__), command())
        return lives[command]

    return record


@pytest.fixture
def chance() -> random.Random:
    seed = secrets.token_hex(4)
    print(f"seed {seed}")
    return random.Random(seed)  # noqa: S311 - repeatable on purpose


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_done_is_there_after_a_cut(
    recorded: _Record, chance: random.Random, command: type[Command]
) -> None:
    life = recorded(command)
    life.examine({life.end: RULES}, chance)


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_half_done_does_no_harm_and_can_be_done_again(
    recorded: _Record, chance: random.Random, command: type[Command]
) -> None:
    life = recorded(command)
    changes = life.changes()
    moments = chance.sample(changes, min(len(changes), _CUTS))
    life.examine(_by_every_rule(moments, chance), chance)


@pytest.mark.parametrize("place", LOSSES)
def test_no_sync_can_be_left_out(recorded: _Record, chance: random.Random, place: str) -> None:
    command, rules, finding = LOSSES[place]
    life = recorded(command)
    cuts = dict.fromkeys(life.changes(), rules) if rules else {life.end: (*RULES,)}
    with pytest.raises(Violation, match=finding):
        life.examine(cuts, chance, PLACES[place])


@pytest.mark.parametrize("place", NO_LOSSES)
def test_what_can_be_left_out_is_known(
    recorded: _Record, chance: random.Random, place: str
) -> None:
    life = recorded(NO_LOSSES[place])
    moments = [*chance.sample(life.changes()[-2 * _CUTS :], _CUTS), life.end]
    life.examine(_by_every_rule(moments, chance), chance, PLACES[place])


def _by_every_rule(moments: Iterable[int], chance: random.Random) -> dict[int, list[str]]:
    rules = cycle(chance.sample([*RULES], len(RULES)))
    return {moment: [next(rules)] for moment in moments}
