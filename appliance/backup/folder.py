"""A backup in a folder, which is whole at every moment, and grows by what is new.

Where folder and registry are on one file system the blobs are links to the same files, for which
reason nothing but their names is ever touched here: neither mode nor owner. Elsewhere they are
copies. What an earlier backup needed alone goes after the new one is in place.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

from appliance.backup.copying import Count, copy_file, open_plain
from appliance.backup.parts import (
    ETC,
    LABEL,
    TLS,
    UNMADE,
    BackupError,
    Outcome,
    beside_the_blobs,
    check_outside,
    label_of,
    read_label,
    snapshot,
)
from appliance.catalogue.contents import BlobRow, Contents, Lost, fault_of_file
from appliance.control import Operator
from appliance.durable import make_folder, replace_file, sync_folder
from appliance.oci.digest import ALGORITHMS, Digest
from appliance.oci.errors import RegistryError
from appliance.registry.progress import Progress, Report
from appliance.remains import DRAFT
from appliance.settings import Settings
from appliance.storage.files import FileStore
from appliance.wholeness import CATALOGUE

_CANNOT_LINK = {errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES}


def back_up(
    operator: Operator, settings: Settings, source: Path, folder: Path, report: Report
) -> Outcome:
    """Make a backup in a folder, or bring the one there up to date.

    Raises BackupError, ControlError and OSError; the backup that was there is whole then.
    """
    # 1. sweeps held  2. snapshot durable in the folder, under another name  3. its blobs durable
    # 4. sweeps were held until here  5. keys and settings durable  6. snapshot visible, durable:
    # this is the backup from now on  7. label  8. what only the one before needed is removed
    check_outside(settings, folder)
    with _begun(folder):
        draft = folder / DRAFT
        with operator.hold(report):
            with snapshot(operator, settings, report) as taken, open_plain(taken) as file:
                copy_file(file, draft, mode=0o600, count=lambda size: None)
            with Contents(draft) as contents:
                outcome = _Blobs(settings.data, folder, report).bring(contents)
        _bring_beside(settings, source, folder)
        draft.rename(folder / CATALOGUE)
        sync_folder(folder)
        replace_file(folder / LABEL, label_of(outcome.blobs, outcome.size), mode=0o600)
        with Contents(folder / CATALOGUE) as contents:
            _clear(folder, contents)
    return outcome


@contextmanager
def _begun(folder: Path) -> Iterator[None]:
    """Have a folder for a backup, and nobody else write into it; raises BackupError."""
    if folder.exists() and not folder.is_dir():
        raise BackupError(
            f"{folder} is a file; name a folder, or a file that ends in .tar.zst and will be"
            " written anew"
        )
    make_folder(folder, mode=0o700)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BackupError(f"another backup is being made in {folder}; wait for it") from None
        except OSError:
            pass  # some file systems have no locks for folders
        label = folder / LABEL
        if label.exists():
            read_label(label.read_bytes(), folder)
        elif not all(map(_is_nothing, folder.iterdir())):
            raise BackupError(
                f"{folder} is neither empty nor a backup of this program; name another one"
            )
        else:
            folder.chmod(0o700)
            replace_file(label, UNMADE, mode=0o600)
        yield
    finally:
        os.close(descriptor)


def _is_nothing(path: Path) -> bool:
    """Tell what may be in an empty folder: what file systems put there, and a label's draft."""
    return path.name == "lost+found" or path.name.startswith(f".{LABEL}.")


class _Blobs:
    """Brings blobs from a data folder into a backup."""

    def __init__(self, data: Path, folder: Path, report: Report) -> None:
        self._from = FileStore(data)
        self._to = FileStore(folder)
        self._folder = folder
        self._report = report
        self._links = True
        self._shelves: set[Path] = set()
        self._outcome = Outcome()

    def bring(self, contents: Contents) -> Outcome:
        """Have every blob in the backup, durable; those that cannot be had are listed."""
        outcome = self._outcome
        for name in ("blobs", *(f"blobs/{algorithm}" for algorithm in ALGORITHMS)):
            make_folder(self._folder / name, mode=0o700)
        _, total = contents.totals()
        passed = 0
        for row in contents.blobs():
            start = passed

            def count(size: int, start: int = start) -> None:
                nonlocal passed
                passed += size
                self._report(Progress("backing up", passed, total, "bytes"))

            fault = self._fault(row) or self._bring(row, count)
            passed = start + row.size
            count(0)
            if fault is None:
                outcome.blobs += 1
                outcome.size += row.size
            else:
                outcome.lost.append(Lost(row.digest, fault, contents.images(row.digest)))
        for shelf in self._shelves:
            sync_folder(shelf)
        return outcome

    def _fault(self, row: BlobRow) -> str | None:
        """Say what is wrong with a blob as the registry has it."""
        fault = fault_of_file(self._from.path(row.digest), row.size)
        if fault is None and row.is_damaged:
            fault = "it is damaged"
        if fault is not None and fault_of_file(self._to.path(row.digest), row.size) is None:
            return f"{fault}, but an earlier backup has it"
        return fault

    def _bring(self, row: BlobRow, count: Count) -> str | None:
        """Have a blob in the backup; say what is wrong where it cannot be read."""
        path, target = self._from.path(row.digest), self._to.path(row.digest)
        with suppress(FileNotFoundError):
            if target.lstat().st_size == row.size:
                return None
        if target.parent not in self._shelves:
            make_folder(target.parent, mode=0o700)
            self._shelves.add(target.parent)
        if not (self._links and self._link(path, target)):
            try:
                with open_plain(path) as file:
                    copy_file(file, target, mode=0o444, count=count)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                return f"its file cannot be read: {error.strerror}"
        self._outcome.added += 1
        self._outcome.added_size += row.size
        return None

    def _link(self, path: Path, target: Path) -> bool:
        draft = target.with_name(f".{target.name}.{token_hex(8)}")
        try:
            os.link(path, draft, follow_symlinks=False)
        except OSError as error:
            if error.errno == errno.EMLINK:  # this one has as many names as it can
                return False
            if error.errno not in _CANNOT_LINK:
                raise
            self._links = False
            return False
        draft.rename(target)
        return True


def _bring_beside(settings: Settings, source: Path, folder: Path) -> None:
    wanted = dict(beside_the_blobs(settings, source))
    for place in (TLS, ETC):
        make_folder(folder / place, mode=0o700)
    for name, path in wanted.items():
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            replace_file(folder / name, file.read(), mode=stat.S_IMODE(found.st_mode))
        os.chown(folder / name, *_owner(found))
    for place in (TLS, ETC):
        for path in (folder / place).iterdir():
            if f"{place}/{path.name}" not in wanted:
                path.unlink()
        sync_folder(folder / place)


def _owner(found: os.stat_result) -> tuple[int, int]:
    """Whose the copy is to be: root keeps it as it was, for others it is their own."""
    return (found.st_uid, found.st_gid) if os.geteuid() == 0 else (-1, -1)


def _clear(folder: Path, contents: Contents) -> None:
    """Remove what the catalogue does not name, and what an interrupted backup left."""
    for left in folder.glob(f".{LABEL}.*"):
        left.unlink()
    for algorithm in ALGORITHMS:
        for top, _, names in os.walk(folder / "blobs" / algorithm):
            for name in names:
                if not _is_named(contents, algorithm, name):
                    (Path(top) / name).unlink()


def _is_named(contents: Contents, algorithm: str, name: str) -> bool:
    try:
        digest = Digest.parse(f"{algorithm}:{name}")
    except RegistryError:
        return False
    return contents.find(digest) is not None
