"""A backup as one file: a tar archive, compressed, which is written from its beginning to its end.

The catalogue comes before the blobs, so that whoever reads the archive knows what will follow, and,
where it breaks off, what is missing.
"""

import io
import os
import tarfile
import time
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO, Protocol

import zstandard

from appliance.backup.copying import Count, open_plain
from appliance.backup.parts import (
    LABEL,
    Outcome,
    beside_the_blobs,
    check_outside,
    label_of,
    snapshot,
)
from appliance.catalogue.contents import BlobRow, Contents, Lost, fault_of_file
from appliance.control import Operator
from appliance.durable import sync_folder
from appliance.registry.progress import Progress, Report
from appliance.settings import Settings
from appliance.storage.files import FileStore
from appliance.wholeness import CATALOGUE

SUFFIX = ".tar.zst"
"""How the names of such backups end."""

_LEVEL = 3  # most layers are compressed already
_PIECE = 1 << 20


def back_up(
    operator: Operator, settings: Settings, source: Path, file: Path, report: Report
) -> Outcome:
    """Write a backup into a file, in the place of one that is there.

    Raises BackupError, ControlError and OSError; what was there is there then.
    """
    # 1. sweeps held  2. snapshot, blobs, keys and settings written, under another name
    # 3. sweeps were held until here  4. bytes durable  5. name visible  6. name durable
    check_outside(settings, file)
    draft = file.with_name(f".{file.name}.{token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as raw:
            compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)
            with (
                compressor.stream_writer(raw, closefd=False) as stream,
                tarfile.open(fileobj=stream, mode="w|", bufsize=_PIECE) as archive,
                operator.hold(report),
            ):
                outcome = _write(archive, operator, settings, source, report)
            raw.flush()
            os.fsync(raw.fileno())
        draft.rename(file)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_folder(file.resolve().parent)
    return outcome


def _write(
    archive: tarfile.TarFile, operator: Operator, settings: Settings, source: Path, report: Report
) -> Outcome:
    store = FileStore(settings.data)
    outcome = Outcome()
    with (
        snapshot(operator, settings, report) as taken,
        Contents(taken) as contents,
        open_plain(taken) as catalogue,
    ):
        blobs, total = contents.totals()
        label = label_of(blobs, total)
        _add(archive, LABEL, io.BytesIO(label), len(label))
        _add(archive, CATALOGUE, catalogue, os.fstat(catalogue.fileno()).st_size)
        for name, path in beside_the_blobs(settings, source):
            content = path.read_bytes()
            mode = path.stat().st_mode & 0o777
            _add(archive, name, io.BytesIO(content), len(content), mode=mode)
        passed = 0

        def count(size: int) -> None:
            nonlocal passed
            passed += size
            report(Progress("backing up", passed, total, "bytes"))

        for row in contents.blobs():
            fault = _add_blob(archive, store, row, count)
            if fault is None:
                outcome.added = outcome.blobs = outcome.blobs + 1
                outcome.added_size = outcome.size = outcome.size + row.size
            else:
                outcome.lost.append(Lost(row.digest, fault, contents.images(row.digest)))
    return outcome


def _add_blob(archive: tarfile.TarFile, store: FileStore, row: BlobRow, count: Count) -> str | None:
    """Add a blob as far as it is there; say what is wrong with it."""
    digest = row.digest
    fault = fault_of_file(store.path(digest), row.size)
    if fault is not None:
        count(row.size)
        return fault
    with open_plain(store.path(digest)) as file:
        padded = _Padded(file, count)
        name = f"blobs/{digest.algorithm}/{digest.hex[:2]}/{digest.hex}"
        _add(archive, name, padded, row.size, mode=0o444)
    return padded.fault or ("it is damaged" if row.is_damaged else None)


def _add(
    archive: tarfile.TarFile, name: str, file: "SupportsRead", size: int, mode: int = 0o600
) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = size
    entry.mode = mode
    entry.mtime = int(time.time())
    archive.addfile(entry, file)


class SupportsRead(Protocol):
    """What a member of an archive is read from."""

    def read(self, size: int = -1, /) -> bytes:
        """Return so many bytes."""


class _Padded:
    """A file that goes on with zeros where it cannot be read: the archive must go on after it."""

    def __init__(self, file: BinaryIO, count: Count) -> None:
        self._file = file
        self._count = count
        self.fault: str | None = None

    def read(self, size: int = -1, /) -> bytes:
        """Return so many bytes, whatever happens."""
        content = b""
        if self.fault is None:
            try:
                content = self._file.read(size)
            except OSError as error:
                self.fault = f"its file cannot be read: {error.strerror}"
            else:
                if len(content) < size:
                    self.fault = "its file is shorter than it was"
        self._count(size)
        return content.ljust(size, b"\0")
