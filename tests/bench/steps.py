"""What every case is made of: steps, how much each does, and how its work is measured."""

import statistics
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from tests.bench import cpu
from tests.bench.content import REPOSITORY, Image, Noise
from tests.bench.crew import Crew
from tests.bench.load import Job, Outcome, Probe
from tests.bench.server import Server

Measures = dict[str, float]

PROBES = 4
"""Connections that requests at fixed times are spread over."""

_GIBIBYTE = 1 << 30


class Scale(msgspec.Struct, frozen=True):
    """How much of everything; sizes in MiB."""

    seconds: float = 3
    pull: int = 1024
    push: int = 512
    block: int = 64
    mixed_seconds: float = 10
    pull_rate: int = 25
    push_rate: int = 10
    probes_per_second: int = 50
    slow_connections: int = 500
    slow_seconds: float = 10
    rest_seconds: float = 2
    few: int = 1000
    many: int = 100_000
    their_repositories: int = 2000
    their_tags: int = 1000
    rows: int = 1_000_000
    garbage: int = 100_000
    sweep_probes_per_second: int = 150
    sweep_seconds: float = 10
    bcrypt_cost: int = 12
    logins: int = 1000
    wrong_passwords: int = 200
    guesses_per_second: int = 50
    login_probes_per_second: int = 150
    login_seconds: float = 10


QUICK = Scale(
    seconds=0.2,
    pull=8,
    push=4,
    block=2,
    mixed_seconds=0.5,
    pull_rate=8,
    push_rate=4,
    slow_connections=20,
    slow_seconds=0.5,
    rest_seconds=0.1,
    few=200,
    many=1000,
    their_repositories=200,
    their_tags=200,
    rows=3000,
    garbage=500,
    sweep_seconds=0.5,
    bcrypt_cost=10,
    logins=80,
    wrong_passwords=12,
    login_seconds=1,
)


class Bench(NamedTuple):
    """All that a step uses."""

    crew: Crew
    noise: Noise
    image: Image
    scale: Scale


class Step(NamedTuple):
    """One line or a few of the table: how they are measured, once, at one server."""

    name: str
    measure: Callable[[Server], Measures]


class Case(NamedTuple):
    """Some steps that belong together, and quotients of what two of them measured.

    Only where it needs the bulk, which takes a while to push, need that be there.
    """

    about: str
    steps: Callable[[Bench], list[Step]]
    quotients: Sequence[tuple[str, str, str]] = ()
    leaves_out: Sequence[str] = ()
    needs_bulk: bool = False
    needs_worlds: bool = False


class Work(NamedTuple):
    """What a step's clients saw, and what it took the server."""

    outcomes: list[Outcome]
    cpu: float
    peak: float

    @property
    def wall(self) -> float:
        return max(one.ended for one in self.outcomes) - min(one.begun for one in self.outcomes)

    @property
    def milliseconds(self) -> list[float]:
        return sorted(taken for one in self.outcomes for taken in one.milliseconds)

    @property
    def gibibytes(self) -> float:
        return sum(one.size for one in self.outcomes) / _GIBIBYTE

    def bulk(self) -> Measures:
        return {
            "CPU-s/GiB": self.cpu / self.gibibytes,
            "MiB/s": self.gibibytes * 1024 / self.wall,
        }

    def requests(self) -> Measures:
        return {
            "CPU µs": self.cpu * 1e6 / len(self.milliseconds),
            "p50 ms": statistics.median(self.milliseconds),
        }


def perform(bench: Bench, server: Server, jobs: Sequence[Job], *, watch: bool = False) -> Work:
    """Let clients do their jobs, all at once; the server's memory is looked at only if watched."""
    marks: list[float] = []

    def mark() -> None:
        marks.append(cpu.seconds(server.roots))

    peak = 0.0
    if watch:
        with cpu.Watch(server.roots) as watching:
            outcomes = bench.crew.perform(jobs, before=mark, after=mark)
        peak = watching.peak
    else:
        outcomes = bench.crew.perform(jobs, before=mark, after=mark)
    server.ciphers |= {one.cipher for one in outcomes if one.cipher}
    return Work(outcomes, marks[1] - marks[0], peak)


def percentile(ordered: Sequence[float], part: float) -> float:
    """A percentile of values in order."""
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def manifest(reference: str) -> str:
    """Where a manifest of the image that everybody has is, as a request target."""
    return f"/v2/{REPOSITORY}/manifests/{reference}"


def asking_at_times(
    server: Server, paths: Sequence[str], per_second: int, seconds: float
) -> list[Job]:
    """So many requests a second in all, from one connection for each path."""
    gap = 1 / per_second
    return [
        Probe(server.target, path, seconds, every=gap * len(paths), delay=gap * number)
        for number, path in enumerate(paths)
    ]
