"""Accounts of a directory: what it is asked, how often, and what counts while it is away."""

import importlib
import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import hypothesis.strategies as st
import pytest
import structlog.testing
import trio
from hypothesis import given
from trio.testing import MockClock

from appliance.accounts import asking, directory
from appliance.accounts.directory import Directory, escaped
from appliance.accounts.htpasswd import PasswordAccounts
from appliance.accounts.ldap import (
    DirectoryError,
    Entry,
    LdapWire,
    OutageError,
    SeveralEntriesError,
    Terms,
)
from appliance.accounts.schemes import hash_password
from appliance.accounts.several import SeveralAccounts
from appliance.oci.errors import TOO_MANY_LOGINS, ErrorRow, RegistryError
from appliance.protocol.credentials import PASSING, Credentials

TERMS = Terms(
    url="ldaps://directory",
    base="dc=example",
    filter="(&(objectClass=person)(uid={account}))",
    bind_dn="cn=searcher",
    bind_password=b"search me",
    timeout_seconds=5,
)
ALICE = Credentials("alice", b"open sesame")


def entry(uid: str, *, changed: bytes = b"1", identity: bytes = b"u") -> Entry:
    values = {"uid": (uid.encode(),), "entryuuid": (identity,), "pwdchangedtime": (changed,)}
    return Entry(f"uid={uid},dc=example", values)


@dataclass
class Double:
    """A directory of a few entries, without LDAP."""

    entries: dict[str, list[Entry]] = field(default_factory=dict)
    passwords: dict[str, bytes] = field(default_factory=dict)
    seconds: float = 0.1
    outage: str = ""
    searches: list[str] = field(default_factory=list)
    binds: list[str] = field(default_factory=list)
    now: int = 0
    most: int = 0

    async def search(self, expression: str, attributes: Sequence[str]) -> Sequence[Entry]:
        self.searches.append(expression)
        assert "uid" in attributes
        await self._answer()
        found = self.entries.get(expression, [])
        if len(found) > 2:
            raise SeveralEntriesError
        return found

    async def proves(self, dn: str, password: bytes) -> bool:
        assert dn
        assert password
        self.binds.append(dn)
        await self._answer()
        return self.passwords.get(dn) == password

    async def _answer(self) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await trio.sleep(self.seconds)
        finally:
            self.now -= 1
        if self.outage:
            raise OutageError(self.outage)

    def put(self, entry: Entry, password: bytes) -> None:
        uid = entry.values["uid"][0].decode()
        self.entries[f"(&(objectClass=person)(uid={escaped(uid)}))"] = [entry]
        self.passwords[entry.dn] = password

    def remove(self, uid: str) -> None:
        del self.entries[f"(&(objectClass=person)(uid={uid}))"]


@pytest.fixture
def double() -> Double:
    double = Double()
    double.put(entry("alice"), b"open sesame")
    double.put(entry("bob", identity=b"b"), b"correct horse")
    return double


@pytest.fixture
def accounts(double: Double) -> Directory:
    return Directory(TERMS, connect=lambda _: double)


async def refusal(accounts: Directory, credentials: Credentials) -> ErrorRow:
    with pytest.raises(RegistryError) as caught:
        await accounts.verify(credentials)
    return caught.value.row


# --- what is asked


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("alice", "alice"),
        ("*", r"\2a"),
        ("a*b(c)d\\e\0", r"a\2ab\28c\29d\5ce\00"),
        ("alice)(uid=*", r"alice\29\28uid=\2a"),
        (r"\2a", r"\5c2a"),
        ("ä", "ä"),
    ],
)
def test_a_value_is_no_part_of_a_filter(value: str, found: str) -> None:
    assert escaped(value) == found


@given(st.text(alphabet="*()\\\0ab2" + string.punctuation))
def test_an_escaped_value_reads_as_what_it_was(value: str) -> None:
    text = escaped(value)
    assert not set("*()\0") & set(text)
    assert (
        b"".join(
            bytes.fromhex(part[:2]) + part[2:].encode() if number else part.encode()
            for number, part in enumerate(text.split("\\"))
        )
        == value.encode()
    )


async def test_a_name_is_escaped_in_the_search(
    accounts: Directory, double: Double, autojump_clock: MockClock
) -> None:
    assert await accounts.verify(Credentials("a*)(b\\", b"x")) is None
    assert double.searches == [r"(&(objectClass=person)(uid=a\2a\29\28b\5c))"]


@pytest.mark.parametrize(
    "name", ["", " alice", "ali ce", "al:ice", "(a", "@a", "*", "a\0", "a\n", "a" * 256, "\ud800"]
)
async def test_what_is_no_name_is_not_asked_for(
    accounts: Directory, double: Double, name: str, autojump_clock: MockClock
) -> None:
    assert await accounts.verify(Credentials(name, b"open sesame")) is None
    assert await accounts.generation(name) is None
    assert double.searches == []


@pytest.mark.parametrize("password", [b"", b"\0", b"open sesame\0", b"\0open sesame", b"\xff"])
async def test_what_is_no_password_is_wrong_before_anybody_is_asked(
    accounts: Directory, double: Double, password: bytes, autojump_clock: MockClock
) -> None:
    assert await accounts.verify(Credentials("alice", password)) is None
    assert double.searches == double.binds == []


async def test_the_right_password_lets_in_and_no_other(
    accounts: Directory, double: Double, autojump_clock: MockClock
) -> None:
    generation = await accounts.verify(ALICE)
    assert generation
    assert generation == await accounts.generation("alice")
    assert double.binds == ["uid=alice,dc=example"]
    wrong = Credentials("alice", b"correct horse")
    assert not accounts.is_wrong(wrong)
    assert await accounts.verify(wrong) is None
    assert accounts.is_wrong(wrong)
    assert not accounts.is_wrong(ALICE)
    assert await accounts.verify(Credentials("bob", b"correct horse")) not in {None, generation}
    assert accounts.weakness("alice") is None


async def test_a_name_in_other_letters_is_another_name(
    accounts: Directory, double: Double, autojump_clock: MockClock
) -> None:
    double.entries["(&(objectClass=person)(uid=Alice))"] = [entry("alice")]
    assert await accounts.verify(Credentials("Alice", b"open sesame")) is None
    assert await accounts.generation("Alice") is None


@pytest.mark.parametrize("number", [2, 3])
async def test_several_entries_are_nobody(
    accounts: Directory, double: Double, number: int, autojump_clock: MockClock
) -> None:
    double.entries["(&(objectClass=person)(uid=alice))"] *= number
    with structlog.testing.capture_logs() as logs:
        assert await accounts.verify(ALICE) is None
    assert [line["event"] for line in logs] == ["several entries for one account"]
    assert "uid=alice,dc=example" not in double.binds


async def test_an_entry_without_a_name_of_its_own_is_nobody(
    accounts: Directory, double: Double, autojump_clock: MockClock
) -> None:
    nameless = Entry("", {"uid": (b"alice",)})
    double.put(nameless, b"open sesame")
    assert await accounts.verify(ALICE) is None


async def test_a_name_nobody_has_costs_a_bind_too(
    accounts: Directory, double: Double, autojump_clock: MockClock
) -> None:
    for _ in range(2):
        assert await accounts.verify(Credentials("eve", b"x")) is None
    assert len(double.binds) == 2
    assert double.binds[0] != double.binds[1]
    assert all(dn.endswith(",dc=example") for dn in double.binds)
    assert len(accounts._known._kept) == 0


@pytest.mark.parametrize(
    ("filter_", "name"),
    [
        ("(sAMAccountName={account})", "samaccountname"),
        ("(|(uid={account})(mail={account}))", "mail"),
    ],
)
async def test_the_name_stands_where_the_filter_says(
    filter_: str, name: str, autojump_clock: MockClock
) -> None:
    class Wire(Double):
        async def search(self, expression: str, attributes: Sequence[str]) -> Sequence[Entry]:
            assert name in attributes
            return [Entry("cn=x", {name: (b"alice", b"other")})]

    double = Wire(passwords={"cn=x": b"open sesame"})
    accounts = Directory(Terms(url="ldaps://a", base="", filter=filter_), connect=lambda _: double)
    assert await accounts.verify(ALICE)
    assert await accounts.verify(Credentials("other", b"open sesame"))
    assert await accounts.verify(Credentials("ALICE", b"open sesame")) is None


# --- how often


async def test_a_right_password_is_remembered_for_a_while(
    accounts: Directory, double: Double, autojump_clock: MockClock
) -> None:
    assert await accounts.recall(ALICE) is None
    generation = await accounts.verify(ALICE)
    for _ in range(100):
        assert await accounts.recall(ALICE) == await accounts.verify(ALICE) == generation
    assert (len(double.searches), len(double.binds)) == (1, 1)
    autojump_clock.jump(61)
    assert await accounts.recall(ALICE) == generation
    assert (len(double.searches), len(double.binds)) == (2, 1)
    autojump_clock.jump(240)
    assert await accounts.recall(ALICE) is None
    assert await accounts.verify(ALICE) == generation
    assert len(double.binds) == 2


async def test_a_wrong_password_is_remembered_for_less(
    accounts: Directory, autojump_clock: MockClock
) -> None:
    wrong = Credentials("alice", b"wrong")
    assert await accounts.verify(wrong) is None
    autojump_clock.jump(20)
    assert accounts.is_wrong(wrong)
    autojump_clock.jump(20)
    assert not accounts.is_wrong(wrong)


async def test_a_generation_is_a_minute_old_at_most(
    accounts: Directory, double: Double, autojump_clock: MockClock
) -> None:
    first = await accounts.generation("alice")
    double.put(entry("alice", changed=b"2"), b"new")
    autojump_clock.jump(58)
    assert await accounts.generation("alice") == first
    assert len(double.searches) == 1
    autojump_clock.jump(2)
    assert await accounts.generation("alice") not in {first, None}
    double.remove("alice")
    autojump_clock.jump(60)
    assert await accounts.generation("alice") is None


async def test_a_removed_account_is_not_recalled(
    accounts: Directory, double: Double, autojump_clock: MockClock
) -> None:
    assert await accounts.verify(ALICE)
    double.remove("alice")
    autojump_clock.jump(61)
    assert await accounts.recall(ALICE) is None
    assert await accounts.verify(ALICE) is None


async def test_a_changed_password_ends_what_the_old_one_proved(
    accounts: Directory, double: Double, autojump_clock: MockClock
) -> None:
    before = await accounts.verify(ALICE)
    double.put(entry("alice", changed=b"2"), b"new")
    after = await accounts.verify(Credentials("alice", b"new"))
    assert after not in {before, None}
    assert await accounts.recall(ALICE) is None
    assert await accounts.verify(ALICE) is None
    autojump_clock.jump(1)
    assert await accounts.generation("alice") == after


async def test_an_older_answer_that_comes_later_does_not_count(
    accounts: Directory, double: Double, autojump_clock: MockClock
) -> None:
    older, newer = entry("alice"), entry("alice", changed=b"2")
    double.put(older, b"open sesame")
    answers = iter([(older, 3.0), (newer, 1.0)])

    async def search(expression: str, attributes: Sequence[str]) -> Sequence[Entry]:
        del expression, attributes
        found, seconds = next(answers)
        await trio.sleep(seconds)
        return [found]

    double.search = search  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(accounts.generation, "alice")
        await trio.sleep(1)
        proved = await accounts.verify(ALICE)
    assert proved == await accounts.generation("alice") == accounts._generation(newer)


async def test_another_entry_of_the_same_name_is_another_account(
    accounts: Directory, double: Double, autojump_clock: MockClock
) -> None:
    before = await accounts.verify(ALICE)
    double.put(entry("alice", identity=b"another"), b"open sesame")
    autojump_clock.jump(61)
    assert await accounts.verify(ALICE) not in {before, None}


async def test_many_at_once_share_one_question(
    accounts: Directory, double: Double, autojump_clock: MockClock
) -> None:
    found: list[str | None] = []

    async def ask() -> None:
        found.append(await accounts.generation("alice"))

    async def enter() -> None:
        found.append(await accounts.verify(ALICE))

    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(ask)
    assert (len(found), len(set(found)), len(double.searches)) == (50, 1, 1)
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(enter)
    assert (len(found), len(set(found)), len(double.binds)) == (100, 1, 1)


async def test_who_leaves_while_asking_takes_it_from_nobody(
    accounts: Directory, double: Double, autojump_clock: MockClock
) -> None:
    found: list[str | None] = []

    async def ask() -> None:
        found.append(await accounts.generation("alice"))

    async with trio.open_nursery() as staying, trio.open_nursery() as leaving:
        leaving.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        staying.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        leaving.cancel_scope.cancel()
    assert len(found) == 1
    assert found[0]
    assert len(double.searches) == 2
    assert accounts._lookups._open == {}


async def test_only_so_many_are_asked_side_by_side_and_only_so_many_wait(
    accounts: Directory, double: Double, autojump_clock: MockClock
) -> None:
    refused: list[ErrorRow] = []

    async def enter(number: int) -> None:
        try:
            await accounts.verify(Credentials("alice", b"guess %d" % number))
        except RegistryError as error:
            refused.append(error.row)

    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(enter, number)
        await trio.testing.wait_all_tasks_blocked(0.001)
        assert await accounts.generation("bob")  # which does not wait for them
        assert len(double.binds) <= 16
    assert double.most == 9
    assert refused == [TOO_MANY_LOGINS] * 36
    assert await accounts.verify(ALICE)


async def test_only_so_much_is_remembered(
    accounts: Directory, double: Double, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    monkeypatch.setattr(asking, "REMEMBERED_MAX", 1)
    bob = Credentials("bob", b"correct horse")
    for _ in range(3):
        assert await accounts.verify(ALICE)
        assert await accounts.verify(bob)
    assert len(double.binds) == 6
    assert len(accounts._right._kept) == len(accounts._known._kept) == 1


# --- while it is away


@pytest.mark.parametrize("reason", ["connection refused", "slow"])
async def test_a_directory_that_is_away_makes_no_password_wrong(
    accounts: Directory, double: Double, reason: str, autojump_clock: MockClock
) -> None:
    if reason == "slow":
        double.seconds = 6
    else:
        double.outage = reason
    with structlog.testing.capture_logs() as logs:
        for credentials in (ALICE, ALICE, Credentials("alice", b"wrong"), Credentials("eve", b"x")):
            assert (await refusal(accounts, credentials)).status == 503
            assert not accounts.is_wrong(credentials)
        with pytest.raises(RegistryError):
            await accounts.generation("alice")
        assert len(double.searches) == 1  # it is left alone for a few seconds
        double.outage, double.seconds = "", 0.1
        autojump_clock.jump(6)
        assert await accounts.verify(ALICE)
        double.outage = "again"
        assert (await refusal(accounts, Credentials("bob", b"x"))).status == 503
    assert [(line["event"], line["log_level"]) for line in logs] == [
        ("directory does not answer", "error"),
        ("directory answers again", "info"),
        ("directory does not answer", "error"),
    ]
    assert logs[2]["reason"] == "again"
    assert "sesame" not in str(logs)


async def test_what_was_known_last_counts_for_ten_minutes(
    accounts: Directory, double: Double, autojump_clock: MockClock
) -> None:
    generation = await accounts.verify(ALICE)
    double.outage = "gone"
    autojump_clock.jump(100)
    assert await accounts.generation("alice") == generation
    asked = len(double.searches)
    for _ in range(10):
        assert await accounts.generation("alice") == generation
        assert await accounts.recall(ALICE) == generation
    assert len(double.searches) == asked  # it is left alone for a few seconds
    autojump_clock.jump(10)
    assert await accounts.generation("alice") == generation
    assert len(double.searches) == asked + 1
    autojump_clock.jump(480)
    assert await accounts.generation("alice") == generation
    autojump_clock.jump(10)
    with pytest.raises(RegistryError):
        await accounts.generation("alice")
    double.outage = ""
    autojump_clock.jump(6)
    assert await accounts.generation("alice") == generation


async def test_what_is_none_of_its_passwords_is_not_told_to_it(
    accounts: Directory, double: Double, autojump_clock: MockClock
) -> None:
    for secret in (b"reg_0123456789ab_secret", b"eyJhbGciOiJub25lIn0.e30.AAAA"):
        assert await accounts.verify(Credentials("alice", secret)) is None
    assert double.binds == double.searches == []


async def test_strangers_take_no_room_and_it_is_known_who_is_none(
    accounts: Directory, double: Double, autojump_clock: MockClock
) -> None:
    assert not accounts.knows("alice")
    assert await accounts.verify(ALICE)
    for name in ("eve", "mallory"):
        assert await accounts.verify(Credentials(name, b"x")) is None
        assert await accounts.generation(name) is None
        assert not accounts.knows(name)
    assert accounts.knows("alice")
    assert list(accounts._known._kept) == ["alice"]


async def test_without_a_mark_of_the_password_nothing_lasts(
    accounts: Directory, double: Double, autojump_clock: MockClock
) -> None:
    generation = await accounts.verify(ALICE)
    assert generation
    assert not generation.startswith(PASSING)
    marked = entry("alice")
    values = {name: held for name, held in marked.values.items() if not name.startswith("pwd")}
    double.put(Entry(marked.dn, values), b"open sesame")
    autojump_clock.jump(400)
    generation = await accounts.verify(ALICE)
    assert generation
    assert generation.startswith(PASSING)


async def test_those_who_wait_together_hear_of_it_together(
    accounts: Directory, double: Double, autojump_clock: MockClock
) -> None:
    double.seconds = 100
    refused: list[int] = []

    async def enter() -> None:
        refused.append((await refusal(accounts, ALICE)).status)

    before = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(enter)
    assert refused == [503] * 20
    assert trio.current_time() - before < 6
    assert len(double.searches) == 1


async def test_a_turn_that_does_not_come_is_too_many_logins(
    accounts: Directory, double: Double, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    monkeypatch.setattr(directory, "_SIDE_BY_SIDE", 1)
    accounts = Directory(TERMS, connect=lambda _: double)
    double.seconds = 100
    rows: list[ErrorRow] = []

    async def enter(number: int) -> None:
        rows.append(await refusal(accounts, Credentials("alice", b"%d" % number)))

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(enter, number)
    assert sorted(row.status for row in rows) in ([429, 429, 503], [429, 503, 503])


# --- how it is set up


def test_a_password_is_nowhere_to_be_read(accounts: Directory) -> None:
    assert "search me" not in repr(TERMS)
    assert "sesame" not in repr(ALICE)
    assert "search me" not in repr(accounts)


async def test_what_is_kept_is_no_password(accounts: Directory, autojump_clock: MockClock) -> None:
    await accounts.verify(ALICE)
    await accounts.verify(Credentials("alice", b"also secret"))
    assert "sesame" not in str(vars(accounts._right))
    assert "secret" not in str(vars(accounts._wrong))


@pytest.mark.parametrize(
    ("terms", "reason"),
    [
        (Terms("ldaps://a", "", "(uid=alice)"), "names no attribute"),
        (Terms("ldaps://a", "", "(uid=x{account})"), "names no attribute"),
        (Terms("ldaps://a", "", "(uid={account})", bind_dn="cn=a"), "needs a DN and a password"),
        (Terms("ldaps://a", "", "(uid={account})", bind_password=b"a"), "needs a DN"),
        (
            Terms("ldaps://a", "", "(uid={account})", bind_dn="cn=a", bind_password=b"a\0"),
            "a password in UTF-8",
        ),
    ],
)
def test_what_cannot_work_is_said_at_once(terms: Terms, reason: str) -> None:
    with pytest.raises(DirectoryError, match=reason):
        Directory(terms, connect=lambda _: Double())


def test_another_directory_or_filter_makes_other_generations() -> None:
    def generation(terms: Terms) -> str | None:
        return Directory(terms, connect=lambda _: Double())._generation(entry("alice"))

    filters = "(uid={account})", "(&(uid={account})(a=b))"
    terms = [Terms(url, "", text) for url in ("ldaps://a", "ldaps://b") for text in filters]
    assert len({generation(one) for one in terms}) == 4


def test_without_the_extra_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.import_module

    def missing(name: str) -> ModuleType:
        if name.startswith("bonsai"):
            raise ModuleNotFoundError(name)
        return find(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(DirectoryError, match=r"pip install 'registry-appliance\[ldap\]'"):
        Directory(TERMS)


@pytest.mark.parametrize("url", ["directory", "http://a", "ldaps://", "ldaps://a:b", "ldaps://[a"])
def test_what_is_no_address_is_said_at_once(url: str) -> None:
    pytest.importorskip("bonsai", reason="the extra [ldap] is not installed")
    with pytest.raises(DirectoryError, match=r"URL|form"):
        LdapWire(Terms(url, "", "(uid={account})"))


# --- beside a password file


@pytest.fixture
def several(accounts: Directory, tmp_path: Path) -> SeveralAccounts:
    path = tmp_path / "htpasswd"
    path.write_bytes(b"alice:" + hash_password(b"by file", 4) + b"\n")
    return SeveralAccounts(PasswordAccounts(path), accounts)


async def test_who_is_in_the_file_is_decided_by_it_alone(
    several: SeveralAccounts, accounts: Directory, double: Double, autojump_clock: MockClock
) -> None:
    alice = Credentials("alice", b"by file")
    generation = await several.verify(alice)
    assert generation
    assert generation == await several.generation("alice") == await several.recall(alice)
    assert await several.verify(ALICE) is None
    assert several.is_wrong(ALICE)
    assert double.searches == []
    assert await accounts.generation("alice") != generation


async def test_everybody_else_is_in_the_directory(
    several: SeveralAccounts, accounts: Directory, autojump_clock: MockClock
) -> None:
    bob, wrong = Credentials("bob", b"correct horse"), Credentials("bob", b"by file")
    generation = await several.verify(bob)
    assert generation
    assert generation == await accounts.generation("bob") == await several.recall(bob)
    assert await several.verify(wrong) is None
    assert several.is_wrong(wrong)
    assert not several.is_wrong(bob)
    assert several.weakness("bob") is None
    assert await several.generation("eve") is None


async def test_the_file_counts_while_the_directory_is_away(
    several: SeveralAccounts, double: Double, autojump_clock: MockClock
) -> None:
    double.outage = "gone"
    assert await several.verify(Credentials("alice", b"by file"))
    with pytest.raises(RegistryError):
        await several.verify(Credentials("bob", b"correct horse"))


@pytest.mark.parametrize("line", ["bob:!$2b$04$locked", "bob:", "bob", "bob:plain"])
async def test_who_is_locked_in_the_file_is_not_asked_of_the_directory(
    tmp_path: Path, accounts: Directory, double: Double, line: str, autojump_clock: MockClock
) -> None:
    (tmp_path / "htpasswd").write_text(f"{line}\n")
    several = SeveralAccounts(PasswordAccounts(tmp_path / "htpasswd"), accounts)
    bob = Credentials("bob", b"correct horse")
    with structlog.testing.capture_logs():
        assert await several.verify(bob) is None
    assert await several.generation("bob") is None
    assert not several.knows("bob")
    assert double.searches == double.binds == []


async def test_while_the_file_cannot_be_read_nobody_comes_in(
    tmp_path: Path, accounts: Directory, double: Double, autojump_clock: MockClock
) -> None:
    several = SeveralAccounts(PasswordAccounts(tmp_path), accounts)  # which is a folder
    with structlog.testing.capture_logs():
        assert await several.verify(Credentials("bob", b"correct horse")) is None
    assert double.searches == double.binds == []
