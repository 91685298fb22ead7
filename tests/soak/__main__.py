"""Kill the daemon again and again, and see whether anything is lost: `python -m tests.soak`."""

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

from tests.soak.loop import Soak
from tests.soak.model import Violation

_CHECKED = ("keys", "lists", "files", "open uploads")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak",
        description="Four clients push, mount, tag and delete at one daemon, which is killed "
        "(SIGKILL) at random moments, also while it starts and while it stops. After each restart "
        "everything that may be read is read, and compared with what was answered before: what was "
        "acknowledged is there exactly so, what was not has happened wholly or not at all.",
        epilog="The exit status is 1 when a promise was broken; then the seed, the key concerned "
        "and all that happened to it are printed, and the data is kept. The seed fixes what is "
        "asked for and when the kills come, as far as a clock can.",
    )
    add = parser.add_argument
    add("--rounds", type=int, default=300, metavar="N", help="how many kills (300)")
    add("--seed", metavar="S", help="where chance begins (a new one each time)")
    add("--minutes", type=float, default=60, metavar="M", help="begin no round after that (60)")
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


def _table(soak: Soak, rounds: int, seconds: float) -> str:
    figures = soak.figures
    lines = [("rounds", rounds), ("seconds", round(seconds))]

    def add(title: str, counter: Counter[str]) -> None:
        lines.append((f"{title}, in all", counter.total()))
        lines.extend((f"    {name}", number) for name, number in sorted(counter.items()))

    add("answered requests", figures.answered)
    add("unanswered requests", figures.unanswered)
    add("ended", figures.kills)
    lines.append(("checks", sum(figures.checks[name] for name in _CHECKED)))
    lines.extend((f"    {name}", number) for name, number in sorted(figures.checks.items()))
    return "\n".join(f"{name:<44}{number:>14,}" for name, number in lines)


def main() -> int:
    options = _options()
    seed = options.seed or secrets.token_hex(4)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that no daemon is left behind
    began = time.monotonic()
    print(f"seed {seed}", file=sys.stderr)
    try:
        with _folder(options.dir) as folder:
            soak = Soak(folder, seed, plain=options.plain)
            rounds = soak.run(
                options.rounds,
                until=began + options.minutes * 60,
                say=lambda text: print(text, file=sys.stderr) if options.verbose else None,
            )
    except Violation as violation:
        print(violation, file=sys.stderr)
        return 1
    print(_table(soak, rounds, time.monotonic() - began))
    return 0


if __name__ == "__main__":
    sys.exit(main())
