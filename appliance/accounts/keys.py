"""Keys of robots: long random passwords for programs, each for some scopes and until some day.

A key reads `reg_ID_SECRET`. Only a hash of it is kept, in a file that is followed while it changes,
so a key that is revoked ends at once. As nobody can guess one, a quick hash is enough.
"""

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import structlog

from appliance.accounts.files import AccountError, locked, stamp
from appliance.durable import replace_file
from appliance.oci.errors import RegistryError
from appliance.protocol.keys import Key, key_id
from appliance.protocol.scopes import parse_scope

_log = structlog.get_logger()

FILE = "keys.json"
"""The name of the file in the data folder."""

_SECRET = re.compile(rb"reg_[0-9a-f]{12}_[A-Za-z0-9_-]{43}")


class Kept(msgspec.Struct, frozen=True, omit_defaults=True):
    """A key as the file has it."""

    id: str
    account: str
    scopes: tuple[str, ...]
    hash: str
    made_at: int
    expires_at: int | None = None
    """Both in seconds since 1970; None for a key that ends only when it is revoked."""
    note: str = ""
    """What it is for, in its maker's words."""


class Keys:
    """The keys of one file, followed while it changes."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._stamp: object = None
        self._kept: dict[str, Kept] = {}

    def find(self, secret: bytes) -> Key | None:
        """Return what a key is for; None for one that is not valid, or not any more."""
        if _SECRET.fullmatch(secret) is None:
            return None
        kept = self._current().get(key_id(secret))
        if kept is None or not hmac.compare_digest(kept.hash.encode(), _hash(secret).encode()):
            return None
        return self._alive(kept)

    def named(self, key: str) -> Key | None:
        """Return what the key of an ID is for, for who has shown it before."""
        kept = self._current().get(key)
        return self._alive(kept) if kept else None

    def _alive(self, kept: Kept) -> Key | None:
        if kept.expires_at is not None and kept.expires_at <= self._clock():
            return None
        return Key(kept.id, kept.account, tuple(map(parse_scope, kept.scopes)))

    def _current(self) -> dict[str, Kept]:
        found = stamp(self._path)
        if found != self._stamp:
            try:
                self._kept = {kept.id: kept for kept in read(self._path)}
            except AccountError as error:
                _log.error("keys cannot be read", reason=str(error))
                if isinstance(error.__cause__, OSError):
                    return self._kept  # a passing trouble: what was read last still counts
                self._kept = {}
            self._stamp = found
        return self._kept


def read(path: Path) -> list[Kept]:
    """Read the keys of a file; one that is not there has none. Raises AccountError."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=list[Kept])
        for kept in found:
            for scope in kept.scopes:
                parse_scope(scope)
    except FileNotFoundError:
        return []
    except (OSError, msgspec.MsgspecError, RegistryError) as error:
        raise AccountError(f"{path} cannot be read: {error}") from error
    return found


def create(
    path: Path, account: str, scopes: Sequence[str], expires_at: int | None, note: str
) -> tuple[str, Kept]:
    """Make a key, and return it with what is kept of it: it is told nowhere else.

    Raises AccountError.
    """
    identity = secrets.token_hex(6)
    secret = f"reg_{identity}_{secrets.token_urlsafe(32)}"
    kept = Kept(
        identity, account, tuple(scopes), _hash(secret.encode()), int(time.time()), expires_at, note
    )
    with locked(path):
        _write(path, [*read(path), kept])
    return secret, kept


def revoke(path: Path, key: str) -> Kept:
    """Remove the key of an ID, and return what was kept of it; raises AccountError."""
    with locked(path):
        known = read(path)
        for kept in known:
            if kept.id == key:
                _write(path, [other for other in known if other is not kept])
                return kept
    raise AccountError(f"there is no key {key}; registry token list lists them")


def _hash(secret: bytes) -> str:
    return hashlib.sha256(secret).hexdigest()


def _write(path: Path, kept: Sequence[Kept]) -> None:
    try:
        replace_file(path, msgspec.json.format(msgspec.json.encode(kept)), mode=0o600)
    except OSError as error:
        raise AccountError(f"{path} cannot be written: {error.strerror}") from error
