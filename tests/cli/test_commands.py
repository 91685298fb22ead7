"""The command as people type it: what it prints, where, and with which status it ends."""

import errno
import functools
import io
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pytest
import trustme
from click.testing import CliRunner

from appliance import __version__, firststart
from appliance.accounts.htpasswd import PasswordFile
from appliance.accounts.schemes import COST_MIN, check_password, hash_password
from appliance.cli import main, registry
from appliance.lock import FolderLock, Note
from appliance.settings import load
from tests.unprivileged import as_user


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def faults(self) -> list[str]:
        """The sentences of a command that refused: nothing else is printed, and no traceback."""
        assert self.status == 2, self
        assert self.out == ""
        lines = self.err.splitlines()
        for line in lines:
            assert line.startswith("registry: ")
        return [line.removeprefix("registry: ") for line in lines]

    @property
    def fault(self) -> str:
        (fault,) = self.faults
        return fault


class Machine:
    """A folder with settings that keep everything in it, and a command to run on them."""

    def __init__(
        self, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.folder = folder
        self.settings = folder / "registry.toml"
        self.data = folder / "data"
        self.htpasswd = folder / "htpasswd"
        self._capsys = capsys
        self._monkeypatch = monkeypatch
        self.configure()

    def configure(self, **tables: str) -> None:
        """Write the settings; each argument is the text of a table."""
        tables = {
            "server": 'listen = ["127.0.0.1:0"]',
            "storage": f'path = "{self.data}"',
            "auth": f'htpasswd = "{self.htpasswd}"',
            **tables,
        }
        self.settings.write_text(
            "".join(f"[{table}]\n{text}\n" for table, text in tables.items()), "utf-8"
        )

    def run(self, *arguments: str, given: bytes = b"") -> Ran:
        return self.run_plainly(*arguments, "--settings", str(self.settings), given=given)

    def run_plainly(self, *arguments: str, given: bytes = b"") -> Ran:
        self._monkeypatch.setattr(sys, "argv", ["registry", *arguments])
        self._monkeypatch.setattr(
            sys, "stdin", io.TextIOWrapper(io.BytesIO(given), encoding="utf-8")
        )
        with pytest.raises(SystemExit) as ended:
            main()
        printed = self._capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Ran(ended.value.code, printed.out, printed.err)

    @property
    def accounts(self) -> Mapping[str, bytes]:
        return PasswordFile.parse(self.htpasswd.read_bytes()).hashes

    def enters(self, name: str, password: str) -> bool:
        return check_password(password.encode(), self.accounts[name])

    def everything(self) -> dict[str, bytes | None]:
        """All that is in the folder."""
        return {
            str(path.relative_to(self.folder)): path.read_bytes() if path.is_file() else None
            for path in sorted(self.folder.rglob("*"))
        }


@pytest.fixture
def machine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Machine:
    for variable in [name for name in os.environ if name.startswith("REGISTRY_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setattr(
        "appliance.cli.accounts.hash_password", functools.partial(hash_password, cost=4)
    )
    return Machine(tmp_path, capsys, monkeypatch)


@functools.cache
def _strong_hash() -> bytes:
    return hash_password(b"open sesame", COST_MIN)


@pytest.fixture
def with_alice(machine: Machine) -> Machine:
    machine.htpasswd.write_bytes(b"alice:" + _strong_hash() + b"\n")
    return machine


# --- the command itself


def commands(group: click.Group, *path: str) -> Iterator[tuple[str, ...]]:
    yield path
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)
        else:
            yield *path, name


def test_these_are_the_commands() -> None:
    assert sorted(" ".join(path) for path in commands(registry)) == [
        "",
        "access",
        "access explain",
        "backup",
        "check",
        "doctor",
        "export",
        "export oci",
        "gc",
        "history",
        "import",
        "import oci",
        "info",
        "ls",
        "rebuild",
        "report-failure",
        "restore",
        "rm",
        "serve",
        "setup",
        "token",
        "token create",
        "token list",
        "token revoke",
        "trust",
        "undelete",
        "user",
        "user add",
        "user list",
        "user passwd",
        "user remove",
        "verify",
    ]


@pytest.mark.parametrize("option", ["--help", "-h"])
@pytest.mark.parametrize("path", [*commands(registry)], ids=" ".join)
def test_every_command_explains_itself(machine: Machine, path: Sequence[str], option: str) -> None:
    ran = machine.run_plainly(*path, option)
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith(" ".join(["Usage: registry", *path]))
    assert max(map(len, ran.out.splitlines())) <= 100
    assert re.search(r"^  [A-Z].*[.:]", ran.out, re.MULTILINE)


def test_the_version_is_told_by_the_module_as_by_the_command(machine: Machine) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "appliance", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (
        ran.stdout == machine.run_plainly("--version").out == f"registry, version {__version__}\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["user", "nonsense"],
        ["user", "add"],
        ["user", "remove", "a", "b"],
        ["check", "--nonsense"],
        ["serve", "more"],
    ],
)
def test_a_slip_of_the_tongue_is_answered_with_the_usage(
    machine: Machine, arguments: list[str]
) -> None:
    ran = machine.run_plainly(*arguments)
    assert ran.status == 2
    assert ran.err.startswith("Usage: registry")
    assert "Traceback" not in ran.err


COMMANDS = [
    ["serve"],
    ["check"],
    ["info"],
    ["access", "explain", "alice", "team/app", "push"],
    ["token", "create", "ci", "--scope", "repository:team/*:pull"],
    ["token", "list"],
    ["user", "add", "bob", "--generate"],
    ["user", "passwd", "alice", "--generate"],
    ["user", "remove", "alice"],
    ["user", "list"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_faulty_settings_stop_every_command_with_a_sentence_each(
    with_alice: Machine, command: list[str]
) -> None:
    with_alice.configure(log='level = "loud"', limits="idle = 7\nidel = 8")
    before = with_alice.everything()
    faults = with_alice.run(*command).faults
    assert [fault.partition(" must")[0].partition(" is")[0] for fault in faults] == [
        f"{with_alice.settings}: {key}" for key in ("limits.idle", "limits.idel", "log.level")
    ]
    assert with_alice.everything() == before


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_settings_file_that_is_not_there_stops_every_command(
    machine: Machine, command: list[str]
) -> None:
    machine.settings.unlink()
    assert "there is no such file" in machine.run(*command).fault


def test_a_variable_in_the_environment_counts(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRY_LOG_LEVEL", "loud")
    assert machine.run("check").fault.startswith("REGISTRY_LOG_LEVEL in the environment must be")


# --- accounts


def test_an_account_is_added_with_a_password_from_standard_input(machine: Machine) -> None:
    ran = machine.run("user", "add", "alice", "--password-stdin", given=b"open sesame\n")
    assert ran == Ran(0, "alice can log in now.\n", "")
    assert machine.enters("alice", "open sesame")
    assert machine.htpasswd.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("given", "password"),
    [
        (b"secret", "secret"),
        (b"secret\r\n", "secret"),
        (b"secret\nmore\n", "secret"),
        (b" spaced \n", " spaced "),
        ("gehëim\n".encode(), "gehëim"),
        (b"a" * 72 + b"\n", "a" * 72),
    ],
)
def test_the_password_is_the_first_line(machine: Machine, given: bytes, password: str) -> None:
    assert machine.run("user", "add", "alice", "--password-stdin", given=given).status == 0
    assert machine.enters("alice", password)


def test_a_password_can_be_made_up_and_is_all_that_goes_to_standard_output(
    machine: Machine,
) -> None:
    ran = machine.run("user", "add", "alice", "--generate")
    assert (ran.status, ran.err) == (0, "alice can log in now.\n")
    (password,) = ran.out.split()
    assert len(password) >= 20
    assert machine.enters("alice", password)
    again = machine.run("user", "passwd", "alice", "--generate")
    assert (again.status, again.err) == (0, "alice has a new password.\n")
    assert again.out != ran.out
    assert machine.enters("alice", again.out.strip())
    assert not machine.enters("alice", password)


def test_a_password_is_asked_for_twice_and_not_shown(with_alice: Machine) -> None:
    options = ["--settings", str(with_alice.settings)]
    ran = CliRunner().invoke(registry, ["user", "add", "bob", *options], input="new\nnew\n")
    assert ran.exit_code == 0
    assert "new" not in ran.output.replace("password", "")
    assert with_alice.enters("bob", "new")
    ran = CliRunner().invoke(
        registry, ["user", "passwd", "bob", *options], input="one\nother\nthird\nthird\n"
    )
    assert ran.exit_code == 0
    assert "do not match" in ran.output
    assert with_alice.enters("bob", "third")


def test_a_password_is_changed(with_alice: Machine) -> None:
    ran = with_alice.run("user", "passwd", "alice", "--password-stdin", given=b"new\n")
    assert ran == Ran(0, "alice has a new password.\n", "")
    assert with_alice.enters("alice", "new")
    assert not with_alice.enters("alice", "open sesame")


def test_an_account_is_removed(with_alice: Machine) -> None:
    assert with_alice.run("user", "remove", "alice") == Ran(0, "alice is removed.\n", "")
    assert with_alice.accounts == {}
    assert "alice is not in" in with_alice.run("user", "remove", "alice").fault


def test_accounts_are_listed_by_name(with_alice: Machine) -> None:
    for name in ("zoe", "Bob", "älice"):
        with_alice.run("user", "add", name, "--generate")
    assert with_alice.run("user", "list") == Ran(0, "Bob\nalice\nzoe\nälice\n", "")


def test_lines_that_count_for_nothing_are_listed_as_warnings(with_alice: Machine) -> None:
    with with_alice.htpasswd.open("ab") as file:
        file.write(b"# a comment\nbob:secret\n")
    ran = with_alice.run("user", "list")
    assert (ran.status, ran.out) == (0, "alice\n")
    assert ran.err.startswith(
        f"warning: {with_alice.htpasswd}, line 3, is ignored: what stands for bob"
    )


@pytest.mark.parametrize("there", [True, False])
def test_a_list_without_accounts_says_how_to_begin(machine: Machine, there: bool) -> None:
    if there:
        machine.htpasswd.write_bytes(b"")
    ran = machine.run("user", "list")
    assert (ran.status, ran.out) == (0, "")
    assert "has no accounts; add one: registry user add NAME" in ran.err


@pytest.mark.parametrize(
    ("arguments", "given", "expected"),
    [
        (
            ["add", "bob", "--password-stdin"],
            b"",
            "the password cannot be used: the password is empty",
        ),
        (["add", "bob", "--password-stdin"], b"\n", "the password is empty"),
        (["add", "bob", "--password-stdin"], b"a" * 73, "has 73 bytes; bcrypt takes 72"),
        (["add", "bob", "--password-stdin"], b"a\0b\n", "contains a NUL byte"),
        (["add", "bob", "--password-stdin"], b"\xff\n", "the password cannot be used"),
        (["add", "bob", "--password-stdin", "--generate"], b"a\n", "exclude each other"),
        (
            ["add", "alice", "--password-stdin"],
            b"a\n",
            "to set another password: registry user passwd",
        ),
        (["add", "alice", "--generate"], b"", "alice is in"),
        (["add", "a:b", "--generate"], b"", "cannot be an account"),
        (["add", "", "--generate"], b"", "cannot be an account"),
        (["add", "#bob", "--generate"], b"", "cannot be an account"),
        (["add", "\udcff", "--generate"], b"", "cannot be an account"),
        (["passwd", "bob", "--password-stdin"], b"a\n", "to add it: registry user add bob"),
        (["passwd", "bob", "--generate"], b"", "to add it: registry user add bob"),
        (["passwd", "\udcff", "--password-stdin"], b"a\n", ""),
        (["passwd", "alice", "--password-stdin"], b"", "the password is empty"),
        (["remove", "bob"], b"", "to add it: registry user add bob"),
        (["remove", "\udcff"], b"", ""),
    ],
)
def test_what_cannot_be_done_to_an_account_is_one_sentence_and_changes_nothing(
    with_alice: Machine, arguments: list[str], given: bytes, expected: str
) -> None:
    before = with_alice.everything()
    assert expected in with_alice.run("user", *arguments, given=given).fault
    assert with_alice.everything() == before


@pytest.mark.parametrize("command", COMMANDS[6:], ids=" ".join)
def test_a_password_file_that_is_none_is_one_sentence(machine: Machine, command: list[str]) -> None:
    machine.htpasswd.mkdir()
    assert f"{machine.htpasswd} cannot be read: Is a directory" in machine.run(*command).fault


# --- check


def test_what_is_all_right_is_told_and_nothing_is_changed(with_alice: Machine) -> None:
    before = with_alice.everything()
    assert with_alice.run("check") == Ran(0, f"{with_alice.settings}: no faults.\n", "")
    assert with_alice.everything() == before
    assert not with_alice.data.exists()


def test_a_first_start_needs_no_password_file(machine: Machine) -> None:
    assert machine.run("check") == Ran(0, f"{machine.settings}: no faults.\n", "")


def test_what_the_first_start_made_is_all_right(machine: Machine) -> None:
    start_for_the_first_time(machine)
    assert machine.run("check") == Ran(0, f"{machine.settings}: no faults.\n", "")


def start_for_the_first_time(machine: Machine) -> None:
    settings = load(machine.settings, {})
    machine.data.mkdir()
    own = firststart.authority(settings)
    firststart.certificates(settings, own)
    firststart.administrator(settings)


def test_lines_of_the_password_file_that_count_for_nothing_are_warnings(
    with_alice: Machine,
) -> None:
    with with_alice.htpasswd.open("ab") as file:
        file.write(b"nonsense\n")
    ran = with_alice.run("check")
    warning, end = ran.out.splitlines()
    assert warning.startswith(f"warning: {with_alice.htpasswd}, line 2, is ignored: ")
    assert warning.endswith(".")
    assert (ran.status, ran.err, end) == (0, "", f"{with_alice.settings}: no faults.")


def test_a_weak_hash_is_a_warning(machine: Machine) -> None:
    weak = hash_password(b"open sesame", COST_MIN - 1)
    machine.htpasswd.write_bytes(b"alice:" + _strong_hash() + b"\nbob:" + weak + b"\n")
    ran = machine.run("check")
    warning, end = ran.out.splitlines()
    assert warning == (
        f"warning: {machine.htpasswd}: the password of bob is kept as a weak hash, bcrypt at cost 9;"
        " set it anew: registry user passwd bob."
    )
    assert (ran.status, ran.err, end) == (0, "", f"{machine.settings}: no faults.")


def test_a_password_file_without_accounts_is_a_warning(machine: Machine) -> None:
    machine.htpasswd.write_bytes(b"# nobody\n")
    ran = machine.run("check")
    assert ran.status == 0
    assert "has no usable account, so nobody can log in" in ran.out


Break = Callable[[Machine], object]


@pytest.mark.parametrize(
    ("break_it", "expected"),
    [
        (lambda m: m.data.write_bytes(b""), "storage.path: {data}: {data} is not a folder"),
        (
            lambda m: m.configure(storage=f'path = "{m.settings}/data"'),
            "storage.path: {settings}/data: {settings} is not a folder",
        ),
        (lambda m: m.htpasswd.mkdir(), "auth.htpasswd: {htpasswd} cannot be read: Is a directory"),
        (
            lambda m: m.configure(auth=f'htpasswd = "{m.folder}/none/htpasswd"'),
            "auth.htpasswd: {folder}/none/htpasswd: there is no folder {folder}/none; make it",
        ),
        (
            lambda m: m.configure(server='listen = ["203.0.113.1:0"]'),
            "server.listen: 203.0.113.1:0 is not an address of this machine",
        ),
        (
            lambda m: m.configure(
                server='plain = ["203.0.113.1:0"]\nlisten = []', tls='mode = "off"'
            ),
            "server.plain: 203.0.113.1:0 is not an address of this machine",
        ),
        (
            lambda m: m.configure(server='listen = ["a..b:0"]'),
            "server.listen: a..b:0 cannot be bound",
        ),
        (
            lambda m: m.configure(server=f'listen = ["{"a" * 64}.b:0"]'),
            "cannot be bound",
        ),
        (
            lambda m: m.configure(server='listen = ["127.0.0.1:0"]\nnames = ["no name"]'),
            "no certificate can be issued for 'no name'",
        ),
        (
            lambda m: m.configure(tls='mode = "files"\ncertificate = "/none"\nkey = "/none"'),
            "tls: /none does not exist",
        ),
        (
            lambda m: m.configure(
                auth=f'htpasswd = "{m.htpasswd}"\nclient_ca = "/none"',
            ),
            "auth.client_ca: /none does not exist",
        ),
    ],
)
def test_each_thing_that_keeps_it_from_starting_is_one_sentence(
    machine: Machine, break_it: Break, expected: str
) -> None:
    break_it(machine)
    before = machine.everything()
    fault = machine.run("check").fault
    assert fault.startswith(f"{machine.settings}: ")
    expected = expected.format(**vars(machine))
    assert expected in fault
    assert machine.everything() == before


@pytest.mark.parametrize("command", ["serve", "check", "info"])
def test_a_sentence_about_certificates_ends_like_any_other(machine: Machine, command: str) -> None:
    start_for_the_first_time(machine)
    (machine.data / "tls" / "ca.key").write_bytes(b"nonsense")
    assert machine.run(command).fault.endswith(".")


def test_all_that_keeps_it_from_starting_is_told_at_once(machine: Machine) -> None:
    machine.data.write_bytes(b"")
    machine.htpasswd.mkdir()
    machine.configure(
        server='listen = ["203.0.113.1:0", "127.0.0.1:0"]\nplain = ["203.0.113.2:0"]',
        tls='mode = "files"\ncertificate = "/none"\nkey = "/none"',
    )
    keys = [
        fault.removeprefix(f"{machine.settings}: ").partition(":")[0]
        for fault in machine.run("check").faults
    ]
    assert keys == ["storage.path", "auth.htpasswd", "tls", "server.listen", "server.plain"]


def test_a_name_that_nobody_knows_is_one_sentence(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look_up(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    machine.configure(server='listen = ["registry.invalid:0"]')
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    fault = machine.run("check").fault
    assert "registry.invalid:0 cannot be bound (Name or service not known)" in fault


def test_a_port_in_use_is_one_sentence(machine: Machine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        machine.configure(server=f'listen = ["127.0.0.1:{port}"]')
        fault = machine.run("check").fault
    assert f"server.listen: 127.0.0.1:{port} is in use by another process; stop it" in fault
    assert machine.run("check").status == 0


def test_a_database_of_a_later_version_is_one_sentence(with_alice: Machine) -> None:
    with_alice.data.mkdir()
    with closing(sqlite3.connect(with_alice.data / "catalogue.sqlite3")) as connection:
        connection.execute("PRAGMA user_version = 4711")
    assert "was written by a later version" in with_alice.run("check").fault


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


def bring_certificate(machine: Machine, issued: trustme.LeafCert) -> None:
    """Let an operator's certificate lie beside the settings."""
    (machine.folder / "site.crt").write_bytes(issued.cert_chain_pems[0].bytes())
    (machine.folder / "site.key").write_bytes(issued.private_key_pem.bytes())
    machine.configure(
        tls=f'mode = "files"\ncertificate = "{machine.folder}/site.crt"\n'
        f'key = "{machine.folder}/site.key"'
    )


def test_an_operators_certificate_is_all_right(with_alice: Machine, ca: trustme.CA) -> None:
    bring_certificate(with_alice, ca.issue_cert("registry.example"))
    assert with_alice.run("check") == Ran(0, f"{with_alice.settings}: no faults.\n", "")


def test_a_key_of_another_certificate_is_one_sentence(machine: Machine, ca: trustme.CA) -> None:
    bring_certificate(machine, ca.issue_cert("registry.example"))
    other = ca.issue_cert("other.example").private_key_pem.bytes()
    (machine.folder / "site.key").write_bytes(other)
    assert "site.key does not belong to" in machine.run("check").fault


@pytest.mark.parametrize("missing", ["site.crt", "site.key"])
def test_a_missing_file_of_a_pair_is_one_sentence(
    machine: Machine, ca: trustme.CA, missing: str
) -> None:
    bring_certificate(machine, ca.issue_cert("registry.example"))
    (machine.folder / missing).unlink()
    assert f"{machine.folder}/{missing} does not exist; put the " in machine.run("check").fault


def test_an_expired_certificate_is_a_warning(with_alice: Machine, ca: trustme.CA) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    bring_certificate(with_alice, ca.issue_cert("registry.example", not_after=yesterday))
    ran = with_alice.run("check")
    assert (ran.status, ran.err) == (0, "")
    assert re.match(r"warning: .*site\.crt expired on .* clients refuse it; renew it\.\n", ran.out)


def test_an_authority_that_lost_its_key_is_one_sentence(machine: Machine) -> None:
    start_for_the_first_time(machine)
    (machine.data / "tls" / "ca.key").unlink()
    assert "ca.key does not exist" in machine.run("check").fault


@pytest.fixture
def for_all(machine: Machine) -> Iterator[Machine]:
    """The same machine, in a folder that everybody may enter."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        machine.folder, machine.settings = folder, folder / "registry.toml"
        machine.data, machine.htpasswd = folder / "data", folder / "htpasswd"
        machine.configure()
        machine.settings.chmod(0o644)
        yield machine
        folder.chmod(0o700)


needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")


@needs_root
def test_a_folder_that_may_not_be_written_is_told_with_the_user(for_all: Machine) -> None:
    with as_user():
        faults = for_all.run("check").faults
    assert [fault.partition(": ")[2] for fault in faults] == [
        f"storage.path: {for_all.data} cannot be written: {for_all.folder} does not let nobody"
        " write; chown it to nobody, or choose another path.",
        f"auth.htpasswd: {for_all.htpasswd} is not there and cannot be made: {for_all.folder} does"
        " not let nobody write; chown it to nobody, or choose another path.",
    ]


@needs_root
def test_a_user_without_a_name_is_told_the_same(for_all: Machine) -> None:
    with as_user(54321):
        faults = for_all.run("check").faults
    assert "storage.path" in faults[0]
    assert "54321" in faults[0]


@needs_root
@pytest.mark.parametrize("command", [["check"], ["info"], ["user", "list"]], ids=" ".join)
def test_a_folder_that_may_not_be_looked_into_is_told(for_all: Machine, command: list[str]) -> None:
    hidden = for_all.folder / "hidden"
    hidden.mkdir(mode=0o700)
    for_all.configure(storage=f'path = "{hidden}/data"', auth=f'htpasswd = "{hidden}/htpasswd"')
    with as_user():
        faults = for_all.run(*command).faults
    assert any("ermission" in fault or "does not let nobody" in fault for fault in faults)


@needs_root
def test_a_password_file_that_may_not_be_read_is_told(for_all: Machine) -> None:
    for_all.htpasswd.write_bytes(b"")
    for_all.htpasswd.chmod(0o600)
    for_all.data.mkdir()
    for_all.data.chmod(0o777)
    with as_user():
        fault = for_all.run("check").fault
    assert f"auth.htpasswd: {for_all.htpasswd} cannot be read: Permission denied" in fault


# --- beside a running registry


@pytest.fixture
def running(machine: Machine) -> Iterator[Callable[..., None]]:
    """Hold the folder and a socket as a running registry does; give a verb that says where."""
    machine.data.mkdir()
    lock = FolderLock(machine.data)
    sockets: list[socket.socket] = []

    def listening(host: str = "127.0.0.1", *, plain: bool = False) -> None:
        sockets.append(socket.create_server(("127.0.0.1", 0)))
        port = sockets[-1].getsockname()[1]
        here = [f"127.0.0.1:{port}"]
        key, other = ("plain", 'listen = ["127.0.0.1:0"]\n') if plain else ("listen", "")
        machine.configure(server=f'{other}{key} = ["{host}:{port}"]')
        lock.write(Note(4711, [] if plain else here, here if plain else []))

    yield listening
    lock.release()
    for sock in sockets:
        sock.close()


@pytest.mark.parametrize("plain", [False, True])
def test_what_a_running_registry_holds_itself_is_no_fault(
    with_alice: Machine, running: Callable[..., None], plain: bool
) -> None:
    running(plain=plain)
    ran = with_alice.run("check")
    assert ran == Ran(
        0, f"The registry is running (process 4711).\n{with_alice.settings}: no faults.\n", ""
    )


def test_what_a_running_registry_holds_under_another_name_is_no_fault(
    with_alice: Machine, running: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up = socket.getaddrinfo

    def only_ipv4(host: str, port: int, **more: int) -> object:
        return look_up("127.0.0.1" if host == "localhost" else host, port, **more)

    monkeypatch.setattr(socket, "getaddrinfo", only_ipv4)
    running("localhost")
    assert with_alice.run("check").status == 0


def bind_like_a_user(host: str, port: int) -> list[socket.socket]:
    """Bind as somebody who has no right to the low ports, on no port at all."""
    if port < 1024:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return []


def test_who_may_not_have_the_usual_port_gets_another(
    with_alice: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.preflight.bind", bind_like_a_user)
    with_alice.configure(server="")
    assert with_alice.run("check").status == 0
    with_alice.configure(server='listen = ["[::]:443"]')
    assert "[::]:443 may not be bound by this user" in with_alice.run("check").fault


def test_a_registry_that_runs_on_the_other_port_is_all_right(
    with_alice: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.preflight.bind", bind_like_a_user)
    with_alice.configure(server="")
    with_alice.data.mkdir()
    lock = FolderLock(with_alice.data)
    lock.write(Note(4711, ["[::]:8443"]))
    ran = with_alice.run("check")
    lock.release()
    assert (ran.status, ran.err) == (0, "")


def test_a_second_registry_on_the_same_folder_is_refused(
    with_alice: Machine, running: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.log.configure", lambda *_: None)
    running()
    fault = with_alice.run("serve").fault
    assert f"storage.path: {with_alice.data} is in use by another registry (process 4711)" in fault


# --- info


def test_before_the_first_start_it_tells_how_to_start(machine: Machine) -> None:
    machine.configure(server='listen = ["10.0.0.1:5000"]')
    before = machine.everything()
    ran = machine.run("info")
    assert (ran.status, ran.err) == (0, "")
    assert f"Registry {__version__} at https://10.0.0.1:5000" in ran.out
    for text in ("10.0.0.1:5000", str(machine.data), str(machine.htpasswd), "docker login"):
        assert text in ran.out
    assert "first login" not in ran.out
    assert "authority" not in ran.out
    assert ran.out.endswith("start it: systemctl start registry, or registry serve\n")
    assert machine.everything() == before


def test_after_the_first_start_it_tells_how_to_log_in_but_not_the_password(
    machine: Machine,
) -> None:
    start_for_the_first_time(machine)
    ran = machine.run("info")
    assert (ran.status, ran.err) == (0, "")
    note = machine.data / "admin-password"
    password = note.read_text().strip()
    assert machine.enters("admin", password)
    assert note.stat().st_mode & 0o777 == 0o600
    assert str(note) in ran.out
    assert password not in ran.out
    assert "first login  admin" in ran.out
    certificate = machine.data / "tls" / "ca.crt"
    fingerprint = subprocess.run(
        ["openssl", "x509", "-in", certificate, "-noout", "-fingerprint", "-sha256"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert fingerprint.strip().rpartition("=")[2] in ran.out


def test_it_tells_what_every_kind_of_client_needs_on_a_screen_and_a_half(machine: Machine) -> None:
    machine.configure(server='public_url = "https://registry.example:8443"')
    start_for_the_first_time(machine)
    ran = machine.run("info")
    host = "registry.example:8443"
    for text in (
        f"sudo registry trust {host}\n",
        f"curl -fsSk https://{host}/ca.crt",
        *(
            f"/etc/{name}/certs.d/{host}/ca.crt\n"
            for name in ("docker", "containers", "containerd")
        ),
        f"kubectl create secret docker-registry registry --docker-server={host} \\\n",
        "imagePullSecrets: [{name: registry}]",
        'config_path = "/etc/containerd/certs.d"',
        f"registry doctor {host}",
    ):
        assert text in ran.out
    assert len(ran.out.splitlines()) <= 48


def test_while_it_runs_it_tells_where_it_really_listens(
    machine: Machine, running: Callable[..., None]
) -> None:
    running()
    machine.configure(server='listen = ["127.0.0.1:0"]')
    note = (machine.data / "lock").read_text()
    ran = machine.run("info")
    (address,) = re.findall(r"127\.0\.0\.1:\d+", note)
    assert f"https://{address}" in ran.out
    assert "not running" not in ran.out


def test_without_tls_it_says_so(machine: Machine) -> None:
    machine.configure(server='listen = ["10.0.0.1:80"]', tls='mode = "off"')
    ran = machine.run("info")
    assert "at http://10.0.0.1\n" in ran.out
    assert "TLS is off" in ran.out


def test_the_address_that_is_set_is_the_address_that_is_shown(machine: Machine) -> None:
    machine.configure(server='public_url = "https://registry.example:8443"')
    ran = machine.run("info")
    assert "at https://registry.example:8443\n" in ran.out
    assert "docker login registry.example:8443 " in ran.out


def test_an_authority_that_is_damaged_is_one_sentence(machine: Machine) -> None:
    start_for_the_first_time(machine)
    (machine.data / "tls" / "ca.crt").write_bytes(b"nonsense")
    assert "ca.crt is not a certificate in PEM format" in machine.run("info").fault


def test_a_program_that_is_installed_has_this_command() -> None:
    assert shutil.which("registry", path=str(Path(sys.executable).parent)) is not None
