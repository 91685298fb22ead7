"""Programs that run before the daemon's own and make it careless: they leave syncs of the disk out.

What watches for losses is shown to be awake by them: the files of all blobs, all folders, the
catalogue. For any one place in the code that asks for a sync a program need not run anew: one that
tells of each sync where it is asked for is recorded once, and the place left out as it is replayed.
Those places are found by reading the code, so that none can be added without a test being told.
"""

import ast
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.soak.replay import Step

FILES = """
import os, stat
sync = os.fsync
os.fsync = lambda file: None if stat.S_ISREG(os.fstat(file).st_mode) else sync(file)
"""
FOLDERS = """
import os, stat
sync = os.fsync
os.fsync = lambda file: None if stat.S_ISDIR(os.fstat(file).st_mode) else sync(file)
"""
FILES_LATE = """
import os, stat
sync, waiting = os.fsync, []
def fsync(file):
    if stat.S_ISREG(os.fstat(file).st_mode):
        waiting.append(os.dup(file))
        return
    while waiting:
        sync(waiting[0])
        os.close(waiting.pop(0))
    sync(file)
os.fsync = fsync
"""
_CATALOGUE = """
import sqlite3
class Lax(sqlite3.Connection):
    def execute(self, query, *rest):
        return super().execute(query.replace("FULL", "{level}"), *rest)
connect = sqlite3.connect
sqlite3.connect = lambda *args, **options: connect(*args, factory=Lax, **options)
"""
_NOWHERE = "/nowhere/"
TELLING = f"""
import os, sys
def telling(sync):
    def fsync(file):
        places, frame = [], sys._getframe(1)
        while frame is not None:
            _, ours, name = frame.f_code.co_filename.rpartition("/appliance/")
            if ours:
                places.append(name + ":" + str(frame.f_lineno))
            frame = frame.f_back
        try:
            os.open("{_NOWHERE}" + str(file) + "|" + "|".join(places), os.O_RDONLY)
        except OSError:
            pass
        sync(file)
    return fsync
os.fsync, os.fdatasync = telling(os.fsync), telling(os.fdatasync)
import appliance.storage.staged
appliance.storage.staged._FLUSH_EVERY = 4096
"""
"""Leaves nothing out, but tells before each sync where in the code it is asked for; see `left_out`."""

_SYNCS = {"fsync", "fdatasync", "sync", "syncfs", "sync_file_range", "sync_folder"}
_PRAGMA = "PRAGMA synchronous"
_CODE = Path(__file__).parents[2] / "appliance"


class Place(NamedTuple):
    """A statement of ours that asks for a sync, or sets how the catalogue asks for them."""

    file: str
    function: str
    what: str
    first: int
    last: int

    def asks(self, lines: Iterable[tuple[str, int]]) -> bool:
        """Whether one of these lines is this place."""
        return any(file == self.file and self.first <= line <= self.last for file, line in lines)


def left_out(steps: Sequence[Step], place: Place | None) -> set[int]:
    """Which steps of a program that is TELLING there would not be without a place, by position."""
    if place is None:
        return set()
    found: set[int] = set()
    under_way: set[int] = set()
    for position, asked in _syncs(steps):
        mark = steps[position].mark
        if asked is None:
            if mark in under_way:
                under_way.remove(mark)
                found.add(position)
        elif place.asks(asked):
            under_way.add(mark)
            found.add(position)
    assert found, "nothing is left out"
    return found


def _syncs(steps: Sequence[Step]) -> Iterator[tuple[int, list[tuple[str, int]] | None]]:
    """The beginnings of syncs with the files and lines that ask for them, and their ends."""
    waiting: dict[int, list[tuple[str, int]]] = {}
    for position, (call, _, ends) in enumerate(steps):
        if call.name in {"fsync", "fdatasync"}:
            yield position, None if ends else waiting.pop(call.descriptor(), [])
        elif not ends and call.name == "openat":
            path = str(call.paths()[0])
            if path.startswith(_NOWHERE):
                descriptor, *lines = path.removeprefix(_NOWHERE).split("|")
                places = (line.rpartition(":") for line in lines)
                waiting[int(descriptor)] = [(file, int(number)) for file, _, number in places]


def catalogue(level: str) -> str:
    """Return a program that lets the catalogue sync at that level only."""
    return _CATALOGUE.format(level=level)


def places() -> dict[str, Place]:
    """Find every place in the code that asks for a sync, by a name that outlives other changes."""
    found: dict[str, Place] = {}
    for path in sorted(_CODE.rglob("*.py")):
        file = path.relative_to(_CODE).as_posix()
        for place in _in(ast.parse(path.read_text()), file, ""):
            name = f"{place.file} {place.function}: {place.what}"
            number = 2
            while name in found:
                name = f"{name.partition(' #')[0]} #{number}"
                number += 1
            found[name] = place
    return found


def _in(node: ast.AST, file: str, function: str) -> Iterator[Place]:
    for child in ast.iter_child_nodes(node):
        inside = function
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inside = f"{function}.{child.name}".lstrip(".")
        if isinstance(child, ast.stmt) and not hasattr(child, "body"):
            for what in filter(None, map(_asked, ast.walk(child))):
                yield Place(file, inside, what, child.lineno, child.end_lineno or child.lineno)
        else:
            # The head of a compound statement: a call there is its own line.
            if isinstance(child, ast.expr) and (asked := _asked(child)):
                yield Place(file, inside, asked, child.lineno, child.lineno)
            yield from _in(child, file, inside)


def _asked(node: ast.AST) -> str | None:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name) if name in _SYNCS:
            return name
        # "= OFF" asks for none: what is written so is synced by a place of its own.
        case ast.Constant(value=str() as text) if text.startswith(_PRAGMA) and "OFF" not in text:
            return _PRAGMA
        case _:
            return None
