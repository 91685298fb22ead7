"""Workloads: jobs that prove what they are by a token of their platform, and keep no password.

GitHub, GitLab and Kubernetes give each job a JSON Web Token (RFC 7519; OpenID Connect Core 1.0, 2)
that says what it is a job of, signed with keys that they publish. Shown here as a password or as a
Bearer token it stands for the account to which the settings map what it says.

Such a token is for whoever it names as its audience, and for some minutes. Which of the issuer's
keys signed it is all that its head decides: algorithms are those with a private key, and whatever
else it says about keys is not looked at (RFC 8725, 3).
"""

import hashlib
import json
import time
from binascii import Error, a2b_base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol

import structlog
from joserfc import jwt
from joserfc.errors import ExpiredTokenError, InvalidClaimError, JoseError, MissingClaimError
from joserfc.jwk import KeySet
from joserfc.jws import JWSRegistry

from appliance.oci.errors import UNAUTHORIZED
from appliance.protocol.claims import TOKEN_MAX
from appliance.protocol.credentials import PASSING, Proof, is_jwt

LEEWAY_SECONDS = 60
"""How far the clocks of an issuer and of this machine may lie apart."""

_ALGORITHMS = tuple(f"{family}{bits}" for family in ("RS", "PS", "ES") for bits in (256, 384, 512))
# What is not known in the head of a token means nothing (RFC 7515, 4).
_HEADS = JWSRegistry(algorithms=_ALGORITHMS, strict_check_header=False)
_HEADS.max_header_length = 4096
_GENERATION = f"{PASSING}workload "
_TOLD_MAX = 200  # characters of what a token says, in the log

_log = structlog.get_logger()


class PublishedKeys(Protocol):
    """Where the keys of an issuer are had from."""

    async def find(self, key: str | None) -> KeySet:
        """Return the keys, among them the one of that ID if there is one by now.

        Raises ISSUER_UNAVAILABLE.
        """


@dataclass(frozen=True, slots=True)
class Issuer:
    """A platform whose tokens are believed."""

    name: str
    url: str
    """What its tokens call it."""
    audiences: Sequence[str]
    """What tokens for this registry are for."""
    keys: PublishedKeys


@dataclass(frozen=True, slots=True)
class Workload:
    """Which tokens of an issuer stand for an account."""

    issuer: str
    account: str
    claims: Mapping[str, Sequence[str]]
    """Name → patterns, one of which must match; all of the names must be there."""

    def fits(self, said: Mapping[str, object]) -> bool:
        """Tell whether a token says all that is asked for."""
        return all(
            any(fnmatchcase(text, pattern) for text in _texts(said.get(name)) for pattern in wanted)
            for name, wanted in self.claims.items()
        )

    def generation(self, issuer: Issuer) -> str:
        """Return what changes with what is asked for: tokens of ours that were given for it end then."""
        asked = [issuer.url, list(issuer.audiences), self.account, self.claims]
        text = json.dumps(asked, sort_keys=True, default=list)
        return _GENERATION + hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class IssuedAccounts:
    """The accounts that tokens of issuers stand for."""

    def __init__(
        self,
        issuers: Sequence[Issuer],
        workloads: Sequence[Workload],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._issuers = {issuer.url: issuer for issuer in issuers}
        self._workloads = {
            issuer.name: [
                (workload, workload.generation(issuer))
                for workload in workloads
                if workload.issuer == issuer.name
            ]
            for issuer in issuers
        }
        self._known = {
            (workload.account, generation)
            for mapped in self._workloads.values()
            for workload, generation in mapped
        }
        self._clock = clock

    def knows(self, account: str, generation: str) -> bool:
        """Tell whether what once proved an account still does."""
        return (account, generation) in self._known

    async def prove(self, token: bytes, account: str = "") -> Proof | None:
        """Return what a token proves: that account, or where none is named the first that it fits.

        None for what is no token of any of these issuers. Raises UNAUTHORIZED with a sentence for
        one that proves nothing, and ISSUER_UNAVAILABLE.
        """
        if not is_jwt(token) or len(token) > TOKEN_MAX:
            return None
        issuer = self._issuers.get(_issuer_named_by(token))
        if issuer is None:
            return None
        said = await self._said(token, issuer)
        subject = str(said["sub"])[:_TOLD_MAX]
        for workload, generation in self._workloads[issuer.name]:
            if account in {"", workload.account} and workload.fits(said):
                return Proof(workload.account, generation, subject)
        told = {name: str(value)[:_TOLD_MAX] for name, value in said.items() if name != "jti"}
        _log.info("token of a workload fits no account", issuer=issuer.name, said=told)
        raise UNAUTHORIZED.error(
            f"the token of {issuer.name} is right, and what it says ({subject}) stands for no"
            f" account here{f' that is called {account}' if account else ''}"
        )

    async def _said(self, token: bytes, issuer: Issuer) -> Mapping[str, object]:
        """Return what a token says, once it is known to be so."""
        try:
            keys = await issuer.keys.find(_key_named_by(token))
            said = jwt.decode(token, keys, registry=_HEADS).claims
            json.dumps(said, ensure_ascii=False).encode()  # half a character could be told nobody
            jwt.JWTClaimsRegistry(
                now=int(self._clock()),
                leeway=LEEWAY_SECONDS,
                iss={"essential": True, "value": issuer.url},
                aud={"essential": True, "values": list(issuer.audiences)},
                exp={"essential": True},
                sub={"essential": True},
            ).validate(said)
        except ExpiredTokenError:
            raise UNAUTHORIZED.error(f"the token of {issuer.name} has expired") from None
        except (InvalidClaimError, MissingClaimError) as error:
            raise UNAUTHORIZED.error(
                f"the token of {issuer.name} is not for this registry, or not yet:"
                f" {error.description or error}"
            ) from None
        except (JoseError, ValueError, TypeError, LookupError, RecursionError) as error:
            _log.info("token of a workload refused", issuer=issuer.name, reason=ascii(error))
            raise UNAUTHORIZED.error(f"the token of {issuer.name} is not signed by it") from None
        return said


def _texts(value: object) -> list[str]:
    """Write out what a token says under one name, so that patterns can be compared with it."""
    if value is None or isinstance(value, dict):
        return []
    if isinstance(value, list):
        return [text for one in value if not isinstance(one, list) for text in _texts(one)]
    return [json.dumps(value) if isinstance(value, bool) else str(value)]


def _issuer_named_by(token: bytes) -> str:
    return str(_part(token, 1).get("iss", ""))


def _key_named_by(token: bytes) -> str | None:
    key = _part(token, 0).get("kid")
    return None if key is None else str(key)


def _part(token: bytes, number: int) -> dict[str, object]:
    """Read the head or what follows, nothing of which is known to be true yet."""
    part = token.split(b".")[number]
    try:
        found = json.loads(a2b_base64(part.translate(_STANDARD) + b"=="))
    except (Error, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


_STANDARD = bytes.maketrans(b"-_", b"+/")
