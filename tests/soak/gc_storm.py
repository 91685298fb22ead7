"""A storm: clients push, pull, move and delete while garbage is removed every second.

Whoever removes what is still needed does so between a client's question and its push, or between
the two halves of an upload. So what is garbage goes here after a second or two, clients push just
that again, and every answer is compared with what they know. In the end what nobody needs must
really have gone, to the last file: where nothing is removed, nothing can be removed wrongly.
"""

import random
import sys
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from appliance.control import ControlError
from appliance.oci.garbage import Totals
from tests.soak import gc_operator
from tests.soak.gc_board import Scene
from tests.soak.gc_puller import Puller
from tests.soak.gc_pusher import Pusher
from tests.soak.model import Violation
from tests.system.daemon import Daemon
from tests.system.wire import digest_of

_PUSHERS = 4
_PULLERS = 2
_GRACE_SECONDS = 1
_LEASE_SECONDS = 2
_EVERY_SECONDS = 1.0
_PREVIEWS = 5  # sweeps from one preview to the next
_BROKEN_OFF = 7  # likewise, to one that is left in the middle
_LAST_SWEEPS = 30  # what hangs on something else goes one grace later
_MAIN = "from appliance.cli import main\nmain()\n"


class _Spoilt(Daemon):
    """A daemon before which another program runs, to make it careless."""

    def __init__(
        self, folder: Path, settings: Mapping[str, Mapping[str, object]], careless: str
    ) -> None:
        super().__init__(folder, settings=settings)
        self._careless = careless

    def _program(self) -> list[str]:  # type: ignore[override]  # of each, not of all
        return [sys.executable, "-c", f"{self._careless}\n{_MAIN}"]


class Storm:
    """One daemon, six clients and whoever sweeps."""

    def __init__(self, folder: Path, seed: str, *, plain: bool = False, careless: str = "") -> None:
        settings: dict[str, dict[str, object]] = {
            "gc": {
                "grace": f"{_GRACE_SECONDS}s",
                "lease": f"{_LEASE_SECONDS}s",
                "quarantine": "1s",
                "untagged": "1s",
            }
        }
        if plain:
            settings["tls"] = {"mode": "off"}
        self._daemon = _Spoilt(folder, settings, careless)
        self._scene = Scene(seed, _LEASE_SECONDS)
        self._random = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self.tally = self._scene.tally

    def run(self, seconds: float) -> None:
        """Let it rage for so long, and look at what is left; raises Violation."""
        try:
            self._daemon.start()
            self._rage(seconds)
            self._daemon.stop()
        except AssertionError as error:
            raise Violation(f"seed {self._scene.seed}: {error}") from error
        finally:
            self._scene.stopping.set()
            self._daemon.kill()

    def _rage(self, seconds: float) -> None:
        client = self._daemon.client()
        pushers = [Pusher(number, self._scene, client) for number in range(_PUSHERS)]
        pullers = [Puller(f"puller-{number}", self._scene, client) for number in range(_PULLERS)]
        timer = threading.Timer(seconds, self._scene.stopping.set)
        timer.start()
        try:
            with ThreadPoolExecutor(_PUSHERS + _PULLERS + 1) as pool:
                working = [pool.submit(asker.work) for asker in (*pushers, *pullers)]
                working.append(pool.submit(self._sweep_on))
                try:
                    for work in working:
                        work.result()
                finally:  # an interruption, for one, must not wait for the end of the storm
                    self._scene.stopping.set()
        finally:
            timer.cancel()
        for pusher in pushers:
            pusher.finish()
        self._sweep_all()
        try:
            self._check_what_is_left(pullers[0])
        finally:
            pullers[0].close()

    # -- sweeping

    def _sweep_on(self) -> None:
        number = 0
        try:
            while not self._scene.stopping.is_set():
                due = time.monotonic() + _EVERY_SECONDS
                number += 1
                if number % _PREVIEWS == 0:
                    gc_operator.preview(self._daemon.settings)
                    self._count("previews", 1)
                self._sweep(broken_off=number % _BROKEN_OFF == 0)
                self._scene.stopping.wait(due - time.monotonic())
        except ControlError as error:
            raise self._scene.history.violation("sweep", str(error), []) from error
        finally:
            self._scene.stopping.set()

    def _sweep(self, *, broken_off: bool = False) -> Totals:
        self._scene.sweep_begins.beat()
        self._scene.history.note("sweep", "begins")
        if broken_off:
            gc_operator.hang_up(self._daemon.settings, self._random.uniform(0, 0.1))
            self._count("sweeps broken off", 1)
            return Totals()
        found = gc_operator.sweep(self._daemon.settings)
        self._scene.history.note("sweep", f"has removed {found}")
        self._count("sweeps", 1)
        for name, number in asdict(found).items():
            self._count(_SWEPT[name], number)
        return found

    def _count(self, name: str, number: int) -> None:
        self.tally.count(self.tally.swept, name, number)

    # -- the end

    def _sweep_all(self) -> None:
        """Sweep until nothing is left to remove: everything that hangs on something goes later."""
        time.sleep(_LEASE_SECONDS)
        idle = 0
        for _ in range(_LAST_SWEEPS):
            time.sleep(_GRACE_SECONDS + 0.1)
            idle = 0 if any(asdict(self._sweep()).values()) else idle + 1
            if idle == 3:
                return
        raise Violation("there is no end of what a sweep removes, though nobody pushes")

    def _check_what_is_left(self, puller: Puller) -> None:
        """What is held is there, as a whole; nothing else is."""
        held = self._scene.board.held()
        for entry in held:
            puller.pull(entry)
        live = {digest for entry in held for digest in entry.image.contents}
        found = {digest_of(path.read_bytes()) for path in self._daemon.blobs()}
        about = self._scene.history.violation
        if lost := live - found:
            raise about("the end", f"{len(lost)} blobs in use have no file: {lost}", lost)
        if left := found - live:
            raise about("the end", f"{len(left)} blobs of no use are left: {left}", left)
        if away := [path.name for path in (self._daemon.storage / "quarantine").iterdir()]:
            raise about("the end", f"{len(away)} blobs are left in quarantine", away)
        self.tally.count(self.tally.checks, "images held in the end", len(held))
        self.tally.count(self.tally.checks, "blob files in the end, all in use", len(found))


_SWEPT = {
    "manifests": "manifests removed",
    "links": "links removed",
    "blobs": "blobs removed",
    "size": "bytes of these",
    "purged": "bytes gone from the disk",
}
