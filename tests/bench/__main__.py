"""How fast our daemon is beside others: `python -m tests.bench`.

Starts the servers on free ports of 127.0.0.1, gives all of them the same image, and lets each do the
same in turn, a different one first in each round, as many rounds as wanted.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import signal
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from msgspec import structs, to_builtins

from tests.bench import content, peers
from tests.bench.cases import CASES, make_worlds
from tests.bench.connection import AnswerError
from tests.bench.content import MEBIBYTE
from tests.bench.crew import ClientError, Crew
from tests.bench.peers import PEERS, MissingError
from tests.bench.results import OURS, Results
from tests.bench.server import Server
from tests.bench.steps import QUICK, Bench, Case, Scale

_FILES = 1 << 16


def _names(known: Sequence[str], text: str) -> list[str]:
    chosen = [name for name in text.split(",") if name]
    for name in chosen:
        if name not in known:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
    return [name for name in known if name in chosen]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="Compare our daemon with Debian's docker-registry: server CPU per unit of work "
        "(user and kernel time of all its processes), wall time, and ours divided by theirs. "
        "The table on standard output is markdown: medians of all rounds.",
        epilog=_epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--cases",
        type=lambda text: _names(list(CASES), text),
        default=list(CASES),
        metavar="A,B",
        help=f"which cases ({', '.join(CASES)})",
    )
    add(
        "--peers",
        type=lambda text: _names(list(PEERS), text),
        default=list(PEERS),
        metavar="A,B",
        help=f"which peers ({', '.join(PEERS)}); '' for none",
    )
    add(
        "--registry",
        type=Path,
        default=Path(sys.executable).with_name("registry"),
        metavar="PROGRAM",
        help="which of our daemons (the one installed beside this Python)",
    )
    add("--no-ours", action="store_true", help="only the peers")
    add("--rounds", type=int, metavar="N", help="how often (5)")
    add(
        "--seconds",
        type=float,
        metavar="S",
        help="how long each step of small and connect takes (3)",
    )
    add("--quick", action="store_true", help="once and little of everything: does it work?")
    add(
        "--dir",
        type=Path,
        default=Path("/var/tmp"),  # noqa: S108 - for a folder that nobody else may enter
        metavar="FOLDER",
        help="where to make a temporary folder for everything (/var/tmp)",
    )
    add("--json", type=Path, metavar="FILE", help="write every single measurement")
    options = parser.parse_args()
    if not options.peers and options.no_ours:
        parser.error("nothing is left to measure")
    return options


def _epilog() -> str:
    about = (
        textwrap.fill(f"{name:9}{case.about}", 98, initial_indent="  ", subsequent_indent=" " * 11)
        for name, case in CASES.items()
    )
    return "\n".join(["what the cases measure:", *about])


def _scale(options: argparse.Namespace) -> Scale:
    scale = QUICK if options.quick else Scale()
    return scale if options.seconds is None else structs.replace(scale, seconds=options.seconds)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextmanager
def _folder(below: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="registry-bench-", dir=below))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _bench(
    servers: Sequence[Server], folder: Path, scale: Scale, cases: Sequence[Case]
) -> Iterator[Bench]:
    bulk = any(case.needs_bulk for case in cases)
    sizes = [scale.block, scale.push, scale.pull if bulk else 0]
    noise = content.make_noise(
        folder, raw=max(sizes) * MEBIBYTE, chunked=max(scale.push, scale.block) * MEBIBYTE
    )
    with ExitStack() as running:
        images = []
        for server in servers:
            _say(f"starting {server.name}")
            running.callback(server.stop)
            server.start()
            images.append(
                content.seed(
                    server.target,
                    noise,
                    bulk=(scale.pull if bulk else scale.block) * MEBIBYTE,
                    block=scale.block * MEBIBYTE,
                )
            )
            for case in cases:
                if case.needs_worlds and server.name not in case.leaves_out:
                    make_worlds(server, scale, ours=server.name == OURS)
        os.sync()
        crew = Crew(folder)
        running.callback(crew.dismiss)
        yield Bench(crew, noise, images[0], scale)


def _measure(
    bench: Bench, servers: Sequence[Server], cases: Sequence[str], rounds: int, results: Results
) -> None:
    for name in cases:
        case = CASES[name]
        for number in range(1, rounds + 1):
            for step in case.steps(bench):
                for server in _rotated(servers, number):
                    if server.name in case.leaves_out:
                        continue
                    label = f"{name}: {step.name}, round {number} of {rounds}, {server.name}"
                    try:
                        if not server.alive:
                            server.stop()
                            server.start()
                        measures = step.measure(server)
                    except (ClientError, AnswerError, OSError) as error:
                        results.failures.append(f"{label}: {error}")
                        _say(f"{label}: FAILED, {error}")
                        continue
                    results.add(name, step.name, server.name, number, measures)
                    shown = ", ".join(f"{value:.4g} {unit}" for unit, value in measures.items())
                    _say(f"{label}: {shown}")


def _rotated(servers: Sequence[Server], number: int) -> Sequence[Server]:
    """Let another server begin in each round: what is first may find the machine less at ease."""
    first = (number - 1) % len(servers)
    return [*servers[first:], *servers[:first]]


def _write(
    file: Path,
    options: argparse.Namespace,
    scale: Scale,
    servers: Sequence[Server],
    results: Results,
) -> None:
    about = {
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "rounds": options.rounds,
        "scale": to_builtins(scale),
        "ciphers": {server.name: sorted(server.ciphers) for server in servers},
        "failures": results.failures,
        "samples": results.raw(),
    }
    file.write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n")


def _interrupted(number: int, _: FrameType | None) -> NoReturn:
    for again in (signal.SIGTERM, signal.SIGINT):
        signal.signal(again, signal.SIG_IGN)
    sys.exit(128 + number)


def main() -> None:
    options = _options()
    options.rounds = options.rounds or (1 if options.quick else 5)
    scale = _scale(options)
    signal.signal(signal.SIGTERM, _interrupted)
    signal.signal(signal.SIGINT, _interrupted)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, _FILES), most))
    with _folder(options.dir) as folder:
        site = peers.make_site(folder)
        try:
            servers = [] if options.no_ours else [peers.ours(site, options.registry.absolute())]
            servers += [PEERS[name](site) for name in options.peers]
        except MissingError as error:
            sys.exit(str(error))
        results = Results([server.name for server in servers])
        cases = [CASES[name] for name in options.cases]
        try:
            with _bench(servers, folder, scale, cases) as bench:
                _measure(bench, servers, options.cases, options.rounds, results)
        finally:
            if options.json:
                _write(options.json, options, scale, servers, results)
            if results.raw():
                print(results.markdown())
    if results.failures:
        sys.exit("failed:\n" + "\n".join(results.failures))


if __name__ == "__main__":
    main()
