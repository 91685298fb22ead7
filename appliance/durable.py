"""Files that are whole and durable before they are visible."""

import os
from contextlib import suppress
from pathlib import Path
from secrets import token_hex


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable; raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path, *, mode: int) -> None:
    """Make a folder, and those above it, that are not there yet; their names are durable on return.

    Raises OSError.
    """
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(mode=mode, parents=True, exist_ok=True)
    for made in reversed(missing):
        sync_folder(made.parent)


def replace_file(path: Path, content: bytes, *, mode: int) -> None:
    """Write a file anew, with that mode from its first byte on; raises OSError.

    A file that stands there keeps its owner. A symbolic link is followed, not replaced.
    """
    # 1. bytes durable under another name  2. name visible  3. name durable
    target = path.resolve()
    draft = target.with_name(f".{target.name}.{token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            with suppress(FileNotFoundError):
                before = target.stat()
                if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                    os.fchown(file.fileno(), before.st_uid, before.st_gid)
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)
