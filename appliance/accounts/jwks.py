"""The public keys of an issuer of tokens, as a JWK Set (RFC 7517), and in a file of that."""

from base64 import urlsafe_b64decode
from pathlib import Path
from typing import Any

import msgspec
import structlog
from joserfc.errors import JoseError
from joserfc.jwk import JWKRegistry, KeySet

from appliance import work
from appliance.accounts.files import stamp
from appliance.oci.errors import ISSUER_UNAVAILABLE

_KEYS_MAX = 100
_MODULUS = range(256, 1025)  # bytes: smaller ones are weak, and larger ones take long
_PUBLIC = ("kty", "n", "e", "crv", "x", "y", "kid")
"""What of a key is looked at: from a private part others are computed, for as long as it takes."""

_log = structlog.get_logger()


class _Published(msgspec.Struct, frozen=True):
    """A JWK Set, with whatever each key has to say."""

    keys: list[dict[str, Any]]


class KeysInFile:
    """The keys of an issuer that this machine cannot ask, followed while their file changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: object = None
        self._keys = KeySet([])

    async def find(self, key: str | None) -> KeySet:
        """Return the keys; raises ISSUER_UNAVAILABLE."""
        found = stamp(self._path)
        if found != self._stamp:
            self._stamp = found
            try:
                self._keys = await work.disk(read_keys, self._path)
            except (OSError, ValueError) as error:  # what was read last still counts
                _log.error(
                    "keys of an issuer cannot be read", file=str(self._path), reason=str(error)
                )
        if not self._keys:
            raise ISSUER_UNAVAILABLE.error(headers=(("Retry-After", "30"),))
        return self._keys


def read_keys(path: Path) -> KeySet:
    """Read the keys of a file; raises OSError and ValueError."""
    return parse_keys(path.read_bytes())


def parse_keys(content: bytes) -> KeySet:
    """Read a JWK Set; raises ValueError where it holds no key that a signature can be checked with.

    Keys of kinds that are not known are left out, as RFC 7517 wants, and so are those of which
    whoever checks a signature could make one.
    """
    try:
        published = msgspec.json.decode(content, type=_Published).keys
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"it is no JWK Set: {error}") from error
    keys = []
    for one in published[:_KEYS_MAX]:
        if one.get("kty") not in ("RSA", "EC") or one.get("use", "sig") != "sig":
            continue
        try:
            _check_size(one)
            keys.append(
                JWKRegistry.import_key({name: one[name] for name in _PUBLIC if name in one})
            )
        except (JoseError, ValueError, TypeError, LookupError) as error:
            _log.warning("key of an issuer not understood", key=one.get("kid"), reason=str(error))
    if not keys:
        raise ValueError("it holds no key that signatures can be checked with")
    return KeySet(keys)


def _check_size(key: dict[str, Any]) -> None:
    if key["kty"] == "RSA" and len(urlsafe_b64decode(key["n"] + "==")) not in _MODULUS:
        raise ValueError("it has too few bits, or too many")
