"""See for as long as wanted whether anything is lost: `python -m tests.soak`."""

import argparse
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.soak.gc_board import Tally
from tests.soak.gc_storm import Storm
from tests.soak.loop import Soak
from tests.soak.model import Violation

_CHECKED = ("keys", "lists", "files", "open uploads")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak",
        description="Four clients push, mount, tag and delete at one daemon, which is killed "
        "(SIGKILL) at random moments, also while it starts and while it stops. After each restart "
        "everything that may be read is read, and compared with what was answered before: what was "
        "acknowledged is there exactly so, what was not has happened wholly or not at all. With "
        "--gc-storm nothing is killed: garbage is removed every second instead, while four clients "
        "push above all what is about to go, and two pull; whatever is in use stays, and nothing "
        "else is left in the end.",
        epilog="The exit status is 1 when a promise was broken; then the seed, the key concerned "
        "and all that happened to it are printed, and the data is kept. The seed fixes what is "
        "asked for and when the kills come, as far as a clock can.",
    )
    add = parser.add_argument
    add("--gc-storm", action="store_true", help="sweep every second instead of killing")
    add("--rounds", type=int, default=300, metavar="N", help="how many kills (300)")
    add("--seed", metavar="S", help="where chance begins (a new one each time)")
    add(
        "--minutes",
        type=float,
        default=60,
        metavar="M",
        help="begin no round after that, or end the storm then (60)",
    )
    add("--plain", action="store_true", help="without TLS: more requests in the same time")
    add(
        "--dir",
        type=Path,
        default=Path("/var/tmp"),  # noqa: S108 - for a folder that nobody else may enter
        metavar="FOLDER",
        help="where to make a temporary folder for everything (/var/tmp)",
    )
    add("--verbose", action="store_true", help="a line for every round")
    return parser.parse_args()


@contextmanager
def _folder(below: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="registry-soak-", dir=below))
    try:
        yield folder
    except Violation:
        print(f"the data is kept in {folder}", file=sys.stderr)
        raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


Lines = list[tuple[str, int]]


def _counted(title: str, counter: Counter[str]) -> Lines:
    return [
        (f"{title}, in all", counter.total()),
        *((f"    {name}", number) for name, number in sorted(counter.items())),
    ]


def _of_kills(soak: Soak, rounds: int) -> Lines:
    figures = soak.figures
    return [
        ("rounds", rounds),
        *_counted("answered requests", figures.answered),
        *_counted("unanswered requests", figures.unanswered),
        *_counted("ended", figures.kills),
        ("checks", sum(figures.checks[name] for name in _CHECKED)),
        *((f"    {name}", number) for name, number in sorted(figures.checks.items())),
    ]


def _of_storm(tally: Tally) -> Lines:
    return [
        *_counted("answered requests", tally.answered),
        *sorted(tally.swept.items()),
        *sorted(tally.noticed.items()),
        *sorted(tally.checks.items()),
        ("failures", 0),
    ]


def _table(lines: Lines) -> str:
    return "\n".join(f"{name:<58}{number:>14,}" for name, number in lines)


def _kills(folder: Path, seed: str, options: argparse.Namespace) -> Lines:
    soak = Soak(folder, seed, plain=options.plain)
    rounds = soak.run(
        options.rounds,
        until=time.monotonic() + options.minutes * 60,
        say=lambda text: print(text, file=sys.stderr) if options.verbose else None,
    )
    return _of_kills(soak, rounds)


def _storm(folder: Path, seed: str, options: argparse.Namespace) -> Lines:
    storm = Storm(folder, seed, plain=options.plain)
    storm.run(options.minutes * 60)
    return _of_storm(storm.tally)


def main() -> int:
    options = _options()
    seed = options.seed or secrets.token_hex(4)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no daemon is left behind
    began = time.monotonic()
    print(f"seed {seed}", file=sys.stderr)
    try:
        with _folder(options.dir) as folder:
            lines = (_storm if options.gc_storm else _kills)(folder, seed, options)
    except Violation as violation:
        print(violation, file=sys.stderr)
        return 1
    print(_table([("seconds", round(time.monotonic() - began)), *lines]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
