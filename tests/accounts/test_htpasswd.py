"""The password file: what its lines mean, and what a check costs and proves."""

import os
import subprocess
from pathlib import Path

import bcrypt
import hypothesis.strategies as st
import pytest
import structlog.testing
import trio
from hypothesis import given, settings
from trio.testing import MockClock

from appliance.accounts import asking, editing, htpasswd
from appliance.accounts.htpasswd import PasswordAccounts, PasswordFile
from appliance.accounts.schemes import COST, check_password, hash_password
from appliance.oci.errors import TOO_MANY_LOGINS, ErrorRow, RegistryError
from appliance.protocol.credentials import Credentials

HASH = hash_password(b"open sesame", 4)
OTHER_HASH = hash_password(b"correct horse", 4)


def line(name: str, password: bytes, cost: int = 4) -> bytes:
    return b"%b:%b\n" % (name.encode(), bcrypt.hashpw(password, bcrypt.gensalt(cost)))


def by_apache(name: str, password: bytes) -> bytes:
    """The line that Apache's own tool writes."""
    command = ["htpasswd", "-n", "-i", "-B", "-C", "4", name]
    written = subprocess.run(command, input=password, capture_output=True, check=True).stdout
    return written.strip() + b"\n"


def edit_by_apache(path: Path, name: str, password: str) -> None:
    command = ["htpasswd", "-b", "-B", "-C", "4", str(path), name, password]
    subprocess.run(command, capture_output=True, check=True)


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def move(source: Path, target: Path) -> None:
    source.rename(target)


def put_a_folder_in_its_place(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A password file with alice and bob."""
    path = tmp_path / "htpasswd"
    path.write_bytes(b"alice:" + HASH + b"\nbob:" + OTHER_HASH + b"\n")
    return path


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Record the hash of every bcrypt check."""
    made: list[bytes] = []
    check = bcrypt.checkpw

    def counted(password: bytes, stored: bytes) -> bool:
        made.append(stored)
        return check(password, stored)

    monkeypatch.setattr(bcrypt, "checkpw", counted)
    return made


@pytest.fixture
def accounts(path: Path) -> PasswordAccounts:
    return PasswordAccounts(path)


async def enters(accounts: PasswordAccounts, name: str, password: bytes) -> bool:
    return await accounts.verify(Credentials(name, password)) is not None


def cost(stored: bytes) -> int:
    return int(stored[4:6])


# --- lines


def test_lines_of_name_and_hash_are_accounts() -> None:
    found = PasswordFile.parse(b"alice:" + HASH + b"\nbob:" + OTHER_HASH)
    assert (found.hashes, found.faults) == ({"alice": HASH, "bob": OTHER_HASH}, ())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n\n",
        b"# a comment\n",
        b"  # an indented one\n",
        b"#alice:" + HASH,
        b" \t \n",
        b"\r\n",
    ],
)
def test_blank_lines_and_comments_mean_nothing(content: bytes) -> None:
    assert PasswordFile.parse(content) == PasswordFile({}, ())


def test_hashes_that_are_cheap_to_try_are_weak() -> None:
    strong = HASH.replace(b"$04$", b"$10$")
    weak = HASH.replace(b"$04$", b"$09$")
    found = PasswordFile.parse(b"alice:%b\nbob:%b\n" % (strong, weak))
    assert found.weaknesses == {
        "bob": "the password of bob is kept as a weak hash, bcrypt at cost 9;"
        " set it anew: registry user passwd bob"
    }


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r", b"  \n", b"\t\r\n"])
def test_a_line_may_end_as_it_likes(ending: bytes) -> None:
    content = b"alice:" + HASH + ending + b"bob:" + OTHER_HASH + ending
    found = PasswordFile.parse(content)
    assert (found.hashes, found.faults) == ({"alice": HASH, "bob": OTHER_HASH}, ())


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (b"alice", "does not read name:hash"),
        (b":" + HASH, "does not read name:hash"),
        (b"alice:", "what stands for alice is no hash"),
        (b"alice:secret", "what stands for alice is no hash"),
        (
            b"alice:$apr1$BAYrbJHT$Lk1PAy0lHYsXSfJmb3bPq",
            "set it anew with: registry user passwd alice",
        ),
        (b"alice:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g", "is no hash of a scheme that is known"),
        (b"alice:{PLAIN}secret", "plain text is not taken"),
        (b"@team:" + HASH, "such names have a meaning of their own"),
        (b"*:" + HASH, "such names have a meaning of their own"),
        (b"alice:$6$rounds=0999999$salt$" + b"a" * 86, "is no hash of a scheme that is known"),
        (b"alice:$6$rounds=1000001$salt$" + b"a" * 86, "is no hash of a scheme that is known"),
        (b"alice:$6$salt$hash", "is no hash of a scheme that is known"),
        (b"alice:" + HASH + b":more", "is no hash of a scheme that is known"),
        (b"alice:" + HASH[:-1], "is no hash of a scheme that is known"),
        (b"alice: " + HASH, "is no hash of a scheme that is known"),
        (b"alice:" + HASH.replace(b"$2b$", b"$2x$"), "is no hash of a scheme that is known"),
        (b"alice:" + HASH.replace(b"$04$", b"$03$"), "is no hash of a scheme that is known"),
        (b"alice:" + HASH.replace(b"$04$", b"$32$"), "is no hash of a scheme that is known"),
        (b"alice:" + HASH.replace(b"$04$", b"$99$"), "is no hash of a scheme that is known"),
        (b"\xff:" + HASH, "its name is not UTF-8"),
        (b"a" * 256 + b":" + HASH, "too long or has unprintable"),
        (b"a\x07b:" + HASH, "too long or has unprintable"),
        (b"a\x00b:" + HASH, "too long or has unprintable"),
        (b"(operator):" + HASH, "such names have a meaning of their own"),
        (b"bob:" + HASH, "bob stands in an earlier line already"),
    ],
)
def test_a_line_that_cannot_be_used_is_named_and_ignored(entry: bytes, reason: str) -> None:
    found = PasswordFile.parse(
        b"# accounts\nbob:" + OTHER_HASH + b"\n" + entry + b"\ncarol:" + HASH
    )
    assert found.hashes == {"bob": OTHER_HASH, "carol": HASH}
    assert [(fault.line, reason in fault.reason) for fault in found.faults] == [(3, True)]


def test_a_reason_shows_no_hash() -> None:
    found = PasswordFile.parse(b"alice:$apr1$BAYrbJHT$Lk1PAy0lHYsXSfJmb3bPq0\nbob:secret")
    assert not any("apr1" in f.reason or "secret" in f.reason for f in found.faults)


@given(st.binary())
def test_any_bytes_are_a_password_file(content: bytes) -> None:
    found = PasswordFile.parse(content)
    for name in found.hashes:
        editing.check_name(name)


# --- passwords


@pytest.mark.parametrize("prefix", [b"$2a$", b"$2b$", b"$2y$"])
def test_every_kind_of_bcrypt_is_understood(prefix: bytes) -> None:
    stored = PasswordFile.parse(by_apache("alice", b"open sesame")).hashes["alice"]
    stored = stored.replace(stored[:4], prefix)
    assert check_password(b"open sesame", stored)
    assert not check_password(b"open sesame ", stored)


@pytest.mark.parametrize(
    "password",
    [b"a", b"with spaces", b"with:colon", "gehëim".encode(), b"\xff\xfe", b"a" * 72, b"#!$%&"],
)
def test_what_apaches_tool_wrote_lets_in(password: bytes) -> None:
    stored = PasswordFile.parse(by_apache("alice", password)).hashes["alice"]
    assert check_password(password, stored)
    assert not check_password(password + b"x", stored) or len(password) == 72
    assert not check_password(password[:-1], stored)


def test_what_is_written_here_lets_in_by_apaches_tool(tmp_path: Path) -> None:
    file = tmp_path / "htpasswd"
    editing.add(file, "alice", hash_password(b"open sesame", 4))
    for password, status in (("open sesame", 0), ("wrong", 3)):
        ran = subprocess.run(
            ["htpasswd", "-vb", file, "alice", password], capture_output=True, check=False
        )
        assert ran.returncode == status, ran.stderr


def test_of_a_long_password_72_bytes_count_as_with_every_tool() -> None:
    long = b"0123456789" * 10
    stored = PasswordFile.parse(by_apache("alice", long)).hashes["alice"]
    assert check_password(long, stored)
    assert check_password(long[:72], stored)
    assert check_password(long[:72] + b"else", stored)
    assert not check_password(long[:71], stored)
    assert check_password(b"a" * 100_000, hash_password(b"a" * 72, 4))


def test_a_password_with_nul_is_wrong_and_costs_a_check(checks: list[bytes]) -> None:
    stored = bcrypt.hashpw(b"", bcrypt.gensalt(4))
    for password in (b"\0", b"open sesame\0", b"open\0sesame", b"\0" * 100):
        assert not check_password(password, HASH)
        assert not check_password(password, stored)
    assert len(checks) == 8


def test_an_empty_password_is_wrong() -> None:
    assert not check_password(b"", HASH)


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        (b"", "is empty"),
        (b"a" * 73, "has 73 bytes; bcrypt takes 72"),
        ("ä".encode() * 37, "has 74 bytes; bcrypt takes 72"),
        (b"a\0b", "contains a NUL byte"),
    ],
)
def test_a_password_bcrypt_would_mangle_is_not_stored(password: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        hash_password(password, 4)


def test_a_hash_made_here_is_dear_and_salted() -> None:
    assert COST >= 10
    first, second = hash_password(b"a", 4), hash_password(b"a", 4)
    assert first != second
    assert cost(first) == 4
    assert check_password(b"a", first)
    assert check_password(b"a", second)


HASH_SHAPES = st.from_regex(
    r"\$2[aby]\$04\$[./A-Za-z0-9]{21}[.Oeu./A-Za-z0-9][./A-Za-z0-9]{31}", fullmatch=True
)


@settings(max_examples=50, deadline=None)
@given(HASH_SHAPES, st.binary(max_size=80))
def test_any_hash_that_is_accepted_can_be_checked(stored: str, password: bytes) -> None:
    for accepted in PasswordFile.parse(b"alice:" + stored.encode()).hashes.values():
        assert not check_password(password, accepted)


@pytest.mark.parametrize("salt", [b"0" * 22, b"." * 21 + b"/", b"z" * 22])
def test_a_salt_that_bcrypt_does_not_read_is_named_and_ignored(salt: bytes) -> None:
    found = PasswordFile.parse(b"alice:$2b$04$" + salt + b"." * 31)
    assert (found.hashes, len(found.faults)) == ({}, 1)


# --- who comes in


async def test_the_right_password_lets_in_and_no_other(accounts: PasswordAccounts) -> None:
    assert await enters(accounts, "alice", b"open sesame")
    assert await enters(accounts, "bob", b"correct horse")
    for name, password in (
        ("alice", b"correct horse"),
        ("alice", b""),
        ("alice", b"open sesame "),
        ("alice", b"open sesame\0"),
        ("alice", HASH),
        ("Alice", b"open sesame"),
        ("alice ", b"open sesame"),
        ("", b"open sesame"),
        ("eve", b"open sesame"),
        ("alice:" + HASH.decode(), b""),
    ):
        assert not await enters(accounts, name, password), (name, password)


async def test_a_password_once_checked_is_not_checked_again(
    accounts: PasswordAccounts, checks: list[bytes]
) -> None:
    for _ in range(1000):
        assert await enters(accounts, "alice", b"open sesame")
    assert len(checks) == 1
    assert await enters(accounts, "bob", b"correct horse")
    assert len(checks) == 2


async def test_a_wrong_password_is_never_taken_for_right(
    accounts: PasswordAccounts, checks: list[bytes]
) -> None:
    for _ in range(3):
        assert not await enters(accounts, "alice", b"wrong")
    assert await enters(accounts, "alice", b"open sesame")
    for _ in range(3):
        assert not await enters(accounts, "alice", b"wrong")
        assert not await enters(accounts, "bob", b"open sesame")
    assert len(checks) == 3 + 1 + 6


async def test_many_at_once_share_one_check(
    accounts: PasswordAccounts, checks: list[bytes]
) -> None:
    found: list[bool] = []

    async def enter(password: bytes) -> None:
        found.append(await enters(accounts, "alice", password))

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(enter, b"open sesame")
    assert found == [True] * 50
    assert len(checks) == 1
    found.clear()
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(enter, b"wrong")
    assert found == [False] * 50
    assert len(checks) == 2


async def test_who_leaves_during_a_check_takes_it_from_nobody(
    accounts: PasswordAccounts, checks: list[bytes]
) -> None:
    found: list[bool] = []

    async def enter() -> None:
        found.append(await enters(accounts, "alice", b"open sesame"))

    async with trio.open_nursery() as staying, trio.open_nursery() as leaving:
        for _ in range(5):
            leaving.start_soon(enter)
            staying.start_soon(enter)
        await trio.lowlevel.checkpoint()
        leaving.cancel_scope.cancel()
    assert found.count(True) == len(found) >= 5
    assert len(checks) <= 2


async def test_a_name_nobody_has_costs_what_a_name_somebody_has_costs(
    accounts: PasswordAccounts, path: Path, checks: list[bytes]
) -> None:
    write(path, line("alice", b"open sesame", cost=5))
    for name, password in (("alice", b"wrong"), ("eve", b"wrong"), ("", b"x"), ("alice", b"\0")):
        checks.clear()
        assert not await enters(accounts, name, password)
        assert [cost(stored) for stored in checks] == [5]


async def test_a_name_nobody_has_costs_what_the_dearest_costs(
    accounts: PasswordAccounts, path: Path, checks: list[bytes]
) -> None:
    write(path, line("alice", b"a", cost=4) + line("bob", b"b", cost=6) + line("carol", b"c"))
    assert not await enters(accounts, "eve", b"wrong")
    assert [cost(stored) for stored in checks] == [6]


async def test_a_name_nobody_has_is_not_let_in_the_second_time_either(
    accounts: PasswordAccounts, checks: list[bytes]
) -> None:
    for _ in range(3):
        assert not await enters(accounts, "eve", b"open sesame")
    assert len(checks) == 3


async def test_a_proof_lasts_for_a_while(
    accounts: PasswordAccounts, checks: list[bytes], mock_clock: MockClock
) -> None:
    assert await enters(accounts, "alice", b"open sesame")
    mock_clock.jump(299)
    assert await enters(accounts, "alice", b"open sesame")
    assert len(checks) == 1
    mock_clock.jump(2)
    assert await enters(accounts, "alice", b"open sesame")
    assert len(checks) == 2


async def test_only_so_many_proofs_are_kept(
    accounts: PasswordAccounts, checks: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "REMEMBERED_MAX", 1)
    for _ in range(3):
        assert await enters(accounts, "alice", b"open sesame")
        assert await enters(accounts, "bob", b"correct horse")
    assert len(checks) == 6
    assert len(accounts._right._kept) == 1


async def test_what_is_kept_is_no_password(accounts: PasswordAccounts) -> None:
    assert await enters(accounts, "alice", b"open sesame")
    for proof in accounts._right._kept:
        assert b"sesame" not in proof
        assert b"alice" not in proof
        assert HASH not in proof


# --- the file changes


async def test_another_password_counts_at_once_and_the_old_one_no_more(
    accounts: PasswordAccounts, path: Path
) -> None:
    assert await enters(accounts, "alice", b"open sesame")
    editing.set_password(path, "alice", hash_password(b"new", 4))
    assert not await enters(accounts, "alice", b"open sesame")
    assert await enters(accounts, "alice", b"new")
    assert await enters(accounts, "bob", b"correct horse")


async def test_an_account_comes_and_goes(accounts: PasswordAccounts, path: Path) -> None:
    assert not await enters(accounts, "carol", b"hello")
    editing.add(path, "carol", hash_password(b"hello", 4))
    assert await enters(accounts, "carol", b"hello")
    editing.remove(path, "carol")
    assert not await enters(accounts, "carol", b"hello")


async def test_a_line_written_in_place_counts_at_once(
    accounts: PasswordAccounts, path: Path
) -> None:
    assert not await enters(accounts, "carol", b"hello")
    edit_by_apache(path, "carol", "hello")
    assert await enters(accounts, "carol", b"hello")


async def test_a_file_that_is_gone_locks_everybody_out(
    accounts: PasswordAccounts, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(htpasswd, "COST", 4)
    assert await enters(accounts, "alice", b"open sesame")
    away = path.with_name("away")
    move(path, away)
    assert not await enters(accounts, "alice", b"open sesame")
    move(away, path)
    assert await enters(accounts, "alice", b"open sesame")


async def test_a_file_that_cannot_be_read_locks_everybody_out_and_says_so(
    accounts: PasswordAccounts, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(htpasswd, "COST", 4)
    assert await enters(accounts, "alice", b"open sesame")
    put_a_folder_in_its_place(path)
    with structlog.testing.capture_logs() as logs:
        assert not await enters(accounts, "alice", b"open sesame")
        assert not await enters(accounts, "alice", b"open sesame")
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [
        ("password file unreadable", "error")
    ]


async def test_a_file_without_accounts_costs_as_much_as_a_good_hash(
    accounts: PasswordAccounts,
    path: Path,
    checks: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(htpasswd, "COST", 5)
    write(path, b"")
    assert not await enters(accounts, "alice", b"open sesame")
    assert [cost(stored) for stored in checks] == [5]


async def test_every_bad_line_is_logged_once_per_reading(
    accounts: PasswordAccounts, path: Path
) -> None:
    write(path, b"nonsense\nalice:" + HASH + b"\ncarol:secret\n")
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            await accounts.refresh()
        assert await enters(accounts, "alice", b"open sesame")
    assert [(entry["event"], entry["line"]) for entry in logs] == [
        ("password line ignored", 1),
        ("password line ignored", 3),
    ]
    assert "secret" not in str(logs)


async def test_the_file_is_read_only_when_it_has_changed(
    accounts: PasswordAccounts, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    read_bytes = Path.read_bytes

    def counted(self: Path) -> bytes:
        read.append(self)
        return read_bytes(self)

    monkeypatch.setattr(Path, "read_bytes", counted)
    for _ in range(5):
        await accounts.refresh()
    assert read == [path]
    os.utime(path, (0, 0))
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(accounts.refresh)
    assert read == [path, path]


async def test_a_flood_of_logins_is_turned_away(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(htpasswd, "_WAITING_MAX", 3)
    accounts = PasswordAccounts(path)
    refusals: list[ErrorRow] = []

    async def enter(number: int) -> None:
        try:
            await enters(accounts, "alice", b"guess %d" % number)
        except RegistryError as error:
            refusals.append(error.row)

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(enter, number)
    assert set(refusals) == {TOO_MANY_LOGINS}
    assert await enters(accounts, "alice", b"open sesame")


@pytest.fixture
def mixed(path: Path) -> Path:
    """A file in which alice's hash is cheap and bob's dear."""
    cheap = bcrypt.hashpw(b"cheap", bcrypt.gensalt(4))
    dear = bcrypt.hashpw(b"dear", bcrypt.gensalt(6))
    path.write_bytes(b"alice:" + cheap + b"\nbob:" + dear + b"\n")
    return path


async def test_a_cheap_hash_is_refused_as_slowly_as_a_dear_one(
    mixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs: list[int] = []
    check = check_password

    def counting(password: bytes, stored: bytes) -> bool:
        costs.append(int(stored[4:6]))
        return check(password, stored)

    monkeypatch.setattr(htpasswd, "check_password", counting)
    accounts = PasswordAccounts(mixed)
    assert not await enters(accounts, "alice", b"wrong")
    assert costs == [4, 6]
    costs.clear()
    assert not await enters(accounts, "nobody", b"wrong")
    assert costs == [6]
