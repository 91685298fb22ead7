"""A daemon that is watched while it works, and what is left when the power fails at some moment."""

import random
import re
import shutil
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from http.client import HTTPException
from pathlib import Path
from tempfile import mkdtemp
from typing import NamedTuple

import trio

from appliance.catalogue.database import Database
from tests.soak.actor import Actor
from tests.soak.checks import Reader
from tests.soak.line import Line
from tests.soak.model import Changes, Commons, Figures, Key, Ledger, Violation
from tests.soak.power_careless import Place, left_out
from tests.soak.replay import STRACE, Disk, Step, steps
from tests.system.daemon import Daemon
from tests.system.tools import environment, eventually, run
from tests.system.wire import digest_of

Settings = dict[str, dict[str, object]]

# What is idle when a sweep comes is garbage, and leaves quarantine with the next sweep.
_SETTINGS: Settings = {
    "tls": {"mode": "off"},
    "gc": {"grace": "1ms", "lease": "1ms", "quarantine": "1s"},
}
_MAIN = "from appliance.cli import main\nmain()\n"
_SWEEP_EVERY = 100  # requests
_PUSHED_AGAIN = 5
_DRAWN = 20  # times, where it is chance what is left: a wrong sum takes two of three choices


class _Moment(NamedTuple):
    """How things stand while one request is on its way."""

    world: dict[Key, str]
    pending: Changes
    touched: frozenset[Key]


class _RecordingLedger(Ledger):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.moments: list[_Moment] = []

    def asking(self, sentence: str, changes: Changes, about: Iterable[Key | str] = ()) -> None:
        super().asking(sentence, changes, about)
        self.moments.append(self.moment())

    def moment(self) -> _Moment:
        """How things stand now."""
        return _Moment(self.world, self.pending, frozenset(self._touched))

    def sweeping(self) -> list[Key]:
        """Promise nothing any more about blobs that no manifest needs; which they are."""
        idle = [
            key
            for key in self.world
            if key.kind == "blob" and not self.users(key.repository, key.name)
        ]
        self.world = {key: value for key, value in self.world.items() if key not in idle}
        self._touched.difference_update(idle)
        self.asking("a sweep", {}, idle)
        return idle


class Spoiled(Daemon):
    """A daemon before whose program another one runs, to spoil something in it."""

    careless = ""

    def _program(self) -> list[str]:  # type: ignore[override]  # of each, not of all
        return [sys.executable, "-c", f"{self.careless}\n{_MAIN}"]


class Watched(Spoiled):
    """A daemon under strace, which may let calls fail that are not those of its start."""

    def __init__(
        self,
        folder: Path,
        trace: Path,
        careless: str,
        settings: Settings,
        storage: Path,
        *,
        faults: str = "",
    ) -> None:
        prefix: list[str | Path] = [*STRACE, "-o", trace]
        if faults:
            prefix += ["-e", f"inject={faults}"]
        super().__init__(folder, settings=settings, storage=storage, prefix=prefix)
        self.careless = careless
        self._trace = trace

    def end(self) -> list[Step]:
        """Stop; everything that it asked of the system."""
        pid = self.pid
        self.stop()
        eventually(
            lambda: (
                re.search(rf"\n{pid} +\+\+\+ exited", self._trace.read_text()[-1000:]) is not None
            ),
            within=20,
            what="strace has seen the end",
        )
        return list(steps(self._trace))


def _check_sums(storage: Path, folder: Path, when: str) -> None:
    """A catalogue is not called damaged for its pages: once it was opened, and closed, and again.

    Raises Violation.
    """
    folder.mkdir()
    for path in storage.glob("catalogue.*"):
        shutil.copy(path, folder)
    for turn in ("opened", "opened again"):
        damaged = trio.run(_damaged_pages, folder / "catalogue.sqlite3")
        if damaged:
            raise Violation(f"{when}, {turn}: a false alarm about the pages {damaged}")


async def _damaged_pages(catalogue: Path) -> list[int]:
    database = Database.open(catalogue)
    try:
        damaged, first = [], 1
        while (checked := await database.check_pages(first)).pages:
            damaged += checked.damaged
            first += checked.pages
        return damaged
    finally:
        await database.aclose()


def _sweep(daemon: Daemon) -> None:
    """Have a running daemon remove what nobody needs, as an operator does."""
    argv = (sys.executable, "-m", "appliance", "gc", "--settings", daemon.settings)
    run(*argv, env=environment(HOME=str(daemon.folder)), cwd=daemon.folder)


class Recording:
    """What a client did with a daemon, and the system calls that this led to."""

    def __init__(self, folder: Path, seed: str, *, requests: int, careless: str = "") -> None:
        """Let a daemon answer so many requests, with a clean stop and a new start half way."""
        self._folder = folder
        self._random = random.Random(seed)  # noqa: S311 - repeatable on purpose
        actor = Actor(0, seed, Figures(), Commons())
        self._ledger = actor.ledger = _RecordingLedger(actor.name)
        self._steps: list[Step] = []
        self.answers: list[int] = []
        """The step at which each answer began to be sent."""
        self.leaked: Counter[str] = Counter()
        """Files that nothing refers to any more after a cut and a sweep, by rule."""
        registry = folder / "registry"
        # As StateDirectory= of the unit does, long before: a folder's own name is not its affair.
        (registry / "data").mkdir(parents=True)
        for half in (1, 2):
            before = len(self._ledger.moments)
            self._daemon = Watched(
                registry, folder / f"trace-{half}", careless, _SETTINGS, registry / "data"
            )
            life = self._live(actor, requests * half // 2)
            answers = [
                len(self._steps) + number
                for number, step in enumerate(life)
                if not step.ends and step.call.answers()
            ]
            # Those before were for whoever waited until it was ready.
            self.answers += answers[before - len(self._ledger.moments) :]
            self._steps += life
        self._moments = [*self._ledger.moments, self._ledger.moment()]
        assert len(self.answers) == len(self._ledger.moments)

    def _live(self, actor: Actor, requests: int) -> list[Step]:
        """Start the daemon, ask until so many requests have been made in all, stop it."""
        try:
            self._daemon.start()
            line = actor.begin(self._daemon.client(), 0, lambda: False)
            while len(self._ledger.moments) < requests:
                until = min(len(self._ledger.moments) + _SWEEP_EVERY, requests)
                while len(self._ledger.moments) < until:
                    actor.act()
                idle = self._ledger.sweeping()
                time.sleep(1.1)  # what is idle has been so since another second
                _sweep(self._daemon)
                for key in self._random.sample(idle, min(len(idle), _PUSHED_AGAIN)):
                    actor._push(key.repository, self._ledger.contents[key.name], key)
            line.close()
            return self._daemon.end()
        finally:
            self._daemon.kill()

    def sweeps(self) -> list[int]:
        """Moments right after a blob's file has been moved by a sweep, or removed."""
        quarantine = self._daemon.storage / "quarantine"
        return [
            position
            for position, step in enumerate(self._steps)
            if step.ends
            and step.call.name in {"rename", "unlink"}
            and any(path.is_relative_to(quarantine) for path in step.call.paths())
        ]

    def cuts(self, number: int) -> list[int]:
        """Moments for a power cut: half of them right after an answer, the last one always."""
        after = self._random.sample(self.answers, number // 2)
        first = self.answers[0]
        other = self._random.sample(range(first, len(self._steps)), number - len(after) - 1)
        return sorted({*after, *other, len(self._steps) - 1})

    def promises(self) -> list[int]:
        """Some moments right after an answer, when the daemon has been stopped once."""
        return sorted(self._random.sample(self.answers[len(self.answers) // 2 :], 6))

    def checkpoints(self) -> list[int]:
        """Moments in which the catalogue itself is being written, as its log has grown long."""
        return [
            position
            for position, step in enumerate(self._steps)
            if position > self.answers[0]
            and step.ends
            and step.call.name == "pwrite64"
            and (file := step.call.file()) is not None
            and file.match("*.sqlite3")
        ]

    def examine(self, cuts: Mapping[int, str], place: Place | None = None) -> None:
        """Replay it all and look at every step what the disk holds, and at each cut start anew.

        If a place in the code is named, its syncs are left out. Raises Violation.
        """
        disk = Disk(self._daemon.storage)
        skipped = left_out(self._steps, place)
        blobs = self._daemon.storage / "blobs"
        answered = 0
        for position, step in enumerate(self._steps):
            if answered < len(self.answers) and position == self.answers[answered]:
                answered += 1
                self._check_files(disk, self._moments[answered])
            named = None if position in skipped else disk.take(step)
            if named is not None and named.is_relative_to(blobs):
                self._check_named(disk, named)
            if position in cuts:
                self._check_rebuilt(disk, position, cuts[position], self._moments[answered])

    def _check_files(self, disk: Disk, moment: _Moment) -> None:
        """Whatever is acknowledged is a file that a power cut spares."""
        for key in moment.world:
            if key.kind != "tag":
                path = self._daemon.blob_path(key.name)
                if disk.survives(path) != self._ledger.contents[key.name]:
                    raise self._ledger.violation(key, f"acknowledged, and {path} is not durable")

    @staticmethod
    def _check_named(disk: Disk, path: Path) -> None:
        """What is named as a blob is whole, even if its name is all that a power cut spares."""
        content = disk.survives(path, named=True)
        if content is None or digest_of(content) != f"{path.parent.parent.name}:{path.name}":
            raise Violation(f"{path} gets its name before its bytes are durable")

    def _check_rebuilt(self, disk: Disk, position: int, rule: str, moment: _Moment) -> None:
        folder = Path(mkdtemp(prefix=f"cut-{position}-{rule}-", dir=self._folder))
        daemon = Daemon(folder, settings=_SETTINGS)
        for _ in range(_DRAWN if rule == "chance" else 1):
            for drawn in (daemon.storage, folder / "pages"):
                shutil.rmtree(drawn, ignore_errors=True)
            disk.rebuild(daemon.storage, rule, self._random)
            _check_sums(daemon.storage, folder / "pages", f"cut at step {position}, {rule}")
        ledger = self._ledger.supposing(moment.world, moment.pending, moment.touched)
        line = Line(daemon.client())
        try:
            daemon.start()
            reader = Reader(line, ledger)
            ledger.settle({key: reader.read(key) for key in sorted(ledger.to_check())})
            daemon.client().push_blob("after/the/cut", b"and life goes on")
            self._check_swept(daemon, line, ledger, rule)
        except (AssertionError, OSError, HTTPException) as error:
            raise Violation(f"cut at step {position}, {rule}: {error}") from error
        finally:
            line.close()
            daemon.kill()
        shutil.rmtree(folder)

    def _check_swept(self, daemon: Daemon, line: Line, ledger: Ledger, rule: str) -> None:
        """A sweep afterwards takes nothing that is needed."""
        _sweep(daemon)
        reader = Reader(line, ledger)
        for key, value in ledger.world.items():
            if key.kind != "blob" and reader.read(key) != value:
                raise ledger.violation(key, "a sweep has taken it")
        with closing(sqlite3.connect(daemon.storage / "catalogue.sqlite3")) as catalogue:
            known = {digest for (digest,) in catalogue.execute("SELECT digest FROM blob")}
        files = {f"{path.parent.parent.name}:{path.name}" for path in daemon.blobs()}
        self.leaked[rule] += len(files - known)
