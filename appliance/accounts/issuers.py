"""The keys that issuers of tokens publish at their address (OpenID Connect Discovery 1.0).

They are asked for when a token names a key that is not known, at most every half minute, and again
every hour. An issuer that does not answer takes nothing away for a day: what it said last counts.
"""

import math
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import msgspec
import structlog
import trio
from joserfc.jwk import KeySet

from appliance import work
from appliance.accounts.jwks import parse_keys
from appliance.oci.errors import ISSUER_UNAVAILABLE

_DISCOVERY = "/.well-known/openid-configuration"
_FRESH_SECONDS = 3600.0
_STALE_SECONDS = 86400.0
_EVERY_SECONDS = 30.0
_DEADLINE = 10.0  # for both documents together: a client waits meanwhile
_DOCUMENT_MAX = 1 << 20
_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity"}

_log = structlog.get_logger()


class _Configuration(msgspec.Struct, frozen=True):
    """What of OpenID Provider Metadata is looked at."""

    issuer: str
    jwks_uri: str


class KeysAtAddress:
    """The keys that an issuer publishes at its own address."""

    def __init__(
        self, url: str, authority: Path | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Ask there; `authority` is a file of the certificates to trust instead of the system's."""
        self._url = url
        self._authority = authority
        self._clock = clock
        self._asking = trio.Lock()
        self._keys: KeySet | None = None
        self._asked = self._answered = -math.inf

    async def find(self, key: str | None) -> KeySet:
        """Return the keys, among them the one of that ID if there is one by now.

        Raises ISSUER_UNAVAILABLE.
        """
        before = self._answered
        if self._is_due(key) and not (self._asking.locked() and self._has(key)):
            async with self._asking:
                if self._is_due(key):
                    await self._ask()
        is_stale = self._clock() - self._answered > _STALE_SECONDS
        # One that was not there some seconds ago may be there now: that is no wrong signature yet.
        may_be_there = not self._has(key) and self._answered == before
        if self._keys is None or is_stale or may_be_there:
            raise ISSUER_UNAVAILABLE.error(
                f"the keys of {self._url} cannot be had now", headers=(("Retry-After", "30"),)
            )
        return self._keys

    def _has(self, key: str | None) -> bool:
        return self._keys is not None and (
            key is None or any(known.kid == key for known in self._keys)
        )

    def _is_due(self, key: str | None) -> bool:
        now = self._clock()
        if now - self._asked < _EVERY_SECONDS:
            return False
        return now - self._answered > _FRESH_SECONDS or not self._has(key)

    async def _ask(self) -> None:
        try:
            with trio.fail_after(_DEADLINE):
                context = await work.disk(self._context)
                async with httpx2.AsyncClient(verify=context, timeout=_DEADLINE) as client:
                    content = await _document(client, self._url.rstrip("/") + _DISCOVERY)
                    said = msgspec.json.decode(content, type=_Configuration)
                    self._check(said)
                    content = await _document(client, said.jwks_uri)
                    self._keys = await work.disk(parse_keys, content)
        except Exception as error:  # noqa: BLE001  whatever an issuer does, this goes on
            _log.error("keys of an issuer cannot be had", issuer=self._url, reason=_reason(error))
            self._asked = self._clock()
        else:
            self._asked = self._answered = self._clock()

    def _check(self, said: _Configuration) -> None:
        """Believe nothing that another issuer says, nor keys that anybody on the way may change."""
        if said.issuer != self._url:
            raise ValueError(f"it calls itself {said.issuer}")
        if urlsplit(said.jwks_uri).scheme != "https" and urlsplit(self._url).scheme == "https":
            raise ValueError(f"its keys are at {said.jwks_uri}, which is not https")

    def _context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self._authority)


def _reason(error: BaseException) -> str:
    """Say what was wrong in the first place: of a refused certificate the library itself says nothing."""
    while not isinstance(error, ValueError) and (cause := error.__cause__ or error.__context__):
        error = cause
    return str(error) or type(error).__name__


async def _document(client: httpx2.AsyncClient, url: str) -> bytes:
    """Get a document of bounded size; redirects are not followed: they could lead anywhere."""
    async with client.stream("GET", url, headers=_HEADERS) as response:
        if response.status_code != httpx2.codes.OK:
            raise ValueError(f"{url} answered {response.status_code}")
        content, size = b"", 0
        async for piece in response.aiter_raw():  # to its end: the library minds if it is left
            size += len(piece)
            if size <= _DOCUMENT_MAX:
                content += piece
    if size > _DOCUMENT_MAX:
        raise ValueError(f"{url} has more than {_DOCUMENT_MAX} bytes")
    return content
