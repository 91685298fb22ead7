"""The commands about who may do what: reasons, and keys for robots."""

import json
import re
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from appliance.accounts.files import AccountError
from appliance.accounts.keys import FILE, Keys
from appliance.cli import registry
from appliance.protocol.routes import Action

RULES = """
[[group]]
name = "team"
members = ["alice", "bob"]

[[rule]]
repositories = ["app/*"]
accounts = ["@team"]
allow = ["pull", "push"]

[[rule]]
repositories = ["app/secret"]
accounts = ["bob"]
deny = ["pull", "push"]
"""
SECRET = re.compile(r"reg_[0-9a-f]{12}_[A-Za-z0-9_-]{43}\n")


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    file = tmp_path / "registry.toml"
    file.write_text(f'[storage]\npath = "{tmp_path}/data"\n{RULES}')
    return file


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "data" / FILE


def run(settings: Path, *words: str) -> Result:
    return CliRunner().invoke(registry, [*words, "--settings", str(settings)])


def told(settings: Path, *words: str) -> str:
    done = run(settings, *words)
    assert done.exit_code == 0, done.output
    return done.stdout


def refused(settings: Path, *words: str) -> str:
    done = run(settings, *words)
    assert isinstance(done.exception, AccountError), done.output
    return str(done.exception)


def test_a_reason_names_the_rules(settings: Path) -> None:
    assert told(settings, "access", "explain", "alice", "app/one", "push") == (
        "alice (in team) may push in app/one:\n  rule 1 allows it to @team in app/*\n"
    )
    denied = run(settings, "access", "explain", "bob", "app/secret", "pull")
    assert (denied.exit_code, denied.stdout) == (
        1,
        "bob (in team) may not pull in app/secret:\n  rule 2 denies it to bob in app/secret\n",
    )
    nothing = run(settings, "access", "explain", "(anonymous)", "app/one", "pull")
    assert (nothing.exit_code, nothing.stdout) == (
        1,
        "(anonymous) may not pull in app/one:\n  no rule allows it\n",
    )


def test_a_question_that_makes_no_sense_is_answered_with_the_usage(settings: Path) -> None:
    for words in (["alice", "app", "fly"], ["alice", "App", "pull"]):
        done = run(settings, "access", "explain", *words)
        assert done.exit_code == 2
        assert "Usage" in done.stderr


def test_a_key_is_told_once_and_counts(settings: Path, keys: Path) -> None:
    scope = "repository:app/*:pull"
    secret = told(settings, "token", "create", "ci", "--scope", scope, "--note", "for the builds")
    assert SECRET.fullmatch(secret)
    assert secret.strip().encode() not in keys.read_bytes()
    assert keys.stat().st_mode & 0o777 == 0o600
    found = Keys(keys).find(secret.strip().encode())
    assert found is not None
    assert found.account == "ci"
    assert found.scopes[0].covers(Action.PULL, "app/one")
    head, line = told(settings, "token", "list").splitlines()
    assert head.split() == ["KEY", "ACCOUNT", "ENDS", "FOR", "NOTE"]
    assert line.split()[:2] == [found.id, "ci"]
    assert line.endswith("repository:app/*:pull  for the builds")
    told(settings, "token", "revoke", found.id)
    assert Keys(keys).find(secret.strip().encode()) is None


def test_a_key_ends_when_it_is_to(settings: Path, keys: Path) -> None:
    words = ("token", "create", "ci", "--scope", "repository:app:pull", "--expires")
    secrets = [told(settings, *words, when).strip().encode() for when in ("1h", "never")]
    now = time.time()
    for later, counts in ((0, [True, True]), (3599, [True, True]), (3700, [False, True])):
        there = Keys(keys, clock=lambda at=now + later: at)  # type: ignore[misc]
        assert [there.find(secret) is not None for secret in secrets] == counts


def test_a_wrong_or_damaged_key_is_none(settings: Path, keys: Path) -> None:
    words = ("token", "create", "ci", "--scope", "repository:app:pull")
    secret = told(settings, *words).strip()
    there = Keys(keys)
    for wrong in (secret[:-1], f"{secret}x", secret.swapcase(), "reg__", "", "reg_" + "0" * 12):
        assert there.find(wrong.encode()) is None
    keys.write_text("nonsense")
    assert there.find(secret.encode()) is None
    assert "cannot be read" in refused(settings, *words)
    assert keys.read_text() == "nonsense"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("ci", "--scope", "nonsense"), "a scope reads repository:NAME:ACTIONS"),
        (("ci", "--scope", "repository:app:fly"), "the actions are pull, push, delete and *"),
        (("ci", "--scope", "repository:app:"), "the actions are pull, push, delete and *"),
        (("ci", "--scope", "plugin:app:pull"), "the actions are"),
        (("ci", "--scope", "repository:app:pull", "--expires", "soon"), "--expires is a duration"),
        (("c:i", "--scope", "repository:app:pull"), "cannot be an account"),
    ],
)
def test_a_key_that_cannot_be_is_refused(
    settings: Path, keys: Path, words: tuple[str, ...], expected: str
) -> None:
    assert expected in refused(settings, "token", "create", *words)
    assert not keys.exists()


def test_keys_that_are_not_there_say_what_to_do(settings: Path, keys: Path) -> None:
    assert "registry token list" in refused(settings, "token", "revoke", "0123456789ab")
    done = run(settings, "token", "list")
    assert (done.stdout, "registry token create" in done.stderr) == ("", True)
    keys.parent.rmdir()
    assert "start the registry once" in refused(settings, "token", "list")


def test_what_is_kept_of_a_key_can_be_read_by_people(settings: Path, keys: Path) -> None:
    told(settings, "token", "create", "ci", "--scope", "registry:catalog:*", "--expires", "never")
    [kept] = json.loads(keys.read_text())
    assert kept.keys() == {"id", "account", "scopes", "hash", "made_at"}
