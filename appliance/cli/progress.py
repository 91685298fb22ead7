"""Progress on a terminal: one line that is written over, gone when the work is done."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click

from appliance.registry.progress import Progress, Report
from appliance.registry.space import amount

_EVERY = 0.1  # seconds
_BAR = 24


@contextmanager
def shown() -> Iterator[Report]:
    """Show on standard error what is reported, where a person looks at it; nothing otherwise."""
    watched = sys.stderr.isatty()
    last = 0.0

    def report(progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if watched and now - last >= _EVERY:
            last = now
            click.echo(f"\r{described(progress)}\x1b[K", err=True, nl=False)

    try:
        yield report
    finally:
        if last:
            click.echo("\r\x1b[K", err=True, nl=False)


def described(progress: Progress) -> str:
    """Write progress as a line: with a bar where it is known how much there is to do."""
    count = _count(progress, progress.done)
    if not progress.total:
        return f"{progress.doing}  {count}" if progress.unit else progress.doing
    part = min(progress.done / progress.total, 1.0)
    bar = ("#" * int(part * _BAR)).ljust(_BAR, "-")
    return f"{progress.doing}  [{bar}] {part:4.0%}  {count} of {_count(progress, progress.total)}"


def _count(progress: Progress, number: int) -> str:
    return amount(number) if progress.unit == "bytes" else f"{number:,} {progress.unit}".rstrip()
