"""Programs that run before the daemon's own and make it careless: they leave syncs of the disk out.

What watches for losses is shown to be awake by them: the files of all blobs, all folders, the
catalogue, or any one place in the code that asks for a sync. Those places are found by reading the
code, so that none can be added without a test being told of it.
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

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
import sqlite3, sys
class Lax(sqlite3.Connection):
    def execute(self, query, *rest):
        if "FULL" in query:
            sys.stderr.write("{left_out}\\n")
        return super().execute(query.replace("FULL", "{level}"), *rest)
connect = sqlite3.connect
sqlite3.connect = lambda *args, **options: connect(*args, factory=Lax, **options)
"""
_PLACE = """
import os, sys
def careless(sync):
    def fsync(file):
        frame = sys._getframe(1)
        while frame is not None:
            if frame.f_code.co_filename.endswith("{file}") and {first} <= frame.f_lineno <= {last}:
                sys.stderr.write("{left_out}\\n")
                return
            frame = frame.f_back
        sync(file)
    return fsync
os.fsync, os.fdatasync = careless(os.fsync), careless(os.fdatasync)
import appliance.storage.files
appliance.storage.files._FLUSH_EVERY = 4096
"""
LEFT_OUT = "a sync is left out"
"""What such a daemon logs each time that it leaves out the one sync it was to leave out."""

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

    def without(self) -> str:
        """Return a program that leaves out this one."""
        if self.what == _PRAGMA:
            return catalogue("NORMAL")
        return _PLACE.format(
            file=f"appliance/{self.file}", first=self.first, last=self.last, left_out=LEFT_OUT
        )


def catalogue(level: str) -> str:
    """Return a program that lets the catalogue sync at that level only."""
    return _CATALOGUE.format(level=level, left_out=LEFT_OUT)


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
        case ast.Constant(value=str() as text) if text.startswith(_PRAGMA):
            return _PRAGMA
        case _:
            return None
