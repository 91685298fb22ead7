"""The lock on a data folder: one daemon at a time, and a note for people."""

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from appliance.lock import FolderLock, HeldError, Note, holder


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record pauses instead of making them."""
    made: list[float] = []
    monkeypatch.setattr(time, "sleep", made.append)
    return made


def test_a_folder_nobody_has_has_no_holder(tmp_path: Path) -> None:
    assert holder(tmp_path) is None
    assert holder(tmp_path / "none") is None
    FolderLock(tmp_path).release()
    assert holder(tmp_path) is None


def test_a_holder_says_who_it_is_from_the_first_moment(tmp_path: Path) -> None:
    held = FolderLock(tmp_path)
    assert holder(tmp_path) == Note(os.getpid())
    held.release()


def test_a_holder_says_where_it_listens(tmp_path: Path) -> None:
    held = FolderLock(tmp_path)
    held.write(Note(4711, ["[::]:443", "10.0.0.1:443"], ["[::]:80"]))
    assert holder(tmp_path) == Note(4711, ["[::]:443", "10.0.0.1:443"], ["[::]:80"])
    held.write(Note(4711))
    assert holder(tmp_path) == Note(4711)
    held.release()


def test_a_second_daemon_is_told_of_the_first(tmp_path: Path) -> None:
    held = FolderLock(tmp_path)
    held.write(Note(4711, ["[::]:443"]))
    with pytest.raises(HeldError) as caught:
        FolderLock(tmp_path)
    assert caught.value.note == Note(4711, ["[::]:443"])
    assert holder(tmp_path) == Note(4711, ["[::]:443"])
    held.release()
    FolderLock(tmp_path).release()


def test_folders_are_held_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    held = FolderLock(tmp_path), FolderLock(tmp_path / "other")
    for each in held:
        each.release()


@pytest.mark.parametrize("content", [b"", b"\0", b"nonsense", b"[]", b'{"pid": "x"}', b"\xff"])
def test_a_note_that_cannot_be_read_is_a_holder_all_the_same(
    tmp_path: Path, content: bytes
) -> None:
    held = FolderLock(tmp_path)
    (tmp_path / "lock").write_bytes(content)
    assert holder(tmp_path) == Note(0)
    with pytest.raises(HeldError) as caught:
        FolderLock(tmp_path)
    assert caught.value.note is None
    held.release()


def test_what_a_crash_leaves_is_no_lock(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from appliance.lock import FolderLock\n"
        "held = FolderLock(Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    )
    ended = subprocess.run([sys.executable, "-c", program, tmp_path], check=False)
    assert ended.returncode == -9
    assert (tmp_path / "lock").read_bytes() != b""
    assert holder(tmp_path) is None
    held = FolderLock(tmp_path)
    assert holder(tmp_path) == Note(os.getpid())
    held.release()


def test_when_the_last_daemon_stopped_is_kept_until_the_next_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop_at(moment: float, *, stopped: bool) -> float:
        monkeypatch.setattr("time.time", lambda: moment)
        held = FolderLock(tmp_path)
        before = held.stopped_at
        held.release(stopped=stopped)
        return before

    assert stop_at(1000.0, stopped=True) == 0
    assert stop_at(2000.0, stopped=False) == 1000
    assert stop_at(3000.0, stopped=True) == 1000
    assert stop_at(4000.0, stopped=False) == 3000
    (tmp_path / "lock").write_bytes(b'{"pid":4711}')  # as a crash leaves it
    assert stop_at(5000.0, stopped=False) == 0


def test_a_long_note_is_replaced_whole_by_a_short_one(tmp_path: Path) -> None:
    held = FolderLock(tmp_path)
    held.write(Note(1, [f"10.0.0.{number}:443" for number in range(200)]))
    held.write(Note(2))
    assert holder(tmp_path) == Note(2)
    held.release()


def test_who_only_looks_does_not_keep_a_daemon_from_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pauses: list[float]
) -> None:
    # Somebody looks for an instant: has the lock, shared, until the daemon's first pause.
    FolderLock(tmp_path).release()
    looking = os.open(tmp_path / "lock", os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)

    def pause(seconds: float) -> None:
        if not pauses:
            os.close(looking)
        pauses.append(seconds)

    monkeypatch.setattr(time, "sleep", pause)
    FolderLock(tmp_path).release()
    assert len(pauses) == 1


def test_two_may_look_at_once(tmp_path: Path) -> None:
    FolderLock(tmp_path).release()
    looking = os.open(tmp_path / "lock", os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    assert holder(tmp_path) is None
    os.close(looking)


def test_a_lock_is_not_inherited_by_programs_that_are_started(tmp_path: Path) -> None:
    held = FolderLock(tmp_path)
    assert not os.get_inheritable(held._descriptor)
    held.release()


def test_a_folder_that_is_not_there_cannot_be_locked(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FolderLock(tmp_path / "none")


def test_no_descriptor_stays_open(tmp_path: Path) -> None:
    def descriptors() -> list[str]:
        return sorted(path.name for path in Path("/proc/self/fd").iterdir())

    before = descriptors()
    held = FolderLock(tmp_path)
    with pytest.raises(HeldError):
        FolderLock(tmp_path)
    holder(tmp_path)
    held.release()
    holder(tmp_path)
    assert descriptors() == before
