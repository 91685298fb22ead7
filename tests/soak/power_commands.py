"""Commands that are watched while they work: what they have said is done outlives a power cut.

Each begins with folders that are on the disk for good, and is recorded once. Whatever one wants to
know of it is worked out from that by replaying: what a cut leaves at any moment, and what it would
leave if one place in the code had never asked for its syncs.
"""

import json
import random
import shutil
import sqlite3
import sys
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import ClassVar

from appliance.backup import archive, folder, restore
from appliance.backup.parts import BackupError
from appliance.catalogue.integrity import is_whole
from appliance.catalogue.snapshots import daily
from appliance.control import ControlError, Operator
from appliance.layout import REF_NAME, Layout, LayoutError, digest_of
from appliance.oci.damage import Verified
from appliance.oci.digest import Digest
from appliance.oci.history import Restored
from appliance.rebuild import RebuildError, rebuild
from appliance.recovery import REPOSITORY
from appliance.registry.progress import unheard
from appliance.settings import SettingsError, load
from appliance.transfer import export_images
from appliance.wholeness import fault_of_folder
from tests.soak.model import Violation
from tests.soak.power_careless import TELLING, Place, left_out
from tests.soak.replay import STRACE, Disk, Step, steps
from tests.system.tools import environment, run
from tests.world import World

Tags = dict[str, str]
"""What every tag points to."""

_CHANGING = {"rename", "renameat", "renameat2", "unlink", "unlinkat", "link", "linkat", "rmdir"}
_MAIN = "from appliance.cli import main\nmain()\n"
_NO_LINKS = """
import errno, os
def link(*_, **__):
    raise OSError(errno.EXDEV, "another file system")
os.link = link
"""
# The copy is made by VACUUM INTO, of which not every version of SQLite syncs what it writes.
_DAILY = """
import sqlite3
class Old(sqlite3.Connection):
    def execute(self, query, *rest):
        if "VACUUM INTO" in query:
            super().execute("PRAGMA synchronous = OFF")
        return super().execute(query, *rest)
connect = sqlite3.connect
sqlite3.connect = lambda *args, **options: connect(*args, factory=Old, **options)
import sys, trio
from datetime import date
from pathlib import Path
from appliance.parts import DataFolder
from appliance.settings import load
source = Path(sys.argv[-1])
opened = DataFolder(load(source, {}), source)
trio.run(opened.snapshots.take_daily, date(2026, 1, 2), 1)
opened.database.close()
opened.release(stopped=True)
"""
# Its reader has ended when SQLite closes the catalogue, and not when we carry pages over before.
_CLOSING = """
import sqlite3, sys, trio
from pathlib import Path
from appliance.catalogue.seals import Seals
from appliance.parts import DataFolder
from appliance.settings import load
source = Path(sys.argv[-1])
settings = load(source, {})
opened = DataFolder(settings, source)
reader = sqlite3.connect(settings.data / "catalogue.sqlite3", isolation_level=None)
reader.execute("BEGIN")
reader.execute("SELECT count(*) FROM tag").fetchall()
trio.run(opened.database.write, lambda writer: writer.execute("UPDATE tag SET moved_at = 1"))
leave = Seals.leave
def leave_first(seals):
    leave(seals)
    reader.close()
Seals.leave = leave_first
opened.database.close()
opened.release(stopped=True)
"""
_TODAY = "catalogue-2026-01-02.sqlite3"
_PAGE = 4096
_WAL_HEADER = 32
_FRAME = 24 + _PAGE
_LAYERS = [bytes([number]) * (9_000 + number) for number in range(5)]


class Command:
    """A command, what it begins with, and what must be so after it, or after half of it."""

    program: ClassVar[str] = _MAIN

    def words(self, top: Path) -> list[str | Path]:
        """What is typed."""
        raise NotImplementedError

    def prepare(self, top: Path) -> None:
        """Make what is there before."""
        raise NotImplementedError

    def settings(self, top: Path) -> Path:
        """Where the settings are that it is given."""
        return top / "one" / "registry.toml"

    def check(self, top: Path, *, finished: bool) -> None:
        """Look at what a cut has left, and do it again where it had not finished.

        Raises AssertionError and what the product's own functions raise.
        """
        raise NotImplementedError


class Life:
    """One command that was watched, and the system calls that this led to."""

    def __init__(self, folder: Path, command: Command) -> None:
        self._folder = folder
        self._command = command
        self._top = folder / "disk"
        self._top.mkdir(parents=True)
        command.prepare(self._top)
        self._before = Disk.holding(self._top)
        trace = folder / "trace"
        program = f"{TELLING}\n{command.program}"
        words = [*command.words(self._top), "--settings", command.settings(self._top)]
        run(*STRACE, "-o", trace, sys.executable, "-c", program, *words, env=environment())
        self._steps: list[Step] = list(steps(trace))

    @property
    def end(self) -> int:
        """The moment when the command has ended."""
        return len(self._steps) - 1

    def changes(self) -> list[int]:
        """Moments right after a name has changed, or gone."""
        return [
            position
            for position, step in enumerate(self._steps)
            if step.ends
            and step.call.name in _CHANGING
            and step.call.result == 0
            and any(path.is_relative_to(self._top) for path in step.call.paths())
        ]

    def examine(
        self,
        cuts: Mapping[int, Iterable[str]],
        chance: random.Random,
        place: Place | None = None,
    ) -> None:
        """Replay it, and look at what is left by a cut at some moments, by some rules each.

        If a place in the code is named, its syncs are left out. Raises Violation.
        """
        disk = self._before.copy()
        skipped = left_out(self._steps, place)
        for position, step in enumerate(self._steps):
            if position not in skipped:
                disk.take(step)
            for rule in cuts.get(position, ()):
                self._check(disk, position, rule, chance)

    def _check(self, disk: Disk, position: int, rule: str, chance: random.Random) -> None:
        top = self._folder / "cut"
        disk.rebuild(top, rule, chance)
        try:
            self._command.check(top, finished=position == self.end)
        except (AssertionError, OSError, sqlite3.Error, *_FAILURES) as error:
            raise Violation(f"cut at step {position}, {rule}: {error!r}") from error
        finally:
            shutil.rmtree(top)


_FAILURES = (BackupError, ControlError, LayoutError, RebuildError, SettingsError)


def served(world: World) -> Tags:
    """Every tag of a registry that is opened as its operator's commands do; each image is whole."""
    found = {}
    with world.operator() as operator:
        for name in operator.ask("GET", "/v2/_catalog").document()["repositories"]:
            for tag in operator.ask("GET", f"/v2/{name}/tags/list").document()["tags"]:
                found[f"{name}:{tag}"] = _pulled(operator, name, tag)
    return found


def _is_refused(world: World) -> bool:
    """Whether a registry cannot be opened at all, or has no catalogue that could be."""
    try:
        with world.operator():
            return False
    except (ControlError, SettingsError):
        return True


def _pulled(operator: Operator, name: str, reference: str) -> str:
    content = _fetched(operator, f"/v2/{name}/manifests/{reference}")
    manifest = json.loads(content)
    for part in (manifest["config"], *manifest["layers"]):
        bytes_there = _fetched(operator, f"/v2/{name}/blobs/{part['digest']}")
        assert str(Digest.of(bytes_there)) == part["digest"], f"{part['digest']} has other bytes"
    return str(Digest.of(content))


def _fetched(operator: Operator, target: str) -> bytes:
    pieces: list[bytes] = []
    operator.fetch(target, pieces.append)
    return b"".join(pieces)


def _made(top: Path) -> World:
    world = World(top / "one")
    world.make()
    world.push("app", "1", _LAYERS[:2])
    world.push("app", "2", _LAYERS[1:3])
    return world


def _back_up(world: World, target: Path) -> None:
    made = archive.back_up if target.name.endswith(archive.SUFFIX) else folder.back_up
    with world.operator() as operator:
        assert not made(operator, world.settings, world.source, target, unheard).lost


def _restored(top: Path, place: Path, name: str) -> Tags:
    """Everything that a registry serves which is restored from a backup."""
    world = World(top / name)
    lost = restore.restore(place, world.settings, verify=True, report=unheard).lost
    assert not lost, f"the backup lacks {lost}"
    return served(world)


def _remove(world: World, tag: str) -> None:
    """Remove an image, and have what it alone needed go into quarantine."""
    digest = world.tags("app")[tag]
    world.remove(f"app/manifests/{tag}")
    world.remove(f"app/manifests/{digest}")
    for _ in range(2):
        with world.operator() as operator:
            operator.operate("gc", {}, dict)


def _quarantined(world: World) -> list[Path]:
    return list((world.data / "quarantine").iterdir())


class FirstBackup(Command):
    """A first backup into a folder on the same file system, made of links."""

    def __init__(self) -> None:
        self._tags: Tags = {}

    def prepare(self, top: Path) -> None:
        self._tags = served(_made(top))

    def words(self, top: Path) -> list[str | Path]:
        return ["backup", top / "far" / "backup"]

    def check(self, top: Path, *, finished: bool) -> None:
        target = top / "far" / "backup"
        if not finished:
            _back_up(World(top / "one"), target)
        assert _restored(top, target, "other") == self._tags, "it restores to something else"


class NextBackup(Command):
    """A backup where there is one of another day, without links."""

    program = _NO_LINKS + _MAIN
    target: ClassVar[str] = "backup"

    def __init__(self) -> None:
        self._before: Tags = {}
        self._after: Tags = {}

    def prepare(self, top: Path) -> None:
        world = _made(top)
        self._before = served(world)
        keys = world.data / "tls"
        keys.mkdir()
        (keys / "ca.crt").write_text("a certificate")
        (keys / "old.key").write_text("a key")
        _back_up(world, top / self.target)
        (keys / "old.key").unlink()
        _remove(world, "2")
        world.push("app", "3", _LAYERS[3:])
        world.push("app", "1", _LAYERS[2:4])
        self._after = served(world)

    def words(self, top: Path) -> list[str | Path]:
        return ["backup", top / self.target]

    def check(self, top: Path, *, finished: bool) -> None:
        target = top / self.target
        found = _restored(top, target, "other")
        if not finished:
            assert found in (self._before, self._after), "it restores to neither of both"
            _back_up(World(top / "one"), target)
            found = _restored(top, target, "again")
        assert found == self._after, "it restores to something else"
        keys = top / ("other" if finished else "again") / "data" / "tls"
        assert [path.name for path in keys.iterdir()] == ["ca.crt"], "it has a key that is gone"


class ArchiveBackup(NextBackup):
    """A backup in a file, in the place of one of another day."""

    program = _MAIN
    target = f"backup{archive.SUFFIX}"


class Restore(Command):
    """A backup that becomes a registry, on a machine that has none yet."""

    def __init__(self) -> None:
        self._tags: Tags = {}

    def prepare(self, top: Path) -> None:
        world = _made(top)
        _remove(world, "2")
        world.push("app", "3", _LAYERS[3:])
        self._tags = served(world)
        (world.data / "tls").mkdir()
        (world.data / "tls" / "ca.crt").write_text("a certificate")
        _back_up(world, top / "backup")
        World(top / "other")

    def words(self, top: Path) -> list[str | Path]:
        return ["restore", top / "backup"]

    def settings(self, top: Path) -> Path:
        return top / "other" / "registry.toml"

    def check(self, top: Path, *, finished: bool) -> None:
        world = World(top / "other")
        keys = world.data / "tls"
        if not finished and _is_refused(world):
            if any(world.files()) or (keys.is_dir() and any(keys.iterdir())):
                # A daemon would make a catalogue that is not there at all, and serve that.
                assert fault_of_folder(world.data), "half of it is served as an empty registry"
            _restored(top, top / "backup", "other")
        assert (keys / "ca.crt").read_text() == "a certificate", "the keys are not there"
        assert served(world) == self._tags, "what is served is not what the backup has"


class Rebuild(Command):
    """A damaged catalogue, with a journal of its own, that is made anew."""

    def __init__(self) -> None:
        self._known: Tags = {}
        self._later = ""
        self._damaged = b""

    def prepare(self, top: Path) -> None:
        world = _made(top)
        self._known = served(world)
        with world.operator() as operator:
            operator.operate("snapshot", {}, str)
        snapshots = world.data / "snapshots"
        (snapshots / "backup.sqlite3").rename(snapshots / _TODAY)
        with closing(sqlite3.connect(world.catalogue)) as reader:
            # Whoever is the last to close it removes the journal, and that is not the writer.
            reader.execute("SELECT count(*) FROM tag").fetchall()
            self._later = str(world.push("app", "3", _LAYERS[3:]))
            aside = {path: path.read_bytes() for path in world.data.glob("catalogue.sqlite3*")}
        for path, content in aside.items():
            if not path.name.endswith("-shm"):
                path.write_bytes(content)
        _damage(world.catalogue)
        self._damaged = world.catalogue.read_bytes()
        # In quarantine when the snapshot is older: it comes back.
        layer = Digest.of(_LAYERS[1])
        world.blob(layer).rename(world.data / "quarantine" / f"sha256-{layer.hex}")

    def words(self, top: Path) -> list[str | Path]:
        del top
        return ["rebuild"]

    def check(self, top: Path, *, finished: bool) -> None:
        world = World(top / "one")
        expected = {**self._known, "app:3": self._later}
        if finished:
            assert served(world) == expected, "a tag is lost"
            return
        # There is but one journal here, and it is that of the damaged catalogue.
        if world.catalogue.with_name(f"{world.catalogue.name}-wal").exists():
            found_there = world.catalogue.read_bytes() if world.catalogue.exists() else b""
            assert found_there in (b"", self._damaged), "a catalogue has the journal of another one"
        if _is_refused(world):
            rebuild(world.settings, None, unheard)
        found = served(world)
        if "app:3" not in found:  # its catalogue was aside already: the image is there, by digest
            expected.pop("app:3")
            with world.operator() as operator:
                assert _pulled(operator, REPOSITORY, self._later) == self._later
        assert found == expected, "a tag is lost"


def _damage(catalogue: Path) -> None:
    """Overwrite the first page of a table or index, one that the journal does not have as well."""
    journal = catalogue.with_name(f"{catalogue.name}-wal").read_bytes()
    held = {
        int.from_bytes(journal[start : start + 4], "big")
        for start in range(_WAL_HEADER, len(journal), _FRAME)
    }
    with closing(sqlite3.connect(f"file:{catalogue}?immutable=1", uri=True)) as connection:
        roots = {root for (root,) in connection.execute("SELECT rootpage FROM sqlite_schema")}
    page = max(roots - held)
    with catalogue.open("r+b") as file:
        file.seek((page - 1) * _PAGE)
        file.write(b"\xff" * _PAGE)


class Export(Command):
    """A layout that is written."""

    def __init__(self) -> None:
        self._tags: Tags = {}

    def prepare(self, top: Path) -> None:
        self._tags = served(_made(top))

    def words(self, top: Path) -> list[str | Path]:
        return ["export", "oci", "app", top / "far" / "layout"]

    def check(self, top: Path, *, finished: bool) -> None:
        layout = Layout(top / "far" / "layout")
        if not finished:
            with World(top / "one").operator() as operator:
                export_images(operator, "app", [], layout, unheard)
        found = {}
        for entry in layout.entries():
            manifest = json.loads(layout.read(digest_of(entry), 1 << 20))
            for part in (manifest["config"], *manifest["layers"]):
                layout.read(Digest.parse(part["digest"]), 1 << 20)
            found[f"app:{entry.annotations[REF_NAME]}"] = entry.digest
        assert found == self._tags, "the layout lacks an image"


class Undelete(Command):
    """A tag that comes back from quarantine."""

    def __init__(self) -> None:
        self._before: Tags = {}
        self._after: Tags = {}

    def prepare(self, top: Path) -> None:
        world = _made(top)
        self._after = served(world)
        _remove(world, "2")
        self._before = served(world)
        assert _quarantined(world), "nothing is in quarantine"

    def words(self, top: Path) -> list[str | Path]:
        del top
        return ["undelete", "app:2"]

    def check(self, top: Path, *, finished: bool) -> None:
        world = World(top / "one")
        if not finished:
            assert served(world) in (self._before, self._after), "it is half done"
            with world.operator() as operator:
                operator.operate("undelete", {"name": "app", "tag": "2"}, Restored)
        assert served(world) == self._after, "the tag has not come back"


class Repair(Command):
    """A blob whose bytes are not right, and that a backup has."""

    def __init__(self) -> None:
        self._tags: Tags = {}

    def prepare(self, top: Path) -> None:
        world = _made(top)
        self._tags = served(world)
        # Copies: a link to the file that is to be damaged would be damaged with it.
        shutil.copytree(world.data / "blobs", top / "source" / "blobs")
        path = world.blob(Digest.of(_LAYERS[0]))
        path.chmod(0o644)
        path.write_bytes(b"\xff" * path.stat().st_size)
        self._with_source(top)

    def words(self, top: Path) -> list[str | Path]:
        del top
        return ["verify", "--repair"]

    def check(self, top: Path, *, finished: bool) -> None:
        world = self._with_source(top)
        if not finished:
            with world.operator() as operator:
                found = operator.operate("verify", {"rate": "0", "repair": ""}, Verified)
            assert not found.counts.get("damaged"), found
        assert served(world) == self._tags, "the blob is not whole"

    @staticmethod
    def _with_source(top: Path) -> World:
        world = World(top / "one")
        with world.source.open("a") as file:
            file.write(f"[verify]\nsources = [{json.dumps(str(top / 'source'))}]\n")
        world.settings = load(world.source, {})
        return world


class Daily(Command):
    """The snapshot of a day, which takes the place of the one of another day."""

    program = _DAILY

    def prepare(self, top: Path) -> None:
        world = _made(top)
        with world.operator() as operator:
            operator.operate("snapshot", {}, str)
        snapshots = world.data / "snapshots"
        (snapshots / "backup.sqlite3").rename(snapshots / "catalogue-2026-01-01.sqlite3")

    def words(self, top: Path) -> list[str | Path]:
        del top
        return []

    def check(self, top: Path, *, finished: bool) -> None:
        found = daily(top / "one" / "data" / "snapshots")
        assert found, "no snapshot is there"
        assert is_whole(found[0]), "the newest snapshot is not whole"
        assert not finished or found[0].name == _TODAY, "the snapshot is that of another day"


class Closing(Command):
    """The end of a program, with a reader that has kept pages in the journal until then."""

    program = _CLOSING

    def __init__(self) -> None:
        self._tags: Tags = {}

    def prepare(self, top: Path) -> None:
        self._tags = served(_made(top))

    def words(self, top: Path) -> list[str | Path]:
        del top
        return []

    def check(self, top: Path, *, finished: bool) -> None:
        del finished
        assert served(World(top / "one")) == self._tags, "a tag is lost"


# For each place that asks for a sync: which command's recording shows that, and what is found where
# that has ended. Those with rules are found in the midst of it, by these rules of what a cut leaves.
LOSSES: dict[str, tuple[type[Command], tuple[str, ...], str]] = {
    "backup/archive.py back_up: fsync": (ArchiveBackup, (), "no backup"),
    "backup/archive.py back_up: sync_folder": (ArchiveBackup, (), "something else"),
    "backup/copying.py copy_file: fsync": (NextBackup, (), "something else"),
    "backup/folder.py _Blobs.bring: sync_folder": (FirstBackup, (), "the backup lacks"),
    "backup/folder.py _bring_beside: sync_folder": (NextBackup, (), "a key that is gone"),
    "backup/restore.py _write: fsync": (Restore, (), "went while"),
    "backup/restore.py _write: sync_folder": (Restore, (), "went while"),
    "backup/restore.py restore: sync_folder #2": (Restore, (), "restored by half"),
    "catalogue/contents.py revised: fsync": (Rebuild, (), "is missing"),
    "catalogue/seals.py Seals.forget: fsync": (Closing, ("chance",) * 60, "not what was written"),
    "catalogue/snapshots.py _finish: fsync": (Daily, (), "not whole"),
    "catalogue/snapshots.py _finish: sync_folder": (Daily, (), "of another day"),
    "layout.py Layout.writing: fsync": (Export, (), "is damaged"),
    "layout.py Layout.writing: sync_folder": (Export, (), "lacks"),
    "rebuild.py rebuild: sync_folder": (Rebuild, (), "is missing"),
    "rebuild.py _Files._bring_back: sync_folder": (Rebuild, (), "went while"),
    "remains.py put_aside: sync_folder": (Rebuild, ("lingering",), "journal of another one"),
    "storage/files.py FileStore._bring_back: sync_folder": (Undelete, (), "went while"),
}
# Without these nothing is lost, and why they are there all the same.
NO_LOSSES: dict[str, type[Command]] = {
    # The label is put into the same folder next, and that is synced then. Before that, the label of
    # a backup could be there, and its catalogue not yet: it would tell of the wrong day.
    "backup/folder.py back_up: sync_folder": NextBackup,
    # The marker goes next, and the sync of that covers this. In between, what might have no
    # catalogue and no marker any more would be refused all the same, for the blobs that it has.
    "backup/restore.py restore: sync_folder": Restore,
}

COMMANDS: tuple[type[Command], ...] = (
    FirstBackup,
    NextBackup,
    ArchiveBackup,
    Restore,
    Rebuild,
    Export,
    Undelete,
    Repair,
    Daily,
    Closing,
)
"""All that are watched."""
