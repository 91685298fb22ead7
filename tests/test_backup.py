"""Backups of a registry that is stopped: what is in them, what they leave alone, what comes back."""

import errno
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import zstandard

from appliance.backup import archive, folder, restore
from appliance.backup.parts import LABEL, BackupError, Outcome
from appliance.backup.reading import Member
from appliance.catalogue.snapshots import Snapshots
from appliance.control import ControlError
from appliance.lock import FolderLock
from appliance.oci.digest import Digest
from appliance.oci.errors import STORE_FULL
from appliance.registry.progress import Progress, unheard
from appliance.remains import BusyError
from appliance.settings import SettingsError, load
from appliance.wholeness import MARKER
from tests.world import INDEX, World, image_of, index_of

ONE, TWO, THREE = (bytes([number]) * (100_000 + number) for number in (1, 2, 3))


@pytest.fixture
def world(tmp_path: Path) -> World:
    found = World(tmp_path / "one")
    found.make()
    found.push("team/app", "1", [ONE, TWO])
    found.push("team/app", "2", [TWO, THREE])
    return found


@pytest.fixture
def other(tmp_path: Path) -> World:
    return World(tmp_path / "other")


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A folder on another file system."""
    with TemporaryDirectory(dir="/dev/shm") as made:
        yield Path(made)


def save(world: World, target: Path) -> Outcome:
    made = archive.back_up if target.name.endswith(".zst") else folder.back_up
    with world.operator() as operator:
        return made(operator, world.settings, world.source, target, unheard)


def bring_back(world: World, place: Path, *, verify: bool = True) -> Outcome:
    return restore.restore(place, world.settings, verify=verify, report=unheard)


def state(paths: set[Path]) -> dict[Path, tuple[int, int, int, int]]:
    """What must not change of files: inode, mode, owner, group."""
    found = {path: path.stat() for path in paths}
    return {path: (one.st_ino, one.st_mode, one.st_uid, one.st_gid) for path, one in found.items()}


def held(place: Path) -> set[str]:
    return {path.name for path in (place / "blobs").rglob("*") if path.is_file()}


def flip(path: Path) -> None:
    """Change a byte of a file that may have other names, under this one alone."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    path.write_bytes(content)


# --- making one


def test_a_backup_in_a_folder_holds_everything_and_links_it(world: World, tmp_path: Path) -> None:
    before = state(world.files())
    keys = world.data / "tls"
    keys.mkdir()
    (keys / "ca.key").write_text("secret")
    (keys / "ca.key").chmod(0o600)
    (keys / "ca.crt").write_text("public")
    (keys / "ca.crt").chmod(0o644)
    target = tmp_path / "backup"
    made = save(world, target)
    size = sum(path.stat().st_size for path in world.files())
    assert (made.blobs, made.size, made.lost) == (len(before), size, [])
    assert (made.added, made.added_size) == (made.blobs, made.size)
    assert held(target) == held(world.data)
    for path, (inode, *_) in before.items():
        assert (target / path.relative_to(world.data)).stat().st_ino == inode
    assert state(world.files()) == before
    assert stat.S_IMODE(target.stat().st_mode) == 0o700
    for name, mode in (("tls/ca.key", 0o600), ("tls/ca.crt", 0o644), ("catalogue.sqlite3", 0o600)):
        assert stat.S_IMODE((target / name).stat().st_mode) == mode
    assert (target / "etc" / "registry.htpasswd").read_text() == "somebody:hash\n"
    assert (target / "etc" / "registry.toml").read_text() == world.source.read_text()
    label = json.loads((target / LABEL).read_bytes())
    assert (label["format"], label["blobs"], label["size"]) == (1, made.blobs, made.size)
    assert label["made_at"]
    assert os.listdir(world.data / "snapshots") == []  # noqa: PTH208


def test_the_next_one_adds_what_is_new_and_removes_what_nothing_needs(
    world: World, tmp_path: Path
) -> None:
    target = tmp_path / "backup"
    save(world, target)
    again = save(world, target)
    assert (again.added, again.added_size, again.lost) == (0, 0, [])
    added = world.push("team/app", "3", [ONE, b"new"])
    world.remove("team/app/manifests/2")
    with world.operator() as operator:  # its layer and manifest are garbage now, and go
        operator.ask("DELETE", f"/v2/team/app/manifests/{Digest.of(image_of([TWO, THREE]))}")
        operator.ask("DELETE", f"/v2/team/app/blobs/{Digest.of(THREE)}").document()
        operator.operate("gc", {}, dict)
    before = state(world.files())
    third = save(world, target)
    assert third.added == 2
    assert third.added_size == len(b"new") + world.blob(added).stat().st_size
    assert held(target) == {path.name for path in world.files()}
    assert Digest.of(THREE).hex not in held(target)
    assert state(world.files()) == before
    quarantined = world.data / "quarantine" / f"sha256-{Digest.of(THREE).hex}"
    assert stat.S_IMODE(quarantined.stat().st_mode) == 0o444


def test_on_another_file_system_blobs_are_copied(world: World, elsewhere: Path) -> None:
    target = elsewhere / "backup"
    assert save(world, target).lost == []
    for path in world.files():
        copied = target / path.relative_to(world.data)
        assert copied.read_bytes() == path.read_bytes()
        assert stat.S_IMODE(copied.stat().st_mode) == 0o444
        assert copied.stat().st_nlink == path.stat().st_nlink == 1
    assert save(world, target).added == 0


@pytest.mark.parametrize("number", [errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP])
def test_where_links_cannot_be_made_blobs_are_copied(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.link", refuse)
    monkeypatch.setattr(
        "os.copy_file_range", refuse if number != errno.EMLINK else os.copy_file_range
    )
    save(world, tmp_path / "backup")
    for path in world.files():
        copied = tmp_path / "backup" / path.relative_to(world.data)
        assert copied.read_bytes() == path.read_bytes()
        assert path.stat().st_nlink == 1


def test_progress_is_told_in_bytes_up_to_all_of_them(world: World, elsewhere: Path) -> None:
    for target in (elsewhere / "backup", elsewhere / "backup.tar.zst"):
        heard: list[Progress] = []
        made = archive.back_up if target.suffix else folder.back_up
        with world.operator() as operator:
            size = made(operator, world.settings, world.source, target, heard.append).size
        told = [one for one in heard if one.doing == "backing up"]
        assert {(one.total, one.unit) for one in told} == {(size, "bytes")}
        assert [one.done for one in told] == sorted(one.done for one in told)
        assert told[-1].done == size


def test_damaged_and_missing_blobs_are_listed_and_the_rest_is_saved(
    world: World, other: World, tmp_path: Path
) -> None:
    target = tmp_path / "backup"
    world.blob(Digest.of(ONE)).unlink()
    flip(world.blob(Digest.of(THREE)))
    with world.blob(Digest.of(THREE)).open("ab") as file:
        file.write(b"more")
    for place in (target, tmp_path / "backup.tar.zst"):
        made = save(world, place)
        assert {(one.digest, one.reason, *one.images) for one in made.lost} == {
            (Digest.of(ONE), "its file is missing", "team/app:1"),
            (
                Digest.of(THREE),
                f"its file has {len(THREE) + 4} bytes instead of {len(THREE)}",
                "team/app:2",
            ),
        }
    found = bring_back(other, target)
    assert {(one.digest, *one.images) for one in found.lost} == {
        (Digest.of(ONE), "team/app:1"),
        (Digest.of(THREE), "team/app:2"),
    }
    with pytest.raises(ControlError, match="unknown"):
        other.pull("team/app", "1")
    other.push("team/app", "1", [ONE, TWO])
    other.pull("team/app", "1")


def test_what_an_earlier_backup_has_is_kept_while_the_registry_lacks_it(
    world: World, other: World, elsewhere: Path
) -> None:
    target = elsewhere / "backup"
    save(world, target)
    world.blob(Digest.of(ONE)).unlink()
    (lost,) = save(world, target).lost
    assert lost.reason == "its file is missing, but an earlier backup has it"
    assert bring_back(other, target).lost == []
    other.pull("team/app", "1")


@pytest.mark.parametrize("target", ["", "deep/er", "..", "../.."])
def test_no_backup_lies_in_the_data_folder_or_around_it(world: World, target: str) -> None:
    for place in (world.data / target, world.data / target / "b.tar.zst"):
        if place.suffix and target.startswith(".."):
            continue
        with pytest.raises(BackupError, match="lie in one another"):
            save(world, place)


def test_a_folder_with_something_else_in_it_is_left_alone(
    world: World, other: World, tmp_path: Path
) -> None:
    target = tmp_path / "home"
    target.mkdir()
    (target / "letter").write_text("dear")
    with pytest.raises(BackupError, match="neither empty nor a backup"):
        save(world, target)
    assert os.listdir(target) == ["letter"]  # noqa: PTH208
    with pytest.raises(BackupError, match="is a file; name a folder"):
        save(world, target / "letter")
    (target / "letter").rename(target / "lost+found")
    save(world, target)
    (target / LABEL).write_text('{"format":2}')
    with pytest.raises(BackupError, match="later version"):
        save(world, target)
    with pytest.raises(BackupError, match="later version"):
        bring_back(other, target)


def test_until_the_last_step_the_backup_before_is_the_backup(
    world: World, other: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "backup"
    save(world, target)
    expected = world.tags("team/app")
    world.push("team/app", "3", [b"three"])
    world.remove("team/app/manifests/1")
    rename = Path.rename

    def fail(self: Path, to: Path) -> Path:
        if to == target / "catalogue.sqlite3":
            raise OSError(errno.EIO, "no more")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="no more"):
        save(world, target)
    monkeypatch.undo()
    assert bring_back(other, target).lost == []
    assert other.tags("team/app") == expected


def test_a_first_backup_that_was_interrupted_is_none_and_can_be_gone_on_with(
    world: World, other: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "backup"
    monkeypatch.setattr(folder, "_bring_beside", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(world, target)
    monkeypatch.undo()
    with pytest.raises(BackupError, match="no backup into it was ever finished"):
        bring_back(other, target)
    assert save(world, target).added == 0
    assert not list(target.rglob(".*"))
    bring_back(other, target)


# --- one file


def test_one_file_holds_everything_and_is_closed_to_others(
    world: World, other: World, tmp_path: Path
) -> None:
    file = tmp_path / "backup.tar.zst"
    made = save(world, file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    found = bring_back(other, file)
    assert (found.blobs, found.size, found.lost) == (made.blobs, made.size, [])
    assert other.tags("team/app") == world.tags("team/app")
    for tag in ("1", "2"):
        assert other.pull("team/app", tag) == world.pull("team/app", tag)


def test_a_file_that_breaks_off_yields_what_comes_before(
    world: World, other: World, tmp_path: Path
) -> None:
    noise = [os.urandom(300_000) for _ in range(8)]
    for number, layer in enumerate(noise):
        world.push("many", f"t{number}", [layer])
    file, short = tmp_path / "backup.tar.zst", tmp_path / "short.tar.zst"
    save(world, file)
    short.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    found = bring_back(other, short)
    assert 0 < len(found.lost) < 12
    lost = {tag for one in found.lost for tag in one.images}
    for number in range(8):
        name = f"many:t{number}"
        assert (name in lost) != _is_whole(other, f"t{number}")
    assert lost


def _is_whole(world: World, tag: str) -> bool:
    try:
        world.pull("many", tag)
    except ControlError:
        return False
    return True


def test_what_is_no_backup_is_told_in_a_sentence(
    world: World, other: World, tmp_path: Path
) -> None:
    save(world, tmp_path / "good.tar.zst")
    for name, content in (
        ("text.tar.zst", b"text" * 500),
        ("none.tar.zst", zstandard.compress(b"text" * 500)),
        ("short.tar.zst", (tmp_path / "good.tar.zst").read_bytes()[:200]),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BackupError, match=r"is no backup|cannot be read|has no catalogue"):
            bring_back(other, tmp_path / name)
    with pytest.raises(BackupError, match=r"is no backup: it has no backup\.json"):
        bring_back(other, tmp_path)
    with pytest.raises(BackupError, match=r"is no backup: it has no backup\.json"):
        bring_back(other, tmp_path / "text.tar.zst" / "x")
    assert not (other.data / "catalogue.sqlite3").exists()


# --- bringing one back


def test_what_is_restored_shares_no_file_with_the_backup(
    world: World, other: World, tmp_path: Path
) -> None:
    target = tmp_path / "backup"
    save(world, target)
    before = state({path for path in target.rglob("*") if path.is_file()})
    found = bring_back(other, target)
    assert (found.added, found.lost) == (found.blobs, [])
    assert state(set(before)) == before
    for path in other.files():
        saved = target / path.relative_to(other.data)
        assert path.stat().st_ino != saved.stat().st_ino
        assert stat.S_IMODE(path.stat().st_mode) == 0o444
    for tag in ("1", "2"):
        assert other.pull("team/app", tag) == world.pull("team/app", tag)


def test_keys_come_back_with_their_modes(world: World, other: World, tmp_path: Path) -> None:
    (world.data / "tls").mkdir()
    for name, mode in (("ca.crt", 0o644), ("ca.key", 0o600)):
        (world.data / "tls" / name).write_text(name)
        (world.data / "tls" / name).chmod(mode)
    for place in (tmp_path / "backup", tmp_path / "backup.tar.zst"):
        save(world, place)
        bring_back(other, place)
        for name, mode in (("ca.crt", 0o644), ("ca.key", 0o600)):
            assert (other.data / "tls" / name).read_text() == name
            assert stat.S_IMODE((other.data / "tls" / name).stat().st_mode) == mode
        shutil.rmtree(other.data)


def test_every_byte_is_looked_at_unless_told_otherwise(
    world: World, other: World, tmp_path: Path
) -> None:
    target = tmp_path / "backup"
    save(world, target)
    saved = target / world.blob(Digest.of(ONE)).relative_to(world.data)
    flip(saved)
    assert bring_back(other, target, verify=False).lost == []
    with pytest.raises(BackupError, match="is there; to have the backup in its place"):
        bring_back(other, target)
    shutil.rmtree(other.data)
    (lost,) = bring_back(other, target).lost
    assert (lost.digest, lost.reason, lost.images) == (
        Digest.of(ONE),
        "its bytes are others",
        ["team/app:1"],
    )
    assert not other.blob(Digest.of(ONE)).exists()


def test_manifests_that_the_catalogue_holds_itself_are_never_lost(
    world: World, other: World, tmp_path: Path
) -> None:
    images = [image_of([ONE, TWO]), image_of([TWO, THREE])]
    top = world.push_manifest("team/app", "all", index_of(images), INDEX)
    target = tmp_path / "backup"
    save(world, target)
    for digest in (top, Digest.of(images[0])):
        (target / world.blob(digest).relative_to(world.data)).unlink()
    assert bring_back(other, target).lost == []
    assert other.pull("team/app", "all") == world.pull("team/app", "all")
    assert other.blob(top).is_file()


def test_a_restore_that_was_interrupted_is_not_served_and_goes_on(
    world: World, other: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "backup"
    save(world, target)
    write = restore._write
    written = []

    def fail(member: Member, path: Path, **rest: object) -> bool:
        written.append(path)
        if len(written) == 4:
            raise OSError(errno.EIO, "no more")
        return write(member, path, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(restore, "_write", fail)
    with pytest.raises(OSError, match="no more"):
        bring_back(other, target)
    monkeypatch.undo()
    assert (other.data / MARKER).read_text() == str(target)
    with pytest.raises(ControlError, match=f"by half; go on with registry restore {target}"):
        other.tags("team/app")
    with pytest.raises(SettingsError, match=f"by half; go on with registry restore {target}"):
        other.make()
    came = len(other.files())
    found = bring_back(other, target)
    assert (found.lost, found.blobs - found.added) == ([], came)
    assert not (other.data / MARKER).exists()
    assert other.pull("team/app", "1") == world.pull("team/app", "1")


def test_a_catalogue_that_was_there_leaves_nothing_that_counts(
    world: World, other: World, tmp_path: Path
) -> None:
    """Its journal and the sums of its pages would be taken for those of the next one."""
    save(world, tmp_path / "backup")
    other.make()
    other.push("old", "1", [b"old"])
    journal = other.data / "catalogue.sqlite3-wal"
    journal.write_bytes(b"frames")
    other.catalogue.unlink()
    bring_back(other, tmp_path / "backup")
    assert not journal.exists()
    (aside,) = other.data.glob("catalogue-aside-*")
    assert aside.read_bytes() == b"frames"
    assert other.tags("team/app") == world.tags("team/app")
    assert other.repositories() == ["team/app"]


def test_what_is_restored_has_its_grace_and_leases_anew(
    world: World, other: World, tmp_path: Path
) -> None:
    world.remove("team/app/manifests/2")
    with world.operator() as operator:
        operator.ask("DELETE", f"/v2/team/app/manifests/{Digest.of(image_of([TWO, THREE]))}")
    save(world, tmp_path / "backup")
    other.source.write_text(other.source.read_text().replace('"1ms"', '"1h"'))
    other.settings = load(other.source, {})
    bring_back(other, tmp_path / "backup")
    with other.operator() as operator:
        assert operator.operate("gc", {}, dict)["links"] == 0
    assert other.blob(Digest.of(THREE)).exists()


def test_a_folder_that_is_in_use_is_left_alone(world: World, other: World, tmp_path: Path) -> None:
    save(world, tmp_path / "backup")
    other.data.mkdir()
    lock = FolderLock(other.data)
    with pytest.raises(BusyError, match="in use by a registry"):
        bring_back(other, tmp_path / "backup")
    lock.release()


def test_a_damaged_catalogue_in_a_backup_is_refused(
    world: World, other: World, tmp_path: Path
) -> None:
    target = tmp_path / "backup"
    save(world, target)
    content = bytearray((target / "catalogue.sqlite3").read_bytes())
    content[5 * 4096 : 6 * 4096] = os.urandom(4096)
    (target / "catalogue.sqlite3").write_bytes(content)
    with pytest.raises(BackupError, match=r"the catalogue in .* is damaged"):
        bring_back(other, target)
    assert not (other.data / MARKER).exists()  # a new registry can be begun there
    other.make()


def test_a_sentence_of_the_registry_ends_a_backup(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object) -> Path:
        raise STORE_FULL.error()

    monkeypatch.setattr(Snapshots, "take", full)
    for target in (tmp_path / "backup", tmp_path / "backup.tar.zst"):
        with pytest.raises(ControlError, match=re.escape(STORE_FULL.message)):
            save(world, target)
    assert not list(tmp_path.glob("*.zst*"))
