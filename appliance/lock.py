"""The lock on a data folder: one daemon at a time, and a note of where that one listens.

`<data>/lock` is held with flock(2) for as long as the daemon lives, so a crash leaves nothing to
clean up. Its content is for people and for `registry info`.
"""

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

import msgspec

_NAME = "lock"
_ATTEMPTS = 4  # `holder` takes the lock for an instant to see whether anybody has it


class Note(msgspec.Struct, frozen=True):
    """What a running daemon says of itself."""

    pid: int
    listen: list[str] = []
    plain: list[str] = []
    control: str = ""
    """The path of the socket that commands reach it by."""
    stopped_at: float = 0
    """When it stopped cleanly, in seconds since 1970; 0 for one that runs, or crashed."""


class HeldError(Exception):
    """Another daemon has the folder; `note` is what it says of itself, if it said so yet."""

    def __init__(self, note: Note | None) -> None:
        super().__init__(note)
        self.note = note


class FolderLock:
    """A lock that is held until `release`, or until the process ends.

    The daemon before this one may pass it on as an open descriptor, which is how one lock comes to
    have two holders. The note is that one's until the first `write`.
    """

    def __init__(self, folder: Path, passed_on: int | None = None) -> None:
        """Take the lock; raises HeldError, or OSError where the folder cannot be written."""
        path = folder / _NAME
        if passed_on is None:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        else:
            self._descriptor = passed_on
        for attempt in range(_ATTEMPTS):
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt == _ATTEMPTS - 1:
                    os.close(self._descriptor)
                    raise HeldError(_read(path)) from None
                time.sleep(0.05)
        last = _read(path)
        self.stopped_at = last.stopped_at if last else 0.0
        """When the last daemon stopped, 0 after a crash or where there was none."""
        self._note = Note(os.getpid())
        self._is_ours = passed_on is None
        if self._is_ours:
            self.write(self._note)

    @property
    def descriptor(self) -> int:
        """What the lock is held by; whoever inherits it holds it as well."""
        return self._descriptor

    def write(self, note: Note) -> None:
        """Replace the note."""
        self._is_ours = True
        self._note = note
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, msgspec.json.encode(note) + b"\n", 0)

    def renew(self) -> None:
        """Write the note once more: another daemon may have replaced it."""
        self.write(self._note)

    def release(self, *, stopped: bool = False) -> None:
        """Let the folder go; `stopped` says that a daemon has just stopped in good order."""
        with suppress(OSError):  # the disk may have become read-only; the note is a courtesy
            if self._is_ours:
                self.write(Note(0, stopped_at=time.time() if stopped else self.stopped_at))
        os.close(self._descriptor)


def is_of(descriptor: int, folder: Path) -> bool:
    """Tell whether a lock that is passed on is that of a folder."""
    try:
        return os.path.samestat(os.fstat(descriptor), (folder / _NAME).stat())
    except OSError:
        return False


def holder(folder: Path) -> Note | None:
    """Return the note of the daemon that has a folder now, if one has; raises OSError."""
    path = folder / _NAME
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read(path) or Note(0)
    finally:
        os.close(descriptor)
    return None


def _read(path: Path) -> Note | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Note)
    except (OSError, msgspec.DecodeError):
        return None
