"""Files that say who may come in: changed by commands while a daemon follows them."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class AccountError(Exception):
    """What was asked cannot be done to this file; the message is one sentence."""


def stamp(path: Path) -> object:
    """Return what differs once a file has changed; it is asked on every request."""
    try:
        state = os.stat(path)  # noqa: PTH116  a third of the price
    except OSError as error:
        return error.errno
    return state.st_mtime_ns, state.st_ctime_ns, state.st_size, state.st_ino


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep two edits apart: the folder is what is locked, as the file itself is replaced.

    Raises AccountError.
    """
    try:
        descriptor = os.open(path.resolve().parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise AccountError(f"{path.parent} cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
