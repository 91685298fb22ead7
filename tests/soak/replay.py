"""What a disk holds after a power cut, worked out from the system calls that wrote to it.

POSIX promises little: the contents of a file as they were when fsync(2) on it was called, and the
names in a folder as they were when fsync(2) on that was called, each once the call has returned.
Everything else may be there or not, in any combination, and a disk is free to choose, but for one
thing: what is renamed is never without any name, as file systems with a journal see to. The calls
come from strace(1); a call counts as made when it returns, and a sync covers what had returned
before it was called, so threads that run side by side get no more than they were promised.

A sync that fails tells so once: Linux takes the pages that it could not write for written then. Only
what is written to those pages again is sure to be there after a sync that succeeds.

Files that are written through mmap(2) are not seen; the catalogue has one, `-shm`, which is an
index to its log that is made anew after a crash, and which is left out.
"""

import copy
import os
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Self

CALLS = (
    "open,openat,creat,lseek,write,writev,pwrite64,pwritev,pwritev2,truncate,ftruncate,fallocate,"
    "rename,renameat,renameat2,unlink,unlinkat,link,linkat,symlink,symlinkat,mkdir,mkdirat,rmdir,"
    "fsync,fdatasync,sync,syncfs,sync_file_range,copy_file_range,splice,sendto,sendmsg,ioctl"
)
STRACE = (
    "strace",
    "-D",
    "-f",
    "--seccomp-bpf",
    "-y",
    "-xx",
    "-s",
    str(32 << 20),
    "-e",
    f"trace={CALLS}",
)
"""Put before a command (with `-o FILE`), records it; -D leaves the command our own child."""

RULES = {
    "promised": ("durable",),
    "named": ("names",),
    "chance": ("durable", "names"),
    "all": ("names",),
    "lingering": ("both",),
}
"""What a power cut may leave: which names of a folder are there. See `Disk.rebuild`."""

_LINE = re.compile(r"(?P<thread>\d+) +(?:<\.\.\. \w+ resumed>)?(?P<rest>.*)", re.DOTALL)
_CALL = re.compile(r"(?P<name>\w+)\((?P<arguments>.*)\) += (?P<result>-?\d+)", re.DOTALL)
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')
_OPEN_FILE = re.compile(r"(\d+)<((?:\\x[0-9a-f]{2})*)>(\(deleted\))?")
_OFFSET = re.compile(r", \[(\d+)\]")
_UNFINISHED = " <unfinished ...>"
_LEFT_OUT = ("-shm",)
_PAGE = 4096
_ANSWERING = ("sendto", "sendmsg")


class Call(NamedTuple):
    """A system call as strace writes it."""

    name: str
    arguments: str
    result: int

    def answers(self) -> bool:
        """Whether it sends the beginning of an answer to a client."""
        return self.name in _ANSWERING and any(
            text.startswith(b"HTTP/1.1 ") for text in self.texts()
        )

    def texts(self) -> list[bytes]:
        """The strings among the arguments."""
        found = _TEXT.findall(self.arguments)
        assert not any(cut for _, cut in found), "strace has cut a string short"
        return [_decoded(text) for text, _ in found]

    def paths(self) -> list[Path]:
        """The strings as paths; those of our programs are absolute."""
        return [Path(os.fsdecode(text)) for text in self.texts()]

    def descriptor(self) -> int:
        """The first argument as a descriptor."""
        found = _OPEN_FILE.match(self.arguments)
        return int(found[1]) if found else -1

    def file(self) -> Path | None:
        """The path behind that; None for what has no name any more."""
        found = _OPEN_FILE.match(self.arguments)
        if found is None or found[3]:
            return None
        return Path(os.fsdecode(_decoded(found[2])))

    def number(self, place: int) -> int:
        """An argument that is a number, counted from the end as -1, -2, …"""
        return int(self.arguments.rsplit(", ", -place)[place])


def _decoded(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


class Step(NamedTuple):
    """The beginning of a call, or its end, which has a result."""

    call: Call
    mark: int
    """The same for both."""
    ends: bool


def steps(trace: Path) -> Iterator[Step]:
    """Everything that happened, in order."""
    waiting: dict[str, tuple[str, int]] = {}
    with trace.open() as lines:
        for mark, line in enumerate(lines):
            found = _LINE.match(line.rstrip("\n"))
            assert found is not None, line[:200]
            thread, rest = found["thread"], found["rest"]
            if rest.startswith(("+++", "---")):
                continue
            if rest.endswith(_UNFINISHED):
                begun = rest.removesuffix(_UNFINISHED)
                name, _, arguments = begun.partition("(")
                waiting[thread] = (begun, mark)
                yield Step(Call(name, arguments, -1), mark, ends=False)
                continue
            begun, began = waiting.pop(thread, ("", mark))
            complete = _CALL.match(begun + rest)
            if complete is None:
                continue  # cut off by the end of the process: it has no result
            call = Call(complete["name"], complete["arguments"], int(complete["result"]))
            if not begun:
                yield Step(call, mark, ends=False)
            yield Step(call, began, ends=True)


@dataclass(eq=False)
class File:
    """A file: what it holds, and what it is sure to hold after a power cut."""

    content: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    unsure: list[tuple[int, bytes | None]] = field(default_factory=list)
    """Writes since then (offset and bytes) and cuts to a length (length and None)."""
    given_up: set[int] = field(default_factory=set)
    """Pages that could not be written, and have not been written to since."""

    def change(self, offset: int, data: bytes | None) -> None:
        """Write, or cut."""
        _change(self.content, offset, data)
        self.unsure.append((offset, data))
        self.given_up.difference_update(_pages(offset, data))

    def give_up(self) -> None:
        """Fail to sync."""
        for offset, data in self.unsure:
            self.given_up.update(_pages(offset, data))
        self.unsure.clear()

    def sync(self) -> Callable[[], None]:
        """Begin a sync; calling what this returns ends it."""
        content, covered, before = bytearray(self.content), list(self.unsure), self.durable
        for page in self.given_up:
            span = slice(page * _PAGE, min((page + 1) * _PAGE, len(content)))
            content[span] = before[span].ljust(len(content[span]), b"\0")

        def done() -> None:
            self.durable = bytes(content)
            self.unsure = [
                change for change in self.unsure if not any(change is c for c in covered)
            ]

        return done


@dataclass(eq=False)
class Folder:
    """A folder: its names, and those that are sure to be there after a power cut."""

    names: dict[str, "File | Folder"] = field(default_factory=dict)
    durable: dict[str, "File | Folder"] = field(default_factory=dict)

    @property
    def both(self) -> dict[str, "File | Folder"]:
        """All names, as if no name had ever gone."""
        return {**self.durable, **self.names}

    def sync(self) -> Callable[[], None]:
        """Begin a sync; calling what this returns ends it."""
        names = dict(self.names)

        def done() -> None:
            self.durable = names

        return done

    def left(self, rule: str, chance: random.Random) -> dict[str, "File | Folder"]:
        """Choose what a power cut leaves; see `Disk.rebuild`."""
        names = {
            name: node
            for name in sorted({*self.names, *self.durable})
            if (node := chance.choice([getattr(self, side) for side in RULES[rule]]).get(name))
        }
        # What was renamed here has its old name, or the new one.
        for name, node in self.names.items():
            if node in self.durable.values() and node not in names.values():
                names[name] = node
        return names


def _change(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
        content.extend(bytes(offset - len(content)))
        return
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(data)] = data


def _pages(offset: int, data: bytes | None) -> range:
    return range(offset // _PAGE, -(-(offset + len(data)) // _PAGE)) if data else range(0)


def _adopted(folder: Path, known: dict[int, File]) -> Folder:
    adopted = Folder()
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            adopted.names[path.name] = _adopted(path, known)
        elif path.is_file() and not path.name.endswith(_LEFT_OUT):
            content = path.read_bytes()
            node = known.setdefault(path.stat().st_ino, File(bytearray(content), content))
            adopted.names[path.name] = node
    adopted.durable = dict(adopted.names)
    return adopted


class Disk:
    """All below one empty folder, which is there for good itself."""

    def __init__(self, top: Path) -> None:
        self._top = top
        self._tree = Folder()
        self._positions: dict[int, int] = {}
        self._syncing: dict[int, Callable[[], None]] = {}

    @classmethod
    def holding(cls, top: Path) -> Self:
        """Take a folder as it is, and all of it for durable."""
        disk = cls(top)
        disk._tree = _adopted(top, {})
        return disk

    def copy(self) -> Self:
        """Another one that is the same so far."""
        return copy.deepcopy(self)

    # -- what happens to it

    def take(self, step: Step) -> Path | None:
        """Let a step happen; the path of the file that got a name by it, if one did."""
        call = step.call
        if call.name in {"fsync", "fdatasync"}:
            self._sync(step)
            return None
        if not step.ends or call.result < 0:
            return None
        handle = getattr(self, f"_{_SAME.get(call.name, call.name)}", None)
        if handle is not None:
            named: Path | None = handle(call)
            return named
        if call.name not in _ANSWERING:
            concerned = [call.file(), *call.paths()]
            assert not any(path and path.is_relative_to(self._top) for path in concerned), call
        return None

    def _sync(self, step: Step) -> None:
        if not step.ends:
            node = self._find(step.call.file())
            if node is not None:
                self._syncing[step.mark] = node.sync()
        elif done := self._syncing.pop(step.mark, None):
            node = self._find(step.call.file())
            if step.call.result == 0:
                done()
            elif isinstance(node, File):
                node.give_up()

    def _openat(self, call: Call) -> None:
        [path] = call.paths()
        self._positions[call.result] = 0
        if not path.is_relative_to(self._top):
            return
        node = self._find(path)
        if node is None and (call.name == "creat" or "O_CREAT" in call.arguments):
            node = self._parent(path).names[path.name] = File()
        if isinstance(node, File):
            if "O_TRUNC" in call.arguments:
                node.change(0, None)
            if "O_APPEND" in call.arguments:
                self._positions[call.result] = len(node.content)

    def _lseek(self, call: Call) -> None:
        self._positions[call.descriptor()] = call.result

    def _write(self, call: Call) -> None:
        descriptor = call.descriptor()
        offset = self._positions.get(descriptor, 0)
        self._positions[descriptor] = offset + call.result
        self._change(call, offset)

    def _pwrite64(self, call: Call) -> None:
        self._change(call, call.number(-1))

    def _pwritev2(self, call: Call) -> None:
        self._change(call, call.number(-2))

    def _change(self, call: Call, offset: int) -> None:
        node = self._find(call.file())
        if isinstance(node, File):
            node.change(offset, b"".join(call.texts())[: call.result])

    def _copy_file_range(self, call: Call) -> None:
        source, target = self._both(call)
        if isinstance(target, File):
            assert isinstance(source, File), f"what is copied is not known: {call}"
            start, offset = map(int, _OFFSET.findall(call.arguments))
            target.change(offset, bytes(source.content[start : start + call.result]))

    def _ioctl(self, call: Call) -> None:
        if "FICLONE" in call.arguments:
            target, source = self._both(call)
            if isinstance(target, File):
                assert isinstance(source, File), f"what is cloned is not known: {call}"
                target.change(0, bytes(source.content))

    def _both(self, call: Call) -> tuple[File | Folder | None, File | Folder | None]:
        """The files behind both descriptors among the arguments."""
        first, second = (
            self._find(Path(os.fsdecode(_decoded(path))))
            for _, path, _ in _OPEN_FILE.findall(call.arguments)
        )
        return first, second

    def _ftruncate(self, call: Call) -> None:
        node = self._find(call.file())
        if isinstance(node, File):
            node.change(call.number(-1), None)

    def _truncate(self, call: Call) -> None:
        node = self._find(call.paths()[0])
        if isinstance(node, File):
            node.change(call.number(-1), None)

    def _mkdir(self, call: Call) -> None:
        [path] = call.paths()
        if path.is_relative_to(self._top):
            self._parent(path).names[path.name] = Folder()

    def _unlink(self, call: Call) -> None:
        [path] = call.paths()
        if path.is_relative_to(self._top):
            self._parent(path).names.pop(path.name, None)

    def _rename(self, call: Call) -> Path | None:
        source, target = call.paths()
        if not source.is_relative_to(self._top):
            return None
        self._parent(target).names[target.name] = self._parent(source).names.pop(source.name)
        return target

    def _link(self, call: Call) -> Path | None:
        source, target = call.paths()
        if not source.is_relative_to(self._top):
            return None
        self._parent(target).names[target.name] = self._parent(source).names[source.name]
        return target

    def _parent(self, path: Path) -> Folder:
        node = self._find(path.parent)
        assert isinstance(node, Folder), f"{path.parent} is not known"
        return node

    def _find(self, path: Path | None, *, durable: bool = False) -> File | Folder | None:
        if path is None or not path.is_relative_to(self._top):
            return None
        node: File | Folder | None = self._tree
        for name in path.relative_to(self._top).parts:
            if not isinstance(node, Folder):
                return None
            node = (node.durable if durable else node.names).get(name)
        return node

    # -- what is left of it

    def survives(self, path: Path, *, named: bool = False) -> bytes | None:
        """What a file surely holds; None unless its name is durable, or is taken for durable."""
        node = self._find(path, durable=not named)
        return node.durable if isinstance(node, File) else None

    def rebuild(self, target: Path, rule: str, chance: random.Random) -> None:
        """Make a folder as the power cut leaves it.

        `promised`: what POSIX promises and nothing else.  `named`: all names are there, without
        contents that were not synced.  `chance`: whatever the disk likes of all that is unsure.
        `all`: everything is there, as when it was the process alone that ended.  `lingering`: no name
        has gone yet, neither by a removal nor by a rename.
        """
        choices = {folder: folder.left(rule, chance) for folder in _folders(self._tree)}
        _keep_renamed(choices)
        self._rebuild(self._tree, choices, target, rule, chance)

    def _rebuild(
        self, folder: Folder, choices: "_Choices", target: Path, rule: str, chance: random.Random
    ) -> None:
        target.mkdir(mode=0o700)
        for name, node in choices[folder].items():
            if isinstance(node, Folder):
                self._rebuild(node, choices, target / name, rule, chance)
            elif not name.endswith(_LEFT_OUT):
                content = bytearray(node.durable)
                for offset, data in node.unsure if rule in {"chance", "all"} else []:
                    if rule == "all" or chance.random() < 0.5:
                        _change(content, offset, data)
                (target / name).write_bytes(content)


_Choices = dict[Folder, dict[str, File | Folder]]
"""Which names of each folder a power cut leaves."""


def _folders(top: Folder) -> list[Folder]:
    """All folders that are there, or may be."""
    found = {top: None}
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        for node in (*folder.names.values(), *folder.durable.values()):
            if isinstance(node, Folder) and node not in found:
                found[node] = None
                waiting.append(node)
    return list(found)


def _keep_renamed(choices: _Choices) -> None:
    """Have what was renamed from one folder into another be in one of them."""
    sure = {node for folder in choices for node in folder.durable.values()}
    left = {node for names in choices.values() for node in names.values()}
    for folder, names in choices.items():
        for name, node in folder.names.items():
            if node in sure and node not in left:
                names[name] = node
                left.add(node)


_SAME = {
    "open": "openat",
    "creat": "openat",
    "writev": "write",
    "pwritev": "pwrite64",
    "mkdirat": "mkdir",
    "rmdir": "unlink",
    "unlinkat": "unlink",
    "renameat": "rename",
    "renameat2": "rename",
    "linkat": "link",
}
"""Calls that differ in nothing that matters here."""
