"""The power of a real file system is cut; `python -m tests.soak.power_cut` goes on for longer."""

import random
import secrets
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.soak import power_careless
from tests.soak.model import Violation
from tests.soak.power_cut import PowerCuts
from tests.soak.power_disk import MAKERS, WITH_LOG, WITHOUT_LOG, RealDisk
from tests.system.daemon import Daemon
from tests.system.tools import eventually

kinds = pytest.mark.parametrize("kind", MAKERS)


@kinds
def test_nothing_acknowledged_is_lost_in_a_few_cuts(tmp_path: Path, kind: str) -> None:
    cuts = PowerCuts(tmp_path, secrets.token_hex(4), kind)
    assert cuts.run(8, until=time.monotonic() + 10)
    assert cuts.figures.checks["keys"]
    assert cuts.figures.answered["image"]


@kinds
@pytest.mark.parametrize(
    ("careless", "finding"),
    [
        pytest.param(
            power_careless.FILES, "bytes that are not it|holds no keys", id="files are not synced"
        ),
        pytest.param(
            power_careless.catalogue("NORMAL"),
            "should be ",
            id="the catalogue is synced at times",
        ),
    ],
)
def test_a_careless_daemon_is_found_out(
    tmp_path: Path, kind: str, careless: str, finding: str
) -> None:
    cuts = PowerCuts(tmp_path, "careless", kind, careless=careless)
    with pytest.raises(Violation, match=finding):
        cuts.run(20, until=time.monotonic() + 30)


@pytest.fixture(params=MAKERS)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RealDisk]:
    made = RealDisk(tmp_path, request.param)
    with made.there():
        yield made


def test_a_first_start_that_is_cut_off_is_made_good_by_the_next(
    disk: RealDisk, tmp_path: Path
) -> None:
    chance = random.Random()  # noqa: S311 - of no secret
    for number in range(4):
        storage = disk.top / "var" / str(number)
        folder = tmp_path / str(number)
        folder.mkdir()
        settings = {"auth": {"htpasswd": str(storage / "htpasswd")}}
        daemon = Daemon(folder, settings=settings, storage=storage)
        told = _start_until_cut(daemon, disk, chance)
        daemon.start()
        if told is not None:
            assert _told(daemon) == told
        login = f"admin:{(storage / 'admin-password').read_text().strip()}"
        daemon.client(login).push_blob("first/app", b"life goes on")
        daemon.stop()


def _start_until_cut(
    daemon: Daemon, disk: RealDisk, chance: random.Random
) -> tuple[bytes, str] | None:
    """Start for the first time, and cut the power meanwhile; what was told by then."""
    cutting = threading.Event()

    def cut() -> None:
        eventually(lambda: daemon.running, within=10, what="a process is started")
        cutting.set()
        disk.cut(chance.choice([WITH_LOG, WITHOUT_LOG]))
        daemon._running().send_signal(signal.SIGKILL)

    cutter = threading.Timer(chance.uniform(0.05, 1.2), cut)
    cutter.start()
    told = None
    try:
        daemon.start()
        told = _told(daemon)
    except (AssertionError, OSError):
        if not cutting.is_set():
            raise
    if cutting.is_set():
        told = None  # perhaps by a process that had no disk any more
    cutter.join()
    daemon.kill()
    disk.vanish()
    disk.appear()
    return told


def _told(daemon: Daemon) -> tuple[bytes, str]:
    """What the operator of a registry takes from its first start: whom to trust, and who enters."""
    return daemon.ca.read_bytes(), (daemon.storage / "admin-password").read_text()
