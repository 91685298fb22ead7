"""The password file, as operators keep it: with our verbs or with Apache's, under a running daemon."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system import daemon
from tests.system.daemon import Daemon
from tests.system.tools import eventually, run


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A registry whose password file may change."""
    with daemon.running(tmp_path_factory.mktemp("accounts")) as running:
        yield running


def enters(registry: Daemon, login: str | None) -> bool:
    """Whether somebody is let in."""
    answer = registry.client(login=login).request("GET", "/v2/")
    assert answer.status in {200, 401}
    return answer.status == 200


def test_nobody_enters_without_a_password(own: Daemon) -> None:
    assert not enters(own, None)
    assert not enters(own, "tester:wrong")
    assert not enters(own, "tester:")
    assert enters(own, own.login)


def test_a_challenge_says_how_to_log_in(own: Daemon) -> None:
    answer = own.client(login=None).request("GET", "/v2/").expect(401)
    assert answer.headers["WWW-Authenticate"] == 'Basic realm="Registry Realm"'
    assert answer.json()["errors"][0]["code"] == "UNAUTHORIZED"


def test_an_account_added_by_command_counts_at_once(own: Daemon) -> None:
    done = own.command("user", "add", "added", "--password-stdin", given="a password\n")
    assert done.returncode == 0, done
    eventually(lambda: enters(own, "added:a password"), within=5, what="the new account enters")
    assert "added" in own.command("user", "list").stdout.split()
    done = own.command("user", "remove", "added")
    assert done.returncode == 0, done
    eventually(lambda: not enters(own, "added:a password"), within=5, what="it is shut out")


def test_an_account_added_by_apaches_htpasswd_counts_at_once(own: Daemon) -> None:
    run("htpasswd", "-Bbi", "-C", "5", own.htpasswd, "apache", given="as in old times")
    eventually(lambda: enters(own, "apache:as in old times"), within=5, what="it enters")
    run("htpasswd", "-D", own.htpasswd, "apache")
    eventually(lambda: not enters(own, "apache:as in old times"), within=5, what="it is shut out")


def test_a_first_start_makes_an_administrator_with_a_password_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "first"
    folder.mkdir()
    first = Daemon(folder)
    first.htpasswd.unlink()
    try:
        first.start()
        file = first.storage / "admin-password"
        assert file.stat().st_mode & 0o777 == 0o600
        assert enters(first, f"admin:{file.read_text().strip()}")
        assert not enters(first, "admin:admin")
        first.stop()
    finally:
        first.kill()
