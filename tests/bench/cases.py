"""The cases: what is asked of each server in one step, and what is taken down about it."""

import shutil
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from appliance.control import ControlError
from appliance.oci.garbage import Totals
from tests.bench import content, cpu, logins, worlds
from tests.bench.connection import AnswerError
from tests.bench.content import MEBIBYTE, REPOSITORY, TAG
from tests.bench.load import Dawdle, Job, Pull, Push, Repeat
from tests.bench.server import Server
from tests.bench.steps import (
    PROBES,
    Bench,
    Case,
    Measures,
    Scale,
    Step,
    Work,
    asking_at_times,
    manifest,
    percentile,
    perform,
)
from tests.bench.worlds import GARBAGE, TAGGED, WORLDS
from tests.soak import gc_operator

_GIBIBYTE = 1 << 30
_PUSHED_TO = "bench/pushed"
_CONNECTIONS = 8
_NEW_CONNECTIONS = 4
_THEIRS = ("b5", "tls", "nginx")
_PAGE = 100


def _blob(digest: str) -> str:
    return f"/v2/{REPOSITORY}/blobs/{digest}"


def _asking(
    bench: Bench, server: Server, *, method: str, path: str, reconnect: bool = False
) -> Measures:
    job = Repeat(server.target, method, path, bench.scale.seconds, reconnect)
    jobs = [job] * (_NEW_CONNECTIONS if reconnect else _CONNECTIONS)
    return perform(bench, server, jobs).requests()


def _small(bench: Bench) -> list[Step]:
    questions = [
        ("GET /v2/", "GET", "/v2/"),
        ("GET manifest by tag", "GET", manifest(TAG)),
        ("GET manifest by digest", "GET", manifest(bench.image.manifest)),
        ("HEAD blob", "HEAD", _blob(bench.image.layer)),
    ]
    return [
        Step(name, partial(_asking, bench, method=method, path=path))
        for name, method, path in questions
    ]


def _connect(bench: Bench) -> list[Step]:
    questions = [("GET /v2/", "/v2/"), ("GET manifest by tag", manifest(TAG))]
    return [
        Step(name, partial(_asking, bench, method="GET", path=path, reconnect=True))
        for name, path in questions
    ]


def _pulling(bench: Bench, count: int, server: Server) -> Measures:
    job = Pull(server.target, _blob(bench.image.bulk), bench.image.bulk_size)
    return perform(bench, server, [job] * count).bulk()


def _pull(bench: Bench) -> list[Step]:
    return [Step(f"×{count}", partial(_pulling, bench, count)) for count in (1, 4, 8)]


def _pushing(bench: Bench, streamed: bool, count: int, server: Server) -> Measures:
    size = bench.scale.push * MEBIBYTE
    job = Push(server.target, _PUSHED_TO, bench.noise, size, streamed)
    work = perform(bench, server, [job] * count)
    _forget(server, work)
    return work.bulk()


def _hashing(bench: Bench, server: Server) -> Measures:
    del server
    size = bench.scale.push * MEBIBYTE
    begun = time.process_time()
    content.bare_hash(bench.noise, size)
    return {"CPU-s/GiB": (time.process_time() - begun) * _GIBIBYTE / size}


def _push(bench: Bench) -> list[Step]:
    steps = [
        Step(f"{name} ×{count}", partial(_pushing, bench, streamed, count))
        for name, streamed in (("streamed", True), ("monolithic", False))
        for count in (1, 4)
    ]
    return [*steps, Step("only hashlib.sha256", partial(_hashing, bench))]


def _probes(bench: Bench, server: Server, seconds: float) -> list[Job]:
    return asking_at_times(server, [manifest(TAG)] * PROBES, bench.scale.probes_per_second, seconds)


def _mixing(bench: Bench, server: Server) -> Measures:
    scale = bench.scale
    rates = scale.pull_rate * MEBIBYTE, scale.push_rate * MEBIBYTE
    down, up = (int(rate * scale.mixed_seconds) // MEBIBYTE * MEBIBYTE for rate in rates)
    pull = Pull(server.target, _blob(bench.image.bulk), down, rates[0])
    push = Push(server.target, _PUSHED_TO, bench.noise, up, rate=rates[1])
    probes = _probes(bench, server, scale.mixed_seconds)
    work = perform(bench, server, [*[pull] * 4, *[push] * 2, *probes])
    _forget(server, work)
    late = max(one.ended - one.begun for one in work.outcomes) - scale.mixed_seconds
    return {
        "p50 ms": statistics.median(work.milliseconds),
        "p99 ms": percentile(work.milliseconds, 0.99),
        "CPU %": work.cpu / work.wall * 100,
        "transfers late s": max(0.0, late),
    }


def _latency(bench: Bench) -> list[Step]:
    return [Step("manifest beside 4 pulls, 2 pushes", partial(_mixing, bench))]


def _slowing(bench: Bench, server: Server) -> Measures:
    scale = bench.scale
    before = cpu.memory(server.roots)
    path = _blob(bench.image.block)
    dawdle = Dawdle(server.target, path, scale.slow_connections, scale.slow_seconds)
    probes = _probes(bench, server, scale.slow_seconds)
    work = perform(bench, server, [dawdle, *probes], watch=True)
    return {
        "p99 ms": percentile(work.milliseconds, 0.99),
        "max ms": work.milliseconds[-1],
        "RSS before MiB": before,
        "RSS most MiB": work.peak,
    }


def _slow(bench: Bench) -> list[Step]:
    return [Step(f"{bench.scale.slow_connections} idle pulls", partial(_slowing, bench))]


def _idling(bench: Bench, server: Server) -> Measures:
    server.stop()
    seconds = server.start()
    time.sleep(bench.scale.rest_seconds)
    before = cpu.memory(server.roots)
    target = server.target
    perform(bench, server, [Repeat(target, "GET", manifest(TAG), bench.scale.seconds)] * 8)
    perform(bench, server, [Pull(target, _blob(bench.image.block), bench.image.block_size)] * 8)
    push = Push(target, _PUSHED_TO, bench.noise, bench.scale.block * MEBIBYTE)
    _forget(server, perform(bench, server, [push] * 4))
    time.sleep(bench.scale.rest_seconds)
    return {
        "start ms": seconds * 1000,
        "RSS MiB": before,
        "RSS after load MiB": cpu.memory(server.roots),
    }


def _idle(bench: Bench) -> list[Step]:
    return [Step("started anew", partial(_idling, bench))]


def _listing(bench: Bench, world: str, path: str, server: Server) -> Measures:
    with server.serving(world):
        return _asking(bench, server, method="GET", path=f"{path}&n={_PAGE}")


def _lists(bench: Bench) -> list[Step]:
    # A page in the first half of any of them.
    catalog = f"/v2/_catalog?last={worlds.repository(_PAGE // 2)}"
    tags = f"/v2/{TAGGED}/tags/list?last={worlds.tag(_PAGE // 2)}"
    return [
        Step(f"{what}, {world}", partial(_listing, bench, world, path))
        for what, path in (("catalog", catalog), ("tags", tags))
        for world in WORLDS
    ]


def _swept(settings: Path) -> tuple[Totals, float]:
    """Sweep; what was removed, and how long it took."""
    begun = time.monotonic()
    try:
        return gc_operator.sweep(settings), time.monotonic() - begun
    except ControlError as error:
        raise AnswerError(str(error)) from error


def _probed(bench: Bench, server: Server, size: worlds.Littered) -> list[float]:
    """How many milliseconds each of some manifests took."""
    scale = bench.scale
    paths = [
        worlds.littered_manifest(size, size.images * number // PROBES) for number in range(PROBES)
    ]
    jobs = asking_at_times(server, paths, scale.sweep_probes_per_second, scale.sweep_seconds)
    return perform(bench, server, jobs).milliseconds


def _sweeping(bench: Bench, server: Server) -> Measures:
    size = worlds.littered(bench.scale.rows, bench.scale.garbage)
    settings = server.data.with_name("registry.toml")
    worlds.make_littered(server.world(GARBAGE), size)
    try:
        with server.serving(GARBAGE), worlds.sweeping_at_once(settings):
            server.stop()
            started = server.start()
            rest = _probed(bench, server, size)
            with ThreadPoolExecutor(1) as pool:
                sweep = pool.submit(_swept, settings)
                meanwhile = _probed(bench, server, size)
                while not sweep.done():
                    latest = _probed(bench, server, size)
                    # The last ones may have been asked for when all was over.
                    meanwhile += [] if sweep.done() else latest
            found, taken = sweep.result()
    finally:
        shutil.rmtree(server.world(GARBAGE))
    if found.blobs != size.garbage:
        raise AnswerError(f"{found.blobs} blobs were removed, not {size.garbage}")
    resting, sweeping = (percentile(sorted(one), 0.99) for one in (rest, meanwhile))
    return {
        "start ms": started * 1000,
        "p50 ms at rest": statistics.median(rest),
        "p50 ms meanwhile": statistics.median(meanwhile),
        "p99 ms at rest": resting,
        "p99 ms meanwhile": sweeping,
        "p99 meanwhile / at rest": sweeping / resting,
        "sweep s": taken,
    }


def _garbage(bench: Bench) -> list[Step]:
    scale = bench.scale
    return [Step(f"{scale.garbage:,} blobs out of {scale.rows:,} rows", partial(_sweeping, bench))]


def make_worlds(server: Server, scale: Scale, *, ours: bool) -> None:
    """Make what `lists` needs at one server, which must be seeded."""
    for name, count in zip(WORLDS, (scale.few, scale.many), strict=True):
        if ours:
            worlds.make_ours(server.world(name), worlds.Size(count, count))
        else:
            size = worlds.Size(scale.their_repositories, scale.their_tags)
            worlds.make_theirs(server.data, server.world(name), size)


def _forget(server: Server, work: Work) -> None:
    for one in work.outcomes:
        if one.digest:
            server.forget(_PUSHED_TO, one.digest)


CASES: dict[str, Case] = {
    "idle": Case(
        "From the start of the process to the first 200, resident memory then, and after requests, "
        "pulls and pushes.",
        _idle,
    ),
    "small": Case(
        "Small requests on 8 connections that stay open, one after the other on each: "
        "server CPU per request, and how long the middle one takes.",
        _small,
    ),
    "connect": Case(
        "A new TLS connection with a full handshake for every request, 4 at a time: "
        "server CPU per connection with its request.",
        _connect,
    ),
    "pull": Case(
        "A blob of 1 GiB, 1, 4 and 8 times at once: server CPU per GiB, MiB/s of all together, and "
        "how the latter grows.",
        _pull,
        quotients=(("×4", "×1", "MiB/s"), ("×8", "×1", "MiB/s")),
        needs_bulk=True,
    ),
    "push": Case(
        "New blobs of 512 MiB, 1 and 4 at once, streamed (POST, a PATCH in chunks, PUT) and "
        "monolithic (POST, PUT): server CPU per GiB, MiB/s; and what hashing alone costs here.",
        _push,
    ),
    "latency": Case(
        "Manifests at fixed times, 50 a second, while 4 pulls of 25 MiB/s and 2 pushes of 10 MiB/s "
        "run: the middle and the 99th percentile, counted from when each was due.",
        _latency,
        needs_bulk=True,
    ),
    "slow": Case(
        "500 connections ask for a blob of 64 MiB each and take a few bytes a second: how long "
        "manifests take meanwhile, and the server's memory. Without nginx, which would put 32 GiB "
        "into temporary files.",
        _slow,
        leaves_out=("nginx",),
    ),
    "lists": Case(
        "A page of 100 out of _catalog and out of tags/list: server CPU per page. Ours with 1,000 "
        "repositories and tags (few) and with 100,000 (many); the others, which walk their folders, "
        "with 2,000 repositories and 1,000 tags both times, and all tags in one answer.",
        _lists,
        quotients=(
            ("catalog, many", "catalog, few", "CPU µs"),
            ("tags, many", "tags, few", "CPU µs"),
        ),
        leaves_out=("nginx",),
        needs_worlds=True,
    ),
    "garbage": Case(
        "A catalogue of 1,000,000 rows, in which nothing needs 100,000 blobs: from the start of the "
        "process to the first 200; manifests at fixed times, 150 a second, at rest and while a sweep "
        "removes these blobs; and how long the sweep takes. Ours alone.",
        _garbage,
        leaves_out=_THEIRS,
    ),
    "logins": Case(
        "Accounts with bcrypt at cost 12: server CPU of 1,000 requests with one password, and of as "
        "many more, in checks of a password; manifests at fixed times, 150 a second, at rest and "
        "while 50 wrong passwords a second come from one address; and how long a wrong password "
        "takes for an account that exists and for one that does not. Ours alone.",
        logins.steps,
        leaves_out=_THEIRS,
    ),
}
