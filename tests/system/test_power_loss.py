"""Nothing acknowledged is lost when the power fails, worked out from what the daemon asks of the disk.

The last tests make the daemon careless in one place each: what they leave out must be missed.
"""

import random
import secrets
from pathlib import Path

import pytest

from tests.soak.model import Violation
from tests.soak.recording import Recording
from tests.soak.replay import RULES

_NO_SYNC_OF_FILES = """
import os, stat
sync = os.fsync
os.fsync = lambda file: None if stat.S_ISREG(os.fstat(file).st_mode) else sync(file)
"""
_NO_SYNC_OF_FOLDERS = """
import os, stat
sync = os.fsync
os.fsync = lambda file: None if stat.S_ISDIR(os.fstat(file).st_mode) else sync(file)
"""
_LATE_SYNC_OF_FILES = """
import os, stat
sync, waiting = os.fsync, []
def fsync(file):
    if stat.S_ISREG(os.fstat(file).st_mode):
        waiting.append(os.dup(file))
        return
    while waiting:
        sync(waiting[0])
        os.close(waiting.pop(0))
    sync(file)
os.fsync = fsync
"""
_LAX_CATALOGUE = """
import sqlite3
class Lax(sqlite3.Connection):
    def execute(self, query, *rest):
        return super().execute(query.replace("FULL", "{}"), *rest)
connect = sqlite3.connect
sqlite3.connect = lambda *args, **options: connect(*args, factory=Lax, **options)
"""


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
    recording.examine(dict.fromkeys(recording.cuts(6), rule))


@pytest.mark.parametrize("rule", RULES)
def test_a_cut_while_the_catalogue_is_being_rewritten_loses_nothing(
    recording: Recording, rule: str
) -> None:
    writes = recording.checkpoints()
    chosen = {writes[0], writes[len(writes) // 2], writes[-1]}
    recording.examine(dict.fromkeys(chosen, rule))


@pytest.mark.parametrize(
    ("careless", "finding"),
    [
        pytest.param(_NO_SYNC_OF_FILES, "name before its bytes", id="files are not synced"),
        pytest.param(_LATE_SYNC_OF_FILES, "name before its bytes", id="files are synced late"),
        pytest.param(_NO_SYNC_OF_FOLDERS, "is not durable", id="folders are not synced"),
        pytest.param(_LAX_CATALOGUE.format("OFF"), "cut at step", id="the catalogue is not synced"),
        pytest.param(
            _LAX_CATALOGUE.format("NORMAL"), "cut at step", id="the catalogue is synced at times"
        ),
    ],
)
def test_a_careless_daemon_is_found_out(tmp_path: Path, careless: str, finding: str) -> None:
    recording = Recording(tmp_path, "careless", requests=60, careless=careless)
    cuts = random.sample(recording.answers, 6)
    with pytest.raises(Violation, match=finding):
        recording.examine(dict.fromkeys(cuts, "promised"))
