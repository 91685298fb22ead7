"""Tokens: what a client proves itself with after it has shown a password once.

A token says whose it is, what it is for and until when, and is signed, so nothing is stored. What
ends it early is compared at each request: it carries the generation of the account, which another
password changes, and rules are asked about each request anyway. So a long life costs nothing, and
a push that takes hours need not be interrupted by another login.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from appliance.oci.errors import REQUEST_INVALID, RegistryError
from appliance.oci.names import parse_name
from appliance.protocol.claims import (
    PULL_SECONDS,
    PUSH_SECONDS,
    REFRESH_SECONDS,
    TOKEN_MAX,
    Claims,
    Kind,
)
from appliance.protocol.routes import Action
from appliance.protocol.scopes import CATALOG, REGISTRY, REPOSITORY, Scope, actions_of


class Signer(Protocol):
    """Makes tokens that nobody else can make."""

    def sign(self, claims: Claims) -> str:
        """Make a token."""

    def read(self, token: bytes) -> Claims | None:
        """Return what a token says; None for one that is not ours."""


@dataclass(frozen=True, slots=True)
class Bearing:
    """Whoever asks for a token, and what it may be for at most."""

    account: str
    generation: str
    key: str
    subject: str
    may: Callable[[Action, str], bool]


class Tokens:
    """Gives tokens out."""

    def __init__(self, signer: Signer, clock: Callable[[], float] = time.time) -> None:
        self._signer = signer
        self._clock = clock

    def access(self, asking: Bearing, wanted: Sequence[Scope]) -> tuple[str, Claims]:
        """Give a token for as much of what is wanted as may be; for nothing, where none of it may.

        Raises REQUEST_INVALID for so much that the token would be too long.
        """
        scopes = tuple(granted(wanted, asking.may))
        pushing = any(scope.actions - {"pull"} for scope in scopes)
        return self._give(asking, "access", PUSH_SECONDS if pushing else PULL_SECONDS, scopes)

    def refresh(self, asking: Bearing) -> str:
        """Give an identity token, which proves the account until its password changes."""
        return self._give(asking, "refresh", REFRESH_SECONDS, ())[0]

    def read(self, token: bytes, kind: Kind) -> Claims | None:
        """Return what a token of ours says; None for any other, and for one that has expired."""
        claims = self._signer.read(token)
        if claims is None or claims.kind != kind or claims.expires_at <= self._clock():
            return None
        return claims

    def _give(
        self, asking: Bearing, kind: Kind, seconds: int, scopes: tuple[Scope, ...]
    ) -> tuple[str, Claims]:
        now = int(self._clock())
        claims = Claims(
            asking.account,
            asking.generation,
            kind,
            now,
            now + seconds,
            scopes,
            asking.key,
            asking.subject,
        )
        token = self._signer.sign(claims)
        if len(token) > TOKEN_MAX:
            raise REQUEST_INVALID.error("a token for so many scopes would be too long")
        return token, claims


def granted(wanted: Iterable[Scope], may: Callable[[Action, str], bool]) -> Iterable[Scope]:
    """Take from scopes what may not be; those of which nothing is left are left out."""
    for scope in wanted:
        actions = frozenset(word for word in scope.actions if _may(scope, word, may))
        if actions:
            yield Scope(scope.type, scope.name, actions)


def _may(scope: Scope, word: str, may: Callable[[Action, str], bool]) -> bool:
    if scope.type == REGISTRY:
        return scope.name == CATALOG and may(Action.LIST, "")
    if scope.type != REPOSITORY or not _is_name(scope.name):
        return False  # a pattern could be for more than what it was compared with
    actions = [action for action in actions_of(word) if action is not Action.LIST]
    if word == "push":  # whether tags may move is decided when one does
        actions = [Action.PUSH]
    return bool(actions) and all(may(action, scope.name) for action in actions)


def _is_name(text: str) -> bool:
    try:
        parse_name(text)
    except RegistryError:
        return False
    return True
