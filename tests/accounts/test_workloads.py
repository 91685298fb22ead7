"""Tokens of jobs, with real keys, from an issuer that is really asked for them."""

import hmac
import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import structlog.testing
import trustme
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey
from joserfc.jws import JWSRegistry

from appliance.accounts.issuers import KeysAtAddress
from appliance.accounts.jwks import KeysInFile, parse_keys
from appliance.accounts.workloads import LEEWAY_SECONDS, IssuedAccounts, Issuer, Workload
from appliance.oci.errors import ISSUER_UNAVAILABLE, UNAUTHORIZED
from appliance.protocol.credentials import PASSING
from tests.issuer import AUDIENCE, Platform, platform
from tests.refused import refused

APP = Workload(
    "github", "ci", {"repository": ("acme/app",), "ref": ("refs/heads/main", "refs/tags/v*")}
)
OTHERS = Workload("github", "others", {"repository": ("acme/*",)})
SAID = {"repository": "acme/app", "ref": "refs/heads/main"}
NOW = 1_800_000_000
DISCOVERY = "/.well-known/openid-configuration"


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def github(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with platform(tmp_path_factory.mktemp("issuer")) as found:
        yield found


@pytest.fixture(autouse=True)
def as_it_was(github: Platform) -> None:
    github.asked.clear()
    github.answers.clear()
    del github.keys[1:]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def accounts(github: Platform, clock: Clock) -> IssuedAccounts:
    return believing(github, clock)


def believing(
    github: Platform, clock: Clock, *workloads: Workload, now: float | None = None
) -> IssuedAccounts:
    keys = KeysAtAddress(github.url, github.ca, clock)
    return IssuedAccounts(
        [Issuer("github", github.url, (AUDIENCE, "another"), keys)],
        workloads or (APP, OTHERS),
        clock=time.time if now is None else lambda: now,
    )


async def proved(accounts: IssuedAccounts, token: str, account: str = "") -> str | None:
    proof = await accounts.prove(token.encode(), account)
    return proof.account if proof else None


async def refusal(accounts: IssuedAccounts, token: str, account: str = "") -> str:
    with refused(UNAUTHORIZED) as error:
        await accounts.prove(token.encode(), account)
    return error.value.message


# --- what proves an account


async def test_a_token_of_a_job_proves_the_account_it_is_mapped_to(
    accounts: IssuedAccounts, github: Platform
) -> None:
    proof = await accounts.prove(github.token(**SAID).encode())
    assert proof is not None
    assert (proof.account, proof.subject) == ("ci", "repo:acme/app:ref:refs/heads/main")
    assert proof.generation.startswith(PASSING)
    assert accounts.knows("ci", proof.generation)
    assert not accounts.knows("others", proof.generation)


async def test_of_several_the_one_that_is_named_counts_and_else_the_first(
    accounts: IssuedAccounts, github: Platform
) -> None:
    token = github.token(**SAID)
    assert await proved(accounts, token) == "ci"
    assert await proved(accounts, token, "others") == "others"
    assert "no account here that is called root" in await refusal(accounts, token, "root")


@pytest.mark.parametrize(
    ("said", "account"),
    [
        ({"ref": "refs/tags/v1"}, "ci"),
        ({"ref": "refs/tags/w1"}, "others"),
        ({"ref": None}, "others"),
        ({"ref": ["refs/heads/dev", "refs/heads/main"]}, "ci"),
        ({"ref": {"refs/heads/main": 1}}, "others"),
        ({"ref": [["refs/heads/main"]]}, "others"),
        ({"ref": "REFS/heads/main"}, "others"),
        ({"ref": "refs/heads/main\n"}, "others"),
        ({"repository": "acme/app2"}, "others"),
        ({"repository": "acme2/app"}, None),
        ({"repository": ""}, None),
        ({"repository": None}, None),
    ],
)
async def test_all_that_is_asked_for_must_be_said(
    accounts: IssuedAccounts, github: Platform, said: dict[str, object], account: str | None
) -> None:
    token = github.token(**(SAID | said))
    if account is None:
        assert "stands for no account here" in await refusal(accounts, token)
    else:
        assert await proved(accounts, token) == account


@pytest.mark.parametrize(("value", "pattern"), [(True, "true"), (False, "false"), (7, "7")])
async def test_what_is_no_text_is_compared_as_it_is_written(
    github: Platform, clock: Clock, value: object, pattern: str
) -> None:
    accounts = believing(github, clock, Workload("github", "ci", {"protected": (pattern,)}))
    assert await proved(accounts, github.token(protected=value)) == "ci"


async def test_what_is_asked_for_is_part_of_what_an_account_is_proved_by() -> None:
    narrower = Workload("github", "ci", {"repository": ("acme/app",), "ref": ("refs/heads/main",)})
    keys = KeysInFile(Path("/nonexistent"))
    issuer = Issuer("github", "https://a", ("here",), keys)
    same = Workload("github", "ci", dict(reversed([*APP.claims.items()])))
    assert APP.generation(issuer) == same.generation(replace(issuer, name="other"))
    others = [
        narrower.generation(issuer),
        replace(APP, account="other").generation(issuer),
        APP.generation(replace(issuer, url="https://b")),
        APP.generation(replace(issuer, audiences=("here", "there"))),
    ]
    assert len({APP.generation(issuer), *others}) == 5


# --- what proves nothing


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"aud": "https://github.com/acme"}, "not for this registry"),
        ({"aud": [AUDIENCE, "https://github.com/acme"]}, None),
        ({"aud": "another"}, None),
        ({"aud": AUDIENCE.upper()}, "not for this registry"),
        ({"aud": None}, "not for this registry"),
        ({"aud": []}, "not for this registry"),
        ({"exp": NOW - LEEWAY_SECONDS - 1}, "has expired"),
        ({"exp": NOW - LEEWAY_SECONDS + 30}, None),
        ({"exp": None}, "not for this registry, or not yet"),
        ({"exp": "tomorrow"}, "not for this registry, or not yet"),
        ({"nbf": NOW + LEEWAY_SECONDS + 30}, "not yet"),
        ({"nbf": None, "iat": None}, None),
        ({"sub": None}, "not for this registry"),
        ({"sub": ""}, "not for this registry"),
        ({"sub": 7}, "not for this registry"),
        ({"sub": "\ud800"}, "is not signed by it"),
        ({"actor": ["\ud800"]}, "is not signed by it"),
    ],
)
async def test_a_token_is_for_this_registry_and_for_now(
    github: Platform, clock: Clock, said: dict[str, object], told: str | None
) -> None:
    accounts = believing(github, clock, now=NOW)
    usual = {"iat": NOW, "nbf": NOW, "exp": NOW + 600}
    token = github.token(**(usual | SAID | said))
    if told is None:
        assert await proved(accounts, token) == "ci"
    else:
        assert told in await refusal(accounts, token)


def forged(head: dict[str, object], said: dict[str, object], signature: bytes = b"x") -> str:
    parts = [json.dumps(head).encode(), json.dumps(said).encode(), signature]
    return ".".join(urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def signed_with(secret: bytes, text: str) -> str:
    signature = hmac.digest(secret, text.encode(), "sha256")
    return urlsafe_b64encode(signature).rstrip(b"=").decode()


async def test_whoever_signs_must_be_the_issuer(accounts: IssuedAccounts, github: Platform) -> None:
    stranger = RSAKey.generate_key(2048, {"kid": "first"})
    other_kind = ECKey.generate_key("P-256", {"kid": "first"})
    public = github.keys[0].as_pem(private=False)
    said = {"iss": github.url, "aud": AUDIENCE, "exp": int(time.time()) + 60, **SAID}
    right = github.token(**SAID)
    head, _, signature = right.split(".")
    changed = forged({}, said | {"repository": "acme/other"}).split(".")[1]
    secret = forged({"alg": "HS256", "kid": "first"}, said).rpartition(".")[0]
    tokens = {
        "of another key": github.token(stranger, **SAID),
        "of another kind of key": github.token(other_kind, **SAID),
        "by the public key as a secret": f"{secret}.{signed_with(public, secret)}",
        "unsigned": forged({"alg": "none", "kid": "first"}, said),
        "unsigned, in other letters": forged({"alg": "NoNe"}, said),
        "changed": f"{head}.{changed}.{signature}",
        "with a key of its own": jwt.encode(
            {"alg": "RS256", "jwk": stranger.as_dict(private=False)}, said, stranger
        ),
        "with a key at an address": jwt.encode(
            {"alg": "RS256", "kid": "first", "jku": f"{github.url}/mine"}, said, stranger
        ),
        "of no algorithm in words": forged({"alg": "\ud800"}, said),
        "of a list of algorithms": forged({"alg": ["RS256"], "kid": "first"}, said),
        "with what must be understood": forged({"alg": "RS256", "crit": ["new"], "new": 1}, said),
    }
    for what, token in tokens.items():
        assert await refusal(accounts, token) == "the token of github is not signed by it", what
    assert "/mine" not in github.asked
    for kid in ("\ud800\n", ["first"], {"first": 1}, 7, ""):
        with refused(ISSUER_UNAVAILABLE):
            await proved(accounts, forged({"alg": "RS256", "kid": kid}, said))


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "eyJ",
        "eyJ.eyJ",
        "a.b.c",
        "eyJ.e yJ.x",
        "eyJhIjoxfQ.e30.x",
        "eyJhIjoxfQ.bm8.x",
        "eyJ.W10.x",
    ],
)
async def test_what_is_no_token_of_an_issuer_is_left_to_others(
    accounts: IssuedAccounts, github: Platform, secret: str
) -> None:
    assert await proved(accounts, secret) is None
    assert await proved(accounts, github.token(iss="https://example.com", **SAID)) is None
    assert await proved(accounts, github.token(iss=github.url + "/", **SAID)) is None
    assert await proved(accounts, github.token(more="x" * 20000, **SAID)) is None
    assert github.asked == []


async def test_what_a_token_says_is_told_to_the_operator_and_the_token_is_not(
    accounts: IssuedAccounts, github: Platform
) -> None:
    token = github.token(repository="elsewhere/app")
    with structlog.testing.capture_logs() as logs:
        await refusal(accounts, token)
    (entry,) = logs
    assert entry["said"]["repository"] == "elsewhere/app"
    assert not any(part in str(logs) for part in token.split("."))


# --- the issuer's keys


async def test_the_keys_are_asked_for_once(accounts: IssuedAccounts, github: Platform) -> None:
    for _ in range(3):
        assert await proved(accounts, github.token(**SAID)) == "ci"
    assert github.asked == [DISCOVERY, "/keys"]


async def test_a_new_key_is_found_and_a_made_up_one_is_not_asked_for_again_and_again(
    accounts: IssuedAccounts, github: Platform, clock: Clock
) -> None:
    assert await proved(accounts, github.token(**SAID)) == "ci"
    clock.now += 31
    github.keys.append(ECKey.generate_key("P-256", {"kid": "second"}))
    assert await proved(accounts, github.token(**SAID)) == "ci"
    asked = len(github.asked)
    unknown = RSAKey.generate_key(2048, {"kid": "unknown"})
    for _ in range(5):  # it may have been published by now, and the issuer has just been asked
        with refused(ISSUER_UNAVAILABLE):
            await proved(accounts, github.token(unknown, **SAID))
    assert len(github.asked) == asked
    clock.now += 31
    assert "not signed by it" in await refusal(accounts, github.token(unknown, **SAID))
    assert len(github.asked) == asked + 2


async def test_a_key_that_the_issuer_takes_back_ends_within_the_hour(
    accounts: IssuedAccounts, github: Platform, clock: Clock
) -> None:
    token = github.token(**SAID)
    assert await proved(accounts, token) == "ci"
    old = github.keys[0]
    github.keys[:] = [RSAKey.generate_key(2048, {"kid": "second"})]
    assert await proved(accounts, token) == "ci"
    clock.now += 3601
    assert "not signed by it" in await refusal(accounts, token)
    github.keys[:] = [old]


@pytest.mark.parametrize(
    ("path", "answer", "reason"),
    [
        (DISCOVERY, (500, b""), "answered 500"),
        (DISCOVERY, (200, b"no JSON"), "malformed"),
        (DISCOVERY, (200, b"[" * 100_000), ""),
        (DISCOVERY, (200, b'{"issuer": "%b", "jwks_uri": "https://a:443443443443443443/"}'), ""),
        (
            DISCOVERY,
            (200, b'{"issuer": "https://another", "jwks_uri": "https://x/"}'),
            "calls itself",
        ),
        (DISCOVERY, (302, b"http://127.0.0.1:9/"), "answered 302"),
        (DISCOVERY, (200, b'"' + b"x" * (2 << 20) + b'"'), "more than"),
        ("/keys", (404, b""), "answered 404"),
        ("/keys", (200, b'{"keys": []}'), "no key that signatures"),
        ("/keys", (200, b'{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}'), "no key that signatures"),
        ("/keys", (200, b"[]"), "no JWK Set"),
    ],
)
async def test_an_issuer_that_cannot_be_asked_is_no_wrong_password(
    accounts: IssuedAccounts,
    github: Platform,
    path: str,
    answer: tuple[int, bytes],
    reason: str,
) -> None:
    token = github.token(**SAID)
    github.answers[path] = answer
    with structlog.testing.capture_logs() as logs, refused(ISSUER_UNAVAILABLE) as error:
        await proved(accounts, token)
    assert error.value.headers == (("Retry-After", "30"),)
    assert reason in logs[0]["reason"]
    github.answers.clear()
    with refused(ISSUER_UNAVAILABLE):  # it is not asked for each token
        await proved(accounts, token)


async def test_an_issuer_that_could_not_be_asked_is_asked_again(
    accounts: IssuedAccounts, github: Platform, clock: Clock
) -> None:
    github.answers["/keys"] = 500, b""
    with structlog.testing.capture_logs(), refused(ISSUER_UNAVAILABLE):
        await proved(accounts, github.token(**SAID))
    github.answers.clear()
    clock.now += 31
    assert await proved(accounts, github.token(**SAID)) == "ci"


async def test_keys_that_would_come_unprotected_are_not_asked_for(
    accounts: IssuedAccounts, github: Platform
) -> None:
    said = {"issuer": github.url, "jwks_uri": github.url.replace("https", "http") + "/keys"}
    github.answers[DISCOVERY] = 200, json.dumps(said).encode()
    with structlog.testing.capture_logs() as logs, refused(ISSUER_UNAVAILABLE):
        await proved(accounts, github.token(**SAID))
    assert "which is not https" in logs[0]["reason"]
    assert github.asked == [DISCOVERY]


async def test_what_an_issuer_said_last_counts_for_a_day(
    accounts: IssuedAccounts, github: Platform, clock: Clock
) -> None:
    token = github.token(**SAID)
    assert await proved(accounts, token) == "ci"
    github.answers[DISCOVERY] = 503, b""
    clock.now += 23 * 3600
    with structlog.testing.capture_logs():
        assert await proved(accounts, token) == "ci"
        clock.now += 3601
        with refused(ISSUER_UNAVAILABLE):
            await proved(accounts, token)


async def test_another_authority_is_not_believed(
    github: Platform, clock: Clock, tmp_path: Path
) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.crt")
    keys = KeysAtAddress(github.url, tmp_path / "other.crt", clock)
    with structlog.testing.capture_logs() as logs, refused(ISSUER_UNAVAILABLE):
        await keys.find(None)
    assert "CERTIFICATE_VERIFY_FAILED" in logs[0]["reason"]
    assert github.asked == []


async def test_keys_may_stand_in_a_file_that_is_followed(github: Platform, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_bytes(github.published())
    issuer = Issuer("github", github.url, (AUDIENCE,), KeysInFile(file))
    accounts = IssuedAccounts([issuer], [APP])
    assert await proved(accounts, github.token(**SAID)) == "ci"
    other = RSAKey.generate_key(2048, {"kid": "other"})
    github.keys.append(other)
    file.write_bytes(github.published())
    assert await proved(accounts, github.token(other, **SAID)) == "ci"
    assert github.asked == []
    file.write_text("{}")
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):  # what was read last still counts
            assert await proved(accounts, github.token(other, **SAID)) == "ci"
    assert len(logs) == 1
    assert "no JWK Set" in logs[0]["reason"]
    issuer = replace(issuer, keys=KeysInFile(tmp_path / "none"))
    with structlog.testing.capture_logs(), refused(ISSUER_UNAVAILABLE) as error:
        await proved(IssuedAccounts([issuer], [APP]), github.token(**SAID))
    assert error.value.headers == (("Retry-After", "30"),)


def test_keys_that_are_not_understood_are_left_out(github: Platform) -> None:
    published = json.loads(github.published())
    published["keys"] = [
        {"kty": "AKP", "alg": "ML-DSA-44", "pub": "x"},
        {"kty": "RSA", "kid": "broken", "n": "!", "e": "AQAB"},
        {"kty": "RSA", "kid": "for secrets", "use": "enc", "n": "x", "e": "AQAB"},
        {"kty": ["RSA"], "kid": "several"},
        {"kty": "RSA", "kid": "no text", "n": 7, "e": "AQAB"},
        {"kty": "RSA", "kid": "short", "n": "q" * 171, "e": "AQAB"},
        {"kty": "RSA", "kid": "long", "n": "A" * 100_000, "e": "AQAB"},
        *published["keys"],
    ]
    with structlog.testing.capture_logs():
        keys = parse_keys(json.dumps(published).encode())
    assert [key.kid for key in keys] == ["first"]


def test_a_private_part_is_not_looked_at(github: Platform) -> None:
    published = json.loads(github.published())
    published["keys"][0]["d"] = "AQAB"  # from which no primes can be found, however long one looks
    (key,) = parse_keys(json.dumps(published).encode())
    assert not key.is_private


@pytest.mark.parametrize("text", ['{"keys":' + "[" * 100_000, "[" * 100_000])
def test_a_document_that_is_too_deep_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="no JWK Set"):
        parse_keys(text.encode())


async def test_what_is_not_known_in_a_head_means_nothing(
    accounts: IssuedAccounts, github: Platform
) -> None:
    said = {"iss": github.url, "aud": AUDIENCE, "exp": int(time.time()) + 60, "sub": "a", **SAID}
    head = {"alg": "RS256", "kid": "first", "more": "x" * 600}
    registry = JWSRegistry(algorithms=["RS256"], strict_check_header=False)
    token = jwt.encode(head, said, github.keys[0], registry=registry)
    assert await proved(accounts, token) == "ci"
