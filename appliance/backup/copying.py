"""Copies of files: durable, and cheap where the file system can share what they consist of."""

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

_PIECE = 8 << 20
_FICLONE = 0x40049409  # ioctl_ficlonerange(2)
_CANNOT_SHARE = {
    errno.EXDEV,
    errno.EINVAL,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
    errno.ENOTTY,
    errno.EPERM,
}

Count = Callable[[int], object]
"""Is told of so many more bytes."""


def open_plain(path: Path) -> BinaryIO:
    """Open a file that is neither a symbolic link nor anything else than a file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    return os.fdopen(descriptor, "rb")


def copy_file(source: BinaryIO, target: Path, *, mode: int, count: Count) -> None:
    """Make `target` a copy of a file, from its first byte on; its name is to be made durable yet.

    Raises OSError.
    """
    # 1. bytes durable under another name  2. name visible
    draft = target.with_name(f".{target.name}.{token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        try:
            _copy(source.fileno(), descriptor, count)
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        draft.rename(target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def _copy(source: int, target: int, count: Count) -> None:
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno not in _CANNOT_SHARE:
            raise
    else:
        count(os.fstat(source).st_size)
        return
    offset = 0
    try:
        while copied := os.copy_file_range(source, target, _PIECE, offset, offset):
            offset += copied
            count(copied)
    except OSError as error:
        if error.errno not in _CANNOT_SHARE:
            raise
    os.lseek(target, offset, os.SEEK_SET)
    while piece := os.pread(source, _PIECE, offset):
        view = memoryview(piece)
        while view:
            view = view[os.write(target, view) :]
        offset += len(piece)
        count(len(piece))
