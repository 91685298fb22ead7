"""A daemon that is watched while it works, and what is left when the power fails at some moment."""

import random
import re
import shutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from tests.soak.actor import Actor
from tests.soak.checks import Reader
from tests.soak.line import Line
from tests.soak.model import Changes, Commons, Figures, Key, Ledger, Violation
from tests.soak.replay import STRACE, Disk, Step, steps
from tests.system.daemon import Daemon
from tests.system.tools import eventually
from tests.system.wire import digest_of

_PLAIN: dict[str, dict[str, object]] = {"tls": {"mode": "off"}}
_MAIN = "from appliance.cli import main\nmain()\n"


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


class _Watched(Daemon):
    """A daemon under strace; `careless` is a program that runs before it, to spoil something."""

    def __init__(self, folder: Path, trace: Path, careless: str) -> None:
        super().__init__(folder, settings=_PLAIN, prefix=(*STRACE, "-o", trace))
        self._trace = trace
        self._careless = careless
        # As StateDirectory= of the unit does, long before: a folder's own name is not its affair.
        self.storage.mkdir(mode=0o700, exist_ok=True)

    def live(self, actor: Actor, ledger: _RecordingLedger, requests: int) -> None:
        """Start, answer until so many requests have been made in all, stop."""
        try:
            self.start()
            pid = self.pid
            line = actor.begin(self.client(), 0, lambda: False)
            while len(ledger.moments) < requests:
                actor.act()
            line.close()
            self.stop()
        finally:
            self.kill()
        eventually(
            lambda: (
                re.search(rf"\n{pid} +\+\+\+ exited", self._trace.read_text()[-1000:]) is not None
            ),
            within=20,
            what="strace has seen the end",
        )

    def _program(self) -> list[str]:  # type: ignore[override]  # of each, not of all
        return [sys.executable, "-c", f"{self._careless}\n{_MAIN}"]


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
        (folder / "registry").mkdir(parents=True)
        for half in (1, 2):
            trace = folder / f"trace-{half}"
            before = len(self._ledger.moments)
            self._daemon = _Watched(folder / "registry", trace, careless)
            self._daemon.live(actor, self._ledger, requests * half // 2)
            life = list(steps(trace))
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

    def cuts(self, number: int) -> list[int]:
        """Moments for a power cut: half of them right after an answer, the last one always."""
        after = self._random.sample(self.answers, number // 2)
        first = self.answers[0]
        other = self._random.sample(range(first, len(self._steps)), number - len(after) - 1)
        return sorted({*after, *other, len(self._steps) - 1})

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

    def examine(self, cuts: Mapping[int, str]) -> None:
        """Replay it all and look at every step what the disk holds, and at each cut start anew.

        Raises Violation.
        """
        disk = Disk(self._daemon.storage)
        blobs = self._daemon.storage / "blobs"
        answered = 0
        for position, step in enumerate(self._steps):
            if answered < len(self.answers) and position == self.answers[answered]:
                answered += 1
                self._check_files(disk, self._moments[answered])
            named = disk.take(step)
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
        folder = self._folder / f"cut-{position}-{rule}"
        folder.mkdir()
        daemon = Daemon(folder, settings=_PLAIN)
        disk.rebuild(daemon.storage, rule, self._random)
        ledger = self._ledger.supposing(moment.world, moment.pending, moment.touched)
        line = Line(daemon.client())
        try:
            daemon.start()
            reader = Reader(line, ledger)
            ledger.settle({key: reader.read(key) for key in sorted(ledger.to_check())})
            daemon.client().push_blob("after/the/cut", b"and life goes on")
        except AssertionError as error:
            raise Violation(f"cut at step {position}, {rule}: {error}") from error
        finally:
            line.close()
            daemon.kill()
        shutil.rmtree(folder)
