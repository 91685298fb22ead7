"""Rounds of work, each ended by a kill at a moment that chance decides."""

import random
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.soak.actor import Actor
from tests.soak.checks import Checker
from tests.soak.model import Commons, Figures, Violation
from tests.system.daemon import Daemon
from tests.system.tools import eventually

_CLIENTS = 4
_EAGER = '[gc]\ngrace = "1ms"\nlease = "1ms"\nquarantine = "1s"\n'
_MANNERS = {"while serving": 6, "while stopping": 2, "while starting": 2, "stopped cleanly": 2}


class Soak:
    """One daemon, four clients and whoever kills it."""

    def __init__(self, folder: Path, seed: str, *, plain: bool = False) -> None:
        settings: dict[str, dict[str, object]] = {"server": {"drain_seconds": 5}}
        if plain:
            settings["tls"] = {"mode": "off"}
        self.figures = Figures()
        self._daemon = Daemon(folder, settings=settings)
        self._settings = self._daemon.settings
        self._eager = folder / "eager.toml"
        self._eager.write_text(self._settings.read_text() + _EAGER)
        self._seed = seed
        self._random = random.Random(seed)  # noqa: S311 - repeatable on purpose
        commons = Commons()
        self._actors = [Actor(number, seed, self.figures, commons) for number in range(_CLIENTS)]
        self._checker = Checker(self._actors, commons, self.figures, seed)
        self._ending = threading.Event()
        self._sweeping = False

    def run(self, rounds: int, *, until: float, say: Callable[[str], None] = lambda _: None) -> int:
        """Do so many rounds, or as many as begin before that time; how many there were.

        Raises Violation, with all that is known about it.
        """
        done = 0
        try:
            self._kill_while_starting()  # the very first start can be cut off, too
            self._daemon.start()
            while done < rounds and time.monotonic() < until:
                done += 1
                manner = self._round(done)
                say(f"round {done} of {rounds}: killed {manner}")
            self._daemon.stop()
        except AssertionError as error:
            raise Violation(f"seed {self._seed}, round {done}: {error}") from error
        finally:
            self._daemon.kill()
        return done

    def _round(self, number: int) -> str:
        [manner] = self._random.choices(list(_MANNERS), list(_MANNERS.values()))
        self._ending.clear()
        client = self._daemon.client()
        sweeping = self._sweeping
        with ThreadPoolExecutor(_CLIENTS + 1) as pool:
            working = []
            if not sweeping:  # what is idle is garbage then, and nothing may be so for a moment
                working = [
                    pool.submit(actor.work, client, number, self._ending.is_set)
                    for actor in self._actors
                ]
            if sweeping or self._random.random() < 0.3:
                working.append(pool.submit(self._sweep))
            time.sleep(self._random.uniform(0.3 if sweeping else 0.05, 1))
            self._ending.set()
            self._end(manner)
            for work in working:
                work.result()
        self.figures.count(self.figures.kills, f"{manner} and sweeping" if sweeping else manner)
        if manner == "while starting":
            self._kill_while_starting()
        if manner == "stopped cleanly":
            self._sweep_all()
        self._sweeping = self._random.random() < 0.2
        self._daemon.settings = self._eager if self._sweeping else self._settings
        self._daemon.start()
        self._checker.check(self._daemon, swept=sweeping or manner == "stopped cleanly")
        return f"{manner} and sweeping" if sweeping else manner

    def _end(self, manner: str) -> None:
        if manner in {"while stopping", "stopped cleanly"}:
            self._daemon.terminate()
            if manner == "while stopping":
                time.sleep(self._random.uniform(0, 0.08))
            else:
                status = self._daemon.wait()
                assert status == 0, f"stopping ended with {status}\n{self._daemon.log()[-5000:]}"
        self._daemon.kill()

    def _kill_while_starting(self) -> None:
        """Start, and kill at a moment before it is ready, or a little after."""

        def kill() -> None:
            eventually(lambda: self._daemon.running, within=10, what="a process is started")
            self._daemon._running().send_signal(signal.SIGKILL)

        killer = threading.Timer(self._random.uniform(0.02, 0.45), kill)
        killer.start()
        try:
            self._daemon.start()
        except AssertionError as error:
            if "ended with -9 at once" not in str(error):
                raise
        finally:
            killer.join()
            self._daemon.kill()

    # -- sweeping

    def _sweep_all(self) -> None:
        """Sweep while nobody serves, with hardly any grace; now and then kill that."""
        folder = self._daemon.folder / "sweeper"
        folder.mkdir(exist_ok=True)
        sweeper = Daemon(
            folder,
            settings={"tls": {"mode": "off"}, "gc": {"grace": "1s", "lease": "1s"}},
            storage=self._daemon.storage,
            prefix=("timeout", "-s", "KILL", f"{self._random.uniform(0.2, 1.2):.3f}"),
        )
        time.sleep(2.1)  # the stop counts as a touch of everything, and time is in whole seconds
        done = sweeper.command("gc")
        if done.returncode not in {0, 137, -9}:
            raise Violation(f"gc ended with {done.returncode}\n{done.stdout}{done.stderr}")
        name = "gc of all" if done.returncode == 0 else "gc of all, killed"
        self.figures.count(self.figures.answered, name)

    def _sweep(self) -> None:
        done = self._daemon.command("gc")
        if done.returncode == 0:
            self.figures.count(self.figures.answered, "gc")
        elif not self._ending.is_set():
            raise Violation(f"gc ended with {done.returncode}\n{done.stdout}{done.stderr}")
