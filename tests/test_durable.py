"""Files that are replaced whole: their mode, their way to the disk, and what failures leave."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.durable import make_folder, replace_file, sync_folder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int]]:
    """Record what is synced and renamed: the verb, the name, and the mode it had then."""
    taken: list[tuple[str, str, int]] = []

    def record(verb: str, subject: Callable[..., Path]) -> None:
        original = getattr(os, verb)

        def recorded(*args: object) -> object:
            path = subject(*args)
            name = "draft" if path.name.startswith(".") else path.name
            taken.append((verb, name, mode(path)))
            return original(*args)

        monkeypatch.setattr(os, verb, recorded)

    record("fsync", lambda descriptor: Path(f"/proc/self/fd/{descriptor}").readlink())
    record("fchmod", lambda descriptor, _: Path(f"/proc/self/fd/{descriptor}").readlink())
    record("rename", lambda source, _: Path(source))
    return taken


@pytest.mark.parametrize("bits", [0o600, 0o640, 0o644, 0o400])
@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_a_file_has_its_content_and_mode_whatever_the_umask(
    tmp_path: Path, bits: int, umask: int
) -> None:
    before = os.umask(umask)
    try:
        replace_file(tmp_path / "file", b"content", mode=bits)
    finally:
        os.umask(before)
    assert (tmp_path / "file").read_bytes() == b"content"
    assert mode(tmp_path / "file") == bits
    assert names(tmp_path) == ["file"]


def test_a_file_that_stands_there_is_replaced_with_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a much longer content than the new one")
    path.chmod(0o666)
    replace_file(path, b"new", mode=0o600)
    assert (path.read_bytes(), mode(path)) == (b"new", 0o600)


def test_who_has_the_old_file_open_keeps_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with path.open("rb") as file:
        replace_file(path, b"new", mode=0o600)
        assert file.read() == b"old"


def test_bytes_are_durable_before_the_name_and_the_name_before_it_returns(
    tmp_path: Path, steps: list[tuple[str, str, int]]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o755)
    replace_file(folder / "file", b"content", mode=0o644)
    assert steps == [
        ("fchmod", "draft", 0o600),  # nobody else could read it before
        ("fsync", "draft", 0o644),
        ("rename", "draft", 0o644),
        ("fsync", "folder", 0o755),
    ]


@pytest.mark.parametrize("verb", ["fchmod", "fsync", "rename"])
def test_a_failure_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, verb, fail)
    with pytest.raises(OSError, match="Input/output error"):
        replace_file(path, b"new", mode=0o600)
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_folder_that_is_not_there_is_said_aloud(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        replace_file(tmp_path / "none" / "file", b"", mode=0o600)
    with pytest.raises(FileNotFoundError):
        sync_folder(tmp_path / "none")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        sync_folder(tmp_path / "file")


@pytest.mark.parametrize("there", [True, False])
def test_a_symbolic_link_is_followed(tmp_path: Path, there: bool) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    link, target = tmp_path / "a" / "link", tmp_path / "b" / "target"
    link.symlink_to(Path("..") / "b" / "target")
    if there:
        target.write_bytes(b"old")
    replace_file(link, b"new", mode=0o600)
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert (names(tmp_path / "a"), names(tmp_path / "b")) == (["link"], ["target"])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_the_owner_stays_before_anybody_may_read(
    tmp_path: Path, steps: list[tuple[str, str, int]]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    os.chown(path, 12345, 54321)
    replace_file(path, b"new", mode=0o640)
    assert (path.stat().st_uid, path.stat().st_gid, mode(path)) == (12345, 54321, 0o640)
    assert steps[0] == ("fchmod", "draft", 0o600)


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    before = names(Path("/proc/self/fd"))
    replace_file(tmp_path / "file", b"content", mode=0o600)
    sync_folder(tmp_path)
    assert names(Path("/proc/self/fd")) == before


# --- folders


def test_the_names_of_new_folders_are_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr("appliance.durable.sync_folder", synced.append)
    folder = tmp_path / "one" / "two" / "three"
    make_folder(folder, mode=0o700)
    assert mode(folder) == 0o700
    assert synced == [tmp_path, tmp_path / "one", tmp_path / "one" / "two"]
    make_folder(folder, mode=0o700)
    assert len(synced) == 3


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match=r"File exists|Not a directory"):
        make_folder(tmp_path / "file" / "folder", mode=0o700)
