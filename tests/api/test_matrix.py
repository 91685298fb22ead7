"""Every route × method × identity × policy, against a model of a few lines.

What a request is answered beyond the gate is another file's affair: here it counts only whether it
has passed. A route that has no example here fails the first test.
"""

import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import bcrypt
import pytest

from appliance.accounts import keys
from appliance.accounts.jwks import KeysInFile
from appliance.accounts.signing import SigningKeys
from appliance.accounts.workloads import IssuedAccounts, Issuer, Workload
from appliance.oci.digest import Digest
from appliance.protocol.claims import Claims
from appliance.protocol.routes import ACTIONS, Action, Resource
from appliance.protocol.scopes import parse_scopes
from appliance.settings import Rule
from tests.api.driver import Registry, basic, open_registry
from tests.issuer import AUDIENCE, Platform

HERE = "here/app"
BLOB = b"a layer"
DIGEST = Digest.of(BLOB)
MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": str(DIGEST),
            "size": len(BLOB),
        },
        "layers": [],
    }
).encode()
TYPE = {"Content-Type": "application/vnd.oci.image.manifest.v1+json"}
PASSWORDS = {"reader": "read", "writer": "write", "alice": "open sesame"}  # alice is an admin
NO_SESSION = "00000000-0000-4000-8000-000000000000"

EXAMPLES: Mapping[Resource, str] = {
    Resource.HOME: "/",
    Resource.HEALTH: "/healthz",
    Resource.READY: "/readyz",
    Resource.CA: "/ca.crt",
    Resource.TOKEN: "/auth/token",
    Resource.BASE: "/v2/",
    Resource.CATALOG: "/v2/_catalog",
    Resource.TAGS: f"/v2/{HERE}/tags/list",
    Resource.MANIFEST: f"/v2/{HERE}/manifests/latest",
    Resource.BLOB: f"/v2/{HERE}/blobs/{DIGEST}",
    Resource.UPLOADS: f"/v2/{HERE}/blobs/uploads/",
    Resource.UPLOAD: f"/v2/{HERE}/blobs/uploads/{NO_SESSION}",
    Resource.REFERRERS: f"/v2/{HERE}/referrers/{DIGEST}",
    Resource.REPOSITORY: f"/v2/{HERE}/",
}
REQUESTS = [
    (resource, method, action)
    for resource, methods in ACTIONS.items()
    for name, action in methods.items()
    for method in ((name, "HEAD") if name == "GET" else (name,))
]

EVERYTHING = {Action.PULL, Action.PUSH, Action.OVERWRITE, Action.DELETE, Action.ADMIN}
EVERYDAY = EVERYTHING - {Action.ADMIN}
POLICIES: Mapping[str, Mapping[str, set[Action]]] = {
    "open": {"reader": EVERYDAY, "writer": EVERYDAY, "alice": EVERYTHING},
    "anonymous pull": {
        "": {Action.PULL},
        "reader": EVERYDAY,
        "writer": EVERYDAY,
        "alice": EVERYTHING,
    },
    "rules": {
        "": set(),
        "reader": {Action.PULL},
        "writer": {Action.PULL, Action.PUSH},
        "alice": EVERYTHING,
    },
}
"""What each account may do in HERE, by policy; "" is whoever has none."""

RULES = (
    Rule(repositories=(HERE,), accounts=("reader", "writer", "robot"), allow=("pull",)),
    Rule(repositories=("here/*", "there"), accounts=("writer",), allow=("push",)),
    Rule(repositories=("there",), accounts=("(anonymous)",), allow=("pull",)),
)


PLATFORM = Platform(Path("/nonexistent"))
PLATFORM.url = "https://platform.example"


class Identity(NamedTuple):
    account: str
    """Whose rights it has; "" for nobody's."""
    is_valid: bool = True
    """Whether what it brings is what it says."""
    is_elsewhere: bool = False
    """Whether it has a token for another repository."""
    claims: bool = True
    """Whether it brings anything at all."""


IDENTITIES = {
    "anonymous": Identity("", claims=False),
    "empty pair": Identity(""),
    "anonymous token": Identity(""),
    "wrong password": Identity("alice", is_valid=False),
    "unknown account": Identity("eve", is_valid=False),
    "reader": Identity("reader"),
    "writer": Identity("writer"),
    "alice": Identity("alice"),
    "robot": Identity("robot"),
    "revoked key": Identity("robot", is_valid=False),
    "writer's token": Identity("writer"),
    "expired token": Identity("alice", is_valid=False),
    "tampered token": Identity("alice", is_valid=False),
    "another registry's token": Identity("alice", is_valid=False),
    "token of an older password": Identity("alice", is_valid=False),
    "identity token": Identity("alice", is_valid=False),
    "another repository's token": Identity("writer", is_elsewhere=True),
    "a job": Identity("writer"),
    "a job's password": Identity("writer"),
    "a job that has ended": Identity("writer", is_valid=False),
    "another job": Identity("writer", is_valid=False),
}


def expected(policy: str, name: str, action: Action | None) -> set[int]:
    """The statuses that the gate may answer with; none where it lets the request pass."""
    identity, rights = IDENTITIES[name], POLICIES[policy]
    if action is None:
        return set()
    if not identity.is_valid:
        return {401, 429}  # as what is wrong too often is not even looked at
    has_anonymous_pull = policy != "open"
    if not identity.account:
        if name == "anonymous token" and not has_anonymous_pull:
            return {401}
        if action is Action.LOGIN:
            return set() if has_anonymous_pull and identity.claims else {401}
        return set() if action in rights.get("", set()) else {401}
    if action is Action.LOGIN:
        return set()
    if identity.is_elsewhere:
        return {401, 403}
    if name == "writer's token" and action in {Action.ADMIN, Action.DELETE}:
        return {401, 403}  # it is for pull and push
    if name == "robot":  # its key is for pulling, whatever the rules say
        return set() if action is Action.PULL else {401, 403}
    if action is Action.LIST:
        return set()
    return set() if action in rights[identity.account] else {403}


@pytest.fixture(params=POLICIES, scope="module")
def policy(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def registry(tmp_path: Path, policy: str) -> AsyncIterator[Registry]:
    (tmp_path / "htpasswd").write_bytes(
        b"".join(
            b"%b:%b\n" % (name.encode(), bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)))
            for name, password in PASSWORDS.items()
        )
    )
    keys = tmp_path / "platform.json"
    keys.write_bytes(PLATFORM.published())
    found = open_registry(
        tmp_path,
        workloads=IssuedAccounts(
            [Issuer("platform", PLATFORM.url, (AUDIENCE,), KeysInFile(keys))],
            [Workload("platform", "writer", {"job": ("mine",)})],
        ),
        anonymous=["pull"] if policy == "anonymous pull" else [],
        rules=RULES if policy == "rules" else (),
    )
    yield found
    await found.close()


async def fill(registry: Registry) -> None:
    pushed = f"/v2/{HERE}/blobs/uploads/?digest={DIGEST}"
    assert (await registry.ask("POST", pushed, body=BLOB)).status == 201
    path = f"/v2/{HERE}/manifests/latest"
    assert (await registry.ask("PUT", path, TYPE, body=MANIFEST)).status == 201


async def token(registry: Registry, query: str, login: tuple[str, str] | None) -> str:
    answer = await registry.ask("GET", f"/auth/token?{query}", login=login)
    assert answer.status == 200, answer.body
    return str(answer.json["token"])


async def authorization(registry: Registry, folder: Path, name: str) -> str | None:
    """The header that an identity brings."""
    everything = f"scope=repository:{HERE}:pull,push&scope=registry:catalog:*"
    writer = ("writer", PASSWORDS["writer"])
    brought = {
        "anonymous": None,
        "empty pair": "Basic Og==",
        "wrong password": basic("alice", "wrong"),
        "unknown account": basic("eve", "wrong"),
        **{account: basic(account, password) for account, password in PASSWORDS.items()},
        "anonymous token": f"Bearer {await token(registry, everything, None)}",
        "writer's token": f"Bearer {await token(registry, everything, writer)}",
        "another repository's token": (
            f"Bearer {await token(registry, 'scope=repository:there:pull,push', writer)}"
        ),
        "a job": f"Bearer {PLATFORM.token(job='mine')}",
        "a job's password": basic("writer", PLATFORM.token(job="mine")),
        "a job that has ended": f"Bearer {PLATFORM.token(job='mine', exp=1)}",
        "another job": f"Bearer {PLATFORM.token(job='yours')}",
        "robot": basic("robot", key(folder, f"repository:{HERE}:pull", kept=True)),
        "revoked key": basic("robot", key(folder, f"repository:{HERE}:pull", kept=False)),
    }
    return brought[name] if name in brought else await signed(registry, folder, name)


def key(folder: Path, scope: str, *, kept: bool) -> str:
    made, one = keys.create(folder / keys.FILE, "robot", [scope], None, "")
    if not kept:
        keys.revoke(folder / keys.FILE, one.id)
    return made


async def signed(registry: Registry, folder: Path, name: str) -> str:
    """A token that has something wrong with it."""
    now, generation = int(time.time()), await registry.accounts.generation("alice") or ""
    scopes = parse_scopes([f"repository:{HERE}:pull,push,delete,* registry:catalog:*"])
    right = Claims("alice", generation, "access", now, now + 100, scopes)
    ours = SigningKeys.open(folder / "token-keys.json", time.time())
    head, body, signature = ours.sign(right).split(".")
    other = SigningKeys.open(folder / "other-keys.json", time.time())
    made = {
        "expired token": ours.sign(replace(right, issued_at=now - 100, expires_at=now - 1)),
        "token of an older password": ours.sign(replace(right, generation="another")),
        "identity token": ours.sign(replace(right, kind="refresh")),
        "another registry's token": other.sign(right),
        "tampered token": f"{head}.{body[:-2]}AA.{signature}",
    }
    return f"Bearer {made[name]}"


def test_every_route_is_looked_at() -> None:
    assert EXAMPLES.keys() == set(Resource) == ACTIONS.keys()


@pytest.mark.parametrize("name", IDENTITIES)
async def test_the_gate_does_what_the_model_says(
    registry: Registry, tmp_path: Path, policy: str, name: str
) -> None:
    await fill(registry)
    header = await authorization(registry, tmp_path, name)
    headers = {} if header is None else {"Authorization": header}
    wrong = []
    # What removes comes last, as it would have others find nothing.
    for resource, method, action in sorted(REQUESTS, key=lambda one: one[1] == "DELETE"):
        if resource is Resource.TOKEN:
            continue  # it is asked who one is by itself, see test_tokens
        body = MANIFEST if resource is Resource.MANIFEST and method == "PUT" else b""
        answer = await registry.ask(
            method, EXAMPLES[resource], {**headers, **TYPE}, body=body, login=None
        )
        refused = answer.status in {401, 403, 429}
        allowed = expected(policy, name, action)
        if (answer.status not in allowed) if allowed else refused:
            wrong.append((resource, method, answer.status, allowed))
    assert wrong == []


ALIASES = [
    "/{0}",
    "//v2/{1}",
    "/v2//{1}",
    "/v2/./{1}",
    "/v2/../v2/{1}",
    "/V2/{1}",
    "/v2/{1}/",
    "/v2/{1}//",
    "/v2/{1}/.",
    "/%76%32/{1}",
    "/v2%2f{1}",
    "/healthz/../v2/{1}",
    "/v2/{1}?x=/healthz",
    "/v2/{1}%00",
    "/auth/token/../../v2/{1}",
]


@pytest.mark.parametrize("alias", ALIASES)
async def test_another_way_to_write_a_path_is_no_way_round(
    registry: Registry, policy: str, alias: str
) -> None:
    await fill(registry)
    for resource, method, action in REQUESTS:
        if action is None or (policy == "anonymous pull" and action is Action.PULL):
            continue
        rest = EXAMPLES[resource].removeprefix("/v2/")
        path = alias.format(EXAMPLES[resource].lstrip("/"), rest)
        there = await registry.ask(method, path, TYPE, login=None)
        assert there.status in {400, 401, 404, 405}, (method, path)
        nowhere = await registry.ask(method, path.replace(HERE, "no/where"), TYPE, login=None)
        assert (nowhere.status, nowhere.body) == (
            there.status,
            there.body.replace(HERE.encode(), b"no/where"),
        )
    assert (await registry.ask("GET", EXAMPLES[Resource.MANIFEST])).status == 200
