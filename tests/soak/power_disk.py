"""A real file system, in a file, whose power can be cut."""

import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.system.tools import attempt, run

MAKERS = {
    "ext4": ("mkfs.ext4", "-q", "-m", "0"),
    "xfs": ("mkfs.xfs", "-q"),
}
"""How each kind of file system is made."""

WITHOUT_LOG, WITH_LOG = 2, 1
"""What a cut leaves: what was written, or in addition the names and sizes that were not yet."""

_SIZE = 512 << 20  # xfs wants 300 MiB; of a sparse file
_SHUTDOWN = 0x8004587D  # FS_IOC_SHUTDOWN of linux/fs.h: _IOR('X', 125, __u32)


class RealDisk:
    """A file system at `top`, while it is there."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.top = folder / "disk"
        self._image = folder / "disk.image"
        self._is_there = False  # once the power is cut, the file system itself does not say
        self.top.mkdir(parents=True)
        self._image.touch()
        os.truncate(self._image, _SIZE)
        run(*MAKERS[kind], self._image)

    def appear(self) -> None:
        """Let it be there; after a cut, this is where the file system repairs itself."""
        run("mount", "-o", "loop", self._image, self.top)
        self._is_there = True

    def cut(self, manner: int = WITHOUT_LOG) -> None:
        """Let nothing reach it any more, of what has not yet."""
        descriptor = os.open(self.top, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, _SHUTDOWN, struct.pack("I", manner))
        finally:
            os.close(descriptor)

    def vanish(self) -> None:
        """Take it away, and with it all that was only in memory."""
        run("umount", self.top)
        self._is_there = False

    @contextmanager
    def there(self) -> Iterator[None]:
        """Let it be there, and never leave it behind."""
        self.appear()
        try:
            yield
        finally:
            if self._is_there and attempt("umount", self.top).returncode:
                run("umount", "--lazy", self.top)
