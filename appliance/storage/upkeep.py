"""Looking after blobs that are files: reading them over, finding what is not in its place.

    <root>/quarantine/damaged-<algorithm>-<hex>   bytes that were not right, kept for a while

A blob is read past the page cache: what was read once from a disk says nothing of what is on it
today. Nor does reading all there is drive from memory what clients ask for.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from appliance import work
from appliance.oci.damage import Found, Inspection, Pace
from appliance.oci.digest import ALGORITHMS, Digest, Hasher, new_hasher
from appliance.oci.errors import STORE_UNAVAILABLE, RegistryError
from appliance.storage.translation import translated

_STEP = 4 << 20
_DAMAGED = "damaged-"

# Failures to read that are this file's own; any other is the whole machine's.
_NOT_EVEN_MOVED = {errno.EIO} | {
    number for name in ("EBADMSG", "EUCLEAN", "EILSEQ") if (number := getattr(errno, name, None))
}
_OWN_FAULTS = _NOT_EVEN_MOVED | {
    errno.EACCES,
    errno.EPERM,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENODATA,
}


class Upkeep:
    """The files of a store, as a scrub sees them."""

    def __init__(self, root: Path) -> None:
        self._blobs = root / "blobs"
        self._quarantine = root / "quarantine"

    def path(self, digest: Digest) -> Path:
        """Where a blob's file is, or would be."""
        return self._blobs / digest.algorithm / digest.hex[:2] / digest.hex

    async def inspect(
        self, digest: Digest, pace: Pace, *, in_quarantine: bool = False
    ) -> Inspection:
        """Read all bytes of a blob and compute their digest.

        Raises STORE_UNAVAILABLE for what has nothing to do with this blob.
        """
        path = self._away(digest) if in_quarantine else self.path(digest)
        try:
            file = await work.disk(_Reading, path, new_hasher(digest.algorithm))
        except FileNotFoundError:
            await work.disk(self._check_there)
            return Inspection(None)
        except OSError as error:
            return _unreadable(error, 0, await work.disk(_mark, path))
        try:
            while await work.disk(file.step):
                await pace(file.last)
        except OSError as error:
            return _unreadable(error, file.size, file.mark)
        finally:
            file.close()
        return Inspection(
            file.size, Digest(digest.algorithm, file.hasher.hexdigest()), "", file.mark
        )

    async def measure(self, digest: Digest) -> int | None:
        """Return how many bytes there are of a blob; None where it is not there."""
        with translated(STORE_UNAVAILABLE):
            size = await work.disk(_size, self.path(digest))
            if size is None:
                await work.disk(self._check_there)
            return size

    async def set_aside(self, digest: Digest, mark: object, *, in_quarantine: bool = False) -> bool:
        """Move a blob whose bytes are not right to where nothing brings them back from.

        False where it is gone, or where by now there are others than those of that mark.
        """
        path = self._away(digest) if in_quarantine else self.path(digest)
        with translated(STORE_UNAVAILABLE):
            return await work.disk(self._set_aside, path, digest, mark)

    async def drop_set_aside(self, before: float) -> int:
        """Remove what was set aside before a moment, in seconds since 1970; return its bytes."""
        with translated(STORE_UNAVAILABLE):
            return await work.disk(self._drop_set_aside, before)

    async def is_empty(self) -> bool:
        """Tell whether there is no blob at all; raises STORE_UNAVAILABLE."""
        with translated(STORE_UNAVAILABLE):
            return await work.disk(self._is_empty)

    async def shelves(self) -> list[str]:
        """Name the parts of the store that are looked through one by one."""
        return [
            "",
            *ALGORITHMS,
            *(f"{algorithm}/{number:02x}" for algorithm in ALGORITHMS for number in range(256)),
        ]

    async def shelf(self, name: str) -> list[Found]:
        """List all that lies in one part of the store."""
        with translated(STORE_UNAVAILABLE):
            return await work.disk(self._shelf, name)

    async def quarantine(self) -> list[Found]:
        """List what is in quarantine, but for what was set aside."""
        with translated(STORE_UNAVAILABLE):
            return await work.disk(self._listed_quarantine)

    def _away(self, digest: Digest) -> Path:
        return self._quarantine / f"{digest.algorithm}-{digest.hex}"

    def _check_there(self) -> None:
        """Raise where one blob is missing because all are."""
        if not self._blobs.is_dir():
            raise STORE_UNAVAILABLE.error(f"there is no folder {self._blobs}; is its disk mounted?")

    def _set_aside(self, path: Path, digest: Digest, mark: object) -> bool:
        if mark is None or _mark(path) != mark:
            return False
        target = self._quarantine / f"{_DAMAGED}{digest.algorithm}-{digest.hex}"
        try:
            path.rename(target)
        except OSError as error:
            if error.errno not in _NOT_EVEN_MOVED:
                raise
            return True  # it stays, which nothing can be done about, and nobody can read it
        with suppress(OSError):  # it is kept from now on; without that it only goes earlier
            os.utime(target)
        return True

    def _drop_set_aside(self, before: float) -> int:
        dropped = 0
        for entry, state in _entries(self._quarantine):
            if stat.S_ISDIR(state.st_mode):
                continue  # in a blob's place once, and whatever is in it is not ours to remove
            if entry.name.startswith(_DAMAGED) and state.st_mtime <= before:
                Path(entry.path).unlink(missing_ok=True)
                dropped += state.st_size
        return dropped

    def _is_empty(self) -> bool:
        self._check_there()
        folders = [folder for name in ALGORITHMS if (folder := self._blobs / name).is_dir()]
        shelves = (shelf for folder in folders for shelf in folder.iterdir())
        return not any(any(shelf.iterdir()) for shelf in shelves if shelf.is_dir())

    def _shelf(self, name: str) -> list[Found]:
        algorithm, _, prefix = name.partition("/")
        folders = () if prefix else ALGORITHMS if not name else _PREFIXES
        found = []
        if prefix and not (self._blobs / name).is_dir():
            return [Found(str(Path("blobs", name)), None, 0, 0.0, "is missing; a restart makes it")]
        for entry, state in _entries(self._blobs / name):
            if entry.name in folders and stat.S_ISDIR(state.st_mode):
                continue
            digest = _digest(algorithm, entry.name)
            fault = _fault(state, digest, prefix)
            where = str(Path("blobs", name, entry.name))
            found.append(Found(where, digest, state.st_size, state.st_mtime, fault))
        return found

    def _listed_quarantine(self) -> list[Found]:
        found = []
        for entry, state in _entries(self._quarantine):
            if entry.name.startswith(_DAMAGED):
                continue
            algorithm, _, hexadecimal = entry.name.partition("-")
            digest = _digest(algorithm, hexadecimal)
            fault = _fault(state, digest, hexadecimal[:2])
            where = str(Path("quarantine", entry.name))
            found.append(Found(where, digest, state.st_size, state.st_mtime, fault))
        return found


class _Reading:
    """A file that is read and hashed step by step; all of it blocks."""

    def __init__(self, path: Path, hasher: Hasher) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        state = os.fstat(self._descriptor)
        if not stat.S_ISREG(state.st_mode):
            os.close(self._descriptor)
            raise OSError(errno.EISDIR, "it is not a file")
        self.hasher = hasher
        self.mark = _mark_of(state)
        self.size = 0
        self.last = 0
        os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def step(self) -> bool:
        """Read a little; False at the end."""
        content = os.pread(self._descriptor, _STEP, self.size)
        self.hasher.update(content)
        os.posix_fadvise(self._descriptor, self.size, _STEP, os.POSIX_FADV_DONTNEED)
        self.last = len(content)
        self.size += self.last
        return bool(content)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


_PREFIXES = frozenset(f"{number:02x}" for number in range(256))


def _mark_of(state: os.stat_result) -> object:
    # Neither a move nor a further name changes any of these; the same bytes pushed again do.
    return state.st_dev, state.st_ino, state.st_mtime_ns, state.st_size


def _mark(path: Path) -> object:
    try:
        return _mark_of(path.stat())
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno not in _OWN_FAULTS:
            raise
        return error.errno  # of which there is nothing else to be known


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None


def _unreadable(error: OSError, size: int, mark: object) -> Inspection:
    """Tell of a file that cannot be read; raises where that is not this file's fault."""
    if error.errno not in _OWN_FAULTS:
        raise STORE_UNAVAILABLE.error(f"blobs cannot be read: {error.strerror}") from error
    return Inspection(size, None, error.strerror or "error", mark)


def _digest(algorithm: str, hexadecimal: str) -> Digest | None:
    try:
        return Digest.parse(f"{algorithm}:{hexadecimal}")
    except RegistryError:
        return None


def _fault(state: os.stat_result, digest: Digest | None, prefix: str) -> str:
    if not stat.S_ISREG(state.st_mode):
        return "is not a file"
    if digest is None:
        return "has not the name of a blob"
    if digest.hex[:2] != prefix:
        return f"lies in the wrong folder: it belongs into {digest.algorithm}/{digest.hex[:2]}"
    return ""


def _entries(folder: Path) -> Iterator[tuple[os.DirEntry[str], os.stat_result]]:
    """List a folder; what goes meanwhile, and what cannot be looked at, is left out."""
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                state = entry.stat(follow_symlinks=False)
            except OSError as error:
                if isinstance(error, FileNotFoundError) or error.errno in _OWN_FAULTS:
                    continue
                raise
            yield entry, state
