"""The audit log: what changes something, who logs in, and what is refused."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog.testing

from appliance.api import audit as module
from appliance.api.audit import AuditLog
from appliance.oci.digest import Digest
from appliance.protocol.routes import Resource, Route
from appliance.registry.access import NOBODY, Account
from appliance.settings import Rule
from tests.api.driver import ALICE, BOB, Registry, basic, open_registry

BLOB = b"a layer"
UPLOADS = "/v2/here/app/blobs/uploads/"
MANIFEST = json.dumps(
    {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}
).encode()
ALICE_HERSELF = Account("alice", claimed=True)
TYPE = {"Content-Type": "application/vnd.oci.image.index.v1+json"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


@pytest.fixture
def audit(path: Path) -> AuditLog:
    return AuditLog(path)


@pytest.fixture
async def registry(tmp_path: Path, audit: AuditLog) -> AsyncIterator[Registry]:
    rules = [
        Rule(repositories=("*",), accounts=("alice",), allow=("pull", "push", "delete")),
        Rule(repositories=("*",), accounts=("bob",), allow=("pull",)),
    ]
    found = open_registry(tmp_path / "registry", rules=rules, audit=audit)
    yield found
    await found.close()


async def entries(audit: AuditLog, path: Path) -> list[dict[str, object]]:
    await audit.write()
    return [json.loads(line) for line in text_of(path).splitlines()]


def text_of(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def begin(path: Path) -> None:
    path.write_text('{"from": "before"}\n')


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


def move_away(path: Path) -> None:
    path.rename(path.with_suffix(".1"))


async def test_a_push_and_a_delete_are_told(
    registry: Registry, audit: AuditLog, path: Path
) -> None:
    pushed = f"{UPLOADS}?digest={Digest.of(BLOB)}"
    await registry.ask("POST", pushed, body=BLOB, client="192.0.2.7")
    await registry.ask("PUT", "/v2/here/app/manifests/latest", TYPE, body=MANIFEST)
    await registry.ask("GET", "/v2/here/app/manifests/latest")
    await registry.ask("DELETE", "/v2/here/app/manifests/latest")
    first, second, third = await entries(audit, path)
    assert str(first.pop("at")).endswith("+00:00")
    assert first == {
        "account": "alice",
        "from": "192.0.2.7",
        "action": "push",
        "outcome": "done",
        "status": 201,
        "repository": "here/app",
        "method": "POST",
        "target": "blobs/uploads/",
    }
    assert (second["method"], second["target"]) == ("PUT", "manifests/latest")
    assert (third["action"], third["outcome"], third["status"]) == ("delete", "done", 202)


async def test_logins_and_tokens_are_told(registry: Registry, audit: AuditLog, path: Path) -> None:
    await registry.ask("GET", "/v2/")
    await registry.ask("GET", "/auth/token", login=BOB)
    told = [(one["action"], one["account"], one["outcome"]) for one in await entries(audit, path)]
    assert told == [("login", "alice", "done"), ("token", "bob", "done")]


async def test_what_is_refused_is_told_and_the_question_whether_a_password_is_needed_is_not(
    registry: Registry, audit: AuditLog, path: Path
) -> None:
    await registry.ask("GET", "/v2/", login=None)
    await registry.ask("GET", "/v2/", login=(ALICE[0], "wrong secret"))
    await registry.ask("POST", UPLOADS, login=BOB)
    wrong, denied = await entries(audit, path)
    assert (wrong["account"], wrong["status"], wrong["outcome"]) == ("", 401, "refused")
    assert wrong["alleged"] == "alice"
    assert (denied["account"], denied["status"], denied["action"]) == ("bob", 403, "push")
    assert "secret" not in text_of(path)
    assert basic(ALICE[0], "wrong secret").split()[1] not in text_of(path)


async def test_lines_are_only_ever_added_and_the_file_may_be_moved_away(
    registry: Registry, audit: AuditLog, path: Path
) -> None:
    begin(path)
    await registry.ask("GET", "/v2/")
    assert [one["from"] for one in await entries(audit, path)] == ["before", "192.0.2.1"]
    move_away(path)
    await registry.ask("GET", "/v2/")
    assert len(await entries(audit, path)) == 1
    assert mode_of(path) == 0o600


async def test_entries_that_cannot_be_written_are_told(tmp_path: Path) -> None:
    audit = AuditLog(tmp_path / "missing" / "audit.log")
    audit.note(None, NOBODY, method="GET", client="", status=403)
    with structlog.testing.capture_logs() as logs:
        await audit.write()
    assert [(one["event"], one["count"]) for one in logs] == [("audit entries lost", 1)]


async def test_too_many_entries_at_once_are_counted(
    audit: AuditLog, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_WAITING_MAX", 3)
    for _ in range(5):
        audit.note(None, NOBODY, method="GET", client="", status=403)
    with structlog.testing.capture_logs() as logs:
        assert len(await entries(audit, path)) == 3
    assert [one["count"] for one in logs] == [2]


async def test_a_name_that_nobody_has_is_not_told_as_it_may_be_a_password(
    registry: Registry, audit: AuditLog, path: Path
) -> None:
    await registry.ask("GET", "/v2/", login=("a password", "alice"))
    (wrong,) = await entries(audit, path)
    assert "alleged" not in wrong
    assert "a password" not in text_of(path)


async def test_strangers_do_not_fill_the_disk_and_are_counted(path: Path) -> None:
    now = 1000.0
    audit = AuditLog(path, clock=lambda: now)
    for _ in range(100):
        audit.note(None, NOBODY, method="GET", client="192.0.2.1", status=403)
    audit.note(None, NOBODY, method="GET", client="192.0.2.2", status=403)
    audit.note(None, ALICE_HERSELF, method="GET", client="192.0.2.1", status=403)
    told = await entries(audit, path)
    assert [one.get("from") for one in told[-3:]] == ["192.0.2.2", "192.0.2.1", None]
    assert told[-1]["left_out"] == 40
    assert len(told) == 63
    audit.note(None, NOBODY, method="GET", client="192.0.2.1", status=403)
    assert len(await entries(audit, path)) == 63
    now += 61
    audit.note(None, NOBODY, method="GET", client="192.0.2.1", status=403)
    assert [one.get("left_out") for one in (await entries(audit, path))[63:]] == [None, 1]


async def test_a_token_that_anybody_gets_changes_nothing(audit: AuditLog, path: Path) -> None:
    route = Route(Resource.TOKEN, "GET", None)
    audit.note(route, NOBODY, method="GET", client="192.0.2.1", status=200)
    assert await entries(audit, path) == []


async def test_half_a_character_is_told_as_well(audit: AuditLog, path: Path) -> None:
    job = Account("ci", claimed=True, subject="\ud800")
    audit.note(Route(Resource.BASE, "GET", None), job, method="GET", client="", status=200)
    assert [one["subject"] for one in await entries(audit, path)] == ["\ud800"]
