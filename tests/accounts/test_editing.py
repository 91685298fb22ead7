"""Edits of a password file: one account at a time, and nothing else in it changes."""

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from appliance.accounts import editing
from appliance.accounts.files import AccountError
from appliance.accounts.schemes import hash_password

HASH = hash_password(b"a", 4)
OTHER = hash_password(b"b", 4)
NEW = hash_password(b"c", 4)

KEPT = (
    b"# our accounts\n"
    b"\n"
    b"alice:" + HASH + b"\n"
    b"  # bob is on leave until May\n"
    b"bob:" + OTHER + b"\n"
    b"legacy:$1$BAYrbJHT$Lk1PAy0lHYsXSfJmb3bPq0\n"
    b"nonsense\n"
    b"\xff\xfe:" + HASH + b"\n"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "htpasswd"
    path.write_bytes(KEPT)
    return path


def names(path: Path) -> set[str]:
    return set(editing.accounts(path).hashes)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- what changes, and what does not


def test_an_account_is_added_at_the_end(path: Path) -> None:
    editing.add(path, "carol", NEW)
    assert path.read_bytes() == KEPT + b"carol:" + NEW + b"\n"


def test_a_password_is_replaced_in_its_line(path: Path) -> None:
    editing.set_password(path, "alice", NEW)
    assert path.read_bytes() == KEPT.replace(b"alice:" + HASH, b"alice:" + NEW)


def test_a_hash_of_another_kind_is_replaced_in_its_line(path: Path) -> None:
    editing.set_password(path, "legacy", NEW)
    assert path.read_bytes() == KEPT.replace(b"$1$BAYrbJHT$Lk1PAy0lHYsXSfJmb3bPq0", NEW)
    assert "legacy" in names(path)


def test_an_account_is_removed_with_its_line(path: Path) -> None:
    editing.remove(path, "bob")
    assert path.read_bytes() == KEPT.replace(b"bob:" + OTHER + b"\n", b"")


def test_a_last_line_without_an_end_is_a_line(path: Path) -> None:
    path.write_bytes(b"alice:" + HASH)
    editing.add(path, "bob", OTHER)
    assert path.read_bytes() == b"alice:" + HASH + b"\nbob:" + OTHER + b"\n"


def test_a_file_that_is_not_there_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        editing.add(tmp_path / "new", "alice", HASH)
    finally:
        os.umask(before)
    assert (tmp_path / "new").read_bytes() == b"alice:" + HASH + b"\n"
    assert mode(tmp_path / "new") == 0o600


@pytest.mark.parametrize("bits", [0o600, 0o640, 0o644, 0o440])
def test_the_mode_stays(path: Path, bits: int) -> None:
    path.chmod(bits)
    editing.add(path, "carol", NEW)
    editing.set_password(path, "carol", HASH)
    editing.remove(path, "carol")
    assert mode(path) == bits
    assert path.read_bytes() == KEPT


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_the_owner_stays(path: Path) -> None:
    os.chown(path, 12345, 54321)
    editing.add(path, "carol", NEW)
    assert (path.stat().st_uid, path.stat().st_gid) == (12345, 54321)


def test_a_symbolic_link_is_followed(path: Path, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    link = tmp_path / "etc" / "htpasswd"
    link.symlink_to(Path("..") / "htpasswd")
    editing.add(link, "carol", NEW)
    assert link.is_symlink()
    assert path.read_bytes() == KEPT + b"carol:" + NEW + b"\n"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["etc", "htpasswd"]


def test_a_file_that_is_not_there_has_no_accounts(tmp_path: Path) -> None:
    assert names(tmp_path / "none") == set()


# --- what is refused


def test_an_account_that_is_there_is_not_added(path: Path) -> None:
    for name in ("alice", "legacy"):
        with pytest.raises(AccountError, match=f"registry user passwd {name}"):
            editing.add(path, name, NEW)
    assert path.read_bytes() == KEPT


def test_an_account_that_is_not_there_is_neither_changed_nor_removed(path: Path) -> None:
    with pytest.raises(AccountError, match="registry user add carol"):
        editing.set_password(path, "carol", NEW)
    with pytest.raises(AccountError, match="carol is not in"):
        editing.remove(path, "carol")
    assert path.read_bytes() == KEPT


@pytest.mark.parametrize(
    "name",
    ["", "a:b", ":", "#alice", " alice", "alice ", "\talice", "a\nb", "a\0b", "a" * 256, "\udcff"],
)
def test_a_name_that_a_line_cannot_hold_is_refused(path: Path, name: str) -> None:
    with pytest.raises(AccountError, match="cannot be an account"):
        editing.add(path, name, NEW)
    assert path.read_bytes() == KEPT


@pytest.mark.parametrize("name", ["a", "a" * 255, "älice", "a b", "a#b", "alice@example.com", "$"])
def test_any_other_name_is_an_account(path: Path, name: str) -> None:
    editing.add(path, name, NEW)
    assert name in names(path)


@pytest.mark.parametrize("name", ["", "#alice", "# bob is on leave until May", "# our accounts"])
def test_a_comment_is_no_account(path: Path, name: str) -> None:
    path.write_bytes(KEPT + b"#alice:" + HASH + b"\n")
    before = path.read_bytes()
    with pytest.raises(AccountError):
        editing.set_password(path, name, NEW)
    with pytest.raises(AccountError):
        editing.remove(path, name)
    assert path.read_bytes() == before


def test_who_is_removed_is_locked_out_though_two_lines_name_him(path: Path) -> None:
    path.write_bytes(KEPT + b"alice:" + OTHER + b"\n")
    editing.remove(path, "alice")
    assert "alice" not in names(path)


def test_another_password_ends_the_old_one_though_two_lines_name_it(path: Path) -> None:
    path.write_bytes(b"alice:nonsense\nalice:" + HASH + b"\n")
    editing.set_password(path, "alice", NEW)
    assert editing.accounts(path).hashes == {"alice": NEW}


def test_a_folder_in_the_place_of_the_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(AccountError, match="cannot be read: Is a directory"):
        editing.accounts(tmp_path)
    with pytest.raises(AccountError, match="cannot be read: Is a directory"):
        editing.add(tmp_path, "alice", HASH)


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(AccountError, match="cannot be opened: No such file"):
        editing.add(tmp_path / "none" / "htpasswd", "alice", HASH)


@pytest.mark.parametrize("verb", ["fsync", "rename", "fchmod"])
def test_an_edit_that_fails_leaves_the_file_as_it_was(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, verb, fail)
        with pytest.raises(AccountError, match="cannot be written: No space left on device"):
            editing.add(path, "carol", NEW)
    assert path.read_bytes() == KEPT
    assert [entry.name for entry in tmp_path.iterdir()] == ["htpasswd"]
    editing.add(path, "carol", NEW)
    assert "carol" in names(path)


# --- several at once


def test_edits_from_many_threads_all_survive(path: Path) -> None:
    def edit(number: int) -> None:
        for turn in range(10):
            editing.add(path, f"{number}-{turn}", HASH)
            editing.set_password(path, f"{number}-{turn}", NEW)
            if turn % 2:
                editing.remove(path, f"{number}-{turn}")

    threads = [threading.Thread(target=edit, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = {f"{number}-{turn}" for number in range(6) for turn in range(0, 10, 2)}
    found = editing.accounts(path).hashes
    assert set(found) == expected | {"alice", "bob"}
    assert {found[name] for name in expected} == {NEW}
    assert path.read_bytes().startswith(KEPT)


def test_edits_from_many_processes_all_survive(path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from appliance.accounts import editing\n"
        "for turn in range(20): editing.add(Path(sys.argv[1]), f'{sys.argv[2]}-{turn}', b'x')"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", program, path, str(number)]) for number in range(3)
    ]
    assert [process.wait() for process in running] == [0, 0, 0]
    lines = path.read_bytes().removeprefix(KEPT).splitlines()
    assert sorted(lines) == sorted(
        b"%d-%d:x" % (number, turn) for number in range(3) for turn in range(20)
    )


def test_a_reader_never_sees_half_a_file(path: Path) -> None:
    done = threading.Event()
    seen: list[bytes] = []

    def read() -> None:
        while not done.is_set():
            seen.append(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(50):
        editing.add(path, f"{number}", HASH)
    done.set()
    reader.join()
    assert seen
    for content in seen:
        added = content.removeprefix(KEPT).splitlines()
        assert content.startswith(KEPT)
        assert added == [b"%d:%b" % (number, HASH) for number in range(len(added))]
