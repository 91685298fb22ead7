"""Reading backups: what a folder or an archive holds, one thing after the other, catalogue first."""

import os
import stat
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import zstandard

from appliance.backup.archive import SUFFIX
from appliance.backup.copying import open_plain
from appliance.backup.parts import ETC, LABEL, TLS, BackupError, read_label
from appliance.wholeness import CATALOGUE

_LABEL_MAX = 1 << 20
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Member:
    """A file of a backup."""

    name: str
    """Its path in the backup."""
    size: int
    mode: int
    file: IO[bytes]
    is_alone: bool
    """Whether others can be read where this one cannot."""

    def read(self, size: int) -> bytes:
        """Read on, before the next member is asked for; raises UnreadableError."""
        try:
            return self.file.read(size)
        except _UNREADABLE as error:
            raise (UnreadableError if self.is_alone else BrokenOffError)(str(error)) from error


class UnreadableError(Exception):
    """A member that cannot be read: why."""


class BrokenOffError(UnreadableError):
    """Nor can anything after it."""


_UNREADABLE = (tarfile.TarError, zstandard.ZstdError, EOFError, OSError)


def members(place: Path) -> Iterator[Member]:
    """Read a backup; each member is to be used before the next one is asked for.

    Raises BackupError for what is no backup, BrokenOffError, and OSError.
    """
    if place.name.endswith(SUFFIX) and not place.is_dir():
        yield from _of_archive(place)
    else:
        yield from _of_folder(place)


def _of_folder(folder: Path) -> Iterator[Member]:
    try:
        read_label((folder / LABEL).read_bytes(), folder)
    except (FileNotFoundError, NotADirectoryError):
        raise BackupError(f"{folder} is no backup: it has no {LABEL}") from None
    if not (folder / CATALOGUE).exists():
        raise BackupError(f"{folder} has no {CATALOGUE}: no backup into it was ever finished")
    for path in (folder / CATALOGUE, *_files(folder / TLS), *_files(folder / ETC)):
        yield from _member(folder, path)
    for shelf, inner, names in os.walk(folder / "blobs"):
        inner.sort()
        for name in sorted(names):
            if not name.startswith("."):
                with suppress(FileNotFoundError):
                    yield from _member(folder, Path(shelf, name))


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except FileNotFoundError:
        return []


def _member(folder: Path, path: Path) -> Iterator[Member]:
    with open_plain(path) as file:
        found = os.fstat(file.fileno())
        name = str(path.relative_to(folder))
        yield Member(name, found.st_size, stat.S_IMODE(found.st_mode), file, is_alone=True)


def _of_archive(place: Path) -> Iterator[Member]:
    """Read an archive; whatever is wrong with it, what comes before that is told."""
    with place.open("rb") as raw:
        stream = zstandard.ZstdDecompressor().stream_reader(raw, read_size=_PIECE)
        labelled = False
        try:
            with tarfile.open(fileobj=stream, mode="r|", bufsize=_PIECE) as archive:
                for entry in archive:
                    file = archive.extractfile(entry)
                    if file is None:
                        continue
                    if not labelled and entry.name != LABEL:
                        break
                    if not labelled:
                        read_label(file.read(_LABEL_MAX), place)
                        labelled = True
                        continue
                    yield Member(entry.name, entry.size, entry.mode & 0o777, file, is_alone=False)
        except _UNREADABLE as error:
            if labelled:
                raise BrokenOffError(str(error)) from error
            raise BackupError(f"{place} is no backup: {error}") from error
    if not labelled:
        raise BackupError(f"{place} is no backup: it does not begin with {LABEL}")
