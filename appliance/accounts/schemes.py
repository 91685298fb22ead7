"""The hashes that htpasswd files have: bcrypt, and what nginx and Apache take beside it.

Only bcrypt is made here. The others are checked as they are, as people bring their files: each is
weak in that whoever stole the file could try passwords quickly, and is told to be.
"""

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import bcrypt

PASSWORD_MAX = 72
"""Bytes of a password that bcrypt looks at; later ones are ignored, as every htpasswd tool does."""

COST = 12
"""The cost of hashes made here: about a third of a second, once every few minutes per client."""

COST_MIN = 10
"""The cost of bcrypt below which a hash is weak."""

_LONG_MAX = 1024  # bytes of a password that the other schemes look at
_ROUNDS = 5000  # of SHA-crypt, where a hash does not say
_ROUNDS_MAX = 1_000_000
_ROUNDS_STRONG = 250_000  # about as dear as bcrypt at COST_MIN

_ALPHABET = "./A-Za-z0-9"
# Cost, salt of 16 bytes (its last character carries two bits only), hash.
_BCRYPT = re.compile(rb"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}")
_APR1 = re.compile(rf"\$apr1\$[{_ALPHABET}]{{1,8}}\$[{_ALPHABET}]{{22}}".encode())
_SHA = re.compile(rb"\{SHA\}[A-Za-z0-9+/]{27}=")
_SHA_CRYPT = re.compile(
    rf"\$(?:5\$(?:rounds=([1-9]\d{{3,8}})\$)?[{_ALPHABET}]{{1,16}}\$[{_ALPHABET}]{{43}}"
    rf"|6\$(?:rounds=([1-9]\d{{3,8}})\$)?[{_ALPHABET}]{{1,16}}\$[{_ALPHABET}]{{86}})".encode()
)


@dataclass(frozen=True, slots=True)
class Hash:
    """A hash as a file has it, and what is known of its scheme."""

    value: bytes
    scheme: str
    effort: float
    """About how long a check takes; only which takes longer matters."""
    weakness: str
    """What is weak about it, as in "bcrypt at cost 5"; empty where nothing is."""
    _check: Callable[[bytes, bytes], bool]

    def check(self, password: bytes) -> bool:
        """Compare a password with it, at its full cost whatever the password is."""
        fit = b"\0" not in password
        return self._check(password if fit else b"", self.value) and fit

    def like(self) -> "Hash":
        """Make up another one that costs as much to check; nobody has its password."""
        if self.scheme == "SHA-1":
            made_up = b"{SHA}" + base64.b64encode(secrets.token_bytes(20))
        else:
            head, _, tail = self.value.rpartition(b"$")
            kept = 22 if self.scheme == "bcrypt" else 0  # the salt stands before the hash
            made_up = (
                head + b"$" + tail[:kept] + secrets.token_hex(len(tail)).encode()[kept : len(tail)]
            )
        return Hash(made_up, self.scheme, self.effort, self.weakness, self._check)


def check_password(password: bytes, stored: bytes) -> bool:
    """Compare a password with a hash, at the hash's full cost whatever the password is."""
    found = parse_hash(stored)
    return found is not None and found.check(password)


@lru_cache(maxsize=1024)
def parse_hash(value: bytes) -> Hash | None:
    """Tell which scheme a hash is of; None for one that no password can be checked with."""
    if (shape := _BCRYPT.fullmatch(value)) and 4 <= (cost := int(shape[1])) <= 31:
        weak = f"bcrypt at cost {cost}" if cost < COST_MIN else ""
        return Hash(value, "bcrypt", 60e-6 * 2**cost, weak, _check_bcrypt)
    if shape := _SHA_CRYPT.fullmatch(value):
        scheme = "SHA-256 crypt" if value.startswith(b"$5$") else "SHA-512 crypt"
        rounds = int(shape[1] or shape[2] or _ROUNDS)
        if rounds > _ROUNDS_MAX:
            return None
        weak = f"{scheme} with {rounds} rounds" if rounds < _ROUNDS_STRONG else ""
        return Hash(value, scheme, 2e-6 * rounds, weak, _check_crypt)
    if _APR1.fullmatch(value):
        return Hash(value, "MD5", 1e-3, "MD5 (apr1)", _check_crypt)
    if _SHA.fullmatch(value):
        return Hash(value, "SHA-1", 1e-6, "SHA-1 without a salt", _check_sha)
    return None


def hash_password(password: bytes, cost: int = COST) -> bytes:
    """Make the bcrypt hash to store; raises ValueError with a sentence for a password unfit for it."""
    if not password:
        raise ValueError("the password is empty")
    if len(password) > PASSWORD_MAX:
        raise ValueError(f"the password has {len(password)} bytes; bcrypt takes {PASSWORD_MAX}")
    if b"\0" in password:
        raise ValueError("the password contains a NUL byte")
    return bcrypt.hashpw(password, bcrypt.gensalt(cost))


def _check_bcrypt(password: bytes, stored: bytes) -> bool:
    return bcrypt.checkpw(password[:PASSWORD_MAX], b"$2b$" + stored.removeprefix(stored[:4]))


def _check_sha(password: bytes, stored: bytes) -> bool:
    computed = base64.b64encode(hashlib.sha1(password, usedforsecurity=False).digest())
    return hmac.compare_digest(computed, stored.removeprefix(b"{SHA}"))


def _check_crypt(password: bytes, stored: bytes) -> bool:
    # Only who has such hashes waits for it to be imported.
    from passlib.hash import apr_md5_crypt, sha256_crypt, sha512_crypt  # noqa: PLC0415

    fit = len(password) <= _LONG_MAX  # the effort grows with a password's length
    password, text = password if fit else b"", stored.decode()
    if text.startswith("$apr1$"):
        return bool(apr_md5_crypt.verify(password, text)) and fit
    scheme = sha256_crypt if text.startswith("$5$") else sha512_crypt
    return bool(scheme.verify(password, text)) and fit
