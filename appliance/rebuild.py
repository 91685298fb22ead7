"""A catalogue made anew, out of a snapshot and the files of blobs, where the last one is damaged.

What is known comes from the newest whole snapshot. What came after it is found among the files: a
manifest says itself which blobs it needs. Which repository and tag it had, nobody knows, unless the
damaged catalogue can still be read there.
"""

import os
import shutil
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from appliance.catalogue.contents import (
    Contents,
    Lost,
    begin_anew,
    fault_of_file,
    mark,
    revised,
)
from appliance.catalogue.integrity import fault_of, is_whole
from appliance.catalogue.salvage import SavedTag, damage_of, saved_tags
from appliance.catalogue.snapshots import FOLDER, daily
from appliance.durable import replace_file, sync_folder
from appliance.oci.digest import ALGORITHMS, Digest, new_hasher
from appliance.oci.errors import RegistryError
from appliance.owner import acting_as
from appliance.recovery import Recovery
from appliance.registry.progress import Progress, Report
from appliance.remains import DRAFT, put_aside, quarantined, taken_over
from appliance.settings import Settings
from appliance.storage.files import FileStore
from appliance.wholeness import CATALOGUE, MARKER, is_missing

_PIECE = 1 << 20


class RebuildError(Exception):
    """A catalogue that cannot be made anew: one sentence, without its final stop."""


@dataclass(slots=True)
class Rebuilt:
    """What the catalogue was made of."""

    basis: Path | None = None
    """The snapshot it goes back to; None where there was none."""
    aside: Path | None = None
    """Where the damaged catalogue is now."""
    blobs: int = 0
    """Blobs that are known and here."""
    brought_back: int = 0
    """Blobs that were in quarantine, or in the catalogue alone."""
    lost: list[Lost] = field(default_factory=list)
    tags: list[SavedTag] = field(default_factory=list)
    """Tags out of the damaged catalogue."""
    manifests: int = 0
    """Manifests whose repository nobody knows."""
    tops: list[Digest] = field(default_factory=list)
    """Those of them that no index among them lists."""
    left: int = 0
    """Files that are whole and that nothing needs."""
    left_size: int = 0
    wrong: list[Path] = field(default_factory=list)
    """Files whose bytes are not those of their name."""


def rebuild(settings: Settings, basis: Path | None, report: Report) -> Rebuilt:
    """Make the catalogue of a stopped registry anew, out of a snapshot or what is named instead.

    Raises RebuildError, BusyError, SchemaTooNewError and OSError; nothing has changed then, but
    that blobs the snapshot knows may have come back from quarantine.
    """
    # 1. snapshot's rows in a draft beside the catalogue  2. what is known of the files noted there
    # 3. draft durable  4. damaged catalogue aside, durable  5. draft visible  6. durable
    data = settings.data
    path, draft = data / CATALOGUE, data / DRAFT
    owner = data.stat()
    with taken_over(data, owner):
        _check_needed(data, owner)
        if basis is not None and basis.is_dir():
            basis = basis / CATALOGUE
        chosen = _chosen(data, basis)
        rebuilt = Rebuilt(basis=chosen)
        opened = chosen.open("rb") if chosen else None
        with acting_as(owner):
            FileStore(data).prepare()
            _begin(draft, opened)
            _fill(data, draft, rebuilt, report)
            rebuilt.aside = put_aside(path)
            draft.rename(path)
            sync_folder(data)
    return rebuilt


def _check_needed(data: Path, owner: os.stat_result) -> None:
    if (data / MARKER).exists():
        raise RebuildError(
            f"{data} is restored by half; go on with that, or remove {data / MARKER} to have a"
            " catalogue made of what is there"
        )
    path = data / CATALOGUE
    if not is_missing(path):
        with acting_as(owner):
            if damage_of(path) is None:
                raise RebuildError(
                    f"{path} is whole, and there is nothing to make anew; registry verify looks at"
                    " the blobs"
                )


def _chosen(data: Path, basis: Path | None) -> Path | None:
    if basis is None:
        return next(filter(is_whole, daily(data / FOLDER)), None)
    fault = fault_of(basis)
    if fault is not None:
        raise RebuildError(f"{basis} is damaged itself: {fault}")
    return basis


def _begin(draft: Path, opened: BinaryIO | None) -> None:
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        if opened is not None:
            with opened:
                shutil.copyfileobj(opened, file, _PIECE)
    with revised(draft):  # today's tables
        pass


def _fill(data: Path, draft: Path, rebuilt: Rebuilt, report: Report) -> None:
    files = _Files(data, rebuilt, report)
    with Contents(draft) as contents:
        files.look_at_known(contents)
        strays = files.whole_strays(contents)
    with revised(draft) as connection:
        mark(connection, [one.digest for one in rebuilt.lost], damaged=True)
        mark(connection, files.mended, damaged=False)
        recovery = Recovery(connection, files.store, strays)
        report(Progress("putting manifests into repositories", 0))
        for tag in saved_tags(data / CATALOGUE):
            if recovery.restore_tag(tag):
                rebuilt.tags.append(tag)
        rebuilt.tops = recovery.recover()
        rebuilt.manifests = recovery.manifests
        ((rebuilt.blobs,),) = connection.execute("SELECT count(*) FROM blob WHERE damaged = 0")
        left = [digest for digest in strays if recovery.is_left(digest)]
        rebuilt.left, rebuilt.left_size = len(left), sum(strays[digest] for digest in left)
        _settle(connection, data)


def _settle(connection: sqlite3.Connection, data: Path) -> None:
    begin_anew(connection, quarantined(data))
    # What was away and has been found is not in quarantine any more.
    connection.execute("DELETE FROM quarantine WHERE digest IN (SELECT digest FROM blob)")


class _Files:
    """The files of a data folder, against what a snapshot knows of them."""

    def __init__(self, data: Path, rebuilt: Rebuilt, report: Report) -> None:
        self.store = FileStore(data)
        self.mended: list[Digest] = []
        self._data = data
        self._rebuilt = rebuilt
        self._report = report

    def look_at_known(self, contents: Contents) -> None:
        """Note which of the blobs that are known are here; their bytes are not read."""
        total, _ = contents.totals()
        for number, row in enumerate(contents.blobs(), start=1):
            path = self.store.path(row.digest)
            fault = fault_of_file(path, row.size)
            if fault is not None and self._bring_back(row.digest, row.size, path, contents):
                fault = None
                self._rebuilt.brought_back += 1
                self.mended.append(row.digest)
            elif fault is None and row.is_damaged:
                fault = "it is damaged"
            if fault is not None:
                self._rebuilt.lost.append(Lost(row.digest, fault, contents.images(row.digest)))
            self._report(Progress("looking for the blobs", number, total, "blobs"))

    def _bring_back(self, digest: Digest, size: int, path: Path, contents: Contents) -> bool:
        """Have a blob's file again, from quarantine or out of the catalogue."""
        away = self._data / "quarantine" / f"{digest.algorithm}-{digest.hex}"
        if fault_of_file(away, size) is None:
            away.rename(path)
            sync_folder(path.parent)
            return True
        content = contents.content(digest)
        if content is None:
            return False
        replace_file(path, content, mode=0o444)
        return True

    def whole_strays(self, contents: Contents) -> dict[Digest, int]:
        """Read the files that are not known; return those that are whole, and their sizes."""
        strays = []
        for algorithm in ALGORITHMS:
            for top, _, names in os.walk(self._data / "blobs" / algorithm):
                for name in names:
                    digest = _digest(algorithm, name)
                    if digest is not None and contents.find(digest) is None:
                        path = Path(top, name)
                        strays.append((digest, path, path.lstat().st_size))
        total, done = sum(size for _, _, size in strays), 0
        whole = {}
        for digest, path, size in strays:
            hasher = new_hasher(digest.algorithm)
            try:
                with path.open("rb") as file:
                    while piece := file.read(_PIECE):
                        hasher.update(piece)
                        done += len(piece)
                        self._report(Progress("reading files", done, total, "bytes"))
            except OSError:
                pass  # what was read has another digest
            if hasher.hexdigest() == digest.hex and path == self.store.path(digest):
                whole[digest] = size
            else:
                self._rebuilt.wrong.append(path)
        return whole


def _digest(algorithm: str, name: str) -> Digest | None:
    try:
        return Digest.parse(f"{algorithm}:{name}")
    except RegistryError:
        return None
