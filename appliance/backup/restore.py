"""Restoring a backup: copies of it into a data folder that has no catalogue, or half of one.

What is restored shares no file with the backup. While it goes on, the folder has a marker that
keeps it from being served; whoever restores once more goes on where it ended.
"""

import os
from pathlib import Path
from secrets import token_hex

from appliance.backup.copying import Count
from appliance.backup.parts import ETC, TLS, BackupError, Outcome
from appliance.backup.reading import BrokenOffError, Member, UnreadableError, members
from appliance.catalogue.contents import BlobRow, Contents, Lost, begin_anew, mark, revised
from appliance.catalogue.integrity import fault_of
from appliance.catalogue.schema import SchemaTooNewError
from appliance.durable import make_folder, replace_file, sync_folder
from appliance.oci.digest import Digest, new_hasher
from appliance.oci.errors import RegistryError
from appliance.owner import acting_as
from appliance.registry.progress import Progress, Report
from appliance.remains import DRAFT, put_aside, quarantined, taken_over
from appliance.settings import Settings
from appliance.storage.files import FileStore
from appliance.wholeness import CATALOGUE, MARKER

_PIECE = 1 << 20
_TLS_MAX = 1 << 20


def restore(place: Path, settings: Settings, *, verify: bool, report: Report) -> Outcome:
    """Copy a backup into the data folder.

    Raises BackupError and OSError; what is in the folder by then is used when this is asked again.
    """
    # 1. catalogue durable under another name  2. marker durable: nobody serves this  3. keys and
    # blobs durable, each whole before it is visible  4. the catalogue says which of them came
    # 5. what a catalogue before it left is aside  6. catalogue visible, durable  7. marker gone
    data = settings.data
    make_folder(data, mode=0o700)
    owner = data.stat()
    with taken_over(data, owner):
        if (data / CATALOGUE).exists() and not (data / MARKER).exists():
            raise BackupError(
                f"{data / CATALOGUE} is there; to have the backup in its place, stop the registry"
                f" and move it away: mkdir {data}/old && mv {data}/catalogue.* {data}/old"
            )
        inside = _Restored(place, data, owner, verify=verify, report=report)
        inside.bring()
        with acting_as(owner):
            inside.settle()
            put_aside(data / CATALOGUE)
            (data / DRAFT).rename(data / CATALOGUE)
            sync_folder(data)
            (data / MARKER).unlink()
            sync_folder(data)
    return inside.outcome


def _uncounted(size: int) -> None:
    """Count nothing."""


class _Restored:
    """What of a backup is in the data folder."""

    def __init__(
        self, place: Path, data: Path, owner: os.stat_result, *, verify: bool, report: Report
    ) -> None:
        self._place = place
        self._data = data
        self._owner = owner
        self._verify = verify
        self._report = report
        self._store = FileStore(data)
        self._here: set[Digest] = set()
        self._wrong: dict[Digest, str] = {}
        self._contents: Contents | None = None
        self._passed = 0
        self._total = 0
        self.outcome = Outcome()

    def bring(self) -> None:
        """Bring everything, the catalogue under another name; raises BackupError."""
        try:
            for member in members(self._place):
                self._bring(member)
        except UnreadableError as error:
            if self._contents is None or not isinstance(error, BrokenOffError):
                raise BackupError(f"{self._place} cannot be read: {error}") from error
        finally:
            if self._contents is not None:
                self._contents.__exit__()
        if self._contents is None:
            raise BackupError(f"{self._place} has no {CATALOGUE}")

    def _bring(self, member: Member) -> None:
        first, _, rest = member.name.partition("/")
        if member.name == CATALOGUE and self._contents is None:
            self._bring_catalogue(member)
        elif self._contents is None:
            raise BackupError(f"{self._place} does not begin with {CATALOGUE}")
        elif first == TLS and rest and "/" not in rest and not rest.startswith("."):
            content = member.read(_TLS_MAX)
            with acting_as(self._owner):
                make_folder(self._data / TLS, mode=0o700)
                replace_file(self._data / member.name, content, mode=member.mode)
        elif first == "blobs":
            row = self._row(self._contents, rest)
            if row is not None and row.digest not in self._here:
                self._bring_blob(row, member)
        elif first != ETC:
            raise BackupError(f"{self._place} holds {member.name}, which no backup does")

    def _bring_catalogue(self, member: Member) -> None:
        draft = self._data / DRAFT
        with acting_as(self._owner):
            self._store.prepare()
            _write(member, draft, mode=0o600)
            try:
                fault = fault_of(draft)
                if fault is None:
                    with revised(draft):  # today's tables
                        pass
            except SchemaTooNewError:
                raise BackupError(
                    f"{self._place} was written by a later version of this program; install that"
                    " version"
                ) from None
        if fault is not None:
            raise BackupError(f"the catalogue in {self._place} is damaged: {fault}")
        with acting_as(self._owner):
            replace_file(self._data / MARKER, os.fsencode(self._place.resolve()), mode=0o600)
        self._contents = Contents(draft)
        _, self._total = self._contents.totals()

    @staticmethod
    def _row(contents: Contents, path: str) -> BlobRow | None:
        algorithm, _, name = path.partition("/")
        try:
            return contents.find(Digest.parse(f"{algorithm}:{name.rpartition('/')[2]}"))
        except RegistryError:
            return None

    def _bring_blob(self, row: BlobRow, member: Member) -> None:
        path = self._store.path(row.digest)
        before = self._passed
        with acting_as(self._owner):
            if self._is_here(path, row):
                is_right, is_new = True, False
            elif member.size != row.size:
                self._wrong[row.digest] = f"its file has {member.size} bytes instead of {row.size}"
                is_right = is_new = False
            else:
                is_right = is_new = self._copy(row, member, path)
        self._passed = before + row.size
        self._count(0)
        if is_right:
            self._here.add(row.digest)
            self.outcome.blobs += 1
            self.outcome.size += row.size
            self.outcome.added += is_new
            self.outcome.added_size += row.size * is_new

    def _copy(self, row: BlobRow, member: Member, path: Path) -> bool:
        digest = row.digest if self._verify or row.is_damaged else None
        try:
            if _write(member, path, mode=0o444, digest=digest, count=self._count):
                return True
            self._wrong[row.digest] = "its bytes are others"
        except BrokenOffError:
            raise
        except UnreadableError as error:
            self._wrong[row.digest] = f"its file cannot be read: {error}"
        return False

    def _is_here(self, path: Path, row: BlobRow) -> bool:
        try:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_size != row.size:
                    return False
                hasher = new_hasher(row.digest.algorithm)
                while self._verify and (piece := file.read(_PIECE)):
                    hasher.update(piece)
        except FileNotFoundError:
            return False
        return not self._verify or hasher.hexdigest() == row.digest.hex

    def _count(self, size: int) -> None:
        self._passed += size
        self._report(Progress("restoring", self._passed, self._total, "bytes"))

    def settle(self) -> None:
        """Have the catalogue say which blobs came; manifests that it holds itself are written."""
        draft = self._data / DRAFT
        mended, lost = [], []
        with Contents(draft) as contents:
            for row in contents.blobs():
                if row.digest in self._here:
                    mended += [row.digest] if row.is_damaged else []
                    continue
                content = contents.content(row.digest)
                if content is not None:
                    replace_file(self._store.path(row.digest), content, mode=0o444)
                    mended.append(row.digest)
                    self.outcome.blobs += 1
                    self.outcome.size += row.size
                else:
                    reason = self._wrong.get(row.digest, "it is not in the backup")
                    lost.append(Lost(row.digest, reason, contents.images(row.digest)))
        with revised(draft) as connection:
            mark(connection, [one.digest for one in lost], damaged=True)
            mark(connection, mended, damaged=False)
            begin_anew(connection, quarantined(self._data))
        self.outcome.lost = lost


def _write(
    member: Member,
    path: Path,
    *,
    mode: int,
    digest: Digest | None = None,
    count: Count = _uncounted,
) -> bool:
    """Write a file, which is there once it is durable; or nothing where its digest is another."""
    # 1. bytes durable under another name, and right  2. name visible  3. name durable
    draft = path.with_name(f".{path.name}.{token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    hasher = new_hasher(digest.algorithm) if digest else None
    try:
        with os.fdopen(descriptor, "wb") as file:
            while piece := member.read(_PIECE):
                file.write(piece)
                if hasher is not None:
                    hasher.update(piece)
                count(len(piece))
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        if digest is not None and hasher is not None and hasher.hexdigest() != digest.hex:
            draft.unlink()
            return False
        draft.rename(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
    return True
