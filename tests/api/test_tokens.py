"""Tokens on the wire, as docker, containerd and podman ask for them."""

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlencode

import bcrypt
import pytest

from appliance.oci.digest import Digest
from tests.api.driver import ALICE, BOB, Registry, basic, open_registry

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
BLOB = b"for everybody"
PATH = f"/v2/open/app/blobs/{Digest.of(BLOB)}"
PULL = "repository:open/app:pull"
PUSH = "repository:open/app:pull,push"


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    found = open_registry(tmp_path, anonymous=["pull"])
    pushed = f"/v2/open/app/blobs/uploads/?digest={Digest.of(BLOB)}"
    assert (await found.ask("POST", pushed, body=BLOB)).status == 201
    yield found
    await found.close()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def get(registry: Registry, login: tuple[str, str] | None = ALICE, **query: str) -> str:
    answer = await registry.ask("GET", f"/auth/token?{urlencode(query)}", login=login)
    assert answer.status == 200, answer.body
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json["token"] == answer.json["access_token"]
    return str(answer.json["token"])


async def post(registry: Registry, **form: str) -> tuple[int, dict[str, str]]:
    body = urlencode(form).encode()
    answer = await registry.ask("POST", "/auth/token", FORM, body=body, login=None)
    return answer.status, answer.json


def said(token: str) -> dict[str, object]:
    part = token.split(".")[1]
    found: dict[str, object] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found


async def test_docker_is_sent_for_a_token(registry: Registry) -> None:
    headers = {"Host": "registry.example:5000"}
    answer = await registry.ask("GET", "/v2/", headers, login=None)
    assert answer.status == 401
    assert answer.all("www-authenticate") == [
        'Bearer realm="https://registry.example:5000/auth/token",service="registry.example:5000"'
    ]
    page = await registry.ask("GET", "/v2/", {**headers, "Accept": "text/html,*/*"}, login=None)
    assert [value.split()[0] for value in page.all("www-authenticate")] == ["Bearer", "Basic"]


@pytest.mark.parametrize("host", ["", 'a" b', "a/b", "a@b", "a\tb", "a,b"])
async def test_an_odd_host_is_not_repeated(registry: Registry, host: str) -> None:
    answer = await registry.ask("GET", "/v2/", {"Host": host}, login=None)
    assert answer.all("www-authenticate") == ['Basic realm="Registry Realm"']


async def test_anybody_pulls_with_a_token_and_does_nothing_else(registry: Registry) -> None:
    token = await get(registry, None, service="registry", scope=PUSH)
    assert said(token)["access"] == [
        {"type": "repository", "name": "open/app", "actions": ["pull"]}
    ]
    assert (await registry.ask("GET", "/v2/", bearer(token), login=None)).status == 200
    assert (await registry.ask("GET", PATH, bearer(token), login=None)).body == BLOB
    answer = await registry.ask("POST", "/v2/open/app/blobs/uploads/", bearer(token), login=None)
    assert answer.status == 401


async def test_a_password_becomes_a_token_that_pushes(registry: Registry) -> None:
    token = await get(registry, account="alice", client_id="docker", scope=PUSH)
    answer = await registry.ask("POST", "/v2/open/app/blobs/uploads/", bearer(token), login=None)
    assert answer.status == 202
    other = await registry.ask("GET", f"{answer.headers['location']}", login=BOB)
    assert other.status == 404  # a session is its account's
    mine = await registry.ask("GET", f"{answer.headers['location']}", login=ALICE)
    assert mine.status == 204


async def test_a_wrong_password_gets_no_token(registry: Registry) -> None:
    wrong = await registry.ask("GET", f"/auth/token?scope={PULL}", login=("alice", "wrong"))
    assert wrong.status == 401
    status, _ = await post(registry, grant_type="password", username="alice", password="wrong")
    assert status == 401
    status, _ = await post(registry, grant_type="password")
    assert status == 401


async def test_several_scopes_and_none(registry: Registry) -> None:
    query = urlencode([("scope", PULL), ("scope", "repository:x:push registry:catalog:*")])
    answer = await registry.ask("GET", f"/auth/token?{query}")
    assert answer.json["scope"] == "repository:open/app:pull repository:x:push registry:catalog:*"
    token = answer.json["token"]
    assert (await registry.ask("GET", "/v2/_catalog", bearer(token), login=None)).status == 200
    assert said(await get(registry))["access"] == []


@pytest.mark.parametrize("scope", ["nonsense", "repository::pull", "a:b"])
async def test_a_scope_that_is_none_is_told(registry: Registry, scope: str) -> None:
    answer = await registry.ask("GET", f"/auth/token?{urlencode({'scope': scope})}")
    assert answer.status == 400


async def test_too_many_scopes_are_refused(registry: Registry) -> None:
    many = " ".join(f"repository:a{number}:pull" for number in range(101))
    answer = await registry.ask("GET", f"/auth/token?{urlencode({'scope': many})}")
    assert answer.status == 400


async def test_an_identity_token_takes_the_place_of_a_password(registry: Registry) -> None:
    answer = await registry.ask("GET", "/auth/token?offline_token=true&service=x")
    identity = answer.json["refresh_token"]
    status, found = await post(
        registry, grant_type="refresh_token", refresh_token=identity, scope=PUSH
    )
    assert (status, found["refresh_token"]) == (200, identity)
    assert said(found["access_token"])["sub"] == "alice"
    for header in (bearer(identity), {"Authorization": basic("alice", identity)}):
        assert (await registry.ask("GET", "/v2/", header, login=None)).status == 401
    for wrong in ("", "nonsense", found["access_token"]):
        status, _ = await post(registry, grant_type="refresh_token", refresh_token=wrong)
        assert status == 401


async def test_a_form_gives_an_identity_token_where_it_is_asked_to(registry: Registry) -> None:
    name, password = ALICE
    form = {"grant_type": "password", "username": name, "password": password, "scope": PULL}
    status, found = await post(registry, **form)
    assert status == 200
    assert "refresh_token" not in found
    _, found = await post(registry, **form, access_type="offline")
    assert said(found["refresh_token"])["typ"] == "refresh"


async def test_nobody_gets_an_identity_token(registry: Registry) -> None:
    answer = await registry.ask("GET", "/auth/token?offline_token=true", login=None)
    assert "refresh_token" not in answer.json


async def test_another_password_ends_every_token(registry: Registry) -> None:
    token = await get(registry, scope=PUSH)
    answer = await registry.ask("GET", "/auth/token?offline_token=true")
    identity = answer.json["refresh_token"]
    hashed = bcrypt.hashpw(b"another", bcrypt.gensalt(4))
    registry.htpasswd.write_bytes(b"alice:" + hashed + b"\n")
    assert (await registry.ask("GET", "/v2/", bearer(token), login=None)).status == 401
    status, _ = await post(registry, grant_type="refresh_token", refresh_token=identity)
    assert status == 401


@pytest.mark.parametrize(
    "form", [{}, {"grant_type": "authorization_code"}, {"grant_type": "implicit"}]
)
async def test_other_ways_are_told_to_be_none(registry: Registry, form: dict[str, str]) -> None:
    status, document = await post(registry, **form)
    assert status == 400
    assert "grant_type is password or refresh_token" in str(document)


async def test_a_form_is_bounded_and_may_be_nonsense(registry: Registry) -> None:
    for body in (b"a" * (65 << 10), b"\xff\xfe=%ff", b"&".join([b"a=b"] * 300)):
        answer = await registry.ask("POST", "/auth/token", FORM, body=body, login=None)
        assert answer.status == 400


@pytest.mark.parametrize(
    "header",
    [
        "Bearer",
        "Bearer ",
        "Bearer nonsense",
        "Bearer a.b.c",
        f"Bearer {'a' * 20_000}",
        "Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9.",
        "Bearer " + "." * 100,
        "Bearer \xff\xfe",
    ],
)
async def test_what_is_no_token_proves_nothing(registry: Registry, header: str) -> None:
    headers = {"Authorization": header, "Host": "registry.example"}
    answer = await registry.ask("GET", PATH, headers, login=None)
    assert answer.status == 401
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]
