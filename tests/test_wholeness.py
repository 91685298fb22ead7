"""What a data folder is not served with, and what a start makes of a damaged catalogue."""

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.catalogue import database
from appliance.catalogue.database import Database
from appliance.control import ControlError
from appliance.oci.digest import Digest
from appliance.parts import DataFolder
from appliance.preflight import examine
from appliance.settings import SettingsError
from appliance.wholeness import MARKER, fault_of_folder
from tests.world import World

REMEDY = (
    "restore a backup with registry restore DIR, or make it anew from its files with"
    " registry rebuild."
)


@pytest.fixture
def world(tmp_path: Path) -> World:
    found = World(tmp_path)
    found.make()
    found.push("team/app", "1", [b"layer"])
    return found


def refusal(world: World) -> str:
    """How a start, a look and a command refuse this folder: in one and the same sentence."""
    with pytest.raises(SettingsError) as refused:
        DataFolder(world.settings, world.source)
    (sentence,) = refused.value.faults
    found = examine(world.settings, world.source, thorough=True)
    assert [fault for fault in found.faults if "listen" not in fault] == [sentence]
    with pytest.raises((ControlError, SettingsError)) as asked:
        world.tags("team/app")
    assert f"{asked.value}".rstrip(".") == sentence.rstrip(".")
    return sentence


def content_of(world: World) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in world.data.iterdir() if path.is_file()}


def torn(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(50)


def other(path: Path) -> None:
    path.write_bytes(b"this is no database" * 1000)


def page(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096 * 3)
        file.write(os.urandom(4096))


def bit(path: Path) -> None:
    """A bit in a digest, which makes sense to SQLite."""
    content = bytearray(path.read_bytes())
    content[content.index(str(Digest.of(b"layer")).encode()) + 20] ^= 1
    path.write_bytes(content)


def half(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2 // 4096 * 4096)


@pytest.mark.parametrize("damage", [torn, other, page, bit, half])
def test_a_damaged_catalogue_is_refused_with_what_to_do(
    world: World, damage: Callable[[Path], None]
) -> None:
    damage(world.catalogue)
    sentence = refusal(world)
    assert sentence.startswith(f"{world.catalogue} is damaged (")
    assert sentence.endswith(f"): {REMEDY}")
    assert "\n" not in sentence


@pytest.mark.parametrize("left", [None, b""], ids=["missing", "empty"])
def test_blobs_without_a_catalogue_are_not_taken_for_an_empty_registry(
    world: World, left: bytes | None
) -> None:
    world.catalogue.unlink()
    if left is not None:
        world.catalogue.write_bytes(left)
    assert refusal(world) == (
        f"{world.catalogue} is missing, though {world.data / 'blobs'} holds files: {REMEDY}"
    )
    assert world.catalogue.exists() == (left is not None)


def test_a_catalogue_without_tables_beside_blobs_is_missing(world: World) -> None:
    world.catalogue.unlink()
    connection = sqlite3.connect(world.catalogue)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    assert world.catalogue.stat().st_size
    assert "is missing, though" in refusal(world)


def test_a_catalogue_that_is_still_in_its_journal_alone_is_there(world: World) -> None:
    """As a crash leaves it before the journal was carried over for the first time."""
    opened = Database.open(world.data / "new.sqlite3")
    for name in ("new.sqlite3", "new.sqlite3-wal"):
        copy = name.replace("new", "catalogue")
        (world.data / copy).write_bytes((world.data / name).read_bytes())
    opened.close()
    world.catalogue.with_suffix(".sums").unlink()
    assert fault_of_folder(world.data) is None
    world.make()


def test_a_new_folder_and_an_empty_one_have_nothing_against_them(tmp_path: Path) -> None:
    new = World(tmp_path)
    assert fault_of_folder(new.data) is None
    new.make()
    assert fault_of_folder(new.data) is None
    new.catalogue.unlink()
    assert fault_of_folder(new.data) is None  # there is nothing that it could lose
    new.make()


def test_half_of_a_backup_is_not_served(world: World) -> None:
    (world.data / MARKER).write_text("/srv/backup")
    sentence = f"{world.data} is restored by half; go on with registry restore /srv/backup."
    assert refusal(world) == sentence


def test_a_look_at_a_catalogue_changes_nothing(world: World) -> None:
    before = content_of(world)
    examine(world.settings, world.source, thorough=True)
    page(world.catalogue)
    damaged = world.catalogue.read_bytes()
    assert examine(world.settings, world.source, thorough=True).faults
    assert content_of(world) == before | {"catalogue.sqlite3": damaged}


def test_a_large_catalogue_is_not_looked_through_before_it_is_served(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "SMALL", 4096)
    bit(world.catalogue)
    opened = DataFolder(world.settings, world.source)
    assert not opened.database.is_small
    opened.database.close()
    opened.release()


async def test_a_large_one_is_looked_through_while_it_is_served(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "SMALL", 4096)
    opened = DataFolder(world.settings, world.source)
    assert await opened.database.damage() is None
    await opened.database.aclose()
    opened.release()
    bit(world.catalogue)
    opened = DataFolder(world.settings, world.source)
    assert "is not what was written" in str(await opened.database.damage())
    await opened.database.aclose()
    opened.release()
