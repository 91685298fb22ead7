"""What is taken from an account ends at once, and nothing else does; no secret is told anywhere."""

import base64
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.daemon import PASSWORD, USER, Daemon, account
from tests.system.tools import eventually
from tests.system.wire import Client, digest_of

_WITHIN = 1.0  # seconds
_OTHER = "other:another secret"
_RULE = """
[[rule]]
repositories = ["{name}/*"]
accounts = ["*"]
allow = ["pull", "push"]
"""


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Daemon]:
    (tmp_path / "registry").mkdir()
    found = Daemon(
        tmp_path / "registry",
        settings={"tls": {"mode": "off"}, "log": {"level": "debug"}, "auth": {"admins": []}},
    )
    with found.htpasswd.open("a") as file:
        file.write(account(*_OTHER.split(":")))
    try:
        found.start()
        yield found
        found.stop()
    finally:
        found.kill()


def reload(registry: Daemon, settings: str, told: str) -> None:
    """Have it read other settings, and say something about that."""
    before = registry.log().count(told)
    registry.settings.write_text(settings)
    os.kill(registry.pid, signal.SIGHUP)
    eventually(lambda: registry.log().count(told) > before, within=20, what=told)


def status(client: Client, repository: str, headers: dict[str, str] | None = None) -> int:
    path = f"/v2/{repository}/blobs/uploads/"
    return client.request("POST", path, headers=headers or client.authorization()).status


def token(client: Client, scope: str) -> dict[str, str]:
    answer = client.request("GET", f"/auth/token?scope={scope}", headers=client.authorization())
    return {"Authorization": f"Bearer {answer.json()['token']}"}


def test_edited_rules_count_with_the_next_reload_for_tokens_too(registry: Daemon) -> None:
    client, settings = registry.client(), registry.settings.read_text()
    held = token(client, "repository:one/app:pull,push")
    assert status(client, "one/app", held) == 202
    reload(registry, settings + _RULE.format(name="two"), '"event":"reloaded"')
    assert status(client, "one/app") == 403
    assert status(client, "one/app", held) == 403
    assert status(client, "two/app") == 202
    reload(registry, settings, '"event":"reloaded"')
    assert status(client, "one/app", held) == 202


@pytest.mark.parametrize(
    "wrong",
    [
        '\n[[rule]]\nrepositories = ["tw',
        '\n[[rule]]\nrepositories = ["two/*"]\n',
        _RULE.format(name="two").replace('"*"', '"@nobody"'),
        _RULE.format(name="two").replace('"push"', '"fly"'),
        '\n[[rule]]\nrepositories = ["two/*"]\naccounts = ["(anonymous)"]\nallow = ["push"]\n',
    ],
    ids=["half written", "a key is missing", "no such group", "no such right", "open to push"],
)
def test_faulty_settings_change_nothing(registry: Daemon, wrong: str) -> None:
    client, settings = registry.client(), registry.settings.read_text()
    rules = settings + _RULE.format(name="one")
    reload(registry, rules, '"event":"reloaded"')
    reload(registry, rules + wrong, "reload refused")
    assert status(client, "one/app") == 202
    assert status(client, "two/app") == 403
    assert status(registry.client(None), "one/app") == 401


def test_who_is_removed_cannot_finish_a_push_and_the_others_can(registry: Daemon) -> None:
    data = os.urandom(100_000)
    sessions = {}
    for login in (registry.login, _OTHER):
        client = registry.client(login)
        session = client.start_upload(f"of/{login.partition(':')[0]}")
        sessions[login] = client.send_chunk(session, 0, data)
    held = token(registry.client(_OTHER), "repository:of/other:pull,push")
    registry.htpasswd.write_text(account(USER, PASSWORD))
    target = f"{sessions[_OTHER]}?digest={digest_of(data)}"
    other = registry.client(_OTHER)
    eventually(
        lambda: other.request("PUT", target, headers=other.authorization()).status == 401,
        within=_WITHIN,
        what="the password does not count any more",
    )
    assert other.request("PUT", target, headers=held).status == 401
    registry.client().finish_upload(sessions[registry.login], digest_of(data)).expect(201)


def test_a_revoked_key_ends_at_once(registry: Daemon) -> None:
    made = registry.command("token", "create", "ci", "--scope", "repository:ci/*:pull,push")
    secret = made.stdout.strip()
    client = registry.client(f"ci:{secret}")
    held = token(client, "repository:ci/app:push")
    assert status(client, "ci/app") == status(client, "ci/app", held) == 202
    listed = registry.command("token", "list").stdout
    assert secret.split("_")[1] in listed
    assert secret not in listed
    assert registry.command("token", "revoke", secret.split("_")[1]).returncode == 0
    eventually(
        lambda: {status(client, "ci/app"), status(client, "ci/app", held)} == {401},
        within=_WITHIN,
        what="the key does not count any more",
    )


def test_no_secret_is_told_anywhere(registry: Daemon) -> None:
    secret = registry.command(
        "token", "create", "ci", "--scope", "repository:ci/*:pull,push"
    ).stdout.strip()
    held = token(registry.client(f"ci:{secret}"), "repository:ci/app:push")
    wrong = "a secret that is wrong"
    secrets = [PASSWORD, _OTHER.partition(":")[2], secret, held["Authorization"].split()[1], wrong]
    secrets += [base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()]
    keys = json.loads((registry.storage / "token-keys.json").read_text())
    secrets += [one["key"]["d"] for one in keys]
    told = []
    for client in (
        registry.client(),
        registry.client(f"ci:{secret}"),
        registry.client(f"x:{wrong}"),
    ):
        for path in ("/v2/", "/v2/ci/app/tags/list", "/auth/token"):
            answer = client.request("GET", path, headers=client.authorization())
            told.append(f"{answer.headers} {answer.body!r}" if path != "/auth/token" else "")
        client.request("GET", "/v2/", headers=held)
        client.request("POST", "/auth/token", body=f"grant_type=password&password={wrong}".encode())
    told += [
        registry.command(*words).stdout for words in (("info",), ("check",), ("token", "list"))
    ]
    registry.restart()
    told += [registry.log(), (registry.storage / "audit.log").read_text()]
    said = "\n".join(told)
    assert [secret for secret in secrets if secret in said] == []
