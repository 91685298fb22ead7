"""Signing tokens with keys of our own: ES256 (RFC 7518 3.4), as JSON Web Tokens (RFC 7519).

What signs today is the newest of the keys in a file that its owner alone can read; older ones stay
for as long as a token may live that they have signed. Which key a token names counts only where it
is one of these: whatever else the head of a token says about keys or algorithms is not looked at.
"""

import secrets
from collections import OrderedDict
from pathlib import Path
from typing import Any

import msgspec
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, GuestProtocol

from appliance.durable import replace_file
from appliance.protocol.claims import REFRESH_SECONDS, TOKEN_MAX, Claims
from appliance.protocol.scopes import Scope

ROTATE_SECONDS = 90 * 86400
"""The age at which another key takes over."""

SIGNING_KEYS = "token-keys.json"
"""The name of the file in the data folder."""

_AHEAD_SECONDS = 86400  # that a key may be of the future by, as clocks are set

_ISSUER = "registry-appliance"
_ALGORITHM = "ES256"
_CURVE = "P-256"
_REMEMBERED_MAX = 4096  # tokens that have been found right


class SigningKeyError(Exception):
    """The keys cannot be used; the message is one sentence."""


class _Kept(msgspec.Struct, frozen=True):
    """A key as the file has it."""

    id: str
    made_at: int
    key: dict[str, str]


class _Said(msgspec.Struct, frozen=True):
    """What a token of ours says, apart from what is the same in all of them."""

    sub: str
    gen: str
    typ: str
    iat: int
    exp: int
    iss: str
    access: list[dict[str, Any]] = []
    key: str = ""
    subject: str = ""


class SigningKeys:
    """The keys of one file."""

    def __init__(self, path: Path, kept: list[_Kept]) -> None:
        self._path = path
        self._take(kept)
        self._read: OrderedDict[bytes, Claims] = OrderedDict()

    @classmethod
    def open(cls, path: Path, now: float) -> "SigningKeys":
        """Read the keys, and make one where there is none, or none that is young enough.

        Raises SigningKeyError and OSError.
        """
        found = cls.check(path)
        found.rotate(now)
        return found

    @classmethod
    def check(cls, path: Path) -> "SigningKeys":
        """Read the keys, none where there is no such file; raises SigningKeyError and OSError."""
        try:
            return cls(path, msgspec.json.decode(path.read_bytes(), type=list[_Kept]))
        except FileNotFoundError:
            return cls(path, [])
        except (msgspec.MsgspecError, JoseError, ValueError, LookupError, TypeError) as error:
            raise SigningKeyError(
                f"{path} holds no keys that tokens can be signed with ({error}); remove it, and new"
                " ones are made: clients log in again then"
            ) from error

    def rotate(self, now: float) -> bool:
        """Make a new key where the newest is too old, and forget those that signed nothing alive.

        Tells whether it did; raises OSError.
        """
        age = now - self._kept[0].made_at if self._kept else ROTATE_SECONDS
        if -_AHEAD_SECONDS < age < ROTATE_SECONDS:
            return False
        made = ECKey.generate_key(_CURVE, private=True).as_dict(private=True)
        new = _Kept(secrets.token_hex(8), int(now), {key: str(made[key]) for key in made})
        living = [
            msgspec.structs.replace(one, made_at=min(one.made_at, int(now)))
            for one in self._kept
            if now - one.made_at < ROTATE_SECONDS + REFRESH_SECONDS
        ]
        kept = [new, *living]
        replace_file(self._path, msgspec.json.encode(kept), mode=0o600)
        self._take(kept)
        return True

    def sign(self, claims: Claims) -> str:
        """Make a token."""
        newest = self._kept[0]
        said = {
            "iss": _ISSUER,
            "sub": claims.account,
            "gen": claims.generation,
            "typ": claims.kind,
            "iat": claims.issued_at,
            "nbf": claims.issued_at,
            "exp": claims.expires_at,
            "jti": secrets.token_hex(16),
            "access": [
                {"type": scope.type, "name": scope.name, "actions": sorted(scope.actions)}
                for scope in claims.scopes
            ],
            "key": claims.key,
            "subject": claims.subject,
        }
        header = {"alg": _ALGORITHM, "kid": newest.id}
        return jwt.encode(header, said, self._keys[newest.id], algorithms=[_ALGORITHM])

    def read(self, token: bytes) -> Claims | None:
        """Return what a token says; None for one that none of these keys has signed."""
        known = self._read.get(token)
        if known is not None:
            return known
        if len(token) > TOKEN_MAX:
            return None
        try:
            found = jwt.decode(token, self._named, algorithms=[_ALGORITHM])
            said = msgspec.convert(found.claims, _Said)
        except (JoseError, ValueError, TypeError, LookupError, msgspec.MsgspecError):
            return None
        if said.iss != _ISSUER or said.typ not in {"access", "refresh"}:
            return None
        claims = Claims(
            said.sub,
            said.gen,
            "access" if said.typ == "access" else "refresh",
            said.iat,
            said.exp,
            tuple(
                Scope(str(one["type"]), str(one["name"]), frozenset(map(str, one["actions"])))
                for one in said.access
            ),
            said.key,
            said.subject,
        )
        self._read[token] = claims
        if len(self._read) > _REMEMBERED_MAX:
            self._read.popitem(last=False)
        return claims

    def _named(self, token: GuestProtocol) -> ECKey:
        return self._keys[str(token.headers()["kid"])]

    def _take(self, kept: list[_Kept]) -> None:
        keys = {one.id: ECKey.import_key({**one.key}) for one in kept}
        if any(key.curve_name != _CURVE or not key.is_private for key in keys.values()):
            raise ValueError(f"a key is no private key on {_CURVE}")
        self._keys = keys  # first: what signs is to be found here
        self._kept = sorted(kept, key=lambda one: -one.made_at)
