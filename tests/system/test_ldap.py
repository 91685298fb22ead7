"""Accounts of a real directory: slapd on loopback, with certificates of an authority of our own."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import structlog.testing
import trio
import trustme

from appliance.accounts import directory
from appliance.accounts.directory import Directory
from appliance.accounts.htpasswd import PasswordAccounts
from appliance.accounts.ldap import DirectoryError, Terms
from appliance.accounts.schemes import hash_password
from appliance.accounts.several import SeveralAccounts
from appliance.oci.errors import RegistryError
from appliance.protocol.credentials import Credentials
from tests.system.daemon import Daemon, running
from tests.system.tools import background, eventually, free_port, run

SLAPD = Path("/usr/sbin/slapd")
MODULES = Path("/usr/lib/ldap")
SCHEMAS = Path("/etc/ldap/schema")

pytest.importorskip("bonsai", reason="the extra [ldap] is not installed")
pytestmark = pytest.mark.skipif(
    not SLAPD.exists() or shutil.which("ldapadd") is None,
    reason="slapd or ldap-utils is not installed",
)

BASE = "dc=example,dc=org"
ROOT = f"cn=root,{BASE}"
SERVICE = f"cn=searcher,{BASE}"
FILTER = "(&(objectClass=person)(uid={account}))"


def person(uid: str, password: str, cn: str | None = None) -> str:
    return (
        f"dn: cn={cn or uid},ou=people,{BASE}\nobjectClass: inetOrgPerson\n"
        f"uid: {uid}\nsn: {uid}\nuserPassword: {password}\n\n"
    )


ENTRIES = (
    f"dn: {BASE}\nobjectClass: dcObject\nobjectClass: organization\no: Example\n\n"
    f"dn: ou=people,{BASE}\nobjectClass: organizationalUnit\n\n"
    f"dn: {SERVICE}\nobjectClass: organizationalRole\nobjectClass: simpleSecurityObject\n"
    "userPassword: search me\n\n"
    + person("alice", "open sesame")
    + person("bob", "correct horse")
    + person("12345", "digits")
    + person("0x10", "hexadecimal")
    + person("TRUE", "truth")
    + person("escaped", "escapes", cn=r"A\\2C b\, \+ \"c\" \<ü\>")
    + person("twice", "one", cn="twice one")
    + person("twice", "two", cn="twice two")
    + "".join(person("crowd", "many", cn=f"crowd {number}") for number in range(5))
    + f"dn: cn=lost,ou=people,{BASE}\nobjectClass: inetOrgPerson\nuid: lost\nsn: lost\n\n"
)


class Slapd:
    """A directory that can be stopped and started again."""

    def __init__(self, folder: Path, authority: trustme.CA, *, policy: bool = False) -> None:
        self.folder = folder
        self.plain, self.secure = free_port(), free_port()
        self.ca = folder / "ca.pem"
        authority.cert_pem.write_to_path(self.ca)
        certificate = authority.issue_cert("localhost")
        certificate.private_key_pem.write_to_path(folder / "key.pem")
        for number, blob in enumerate(certificate.cert_chain_pems):
            blob.write_to_path(folder / "cert.pem", append=number > 0)
        (folder / "data").mkdir()
        lines = [
            *(f"include {SCHEMAS}/{name}.schema" for name in ("core", "cosine", "inetorgperson")),
            f"modulepath {MODULES}",
            "moduleload back_mdb.la",
            "moduleload ppolicy.la" if policy else "",
            f"TLSCACertificateFile {self.ca}",
            f"TLSCertificateFile {folder / 'cert.pem'}",
            f"TLSCertificateKeyFile {folder / 'key.pem'}",
            "database mdb",
            f"directory {folder / 'data'}",
            f'suffix "{BASE}"',
            f'rootdn "{ROOT}"',
            "rootpw root",
            "access to attrs=userPassword by anonymous auth by * none",
            f'access to * by dn.exact="{SERVICE}" read by * none',
            "overlay ppolicy" if policy else "",
        ]
        (folder / "slapd.conf").write_text("\n".join(lines) + "\n")
        with self.running():
            self.change("ldapadd", ENTRIES)

    @contextmanager
    def running(self) -> Iterator[None]:
        urls = f"ldap://127.0.0.1:{self.plain}/ ldaps://127.0.0.1:{self.secure}/"
        argv = (SLAPD, "-d", "0", "-h", urls, "-f", self.folder / "slapd.conf")
        with background(*argv, log=self.folder / "log", up=self._is_up):
            yield

    def _is_up(self) -> bool:
        command = ["ldapwhoami", "-x", "-H", f"ldap://127.0.0.1:{self.plain}", "-D", ROOT]
        done = subprocess.run([*command, "-w", "root"], check=False, capture_output=True)
        return done.returncode == 0

    def change(self, program: str, given: str, *argv: str) -> None:
        """Change the directory by its own tools."""
        url = f"ldap://127.0.0.1:{self.plain}"
        run(program, "-x", "-H", url, "-D", ROOT, "-w", "root", *argv, given=given)

    def set_password(self, dn: str, password: str) -> None:
        given = f"dn: {dn}\nchangetype: modify\nreplace: userPassword\nuserPassword: {password}\n"
        self.change("ldapmodify", given)

    def terms(self, kind: str = "ldaps") -> Terms:
        urls = {
            "ldaps": f"ldaps://localhost:{self.secure}",
            "starttls": f"ldap://localhost:{self.plain}",
            "plain": f"ldap://127.0.0.1:{self.plain}",
        }
        return Terms(
            url=urls[kind],
            base=BASE,
            filter=FILTER,
            start_tls=kind == "starttls",
            ca=self.ca,
            bind_dn=SERVICE,
            bind_password=b"search me",
            timeout_seconds=5,
        )


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def shared(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slapd]:
    """A directory for tests that leave it as it is."""
    slapd = Slapd(tmp_path_factory.mktemp("slapd"), authority)
    with slapd.running():
        yield slapd


@pytest.fixture
def slapd(authority: trustme.CA, tmp_path: Path) -> Slapd:
    """A directory for one test, not yet started."""
    return Slapd(tmp_path, authority)


async def enters(accounts: Directory | SeveralAccounts, name: str, password: bytes) -> bool:
    return await accounts.verify(Credentials(name, password)) is not None


async def status(accounts: Directory, name: str = "alice", password: bytes = b"open sesame") -> int:
    with pytest.raises(RegistryError) as caught:
        await accounts.verify(Credentials(name, password))
    return caught.value.row.status


KINDS = ("ldaps", "starttls", "plain")


@pytest.mark.parametrize("kind", KINDS)
async def test_the_right_password_lets_in_and_no_other(shared: Slapd, kind: str) -> None:
    accounts = Directory(shared.terms(kind))
    generation = await accounts.verify(Credentials("alice", b"open sesame"))
    assert generation
    assert generation == await accounts.generation("alice")
    assert generation == await accounts.recall(Credentials("alice", b"open sesame"))
    assert await enters(accounts, "bob", b"correct horse")
    for name, password in (
        ("alice", b"correct horse"),
        ("alice", b"open sesame "),
        ("alice", b""),
        ("alice", b"\0"),
        ("alice", b"open sesame\0"),
        ("alice", b"open sesame\0more"),
        ("alice", b"\xff"),
        ("eve", b"open sesame"),
        ("lost", b"open sesame"),
        ("lost", b""),
    ):
        assert not await enters(accounts, name, password), (name, password)
    assert accounts.is_wrong(Credentials("alice", b"correct horse"))
    assert await accounts.generation("eve") is None


async def test_a_name_is_a_name_and_no_part_of_a_filter(shared: Slapd) -> None:
    accounts = Directory(shared.terms())
    for name in (
        "*",
        "al*",
        "alice)(uid=*",
        "alice)(|(uid=*)",
        "*)(uid=alice))(|(uid=*",
        "alice\\",
        "\\61lice",
        "Alice",
        "ALICE",
        " alice",
        "alice ",
        "ali ce",
        "alice\0",
        "alice\n",
        "@alice",
        "(alice)",
        "",
    ):
        assert not await enters(accounts, name, b"open sesame"), name
        assert await accounts.generation(name) is None, name


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("12345", b"digits"),
        ("0x10", b"hexadecimal"),
        ("TRUE", b"truth"),
        ("escaped", b"escapes"),
    ],
)
async def test_unusual_names_of_accounts_and_entries(
    shared: Slapd, name: str, password: bytes
) -> None:
    accounts = Directory(shared.terms())
    assert await enters(accounts, name, password)
    assert not await enters(accounts, name, b"wrong")


async def test_several_entries_are_nobody(shared: Slapd) -> None:
    accounts = Directory(shared.terms())
    with structlog.testing.capture_logs() as logs:
        for name, password in (("twice", b"one"), ("twice", b"two"), ("crowd", b"many")):
            assert not await enters(accounts, name, password)
        assert await accounts.generation("crowd") is None
    assert [entry["event"] for entry in logs] == ["several entries for one account"] * 4


async def test_many_at_once(shared: Slapd) -> None:
    accounts = Directory(shared.terms())
    found: list[bool] = []

    async def enter(name: str, password: bytes) -> None:
        found.append(await enters(accounts, name, password))

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(enter, "alice", b"open sesame")
            nursery.start_soon(enter, "bob", b"wrong %d" % number)
    assert sorted(found) == [False] * 20 + [True] * 20


# --- whom to trust


@pytest.mark.parametrize("kind", ["ldaps", "starttls"])
async def test_a_certificate_of_somebody_else_is_no_wrong_password(
    shared: Slapd, kind: str, tmp_path: Path
) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    accounts = Directory(replace(shared.terms(kind), ca=tmp_path / "other.pem"))
    with structlog.testing.capture_logs() as logs:
        assert await status(accounts) == 503
        assert await status(accounts) == 503
    (entry,) = logs
    assert entry["event"] == "directory does not answer"
    assert "CERTIFICATE_VERIFY_FAILED" in entry["reason"]
    assert "sesame" not in str(logs)


async def test_a_certificate_for_another_name_is_refused(shared: Slapd) -> None:
    accounts = Directory(replace(shared.terms(), url=f"ldaps://127.0.0.1:{shared.secure}"))
    assert await status(accounts) == 503


async def test_an_account_to_search_with_that_is_refused_is_no_wrong_password(
    shared: Slapd,
) -> None:
    accounts = Directory(replace(shared.terms(), bind_password=b"wrong"))
    with structlog.testing.capture_logs() as logs:
        assert await status(accounts) == 503
    assert logs[0]["reason"].startswith("the account to search with is refused")


async def test_whoever_may_not_search_finds_nobody(shared: Slapd) -> None:
    accounts = Directory(replace(shared.terms(), bind_dn="", bind_password=b""))
    assert not await enters(accounts, "alice", b"open sesame")


def test_an_authority_that_cannot_be_read_is_said_at_once(shared: Slapd, tmp_path: Path) -> None:
    with pytest.raises(DirectoryError, match=r"none\.pem holds no certificates"):
        Directory(replace(shared.terms(), ca=tmp_path / "none.pem"))


# --- the directory changes


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory of a minute lasts for a moment."""
    monkeypatch.setattr(directory, "_KNOWN_SECONDS", 0.05)


@pytest.mark.usefixtures("forgetful")
async def test_another_password_where_the_directory_tells_when(
    authority: trustme.CA, tmp_path: Path
) -> None:
    slapd = Slapd(tmp_path, authority, policy=True)
    with slapd.running():
        accounts = Directory(slapd.terms())
        alice = Credentials("alice", b"open sesame")
        before = await accounts.verify(alice)
        slapd.set_password(f"cn=alice,ou=people,{BASE}", "new")
        await trio.sleep(0.1)
        assert await accounts.generation("alice") not in {before, None}
        assert await accounts.recall(alice) is None
        assert await accounts.verify(alice) is None
        after = await accounts.verify(Credentials("alice", b"new"))
        assert after == await accounts.generation("alice")


@pytest.mark.usefixtures("forgetful")
async def test_another_password_where_it_does_not(slapd: Slapd) -> None:
    with slapd.running():
        accounts = Directory(slapd.terms())
        alice = Credentials("alice", b"open sesame")
        before = await accounts.verify(alice)
        slapd.set_password(f"cn=alice,ou=people,{BASE}", "new")
        await trio.sleep(0.1)
        assert await accounts.generation("alice") == before
        assert await accounts.verify(alice) == before  # for as long as it is remembered
        assert await accounts.verify(Credentials("alice", b"new")) == before
        accounts = Directory(slapd.terms())
        assert await accounts.verify(alice) is None


@pytest.mark.usefixtures("forgetful")
async def test_whoever_is_removed_is_out_and_who_comes_anew_is_another(slapd: Slapd) -> None:
    with slapd.running():
        accounts = Directory(slapd.terms())
        alice = Credentials("alice", b"open sesame")
        before = await accounts.verify(alice)
        slapd.change("ldapdelete", "", f"cn=alice,ou=people,{BASE}")
        await trio.sleep(0.1)
        assert await accounts.generation("alice") is None
        assert await accounts.recall(alice) is None
        assert await accounts.verify(alice) is None
        assert not await accounts.recall(alice)
        slapd.change("ldapadd", person("alice", "open sesame"))
        await trio.sleep(0.1)
        assert await accounts.generation("alice") not in {before, None}


# --- the directory is away


async def test_a_directory_that_is_away_and_comes_back(
    slapd: Slapd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    accounts = Directory(slapd.terms())
    (tmp_path / "htpasswd").write_bytes(b"admin:" + hash_password(b"in", 4) + b"\n")
    both = SeveralAccounts(PasswordAccounts(tmp_path / "htpasswd"), accounts)
    alice = Credentials("alice", b"open sesame")
    with structlog.testing.capture_logs() as logs:
        with slapd.running():
            before = await accounts.verify(alice)
            assert before
        monkeypatch.setattr(directory, "_KNOWN_SECONDS", 0.0)
        monkeypatch.setattr(directory, "_PAUSE_SECONDS", 0.0)
        assert await accounts.generation("alice") == before
        assert await accounts.recall(alice) == before
        assert await status(accounts, "bob", b"correct horse") == 503
        assert await status(accounts, "bob", b"wrong") == 503
        with pytest.raises(RegistryError):
            await accounts.generation("bob")
        assert await enters(both, "admin", b"in")
        assert not await enters(both, "admin", b"out")
        with slapd.running():
            assert await enters(both, "bob", b"correct horse")
            assert await accounts.generation("alice") == before
    assert [entry["event"] for entry in logs] == [
        "directory does not answer",
        "directory answers again",
    ]


@pytest.fixture
async def beats() -> AsyncIterator[Callable[[], float]]:
    """The longest that another task was kept from running so far."""
    longest = 0.0

    async def beat() -> None:
        nonlocal longest
        while True:
            before = trio.current_time()
            await trio.sleep(0.01)
            longest = max(longest, trio.current_time() - before)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(beat)
        yield lambda: longest
        nursery.cancel_scope.cancel()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def silent(answers: tuple[bytes, ...], task_status: trio.TaskStatus[int]) -> None:
    """Take connections, answer the first messages as told, and then say nothing more."""

    async def handle(stream: trio.SocketStream) -> None:
        async with stream:
            for answer in answers:
                await stream.receive_some()
                await stream.send_all(answer)
            await trio.sleep_forever()

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    task_status.started(listener.socket.getsockname()[1])
    await trio.serve_listeners(handle, [listener])


GOOD_BIND = bytes.fromhex("300c0201016107 0a0100 0400 0400")
GOOD_START = bytes.fromhex("300c0201017807 0a0100 0400 0400")
LONG_START = bytes.fromhex("308400000010 020101 788400000007 0a0100 0400 0400")
NO_START = bytes.fromhex("300c0201017807 0a0102 0400 0400")


@pytest.mark.parametrize(
    ("url", "answers"),
    [
        ("ldap", ()),
        ("ldap", (GOOD_BIND,)),
        ("ldaps", ()),
        ("starttls", ()),
        ("starttls", (GOOD_START,)),
        ("starttls", (LONG_START,)),
        ("starttls", (GOOD_START[:5],)),
    ],
)
async def test_a_directory_that_falls_silent_holds_up_nobody(
    shared: Slapd,
    beats: Callable[[], float],
    monkeypatch: pytest.MonkeyPatch,
    url: str,
    answers: tuple[bytes, ...],
) -> None:
    monkeypatch.setattr(directory, "_PAUSE_SECONDS", 0.0)  # or it would be asked once
    before = descriptors()
    async with trio.open_nursery() as nursery:
        port = await nursery.start(silent, answers)
        address = f"{'ldap' if url == 'starttls' else url}://127.0.0.1:{port}"
        terms = replace(
            shared.terms(), url=address, start_tls=url == "starttls", timeout_seconds=0.2
        )
        accounts = Directory(terms)
        began = time.monotonic()
        with structlog.testing.capture_logs() as logs:
            for _ in range(4):
                assert await status(accounts) == 503
        assert [entry["event"] for entry in logs] == ["directory does not answer"]
        assert time.monotonic() - began < 4
        assert beats() < 1
        with trio.move_on_after(0.1):  # who asked goes away
            await accounts.verify(Credentials("bob", b"correct horse"))
        nursery.cancel_scope.cancel()
    assert descriptors() <= before + 1


@pytest.mark.parametrize(
    ("answer", "reasons"),
    [
        (NO_START, ["StartTLS is refused (result code 2)"]),
        (GOOD_BIND, ["StartTLS is refused"]),
        (GOOD_START + NO_START, ["SSL", "WRONG_VERSION"]),
        (b"HTTP/1.1 400 \r\n", ["no answer", "refused", "range"]),
        (b"0\0", ["no answer to StartTLS"]),
    ],
)
async def test_an_answer_that_is_none_is_an_error_of_ours(
    shared: Slapd, answer: bytes, reasons: list[str]
) -> None:
    async with trio.open_nursery() as nursery:
        port = await nursery.start(silent, (answer,))
        address = f"ldap://127.0.0.1:{port}"
        terms = replace(shared.terms("starttls"), url=address, timeout_seconds=0.5)
        with structlog.testing.capture_logs() as logs:
            assert await status(Directory(terms)) == 503
        assert any(reason in logs[0]["reason"] for reason in reasons)
        nursery.cancel_scope.cancel()


# --- the whole registry


@pytest.fixture
def registry(shared: Slapd, tmp_path: Path) -> Iterator[Daemon]:
    """A registry that knows the directory by its settings."""
    (tmp_path / "secret").write_text("search me\n")
    terms = shared.terms()
    settings = {
        "tls": {"mode": "off"},
        "log": {"level": "debug"},
        "ldap": {
            "url": terms.url,
            "ca": str(terms.ca),
            "base": terms.base,
            "filter": terms.filter,
            "bind_dn": terms.bind_dn,
            "bind_password_file": str(tmp_path / "secret"),
        },
    }
    with running(tmp_path / "registry", settings=settings) as found:
        yield found


def begins(registry: Daemon, login: str) -> int:
    client = registry.client(login)
    path = "/v2/team/app/blobs/uploads/"
    return client.request("POST", path, headers=client.authorization()).status


def test_a_registry_lets_in_whom_its_file_and_its_directory_know(registry: Daemon) -> None:
    assert begins(registry, "alice:open sesame") == 202
    assert begins(registry, registry.login) == 202
    assert begins(registry, "alice:correct horse") == 401
    assert begins(registry, "eve:open sesame") == 401
    client = registry.client("alice:open sesame")
    answer = client.request(
        "GET", "/auth/token?scope=repository:team/app:push", headers=client.authorization()
    )
    bearer = {"Authorization": f"Bearer {answer.expect(200).json()['token']}"}
    assert client.request("POST", "/v2/team/app/blobs/uploads/", headers=bearer).status == 202
    assert "open sesame" not in registry.log()
    assert "search me" not in registry.log()


def test_settings_that_do_not_fit_the_directory_are_told_and_a_reload_changes_nothing(
    registry: Daemon, authority: trustme.CA, tmp_path: Path
) -> None:
    before = registry.settings.read_text()
    for old, new, told in (
        ("/secret", "/none", "ldap.bind_password_file: "),
        ("/ca.pem", "/none.pem", "holds no certificates"),
    ):
        registry.settings.write_text(before.replace(old, new))
        checked = registry.command("check")
        assert checked.returncode == 2
        assert told in checked.stdout + checked.stderr
        refusals = registry.log().count("reload refused")
        os.kill(registry.pid, signal.SIGHUP)
        eventually(
            lambda: registry.log().count("reload refused") > refusals,  # noqa: B023
            within=20,
            what="the reload is refused",
        )
        assert begins(registry, "alice:open sesame") == 202
