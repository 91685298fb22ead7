"""Cut the power of a real file system again and again: `python -m tests.soak.power_cut`.

    clients work → the file system is shut down → the daemon is killed → unmount, mount → start → look

FS_IOC_SHUTDOWN lets nothing more reach the disk at once, and what was in memory alone goes with the
unmounting; mounting again replays the journal, as after any power cut.

A promise counts when it is made before the cut begins, which is noted before it is made. What is
answered later stands for no answer, since the cut is not of one piece as that of a wire is: while it
is being made, ext4 tells a sync under way that it is done, and does not do it. Six threads that wrote and
synced, with nothing of ours in them, were told so 33 times in 300 cuts, and never before a cut began.

What is not promised is that an upload under way survives: its bytes are synced when it is finished.
It may have become shorter or have gone, as a client finds out when it asks. The sync of one that was being
finished may also have left its size on the disk, and not its bytes: such an upload is begun anew.
"""

import argparse
import random
import secrets
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path

from tests.soak.actor import Actor
from tests.soak.checks import Checker
from tests.soak.line import Line
from tests.soak.model import Commons, Figures, Key, Ledger, Upload, Violation
from tests.soak.power_disk import MAKERS, WITH_LOG, WITHOUT_LOG, RealDisk
from tests.soak.recording import Settings, Spoiled
from tests.system.daemon import Daemon
from tests.system.wire import Answer, Body, Client

_CLIENTS = 4
_PUSHED_AGAIN = 5
_SETTINGS: Settings = {
    "tls": {"mode": "off"},
    # A sweep comes when it is asked for; what is idle then is garbage.
    "gc": {"grace": "1ms", "lease": "1ms", "quarantine": "2s"},
}


class _LineToTheEnd(Line):
    """A connection on which every answer is silence, once the power is being cut."""

    def __init__(self, client: Client, ending: Callable[[], bool]) -> None:
        super().__init__(client)
        self._ending = ending

    def request(
        self,
        method: str,
        target: str,
        body: Body | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        answer = super().request(method, target, body, headers)
        if self._ending():
            raise ConnectionAbortedError(f"{answer.status}, as the power is being cut")
        return answer


class _Actor(Actor):
    """A client that begins by pushing again what a sweep has taken."""

    def __init__(self, number: int, seed: str, figures: Figures, commons: Commons) -> None:
        super().__init__(number, seed, figures, commons)
        self.missing: list[Key] = []

    def begin(self, client: Client, number: int, ending: Callable[[], bool]) -> Line:
        super().begin(client, number, ending)
        self._line = _LineToTheEnd(client, ending)
        return self._line

    def act(self) -> None:
        if self.missing:
            key = self.missing.pop()
            self._push(key.repository, self.ledger.contents[key.name], key)
            return
        super().act()


class _Checker(Checker):
    def check(self, daemon: Daemon, *, swept: bool = False) -> None:
        self._check_files(daemon)  # a file that is not whole says so best itself
        super().check(daemon, swept=swept)

    def _check_upload(
        self, line: Line, ledger: Ledger, upload: Upload, before: dict[Key, str]
    ) -> None:
        answer = line.request("GET", upload.target)
        self._figures.count(self._figures.checks, "open uploads")
        if answer.status == 404:
            ledger.uploads.remove(upload)
            return
        if answer.status != 204:
            raise ledger.violation(upload.target, f"an open upload is answered {answer.status}")
        key = Key(upload.repository, "blob", upload.digest)
        if upload.ending and key not in before and key in ledger.world:
            raise ledger.violation(upload.target, "it is a blob by now, and still open")
        last = int(answer.headers["Range"].removeprefix("0-"))
        if last >= max(upload.sent, 1):
            raise ledger.violation(upload.target, f"holds {last + 1} bytes of {upload.sent}")
        if last == 0 or upload.ending:  # a single byte, or none: it is not said which; or see above
            line.request("DELETE", upload.target).expect(204)
            ledger.uploads.remove(upload)
            return
        if last + 1 < upload.acknowledged:
            self._figures.count(self._figures.checks, "open uploads, shorter now")
        upload.acknowledged = upload.sent = last + 1
        upload.ending = False


class PowerCuts:
    """One daemon on a disk of its own, four clients, and whoever cuts the power."""

    def __init__(self, folder: Path, seed: str, kind: str, *, careless: str = "") -> None:
        self.figures = Figures()
        self._seed = seed
        self._random = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self._disk = RealDisk(folder, kind)
        self._daemon = Spoiled(folder, settings=_SETTINGS, storage=self._disk.top / "data")
        self._daemon.careless = careless
        self._commons = Commons()
        self._actors = [
            _Actor(number, seed, self.figures, self._commons) for number in range(_CLIENTS)
        ]
        self._ending = threading.Event()

    def run(self, rounds: int, *, until: float, say: Callable[[str], None] = lambda _: None) -> int:
        """Do so many rounds, or as many as begin before that time; how many there were.

        Raises Violation, with all that is known about it.
        """
        done = 0
        with self._disk.there():
            try:
                self._daemon.start()
                while done < rounds and time.monotonic() < until:
                    done += 1
                    say(f"round {done} of {rounds}: cut {self._round(done)}")
                self._daemon.stop()
            except (AssertionError, OSError, HTTPException) as error:
                raise Violation(f"seed {self._seed}, round {done}: {error}") from error
            finally:
                self._daemon.kill()
        return done

    def _round(self, number: int) -> str:
        sweeping = self._random.random() < 0.25
        self._ending.clear()
        client = self._daemon.client()
        with ThreadPoolExecutor(_CLIENTS) as pool:
            if sweeping:
                working = [pool.submit(self._sweep)]
            else:
                working = [
                    pool.submit(actor.work, client, number, self._ending.is_set)
                    for actor in self._actors
                ]
            try:
                time.sleep(self._random.uniform(0.25, 0.8) if sweeping else self._moment())
            finally:
                self._ending.set()
                self._cut()
            for work in working:
                work.result()
        self._daemon.start()
        self._check(swept=sweeping)
        manner = "while sweeping" if sweeping else "while serving"
        self.figures.count(self.figures.kills, manner)
        return manner

    def _moment(self) -> float:
        return self._random.uniform(0.05, 1)

    def _cut(self) -> None:
        self._disk.cut(self._random.choice([WITHOUT_LOG, WITHOUT_LOG, WITH_LOG]))
        time.sleep(self._random.choice([0, 0.02, 0.1]))  # in which it works on, on nothing
        self._daemon.kill()
        self._disk.vanish()
        self._disk.appear()

    def _sweep(self) -> None:
        done = self._daemon.command("gc")
        if done.returncode and not self._ending.is_set():
            raise Violation(f"gc ended with {done.returncode}\n{done.stdout}{done.stderr}")

    def _check(self, *, swept: bool) -> None:
        before = [set(actor.ledger.world) for actor in self._actors]
        # A new one each time: a file may have become another without a mark of its own having changed.
        checker = _Checker(self._actors, self._commons, self.figures, self._seed)
        checker.check(self._daemon, swept=swept)
        for actor, keys in zip(self._actors, before, strict=True):
            gone = sorted(keys - set(actor.ledger.world)) if swept else []
            actor.missing = self._random.sample(gone, min(len(gone), _PUSHED_AGAIN))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak.power_cut",
        description="Four clients push, mount, tag and delete at a daemon whose data is on a file "
        "system of its own, the power of which is cut at random moments. After each cut the file "
        "system is mounted again, the daemon started again, and everything that was acknowledged is "
        "read. It takes root, to mount.",
        epilog="The exit status is 1 when a promise was broken.",
    )
    add = parser.add_argument
    add("--fs", choices=MAKERS, default="ext4", help="the kind of file system (ext4)")
    add("--rounds", type=int, default=100, metavar="N", help="how many cuts (100)")
    add("--seed", metavar="S", help="where chance begins (a new one each time)")
    add("--minutes", type=float, default=60, metavar="M", help="begin no round after that (60)")
    return parser.parse_args()


def main() -> int:
    options = _options()
    seed = options.seed or secrets.token_hex(4)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that nothing stays mounted
    print(f"seed {seed}", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="registry-power-", dir="/var/tmp") as folder:
        cuts = PowerCuts(Path(folder), seed, options.fs)
        try:
            cuts.run(
                options.rounds,
                until=time.monotonic() + options.minutes * 60,
                say=lambda text: print(text, file=sys.stderr),
            )
        except Violation as violation:
            print(violation, file=sys.stderr)
            return 1
    for counter in (cuts.figures.kills, cuts.figures.answered, cuts.figures.checks):
        for name, number in sorted(counter.items()):
            print(f"{name:<44}{number:>14,}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
