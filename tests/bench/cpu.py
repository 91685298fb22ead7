"""What a server costs: processor time and memory of its whole tree of processes, out of /proc."""

import os
import threading
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_MEBIBYTE = 1 << 20
_SAMPLE_SECONDS = 0.1

# Fields of /proc/PID/stat after the command's name, which may hold anything.
_PARENT = 1
_TIMES = slice(11, 15)


def _fields(pid: int | str) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def tree(roots: Iterable[int]) -> list[int]:
    """Some processes with all their descendants."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and (fields := _fields(entry.name)):
            children[int(fields[_PARENT])].append(int(entry.name))
    found = list(roots)
    for pid in found:
        found += children[pid]
    return found


def seconds(roots: Iterable[int]) -> float:
    """Processor time that a tree has used so far, in user and kernel mode.

    What ended children used is in their parent's account, so a sum taken later is never smaller.
    """
    ticks = sum(sum(map(int, _fields(pid)[_TIMES])) for pid in tree(roots))
    return ticks / _TICKS


def memory(roots: Iterable[int]) -> float:
    """Resident memory of a tree in MiB; a page that two processes share counts twice."""
    pages = 0
    for pid in tree(roots):
        try:
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return pages * _PAGE / _MEBIBYTE


class Watch:
    """The most memory a tree was seen to hold while the context lasted."""

    def __init__(self, roots: Iterable[int]) -> None:
        self._roots = list(roots)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.peak = memory(self._roots)

    def _look(self) -> None:
        while not self._over.wait(_SAMPLE_SECONDS):
            self.peak = max(self.peak, memory(self._roots))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        self.peak = max(self.peak, memory(self._roots))
