"""What other registries have been caught at: each test is named after the advisory it answers."""

import hashlib
import hmac
import json
import os
import socket
import time
from base64 import b64encode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import pytest
import trio
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from joserfc import jwt
from joserfc.jwk import ECKey
from msgspec import structs
from structlog.testing import capture_logs

from appliance import firststart
from appliance.accounts import keys
from appliance.accounts.keys import Keys
from appliance.accounts.signing import SigningKeys
from appliance.api.app import Application
from appliance.api.redirect import RedirectToTls
from appliance.api.tokens import TokenResource
from appliance.catalogue.garbage import Garbage
from appliance.catalogue.inspection import Inspection
from appliance.catalogue.past import Past
from appliance.catalogue.records import Catalogue
from appliance.oci.digest import Digest
from appliance.oci.manifest import SIZE_MAX
from appliance.oci.mediatypes import OCI_INDEX, OCI_MANIFEST
from appliance.protocol.paging import PAGE_MAX
from appliance.protocol.routes import ACTIONS, Action, Resource
from appliance.registry.access import Access
from appliance.registry.registry import Registry as UseCases
from appliance.registry.sweep import SweepRules
from appliance.registry.throttle import Throttle
from appliance.registry.tokens import Tokens
from appliance.rulebook import policy
from appliance.settings import Auth, Group, Rule, Settings, SettingsError, Storage, load
from tests.api.driver import ALICE, BOB, Answer, Registry, basic, call, open_registry

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
TYPE = {"Content-Type": OCI_MANIFEST}
CONFIG = b"{}"
SECRET = b"what alice alone may read"
NOWHERE = b"what nobody has pushed"
NO_SESSION = "00000000-0000-4000-8000-000000000000"
RULES = (
    Rule(repositories=("open/*",), accounts=("*",), allow=("pull", "push")),
    Rule(repositories=("public/*",), accounts=("(anonymous)", "*"), allow=("pull",)),
)
"""Alice is an administrator; what is below `secret` is hers alone."""


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    found = open_registry(tmp_path, rules=RULES)
    yield found
    await found.close()


def described(content: bytes, media_type: str = "application/octet-stream") -> dict[str, object]:
    return {"mediaType": media_type, "digest": str(Digest.of(content)), "size": len(content)}


def image(*layers: bytes, **fields: object) -> bytes:
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": described(CONFIG),
        "layers": [described(layer) for layer in layers],
    }
    return json.dumps(document | fields).encode()


def index(*manifests: bytes, **fields: object) -> bytes:
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [described(manifest, OCI_MANIFEST) for manifest in manifests],
    }
    return json.dumps(document | fields).encode()


async def upload(registry: Registry, name: str, *blobs: bytes) -> None:
    for blob in blobs:
        path = f"/v2/{name}/blobs/uploads/?digest={Digest.of(blob)}"
        assert (await registry.ask("POST", path, body=blob)).status == 201


async def push(registry: Registry, name: str, tag: str, *layers: bytes) -> bytes:
    """Let alice push an image, and return its manifest."""
    await upload(registry, name, CONFIG, *layers)
    content = image(*layers)
    answer = await registry.ask("PUT", f"/v2/{name}/manifests/{tag}", TYPE, body=content)
    assert answer.status == 201, answer.body
    return content


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def token(registry: Registry, login: tuple[str, str] | None = ALICE, **query: str) -> str:
    answer = await registry.ask("GET", f"/auth/token?{urlencode(query)}", login=login)
    assert answer.status == 200, answer.body
    return str(answer.json["token"])


async def form(registry: Registry, **fields: str) -> Answer:
    body = urlencode(fields).encode()
    return await registry.ask("POST", "/auth/token", FORM, body=body, login=None)


def decoded(part: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found


def encoded(content: bytes) -> str:
    return urlsafe_b64encode(content).rstrip(b"=").decode()


def assembled(registry: Registry, folder: Path, settings: Settings) -> Registry:
    """Put another application before the same content, as a reload with other settings does."""
    cases = UseCases(
        store=registry.store,
        records=Catalogue(registry.database),
        garbage=Garbage(registry.database),
        past=Past(registry.database),
        inspection=Inspection(registry.database),
    )
    tokens = Tokens(SigningKeys.open(folder / "token-keys.json", time.time()))
    access = Access(
        accounts=registry.accounts,
        keys=Keys(folder / keys.FILE),
        policy=policy(settings),
        tokens=tokens,
        throttle=Throttle(),
        realm="Registry Realm",
    )
    application = Application(
        registry=cases,
        access=access,
        tokens=TokenResource(access, tokens),
        authority=None,
        stall_seconds=5,
    )
    return replace(registry, application=application, uploads=cases.uploads)


# --- what may be changed by whom


async def test_cve_2026_31801_who_may_push_may_not_overwrite(registry: Registry) -> None:
    await upload(registry, "open/app", b"bob's layer")
    before = await push(registry, "open/app", "latest", b"a layer")
    other = image(b"bob's layer")
    wide = await token(registry, BOB, scope="repository:open/app:pull,push")
    for path in (
        "latest",
        "l%61test",
        "latest/",
        f"{Digest.of(other)}?tag=latest",
        f"{Digest.of(other)}?tag=new&tag=latest",
        f"{Digest.of(other)}?tag=latest&tag=new",
        f"{Digest.of(other, 'sha512')}?tag=latest",
    ):
        for headers in ({}, bearer(wide)):
            answer = await registry.ask(
                "PUT", f"/v2/open/app/manifests/{path}", {**TYPE, **headers}, body=other, login=BOB
            )
            assert (answer.status, answer.code) == (403, "DENIED"), path
    tags = await registry.ask("GET", "/v2/open/app/tags/list", login=BOB)
    assert tags.json["tags"] == ["latest"]
    assert (await registry.ask("GET", "/v2/open/app/manifests/latest")).body == before


async def test_cve_2026_31801_what_is_new_or_the_same_is_no_overwrite(registry: Registry) -> None:
    await upload(registry, "open/app", b"bob's layer")
    before = await push(registry, "open/app", "latest", b"a layer")
    other = image(b"bob's layer")
    for path, content in (
        ("latest", before),
        ("new", other),
        ("newer?tag=latest", other),
        (f"{Digest.of(other)}?tag=newest&tag=new", other),
    ):
        answer = await registry.ask(
            "PUT", f"/v2/open/app/manifests/{path}", TYPE, body=content, login=BOB
        )
        assert answer.status == 201, (path, answer.body)
    assert (await registry.ask("GET", "/v2/open/app/manifests/latest")).body == before
    answer = await registry.ask("PUT", "/v2/open/app/manifests/latest", TYPE, body=other)
    assert answer.status == 201


DELETIONS = ("manifests/latest", "manifests/{manifest}", "blobs/{blob}", "")


async def deleted(registry: Registry, login: tuple[str, str], headers: Mapping[str, str]) -> None:
    """Try every way to take something out of open/app; all of it stays."""
    before = await push(registry, "open/app", "latest")
    await upload(registry, "open/app", b"a blob")
    for pattern in DELETIONS:
        path = pattern.format(manifest=Digest.of(before), blob=Digest.of(b"a blob"))
        for spelled in (path, f"{path}?force=true", path.replace("e", "%65")):
            answer = await registry.ask("DELETE", f"/v2/open/app/{spelled}", headers, login=login)
            assert answer.status in {401, 403}, (spelled, answer.status)
    for path in ("manifests/latest", f"blobs/{Digest.of(b'a blob')}"):
        assert (await registry.ask("GET", f"/v2/open/app/{path}")).status == 200


async def test_cve_2026_41888_who_may_not_delete_removes_no_tag_either(registry: Registry) -> None:
    await deleted(registry, BOB, {})
    asked = await token(registry, BOB, scope="repository:open/app:pull,push,delete,*")
    assert "delete" not in str(decoded(asked.split(".")[1])["access"])
    await deleted(registry, BOB, bearer(asked))


async def test_cve_2026_41888_where_nobody_may_delete_no_administrator_does(
    tmp_path: Path,
) -> None:
    denied = Rule(repositories=("*",), accounts=("*",), deny=("delete", "admin"))
    registry = open_registry(tmp_path, rules=[denied])
    await deleted(registry, ALICE, {})
    await registry.close()


# --- what is somebody else's


async def test_cve_2024_39897_a_blob_that_may_not_be_read_is_one_that_is_not_there(
    registry: Registry,
) -> None:
    hidden = await push(registry, "secret/app", "latest", SECRET)
    await upload(registry, "open/app", CONFIG)
    there, nowhere = Digest.of(SECRET), Digest.of(NOWHERE)

    async def ask(
        method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> tuple[int, list[str], bytes]:
        answer = await registry.ask(method, path, headers, body, login=BOB)
        return answer.status, sorted(answer.headers), answer.body

    uploads = "/v2/open/app/blobs/uploads/"
    answers = []
    for digest, manifest in ((there, Digest.of(hidden)), (nowhere, Digest.of(b"no manifest"))):
        found = [
            await ask(method, f"/v2/{name}/blobs/{digest}", headers)
            for name in ("open/app", "open/new", "secret/app", "secret/new")
            for method in ("HEAD", "GET")
            for headers in ({}, {"If-None-Match": "*"}, {"Range": "bytes=0-0"})
        ]
        found += [
            await ask("POST", f"{uploads}?mount={digest}{source}")
            for source in ("", "&from=secret/app", "&from=secret/new", "&from=open/app", "&from=")
        ]
        found += [
            await ask("POST", f"{uploads}?digest={digest}"),
            await ask(
                "PUT",
                "/v2/open/app/manifests/new",
                TYPE,
                image(layers=[{**described(b""), "digest": str(digest)}]),
            ),
            await ask("HEAD", f"/v2/open/app/manifests/{manifest}"),
            await ask("GET", f"/v2/open/app/manifests/{manifest}"),
            await ask("GET", f"/v2/open/app/referrers/{manifest}"),
            await ask("GET", f"/v2/secret/app/manifests/{manifest}"),
        ]
        own = index(manifests=[{**described(b"", OCI_MANIFEST), "digest": str(manifest)}])
        found.append(
            await ask("PUT", "/v2/open/app/manifests/all", {"Content-Type": OCI_INDEX}, own)
        )
        told = [str(digest).encode(), str(manifest).encode()]
        answers.append(
            [
                (status, names, body.replace(told[0], b"-").replace(told[1], b"-"))
                for status, names, body in found
            ]
        )
    assert answers[0] == answers[1]
    assert {status for status, _, _ in answers[0]} == {200, 202, 400, 403, 404}
    assert (await ask("GET", f"/v2/open/app/blobs/{there}"))[0] == 404
    mount = f"{uploads}?mount={there}&from=secret/app"
    assert (await registry.ask("POST", mount)).status == 201  # alice may


async def test_cve_2024_39897_a_token_mounts_only_from_where_it_reads(registry: Registry) -> None:
    await upload(registry, "secret/app", SECRET)
    narrow = await token(registry, scope="repository:open/app:pull,push")
    both = await token(registry, scope="repository:open/app:pull,push repository:secret/app:pull")
    mount = f"/v2/open/app/blobs/uploads/?mount={Digest.of(SECRET)}"
    for source in ("&from=secret/app", ""):
        path = f"{mount}{source}"
        assert (await registry.ask("POST", path, bearer(narrow), login=None)).status == 202
    assert (await registry.ask("POST", mount, bearer(both), login=None)).status == 201


async def test_cve_2024_39897_a_repository_that_may_not_be_read_is_one_that_is_not_there(
    registry: Registry,
) -> None:
    await push(registry, "secret/app", "latest")
    for login in (BOB, None):
        for path in ("tags/list", "manifests/latest", f"referrers/{Digest.of(CONFIG)}"):
            there = await registry.ask("GET", f"/v2/secret/app/{path}", login=login)
            nowhere = await registry.ask("GET", f"/v2/secret/none/{path}", login=login)
            assert there.status == nowhere.status == (401 if login is None else 403)
            assert there.body.replace(b"secret/app", b"secret/none") == nowhere.body
    catalog = await registry.ask("GET", "/v2/_catalog", login=BOB)
    assert catalog.json == {"repositories": []}


async def test_cve_2026_35172_what_one_repository_has_deleted_another_does_not_bring_back(
    registry: Registry,
) -> None:
    blob = Digest.of(b"a blob")
    for name in ("open/a", "open/b"):
        await push(registry, name, "latest")
        await upload(registry, name, b"a blob")
    manifest = Digest.of(image())
    for path in (f"blobs/{blob}", f"manifests/{manifest}"):
        assert (await registry.ask("GET", f"/v2/open/a/{path}")).status == 200
        assert (await registry.ask("DELETE", f"/v2/open/a/{path}")).status == 202
        for method in ("HEAD", "GET"):
            assert (await registry.ask(method, f"/v2/open/b/{path}")).status == 200
            for headers in ({}, {"Range": "bytes=0-1"}, {"If-None-Match": "*"}):
                answer = await registry.ask(method, f"/v2/open/a/{path}", headers)
                assert answer.status == 404
    assert (await registry.ask("GET", "/v2/open/a/manifests/latest")).status == 404
    mount = f"/v2/open/c/blobs/uploads/?mount={blob}&from=open/a"
    assert (await registry.ask("POST", mount)).status == 202
    again = await registry.ask("PUT", "/v2/open/a/manifests/new", TYPE, body=image(b"a blob"))
    assert again.code == "MANIFEST_BLOB_UNKNOWN"


async def test_cve_2026_32589_an_upload_session_is_its_account_s(
    registry: Registry, tmp_path: Path
) -> None:
    key, _ = keys.create(tmp_path / keys.FILE, "robot", ["repository:open/*:pull,push"], None, "")
    started = await registry.ask("POST", "/v2/open/app/blobs/uploads/")
    location = started.headers["location"]
    assert (await registry.ask("PATCH", location, body=b"half of ")).status == 202
    digest = Digest.of(b"half of it")
    strangers: list[tuple[tuple[str, str] | None, dict[str, str]]] = [
        (BOB, {}),
        (None, bearer(await token(registry, BOB, scope="repository:open/app:pull,push"))),
        (("robot", key), {}),
    ]
    for method, query, body in (
        ("GET", "", b""),
        ("PATCH", "", b"nothing"),
        ("PUT", f"?digest={Digest.of(b'half of ')}", b""),
        ("PUT", f"?digest={digest}", b"it"),
        ("DELETE", "", b""),
    ):
        for login, headers in strangers:
            theirs = await registry.ask(method, location + query, headers, body, login=login)
            none = location.replace(started.headers["docker-upload-uuid"], NO_SESSION)
            nobody_s = await registry.ask(method, none + query, headers, body, login=login)
            assert theirs.status == nobody_s.status == 404, (method, login)
            assert theirs.body == nobody_s.body
        elsewhere = location.replace("open/app", "open/other")
        assert (await registry.ask(method, elsewhere + query, body=body)).status == 404
        assert (await registry.ask(method, location + query, body=body, login=None)).status == 401
    assert (await registry.ask("GET", location)).headers["range"] == "0-7"
    assert (await registry.ask("PUT", f"{location}?digest={digest}", body=b"it")).status == 201


async def test_cve_2026_32589_a_session_is_found_by_its_name_alone(registry: Registry) -> None:
    assert (await registry.ask("POST", "/v2/open/app/blobs/uploads/", login=BOB)).status == 202
    for name in ("..", ".", "%2e%2e", "put-0", "catalogue.sqlite3", "%00", "*", "%"):
        for method in ("GET", "PATCH", "PUT", "DELETE"):
            path = f"/v2/open/app/blobs/uploads/{name}?digest={Digest.of(b'')}"
            answer = await registry.ask(method, path, login=BOB)
            assert answer.status in {400, 404}, (method, name)


async def test_cve_2026_27771_what_is_private_is_so_on_every_route(
    registry: Registry,
) -> None:
    content = await push(registry, "secret/app", "latest", SECRET)
    await push(registry, "public/app", "latest", b"for everybody")
    anybody = await token(registry, None, scope="repository:secret/app:pull,push,delete,*")
    bobs = await token(registry, BOB, scope="repository:secret/app:pull,push,delete,*")
    paths = {
        Resource.TAGS: ["tags/list"],
        Resource.MANIFEST: ["manifests/latest", f"manifests/{Digest.of(content)}"],
        Resource.BLOB: [f"blobs/{Digest.of(SECRET)}"],
        Resource.UPLOADS: ["blobs/uploads/", f"blobs/uploads/?digest={Digest.of(b'')}"],
        Resource.UPLOAD: [f"blobs/uploads/{NO_SESSION}"],
        Resource.REFERRERS: [f"referrers/{Digest.of(content)}"],
        Resource.REPOSITORY: [""],
    }
    assert paths.keys() == {one for one in ACTIONS if "<name>" in one.value}
    others: list[tuple[tuple[str, str] | None, dict[str, str]]] = [
        (None, {}),
        (None, {"Authorization": "Basic Og=="}),
        (None, bearer(anybody)),
        (BOB, {}),
        (None, bearer(bobs)),
    ]
    for resource, known in paths.items():
        for method in ("HEAD", *ACTIONS[resource]):
            if method == "HEAD" and "GET" not in ACTIONS[resource]:
                continue
            for login, headers in others:
                for path in known:
                    answer = await registry.ask(
                        method, f"/v2/secret/app/{path}", {**TYPE, **headers}, login=login
                    )
                    assert answer.status in {401, 403}, (method, path, login)
    for path in (f"blobs/{Digest.of(SECRET)}", f"manifests/{Digest.of(content)}"):
        assert (await registry.ask("GET", f"/v2/public/app/{path}", login=None)).status == 404
    assert (await registry.ask("GET", "/v2/public/app/manifests/latest", login=None)).status == 200


ALIASES = (
    "/v2/{0}",
    "/v2/{0}/",
    "/v2/{0}//",
    "/v2//{0}",
    "//v2/{0}",
    "/v2/./{0}",
    "/v2/{0}/.",
    "/v2/open/../{0}",
    "/v2/open/%2e%2e/{0}",
    "/v2/open%2f..%2f{0}",
    "/healthz/../v2/{0}",
    "/auth/token/../../v2/{0}",
    "/V2/{0}",
    "/%76%32/{0}",
    "/v2%2f{0}",
    "/v2\\{0}",
    "/v2/{0}%00",
    "/v2/{0}%20",
    "/v2/{0};x=/healthz",
    "/v2/{0}%3fn=1",
    "/v2/{0}?x=/healthz",
    "/v2/{0}#/healthz",
)


async def test_cve_2020_29662_no_spelling_of_a_path_leads_round_the_gate(
    registry: Registry,
) -> None:
    await push(registry, "secret/app", "latest", SECRET)
    for alias in ALIASES:
        for path in ("_catalog", "%5fcatalog", "%255fcatalog", "_CATALOG"):
            answer = await registry.ask("GET", alias.format(path), login=None)
            assert answer.status in {400, 401, 404}, (alias, path)
            assert b"secret" not in answer.body
        for path in (
            "secret/app/tags/list",
            "%73ecret/app/tags/list",
            "SECRET/app/tags/list",
            "secret%2fapp/tags/list",
            f"secret/app/blobs/{Digest.of(SECRET)}",
            "secret/app/manifests/latest",
        ):
            for login in (None, BOB):
                answer = await registry.ask("GET", alias.format(path), login=login)
                assert answer.status in {400, 401, 403, 404}, (alias, path, login)
                assert SECRET not in answer.body


# --- tokens and keys


def compact(head: object, claims: object, sign: Callable[[bytes], bytes]) -> str:
    """Make a token of a head and claims, whatever they say."""
    parts = (encoded(json.dumps(part).encode()) for part in (head, claims))
    body = ".".join(parts)
    return f"{body}.{encoded(sign(body.encode()))}"


def es256(key: ec.EllipticCurvePrivateKey) -> Callable[[bytes], bytes]:
    def sign(body: bytes) -> bytes:
        first, second = decode_dss_signature(key.sign(body, ec.ECDSA(hashes.SHA256())))
        return first.to_bytes(32) + second.to_bytes(32)

    return sign


def hs256(secret: bytes) -> Callable[[bytes], bytes]:
    return lambda body: hmac.new(secret, body, hashlib.sha256).digest()


def always(signature: bytes) -> Callable[[bytes], bytes]:
    return lambda _: signature


def signing_key(folder: Path) -> tuple[str, ECKey]:
    """Read the registry's own key, and what it calls it."""
    kept = json.loads((folder / "token-keys.json").read_bytes())[0]
    return str(kept["id"]), ECKey.import_key(kept["key"])


def jwk(key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return dict(ECKey.import_key(der).as_dict(private=False))


async def proves_nothing(registry: Registry, made: str) -> bool:
    """Tell whether a token is refused wherever one can be shown."""
    answers = [
        await registry.ask("GET", "/v2/", bearer(made), login=None),
        await registry.ask(
            "GET", f"/v2/secret/app/blobs/{Digest.of(SECRET)}", bearer(made), login=None
        ),
        await registry.ask("GET", "/v2/public/app/tags/list", bearer(made), login=None),
        await registry.ask("POST", "/v2/secret/app/blobs/uploads/", bearer(made), login=None),
        await registry.ask("GET", "/auth/token?offline_token=true", bearer(made), login=None),
        await form(registry, grant_type="refresh_token", refresh_token=made),
    ]
    as_password = await registry.ask("GET", "/v2/", login=("alice", made), client="192.0.2.2")
    return {answer.status for answer in answers} == {401} and as_password.status in {401, 429}


async def test_cve_2025_24976_a_key_in_a_token_is_not_believed(
    registry: Registry, tmp_path: Path
) -> None:
    await push(registry, "secret/app", "latest", SECRET)
    real = await token(registry, scope="repository:secret/app:pull,push")
    claims = decoded(real.split(".")[1])
    ours, _ = signing_key(tmp_path)
    attacker = ec.generate_private_key(ec.SECP256R1())
    der = attacker.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/keys"
        heads: list[dict[str, object]] = [
            {},
            {"kid": ours},
            {"kid": ours, "jwk": jwk(attacker)},
            {"kid": ours, "jwk": {**jwk(attacker), "kid": ours}},
            {"jwk": jwk(attacker)},
            {"kid": "another", "jwk": {**jwk(attacker), "kid": "another"}},
            {"kid": ours, "jku": address},
            {"kid": "another", "jku": address},
            {"kid": ours, "x5u": address},
            {"kid": ours, "x5c": [b64encode(der).decode()]},
            {"kid": ours, "x5t": "another"},
            {"kid": ours, "crit": ["jwk"], "jwk": jwk(attacker)},
            {"kid": ours, "b64": False, "crit": ["b64"]},
        ]
        for head in heads:
            made = compact({"alg": "ES256", "typ": "JWT", **head}, claims, es256(attacker))
            assert await proves_nothing(registry, made), head
        with pytest.raises(BlockingIOError):
            listener.accept()


UNKNOWN: tuple[object, ...] = (
    *("", "another", "../token-keys.json", "/dev/null", "' OR 1=1 --", "*", "0"),
    *(0, None, True, ["a"], {}),
)


async def test_cve_2025_24976_a_key_that_is_unknown_is_not_looked_for(
    registry: Registry, tmp_path: Path
) -> None:
    claims = decoded((await token(registry)).split(".")[1])
    _, ours = signing_key(tmp_path)
    attacker = ec.generate_private_key(ec.SECP256R1())
    for kid in UNKNOWN:
        head = {"alg": "ES256", "typ": "JWT", "kid": kid}
        for sign in (es256(attacker), es256(private(ours)), hs256(b""), hs256(b"\0")):
            assert await proves_nothing(registry, compact(head, claims, sign)), kid


def private(key: ECKey) -> ec.EllipticCurvePrivateKey:
    found = load_pem_private_key(key.as_pem(private=True), None)
    assert isinstance(found, ec.EllipticCurvePrivateKey)
    return found


async def test_cve_2025_24976_a_token_does_not_choose_how_it_is_checked(
    registry: Registry, tmp_path: Path
) -> None:
    await push(registry, "secret/app", "latest", SECRET)
    real = await token(registry, scope="repository:secret/app:pull,push")
    claims = decoded(real.split(".")[1])
    kid, ours = signing_key(tmp_path)
    public = private(ours).public_key()
    known = [
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).strip(),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint),
        json.dumps(ours.as_dict(private=False)).encode(),
        kid.encode(),
        b"",
    ]
    made = [
        compact({"alg": algorithm, "kid": kid}, claims, hs256(secret))
        for secret in known
        for algorithm in ("HS256", "HS384", "ES256")
    ]
    odd: list[object] = ["none", "None", "NONE", "nOnE", "", None, [], "ES256", "ES384", "EdDSA"]
    made += [
        compact({"alg": algorithm, "kid": kid}, claims, always(signature))
        for algorithm in odd
        for signature in (b"", b"\0" * 64, b"\0" * 63 + b"\1", b"\xff" * 64)
    ]
    made += [
        compact({"alg": algorithm, "kid": kid}, claims, es256(private(ours)))
        for algorithm in ("none", "es256", "ES256K", "ES384", "RS256", "HS256", None, ["ES256"])
    ]
    made += [compact({"kid": kid}, claims, es256(private(ours)))]
    for one in made:
        assert await proves_nothing(registry, one), one


async def test_cve_2025_24976_what_is_signed_is_what_counts(
    registry: Registry, tmp_path: Path
) -> None:
    await push(registry, "secret/app", "latest", SECRET)
    real = await token(registry, BOB, scope="repository:open/app:pull,push")
    head, body, signature = real.split(".")
    wider = {**decoded(body), "sub": "alice"}
    _, key = signing_key(tmp_path)
    wrong = [
        f"{head}.{encoded(json.dumps(wider).encode())}.{signature}",
        f"{encoded(json.dumps({**decoded(head), 'x': 1}).encode())}.{body}.{signature}",
        f"{head}.{body}.",
        f"{head}.{body}",
        f"{head}.{body}.{signature}.{signature}",
        f"{head}.{body}.{signature[:-4]}",
        jwt.encode(decoded(head), {**decoded(body), "iss": "somebody"}, key),
        jwt.encode(decoded(head), {**decoded(body), "typ": "id"}, key),
        jwt.encode(decoded(head), {**decoded(body), "exp": int(time.time()) - 1}, key),
        jwt.encode(decoded(head), {**decoded(body), "exp": "never"}, key),
        jwt.encode(decoded(head), {**decoded(body), "gen": ""}, key),
        jwt.encode(decoded(head), {k: v for k, v in decoded(body).items() if k != "exp"}, key),
    ]
    for made in wrong:
        assert await proves_nothing(registry, made), made
    again = jwt.encode(decoded(head), decoded(body), key)
    for right in (real, again):
        assert (await registry.ask("GET", "/v2/", bearer(right), login=None)).status == 200


async def test_cve_2026_48524_unknown_keys_push_no_known_one_out(registry: Registry) -> None:
    real = await token(registry)
    claims = decoded(real.split(".")[1])
    sign = es256(ec.generate_private_key(ec.SECP256R1()))
    for number in range(300):
        made = compact({"alg": "ES256", "kid": f"{number:016x}"}, claims, sign)
        assert (await registry.ask("GET", "/v2/", bearer(made), login=None)).status == 401
    assert (await registry.ask("GET", "/v2/", bearer(real), login=None)).status == 200
    assert (
        await registry.ask("GET", "/v2/", bearer(await token(registry)), login=None)
    ).status == 200


async def may_push(registry: Registry, name: str, made: str) -> bool:
    path = f"/v2/{name}/blobs/uploads/"
    status = (await registry.ask("POST", path, bearer(made), login=None)).status
    assert status in {202, 401, 403}
    return status == 202


async def test_cve_2025_68944_a_token_is_for_no_more_than_its_key(
    registry: Registry, tmp_path: Path
) -> None:
    await push(registry, "open/app", "latest")
    key, _ = keys.create(tmp_path / keys.FILE, "bob", ["repository:open/app:pull"], None, "")
    wanted = (
        "repository:open/app:pull,push,delete,* repository:open/other:pull,push"
        " repository:open/*:pull,push repository:*:* registry:catalog:*"
    )
    query = urlencode({"scope": wanted, "offline_token": "true", "account": "alice"})
    by_password = await registry.ask("GET", f"/auth/token?{query}", login=("bob", key))
    refreshed = await form(
        registry,
        grant_type="refresh_token",
        refresh_token=by_password.json["refresh_token"],
        scope=wanted,
    )
    in_form = await form(
        registry, grant_type="password", username="bob", password=key, scope=wanted
    )
    as_bearer = await registry.ask("GET", f"/auth/token?{query}", bearer(key), login=None)
    for answer in (by_password, refreshed, in_form, as_bearer):
        assert answer.json["scope"] == "repository:open/app:pull"
        made = answer.json["token"]
        assert decoded(made.split(".")[1])["sub"] == "bob"
        pulled = await registry.ask(
            "GET", "/v2/open/app/manifests/latest", bearer(made), login=None
        )
        assert pulled.status == 200
        assert not await may_push(registry, "open/app", made)
        assert not await may_push(registry, "open/other", made)
        catalog = await registry.ask("GET", "/v2/_catalog", bearer(made), login=None)
        assert catalog.status in {401, 403}
    assert (await registry.ask("POST", "/v2/open/app/blobs/uploads/", login=BOB)).status == 202


async def test_cve_2025_68944_a_token_for_less_than_its_key_does_not_become_its_key(
    registry: Registry, tmp_path: Path
) -> None:
    scopes = ["repository:open/a:pull,push", "repository:open/b:pull,push"]
    key, _ = keys.create(tmp_path / keys.FILE, "robot", scopes, None, "")
    for login in (("robot", key), BOB):
        narrow = await token(registry, login, scope="repository:open/a:pull")
        wanted = urlencode({"scope": " ".join(scopes), "offline_token": "true"})
        answer = await registry.ask("GET", f"/auth/token?{wanted}", bearer(narrow), login=None)
        given = [answer.json.get("token", "")]
        if "refresh_token" in answer.json:
            refreshed = await form(
                registry,
                grant_type="refresh_token",
                refresh_token=answer.json["refresh_token"],
                scope=" ".join(scopes),
            )
            given.append(refreshed.json.get("token", ""))
        for made in given:
            for name in ("open/a", "open/b"):
                assert not await may_push(registry, name, made), (login[0], name)


async def test_cve_2025_68944_a_token_ends_with_its_key(registry: Registry, tmp_path: Path) -> None:
    file, scopes = tmp_path / keys.FILE, ["repository:open/app:pull,push"]
    key, kept = keys.create(file, "robot", scopes, None, "")
    over, _ = keys.create(file, "robot", scopes, int(time.time()) - 1, "")
    query = urlencode({"scope": scopes[0], "offline_token": "true"})
    given = (await registry.ask("GET", f"/auth/token?{query}", login=("robot", key))).json
    assert await may_push(registry, "open/app", given["token"])
    keys.revoke(file, kept.id)
    assert not await may_push(registry, "open/app", given["token"])
    refused = await form(
        registry, grant_type="refresh_token", refresh_token=given["refresh_token"], scope=scopes[0]
    )
    assert refused.status == 401
    for ended in (key, over):
        answer = await registry.ask("GET", f"/auth/token?{query}", login=("robot", ended))
        assert answer.status == 401
        assert not await may_push(registry, "open/app", ended)


async def test_cve_2022_31667_a_key_proves_its_own_account_and_no_other(
    registry: Registry, tmp_path: Path
) -> None:
    key, _ = keys.create(tmp_path / keys.FILE, "robot", ["repository:*:*"], None, "")
    for name in ("alice", "bob", "", "robot2", "Robot", "(operator)", "robot\0"):
        assert (await registry.ask("GET", "/v2/", login=(name, key))).status == 401
        answer = await form(registry, grant_type="password", username=name, password=key)
        assert answer.status == 401
    assert (await registry.ask("GET", "/v2/", login=("robot", key))).status == 200
    await push(registry, "secret/app", "latest")
    path = "/v2/secret/app/manifests/latest"
    assert (await registry.ask("GET", path, login=("robot", key))).status == 403


async def test_cve_2019_16097_nobody_becomes_an_administrator_by_saying_so(
    registry: Registry,
) -> None:
    said = {
        "account": "alice",
        "sub": "alice",
        "username": "alice",
        "has_admin_role": "true",
        "key": "",
        "access": '[{"type":"repository","name":"secret/app","actions":["*"]}]',
        "scope": "repository:secret/app:pull,push,delete,*",
    }
    by_query = await registry.ask("GET", f"/auth/token?{urlencode(said)}", login=BOB)
    fields = {**said, "grant_type": "password", "username": "bob", "password": BOB[1]}
    for answer in (by_query, await form(registry, **fields)):
        claims = decoded(answer.json["token"].split(".")[1])
        assert (claims["sub"], claims["access"]) == ("bob", [])
        assert not await may_push(registry, "secret/app", answer.json["token"])
    for method in ("POST", "PUT", "PATCH"):
        for path in ("/api/users", "/api/v2.0/users", "/v2/users", "/auth/users", "/control/gc"):
            answer = await registry.ask(method, path, body=json.dumps(said).encode(), login=BOB)
            assert answer.status in {404, 405}, path


async def test_cve_2025_23208_who_leaves_a_group_has_its_rights_no_more(
    registry: Registry, tmp_path: Path
) -> None:
    def settings(*members: str) -> Settings:
        return Settings(
            auth=Auth(admins=("alice",)),
            rule=(Rule(repositories=("team/*",), accounts=("@team",), allow=("pull", "push")),),
            group=(Group(name="team", members=members),),
        )

    key, _ = keys.create(tmp_path / keys.FILE, "bob", ["repository:team/app:pull,push"], None, "")
    member = assembled(registry, tmp_path, settings("bob"))
    await push(member, "team/app", "latest")
    query = urlencode({"scope": "repository:team/app:pull,push", "offline_token": "true"})
    given = (await member.ask("GET", f"/auth/token?{query}", login=BOB)).json
    by_key = await token(member, ("bob", key), scope="repository:team/app:pull,push")
    started = await member.ask("POST", "/v2/team/app/blobs/uploads/", login=BOB)
    session = started.headers["location"]
    shown: list[tuple[tuple[str, str] | None, dict[str, str]]] = [
        (BOB, {}),
        (("bob", key), {}),
        (None, bearer(given["token"])),
        (None, bearer(by_key)),
        (None, bearer(key)),
    ]
    requests = [
        ("GET", "/v2/team/app/manifests/latest"),
        ("POST", "/v2/team/app/blobs/uploads/"),
        ("PATCH", session),
    ]

    async def statuses(found: Registry) -> set[int]:
        return {
            (await found.ask(method, path, headers, login=login)).status
            for method, path in requests
            for login, headers in shown
        }

    assert await statuses(member) == {200, 202}
    for members in ((), ("alice",)):
        left = assembled(registry, tmp_path, settings(*members))
        assert await statuses(left) == {403}
        refreshed = await form(
            left,
            grant_type="refresh_token",
            refresh_token=given["refresh_token"],
            scope="repository:team/app:pull,push",
        )
        assert refreshed.json["scope"] == ""
        assert (await left.ask("GET", "/v2/_catalog", login=BOB)).json == {"repositories": []}
    assert await statuses(assembled(registry, tmp_path, settings("bob"))) == {200, 202}


async def test_cve_2025_23208_a_rule_that_has_gone_counts_for_no_token(tmp_path: Path) -> None:
    rule = Rule(repositories=("team/*",), accounts=("bob",), allow=("pull", "push"))
    registry = open_registry(tmp_path, rules=[rule])
    given = await token(registry, BOB, scope="repository:team/app:pull,push")
    assert await may_push(registry, "team/app", given)
    await registry.close()
    registry = open_registry(tmp_path, rules=[structs.replace(rule, accounts=("carol",))])
    assert not await may_push(registry, "team/app", given)
    assert (await registry.ask("GET", "/v2/team/app/tags/list", login=BOB)).status == 403
    await registry.close()


# --- what comes in


async def endless(
    registry: Registry, method: str, path: str, headers: Mapping[str, str]
) -> tuple[int, int]:
    """Send a body that never ends; return the status and how many mebibytes were taken of it."""
    taken, statuses = 0, []

    async def receive() -> dict[str, object]:
        nonlocal taken
        taken += 1
        return {"type": "http.request", "body": b" " * (1 << 20), "more_body": taken < 64}

    async def send(message: Mapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await registry.application(scope(method, path, headers), receive, send)
    return statuses[0], taken


def scope(
    method: str, path: str, headers: Mapping[str, str] | Sequence[tuple[str, str]]
) -> dict[str, Any]:
    raw_path, _, query = path.partition("?")
    fields = headers.items() if isinstance(headers, Mapping) else headers
    return {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "https",
        "raw_path": raw_path.encode(),
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode()) for name, value in fields],
        "client": ("192.0.2.1", 4711),
    }


async def test_cve_2017_11468_a_manifest_is_read_no_further_than_it_may_be_long(
    registry: Registry,
) -> None:
    path, known = "/v2/open/app/manifests/latest", {**TYPE, "Authorization": basic(*ALICE)}
    status, taken = await endless(registry, "PUT", path, {**known, "Transfer-Encoding": "chunked"})
    assert (status, taken) == (413, (SIZE_MAX >> 20) + 1)
    for length in (SIZE_MAX + 1, 10**17):
        announced = {**known, "Content-Length": str(length)}
        assert await endless(registry, "PUT", path, announced) == (413, 0)
    chunked = {**TYPE, "Transfer-Encoding": "chunked"}
    assert await endless(registry, "PUT", path, chunked) == (401, 0)


async def test_cve_2017_11468_nobody_sends_the_token_endpoint_much(registry: Registry) -> None:
    headers = {**FORM, "Transfer-Encoding": "chunked"}
    assert await endless(registry, "POST", "/auth/token", headers) == (400, 1)
    headers = {**FORM, "Content-Length": str(1 << 40)}
    assert await endless(registry, "POST", "/auth/token", headers) == (400, 0)


@pytest.mark.parametrize("content", [b'{"a":' * 100_000, b"[" * (1 << 20), b'{"a":' + b"[" * 10**6])
async def test_cve_2017_11468_a_manifest_nests_no_deeper_than_is_read(
    registry: Registry, content: bytes
) -> None:
    answer = await registry.ask("PUT", "/v2/open/app/manifests/deep", TYPE, body=content)
    assert (answer.status, answer.code) == (400, "MANIFEST_INVALID")


AMBIGUOUS = {
    "an image with manifests": (OCI_MANIFEST, image(manifests=[])),
    "an index with layers": (OCI_INDEX, index(layers=[])),
    "an index with a config": (OCI_INDEX, index(config=described(CONFIG))),
    "an image sent as an index": (OCI_INDEX, image()),
    "an index sent as an image": (OCI_MANIFEST, index()),
    "both, and neither said": ("", image(manifests=[], mediaType=None)),
    "an index by its type alone": (OCI_INDEX, image(mediaType=None)),
    "an image by its type alone": (OCI_MANIFEST, index(mediaType=None)),
    "another case of manifests": (OCI_MANIFEST, image(Manifests=[])),
    "another case of layers": (OCI_INDEX, index(LAYERS=[])),
    "another case of the type": (OCI_MANIFEST, image(mediatype=OCI_INDEX)),
    "a letter that folds to another": (OCI_MANIFEST, image(manifeſts=[])),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
async def test_cve_2021_41190_a_manifest_is_one_thing_to_all_who_read_it(
    registry: Registry, name: str
) -> None:
    await upload(registry, "open/app", CONFIG)
    stated, content = AMBIGUOUS[name]
    for reference in ("latest", str(Digest.of(content))):
        path = f"/v2/open/app/manifests/{reference}"
        answer = await registry.ask("PUT", path, {"Content-Type": stated}, body=content)
        assert (answer.status, answer.code) == (400, "MANIFEST_INVALID")
        assert (await registry.ask("GET", path)).status == 404


async def test_cve_2021_41190_a_manifest_is_told_as_what_it_was_pushed_as(
    registry: Registry,
) -> None:
    content = await push(registry, "open/app", "latest")
    for accepted in (OCI_INDEX, "*/*", "application/json", OCI_MANIFEST):
        for reference in ("latest", str(Digest.of(content))):
            path = f"/v2/open/app/manifests/{reference}"
            answer = await registry.ask("GET", path, {"Accept": accepted})
            assert (answer.headers["content-type"], answer.body) == (OCI_MANIFEST, content)


async def test_cve_2021_41190_a_descriptor_is_one_thing_to_all_who_read_it(
    registry: Registry,
) -> None:
    await upload(registry, "open/app", CONFIG, b"a layer", b"another layer")
    layer, other = described(b"a layer"), described(b"another layer", OCI_INDEX)
    statuses = {}
    for field in other:
        for spelled in (field.upper(), field.title()):
            content = image(layers=[{**layer, spelled: other[field]}])
            answer = await registry.ask("PUT", "/v2/open/app/manifests/latest", TYPE, body=content)
            statuses[spelled] = answer.status
    assert set(statuses.values()) == {400}, statuses


@pytest.fixture
async def listed(registry: Registry) -> Registry:
    """A registry of two repositories, with two tags and two referrers in one of them."""
    for tag in ("a", "b"):
        await push(registry, "open/app", tag)
        subject = image(subject=described(image(), OCI_MANIFEST), annotations={"tag": tag})
        path = f"/v2/open/app/manifests/{Digest.of(subject)}"
        assert (await registry.ask("PUT", path, TYPE, body=subject)).status == 201
    await push(registry, "open/other", "a")
    return registry


LISTS = ("/v2/_catalog", "/v2/open/app/tags/list", f"/v2/open/app/referrers/{Digest.of(image())}")


COUNTS = (2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, 10**31)
NO_COUNTS = ("-1", str(-(2**63)), "NaN", "Infinity", "1e9", "1.5", "0x10", "", " 1", "+1", "1_000")
NO_DIGITS = (
    "\N{ARABIC-INDIC DIGIT FIVE}",
    "\N{SUPERSCRIPT TWO}",
    "1,2",
    "n",
    "9" * 33,
    "9" * 10_000,
)


@pytest.mark.parametrize("path", LISTS, ids=["catalog", "tags", "referrers"])
async def test_cve_2023_2253_however_much_is_asked_for_there_is_what_there_is(
    listed: Registry, path: str
) -> None:
    everything = await listed.ask("GET", path)
    (entries,) = (found for found in everything.json.values() if isinstance(found, list))
    assert len(entries) == 2
    for number in COUNTS:
        answer = await listed.ask("GET", f"{path}?n={number}")
        assert (answer.status, answer.body) == (200, everything.body), number


@pytest.mark.parametrize("path", LISTS, ids=["catalog", "tags", "referrers"])
async def test_cve_2023_2253_what_is_no_count_is_refused(listed: Registry, path: str) -> None:
    for number in (*NO_COUNTS, *NO_DIGITS):
        answer = await listed.ask("GET", f"{path}?n={quote(number)}")
        assert answer.status == 400, number


async def test_cve_2023_2253_a_page_is_never_longer_than_a_page(registry: Registry) -> None:
    content = await push(registry, "open/app", "latest")
    tags = [f"t{number}" for number in range(PAGE_MAX)]
    for start in range(0, PAGE_MAX, 50):
        query = urlencode([("tag", tag) for tag in tags[start : start + 50]])
        path = f"/v2/open/app/manifests/{Digest.of(content)}?{query}"
        assert (await registry.ask("PUT", path, TYPE, body=content)).status == 201
    for query in ("", f"?n={PAGE_MAX + 1}", f"?n={2**63}"):
        answer = await registry.ask("GET", f"/v2/open/app/tags/list{query}")
        assert len(answer.json["tags"]) == PAGE_MAX
        assert f"n={PAGE_MAX}&" in answer.headers["link"]


async def test_zot_4318_an_index_of_indexes_is_not_walked_on_every_way(
    registry: Registry, tmp_path: Path
) -> None:
    content = await push(registry, "open/app", "latest")
    below = [content]
    kinds = OCI_MANIFEST
    for level in range(40):
        entries = [described(one, kinds) for one in below]
        below = [index(manifests=entries, annotations={"at": f"{level} {n}"}) for n in range(2)]
        kinds = OCI_INDEX
        for one in below:
            path = f"/v2/open/app/manifests/{Digest.of(one)}?tag=top"
            answer = await registry.ask("PUT", path, {"Content-Type": OCI_INDEX}, body=one)
            assert answer.status == 201, answer.body
    cases = UseCases(
        store=registry.store,
        records=Catalogue(registry.database),
        garbage=Garbage(registry.database),
        past=Past(registry.database),
        inspection=Inspection(registry.database),
        lease_seconds=0,
    )
    rules = SweepRules(grace=0, quarantine=0, untagged=0, history=0)
    with trio.fail_after(60):
        await cases.sweep.preview(rules)
        await cases.sweep.run(rules)
    for one in (below[1], content):
        path = f"/v2/open/app/manifests/{Digest.of(one)}"
        assert (await registry.ask("GET", path)).body == one


async def test_distribution_4860_stray_uploads_stop_no_tidying(
    registry: Registry, tmp_path: Path
) -> None:
    started = await registry.ask("POST", "/v2/open/app/blobs/uploads/")
    session = started.headers["docker-upload-uuid"]
    names = ["a", "_", ".x", "..x", "x" * 255, "-", " ", "\n", "\udcff", "put-", session.upper()]
    strays = [tmp_path / "uploads" / name for name in names]

    def scatter() -> None:
        for stray in strays:
            stray.write_bytes(b"of whatever origin")
            os.utime(stray, (0, 0))

    scatter()
    await registry.uploads.expire(3600)
    assert not [stray for stray in strays if stray.exists()]
    scatter()
    await registry.uploads.discard_strays()
    assert not [stray for stray in strays if stray.exists()]
    assert (await registry.ask("GET", started.headers["location"])).status == 204


# --- what is told, and what is so from the start


async def test_cve_2025_48374_no_secret_is_told_or_logged(
    registry: Registry, tmp_path: Path
) -> None:
    key, _ = keys.create(tmp_path / keys.FILE, "robot", ["repository:open/*:pull"], None, "")
    wrong = "a wrong password"
    with capture_logs() as logged:
        given = await registry.ask("GET", "/auth/token?offline_token=true")
        access, identity = given.json["token"], given.json["refresh_token"]
        forged = f"{access[:-8]}AAAAAAAA"
        answers = [
            await registry.ask("GET", "/v2/", login=ALICE),
            await registry.ask("GET", "/v2/", login=("alice", wrong)),
            await registry.ask("GET", "/v2/", {"Authorization": f"Digest {wrong}"}, login=None),
            await registry.ask("GET", "/v2/", login=("robot", key)),
            await registry.ask("GET", "/v2/", login=("alice", key)),
            *[
                await registry.ask(method, path, bearer(one), login=None)
                for one in (access, identity, forged, key)
                for method, path in (("GET", "/v2/"), ("DELETE", "/v2/secret/app/manifests/a"))
            ],
            await form(registry, grant_type="password", username="alice", password=wrong),
            await form(registry, grant_type="password", username="alice", password=f"{wrong}\0"),
            await form(registry, grant_type="refresh_token", refresh_token=forged),
            await form(registry, grant_type=wrong, password=ALICE[1], refresh_token=identity),
            await registry.ask("GET", f"/v2/?{urlencode({'password': wrong, 'token': access})}"),
        ]
    secrets = [ALICE[1], wrong, quote(wrong), access, identity, forged, key]
    secrets += [basic(*ALICE).split()[1], basic("alice", wrong).split()[1]]
    told = [answer.body.decode() + repr(answer.fields) for answer in answers]
    assert len(logged) > len(answers)
    for text in (*map(repr, logged), *told):
        assert not [secret for secret in secrets if secret in text]


async def test_cve_2026_4404_no_password_is_known_before_the_first_start(tmp_path: Path) -> None:
    passwords = []
    for name in ("one", "another"):
        folder = tmp_path / name
        folder.mkdir()
        settings = Settings(
            auth=Auth(htpasswd=str(folder / "htpasswd")), storage=Storage(path=str(folder))
        )
        assert firststart.administrator(settings)
        note = firststart.password_note(settings)
        made = note.read_text().strip()
        assert note.stat().st_mode & 0o077 == 0
        assert made not in settings.htpasswd.read_text()
        assert not firststart.administrator(settings)
        assert note.read_text().strip() == made
        passwords.append(made)
    first, second = passwords
    assert first != second
    assert min(map(len, passwords)) >= 20
    registry = open_registry(tmp_path / "one")
    for guess in ("Harbor12345", "admin", "password", "", "changeme", second, f"{first} "):
        answer = await registry.ask("GET", "/v2/", login=("admin", guess))
        assert answer.status == 401, guess
    assert (await registry.ask("GET", "/v2/", login=("admin", first))).status == 200
    await registry.close()


async def test_cve_2026_4404_nothing_is_open_unless_it_is_said(
    registry: Registry, tmp_path: Path
) -> None:
    untouched = assembled(registry, tmp_path, Settings())
    for headers in ({}, {"Authorization": "Basic Og=="}):
        for method, path in (
            ("GET", "/v2/"),
            ("GET", "/v2/_catalog"),
            ("GET", "/v2/open/app/tags/list"),
            ("POST", "/v2/open/app/blobs/uploads/"),
            ("PUT", "/v2/open/app/manifests/latest"),
            ("DELETE", "/v2/open/app/"),
        ):
            assert (await untouched.ask(method, path, headers, login=None)).status == 401
    nobody = policy(Settings())
    assert not nobody.knows("")
    assert not any(nobody.allows("", action, "open/app") for action in Action)


@pytest.mark.parametrize("right", ["push", "overwrite", "delete", "admin", "*"])
def test_cve_2026_4404_whoever_has_no_account_is_only_let_pull(tmp_path: Path, right: str) -> None:
    file = tmp_path / "registry.toml"
    file.write_text(f'[auth]\nanonymous = ["{right}"]\n')
    with pytest.raises(SettingsError):
        load(file, {})
    allowed = policy(Settings(auth=Auth(anonymous=("pull",))))
    assert [action for action in Action if allowed.allows("", action, "open/app")] == [Action.PULL]


@pytest.mark.parametrize(
    "path", ["//evil.example", "/\\evil.example", "/%5cevil.example", "/@evil.example"]
)
async def test_cve_2024_22244_a_redirect_stays_on_its_host(path: str) -> None:
    redirect = RedirectToTls(port=443, public_url="", stall_seconds=5)
    answer = await call(redirect, scope("GET", path, {"Host": "registry.example"}))
    location = urlsplit(answer.headers["location"].replace("\\", "/"))
    assert (answer.status, location.scheme, location.netloc) == (308, "https", "registry.example")
    for host in ("evil.example\\", "evil.example/", "a@evil.example", "a b", ""):
        answer = await call(redirect, scope("GET", path, {"Host": host}))
        assert answer.status == 400


async def test_zot_3980_no_other_site_reads_answers(registry: Registry) -> None:
    headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "GET"}
    for method in ("GET", "OPTIONS"):
        for path in ("/", "/v2/", "/v2/_catalog", "/auth/token"):
            answer = await registry.ask(method, path, headers)
            assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize("first", [ALICE, BOB])
async def test_zot_2026_several_authorization_headers_prove_nothing(
    registry: Registry, first: tuple[str, str]
) -> None:
    second = BOB if first is ALICE else ALICE
    for other in (basic(*second), "Basic Og==", "", f"Bearer {await token(registry, second)}"):
        for pair in ((basic(*first), other), (other, basic(*first))):
            fields = [("Authorization", value) for value in pair]
            answer = await call(registry.application, scope("GET", "/v2/", fields))
            assert answer.status == 401, pair
