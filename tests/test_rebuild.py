"""A catalogue made anew: from a snapshot, from files alone, and from what a damaged one yields."""

import os
import shutil
import sqlite3
from datetime import date
from pathlib import Path

import pytest

from appliance.catalogue import integrity
from appliance.catalogue.snapshots import daily
from appliance.control import ControlError
from appliance.oci.digest import Digest
from appliance.parts import DataFolder
from appliance.rebuild import RebuildError, Rebuilt, rebuild
from appliance.recovery import REPOSITORY
from appliance.registry.progress import Progress, unheard
from appliance.remains import BusyError, quarantined
from appliance.wholeness import MARKER
from tests.world import IMAGE, INDEX, World, described, image_of, index_of

ONE, TWO, THREE, FOUR = (bytes([number]) * (50_000 + number) for number in (1, 2, 3, 4))


@pytest.fixture
def world(tmp_path: Path) -> World:
    found = World(tmp_path / "one")
    found.make()
    found.push("team/app", "1", [ONE, TWO])
    return found


def take_snapshot(world: World, day: int = 1) -> Path:
    with world.operator() as operator:
        operator.operate("snapshot", {}, str)
    folder = world.data / "snapshots"
    path = folder / f"catalogue-{date(2026, 1, day)}.sqlite3"
    (folder / "backup.sqlite3").rename(path)
    return path


def again(world: World, basis: Path | None = None) -> Rebuilt:
    found = rebuild(world.settings, basis, unheard)
    assert integrity.fault_of(world.catalogue) is None
    assert not list(world.data.glob(".*"))
    return found


def lose(world: World) -> None:
    for path in world.data.glob("catalogue.*"):
        path.unlink()


def overwrite(world: World, table: str) -> None:
    """Damage the first page of a table or index."""
    connection = sqlite3.connect(world.catalogue)
    ((root,),) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,))
    connection.close()
    with world.catalogue.open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(b"\xff" * 4096)


def test_without_anything_all_images_go_into_one_repository(world: World) -> None:
    images = [image_of([ONE, TWO]), image_of([THREE])]
    world.push("team/app", "2", [THREE])
    top = world.push_manifest("team/app", "all", index_of(images), INDEX)
    signed = image_of([], subject=described(images[0], IMAGE))
    signature = world.push_manifest("team/app", str(Digest.of(signed)), signed)
    expected = world.pull("team/app", "all")
    lose(world)
    found = again(world)
    assert (found.basis, found.aside, found.lost, found.wrong) == (None, None, [], [])
    assert (found.manifests, set(found.tops)) == (4, {top, signature})
    assert (found.left, found.blobs) == (0, len(world.files()))
    assert world.repositories() == [REPOSITORY]
    assert world.pull(REPOSITORY, str(top)) == expected
    with world.operator() as operator:
        target = f"/v2/{REPOSITORY}/referrers/{Digest.of(images[0])}"
        (entry,) = operator.ask("GET", target).document()["manifests"]
    assert entry["digest"] == str(signature)


def test_what_a_snapshot_knows_is_as_it_was_and_the_rest_is_recovered(world: World) -> None:
    taken = take_snapshot(world)
    later = world.push("team/app", "2", [TWO, THREE])
    lose(world)
    found = again(world)
    assert (found.basis, found.tops, found.lost) == (taken, [later], [])
    assert world.repositories() == [REPOSITORY, "team/app"]
    assert set(world.tags("team/app")) == {"1"}
    world.pull("team/app", "1")
    world.pull(REPOSITORY, str(later))
    assert taken.exists()


def test_what_a_damaged_catalogue_still_yields_is_used(world: World) -> None:
    first = world.tags("team/app")["1"]
    take_snapshot(world)
    later = world.push("team/app", "2", [TWO, THREE])
    moved = world.push("team/app", "1", [FOUR])
    damaged_before = world.catalogue.read_bytes()
    overwrite(world, "history_age")
    damaged = world.catalogue.read_bytes()
    assert damaged != damaged_before
    found = again(world)
    assert {(tag.repository, tag.name, tag.digest) for tag in found.tags} == {
        ("team/app", "2", later),
        ("team/app", "1", moved),
    }
    assert found.tops == []
    assert world.repositories() == ["team/app"]
    assert world.tags("team/app") == {"1": str(moved), "2": str(later)}
    for reference in ("1", "2", first):
        world.pull("team/app", reference)
    assert found.aside is not None
    assert found.aside.read_bytes() == damaged


@pytest.mark.parametrize("table", ["tag", "blob", "manifest", "repository", "link"])
@pytest.mark.parametrize("has_snapshot", [True, False])
def test_whatever_page_is_damaged_no_image_is_lost(
    world: World, table: str, has_snapshot: bool
) -> None:
    for number in range(5):
        world.push(f"repository/{number}", "latest", [bytes([number]) * 70_000])
    if has_snapshot:
        take_snapshot(world)
    later = world.push("late", "1", [THREE])
    overwrite(world, table)
    found = again(world)
    assert found.lost == []
    here = world.repositories()
    for number in range(5):
        name = f"repository/{number}"
        digest = str(Digest.of(image_of([bytes([number]) * 70_000])))
        world.pull(name if name in here else REPOSITORY, digest)
        assert name in here or not has_snapshot
    world.pull("late" if "late" in here else REPOSITORY, str(later))


def test_a_snapshot_that_is_damaged_itself_is_passed_over(world: World) -> None:
    good = take_snapshot(world, 1)
    bad = take_snapshot(world, 2)
    content = bytearray(bad.read_bytes())
    content[4096 * 3 : 4096 * 4] = b"\xff" * 4096
    bad.write_bytes(content)
    lose(world)
    assert daily(world.data / "snapshots") == [bad, good]
    with pytest.raises(RebuildError, match="is damaged itself"):
        again(world, bad)
    assert not world.catalogue.exists()
    assert again(world).basis == good


def test_another_catalogue_can_be_named_such_as_that_of_a_backup(
    world: World, tmp_path: Path
) -> None:
    backup = tmp_path / "backup"
    backup.mkdir()
    take_snapshot(world).rename(backup / "catalogue.sqlite3")
    content = (backup / "catalogue.sqlite3").read_bytes()
    lose(world)
    assert again(world, backup).basis == backup / "catalogue.sqlite3"
    assert set(world.tags("team/app")) == {"1"}
    assert (backup / "catalogue.sqlite3").read_bytes() == content


def test_files_that_are_gone_count_as_damaged_or_come_back(world: World) -> None:
    world.push("team/app", "2", [TWO, THREE])
    image = world.push("team/app", "3", [FOUR])
    take_snapshot(world)
    away = world.data / "quarantine" / f"sha256-{Digest.of(THREE).hex}"
    world.blob(Digest.of(THREE)).rename(away)
    world.blob(image).unlink()  # its bytes are in the catalogue too
    world.blob(Digest.of(ONE)).unlink()
    lose(world)
    found = again(world)
    assert [(one.digest, one.reason, one.images) for one in found.lost] == [
        (Digest.of(ONE), "its file is missing", ["team/app:1"])
    ]
    assert found.brought_back == 2
    assert quarantined(world.data) == []
    world.pull("team/app", "2")
    world.pull("team/app", "3")
    with pytest.raises(ControlError, match="unknown"):
        world.pull("team/app", "1")
    world.push("team/app", "1", [ONE, TWO])
    world.pull("team/app", "1")


def test_what_is_no_image_is_left_for_others_to_judge(world: World) -> None:
    take_snapshot(world)
    world.push("team/app", "2", [THREE])
    with world.operator() as operator:
        world._push_blob(operator, "team/app", FOUR)
        world._push_blob(operator, "team/app", b'{"mediaType": "text/plain", "layers": []}')
    world.blob(Digest.of(THREE)).unlink()  # so that its image is not whole
    lying = world.blob(Digest.of(b"lying"))
    lying.write_bytes(b"not that")
    (lying.parent / "note").write_bytes(b"somebody's own")
    lose(world)
    found = again(world)
    assert (found.manifests, found.tops, found.lost) == (0, [], [])
    assert (found.left, found.wrong) == (3, [lying])
    assert found.left_size > len(FOUR)
    assert world.repositories() == ["team/app"]
    assert world.blob(Digest.of(FOUR)).exists()
    assert (lying.parent / "note").exists()


def test_an_index_some_of_whose_images_are_missing_is_recovered(world: World) -> None:
    images = [image_of([ONE, TWO]), image_of([THREE])]
    world.push("team/app", "2", [THREE])
    top = world.push_manifest("team/app", "all", index_of(images), INDEX)
    world.blob(Digest.of(images[1])).unlink()
    lose(world)
    found = again(world)
    assert found.tops == [top]
    with world.operator() as operator:
        assert operator.ask("HEAD", f"/v2/{REPOSITORY}/manifests/{top}").status == 200


def test_a_catalogue_that_is_whole_is_left_alone(world: World) -> None:
    before = world.catalogue.read_bytes()
    with pytest.raises(RebuildError, match="is whole, and there is nothing to make anew"):
        again(world)
    (world.data / MARKER).write_text("/backup")
    with pytest.raises(RebuildError, match="is restored by half"):
        again(world)
    assert world.catalogue.read_bytes() == before


def test_a_bit_that_makes_sense_to_sqlite_is_damage_too(world: World) -> None:
    take_snapshot(world)
    content = bytearray(world.catalogue.read_bytes())
    content[content.index(str(Digest.of(ONE)).encode()) + 20] ^= 1
    world.catalogue.write_bytes(content)
    assert again(world).lost == []
    world.pull("team/app", "1")


def test_a_registry_that_runs_is_left_alone(world: World) -> None:
    opened = DataFolder(world.settings, world.source)
    with pytest.raises(BusyError, match="in use by a registry"):
        again(world)
    opened.database.close()
    opened.release()


def test_until_the_last_step_nothing_is_changed_and_it_can_be_asked_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_snapshot(world)
    overwrite(world, "history_age")
    damaged = world.catalogue.read_bytes()
    for step in ("appliance.rebuild.Recovery.recover", "appliance.rebuild.put_aside"):
        monkeypatch.setattr(step, lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            again(world)
        monkeypatch.undo()
        assert world.catalogue.read_bytes() == damaged
    rename = Path.rename

    def fail(self: Path, to: Path) -> Path:
        if to == world.catalogue:
            raise OSError(5, "no more")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="no more"):
        again(world)
    monkeypatch.undo()
    with pytest.raises(ControlError, match="is missing, though"):
        world.tags("team/app")
    assert again(world).basis is not None
    world.pull("team/app", "1")
    (aside,) = world.data.glob("catalogue-aside-*.sqlite3")
    assert aside.read_bytes() == damaged


def test_progress_is_told(world: World) -> None:
    lose(world)
    heard: list[Progress] = []
    rebuild(world.settings, None, heard.append)
    read = [one for one in heard if one.unit == "bytes"]
    assert read[-1].done == read[-1].total == sum(path.stat().st_size for path in world.files())


def test_two_damaged_catalogues_are_both_kept(world: World) -> None:
    take_snapshot(world)
    for _ in range(2):
        overwrite(world, "history_age")
        again(world)
        again_path = world.catalogue.with_name("copy")
        shutil.copy(world.catalogue, again_path)
        again_path.unlink()
    assert len(list(world.data.glob("catalogue-aside-*.sqlite3"))) == 2
    assert os.listdir(world.data / "snapshots")  # noqa: PTH208
