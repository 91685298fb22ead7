"""What passwords cost: those that are right again and again, and those that are wrong.

All accounts of the daemon get one bcrypt hash of a cost that people use, and it starts anew for each
step, so that it remembers no login and holds nothing against any address. Whoever is to be another
client comes from another address of this machine's own network.
"""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from msgspec import structs

from tests.bench import peers
from tests.bench.connection import Target
from tests.bench.content import TAG
from tests.bench.load import Series, Storm
from tests.bench.server import Server
from tests.bench.steps import (
    PROBES,
    Bench,
    Measures,
    Step,
    asking_at_times,
    manifest,
    percentile,
    perform,
)

_PATH = "/v2/"
_WRONG = "incorrect horse battery"  # and a number: one that is tried again is not looked at again
_ATTACKER = "127.0.0.2"
_CONNECTIONS = 8
_GUESSES_AT_ONCE = 32  # of which the daemon looks at no more than 10 and lets the others go
_CHECKS = 5  # as few as nobody is held back for, as many as drown what else they cost

# An account stands ten wrong passwords at once from one address, and a hundred from all of them.
_MEMBERS = [f"member{number:03}" for number in range(10)]


def steps(bench: Bench) -> list[Step]:
    """What is measured, all of it at our daemon alone."""
    scale = bench.scale
    return [
        Step(f"{scale.logins:,} requests with a password", partial(_remembering, bench)),
        Step(
            f"manifests beside {scale.guesses_per_second} wrong passwords a second",
            partial(_guessing, bench),
        ),
        Step(f"{scale.wrong_passwords} wrong passwords", partial(_comparing, bench)),
    ]


@contextmanager
def _started_anew(bench: Bench, server: Server) -> Iterator[None]:
    """Let the daemon run with accounts as dear as wanted, and forget whatever has happened."""
    file = server.data.with_name(peers.ACCOUNTS)
    before = file.read_bytes()
    server.stop()
    try:
        peers.write_accounts(file, [peers.USER, *_MEMBERS], bench.scale.bcrypt_cost)
        server.start()
        time.sleep(bench.scale.rest_seconds)
        yield
    finally:
        server.stop()
        file.write_bytes(before)
        server.start()


def _as(server: Server, name: str, password: str, source: str = "") -> Target:
    authorization = peers.basic(name, password)
    return structs.replace(server.target, authorization=authorization, source=source)


def _remembering(bench: Bench, server: Server) -> Measures:
    member = _MEMBERS[0]
    right = _as(server, member, peers.PASSWORD)
    wrong = [_as(server, member, f"{_WRONG} {number}") for number in range(_CHECKS)]
    each = [right] * (bench.scale.logins // _CONNECTIONS)
    jobs = [Series(each, _PATH)] * _CONNECTIONS
    with _started_anew(bench, server):
        first, again = (perform(bench, server, jobs).cpu for _ in range(2))
        refused = perform(bench, server, [Series(wrong, _PATH, status=401)])
    check = refused.cpu / _CHECKS
    return {
        "CPU ms of a check": check * 1000,
        "CPU of all / of a check": first / check,
        "CPU of as many more / of a check": again / check,
        "checks": (first - again) / check,
    }


def _guessing(bench: Bench, server: Server) -> Measures:
    scale = bench.scale
    guesses = [
        _as(server, _MEMBERS[number % len(_MEMBERS)], f"{_WRONG} {number}", _ATTACKER)
        for number in range(int(scale.login_seconds * scale.guesses_per_second))
    ]
    storm = Storm(
        guesses,
        _PATH,
        scale.login_seconds,
        every=1 / scale.guesses_per_second,
        connections=_GUESSES_AT_ONCE,
    )
    probes = asking_at_times(
        server, [manifest(TAG)] * PROBES, scale.login_probes_per_second, scale.login_seconds
    )
    with _started_anew(bench, server):
        before = perform(bench, server, probes)
        *probed, stormed = perform(bench, server, [*probes, storm]).outcomes
        after = perform(bench, server, probes)
    rest = sorted(before.milliseconds + after.milliseconds)
    attacked = sorted(taken for one in probed for taken in one.milliseconds)
    resting, guessing = (percentile(one, 0.99) for one in (rest, attacked))
    return {
        "p50 ms at rest": statistics.median(rest),
        "p50 ms meanwhile": statistics.median(attacked),
        "p99 ms at rest": resting,
        "p99 ms meanwhile": guessing,
        "p99 meanwhile / at rest": guessing / resting,
        "wrong passwords checked": len(stormed.milliseconds) - stormed.refused,
        "wrong passwords turned away": stormed.refused,
    }


def _comparing(bench: Bench, server: Server) -> Measures:
    tries: list[tuple[bool, Target]] = []
    for number in range(bench.scale.wrong_passwords // 2):
        source = f"127.1.{number // 200}.{number % 200 + 1}"
        member = _MEMBERS[number % len(_MEMBERS)]
        pair = [
            (True, _as(server, member, f"{_WRONG} {number}", source)),
            (False, _as(server, f"nobody{number:03}", f"{_WRONG} {number}", source)),
        ]
        # Whoever is second finds a connection that has been used.
        tries += pair if number % 2 else reversed(pair)
    job = Series([target for _, target in tries], _PATH, status=401)
    with _started_anew(bench, server):
        (outcome,) = perform(bench, server, [job]).outcomes
    taken: dict[bool, list[float]] = {True: [], False: []}
    for (is_known, _), milliseconds in zip(tries, outcome.milliseconds, strict=True):
        taken[is_known].append(milliseconds)
    known, unknown = (statistics.median(taken[is_known]) for is_known in (True, False))
    return {
        "p50 ms, known account": known,
        "p50 ms, unknown account": unknown,
        "unknown / known": unknown / known,
    }
