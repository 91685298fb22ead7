"""The one gate: who is asking, and may they.

`authenticate` turns credentials into an account, `check` lets it pass or raises the challenge.
Every request passes here once, whatever its path; see `appliance.api.app`.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from appliance.oci.errors import UNAUTHORIZED, RegistryError
from appliance.protocol.credentials import parse_credentials
from appliance.protocol.routes import Action
from appliance.registry.ports import Accounts


@dataclass(frozen=True, slots=True)
class Account:
    """Who is asking."""

    name: str
    """Empty for an anonymous account."""
    claimed: bool
    """Whether the request brought an Authorization header at all."""
    weakness: str | None = None
    """What is weak about how it proved itself, as a sentence."""

    @property
    def is_anonymous(self) -> bool:
        """Tell whether nobody proved to be anyone."""
        return not self.name


class Gate(Protocol):
    """What every request passes: who is asking, and may they."""

    async def authenticate(self, authorization: Sequence[bytes]) -> Account:
        """Find out who is asking; raises UNAUTHORIZED."""

    def check(self, account: Account, action: Action | None, repository: str) -> None:
        """Let the action pass, or raise UNAUTHORIZED with the challenge, or DENIED."""

    def may(self, account: Account, action: Action, repository: str) -> bool:
        """Tell whether the action passes."""


class OperatorGate:
    """The gate where only the operator can come: whoever is there may do anything."""

    async def authenticate(self, authorization: Sequence[bytes]) -> Account:
        """Take whoever asks for the operator, whose name no password file may give to anybody."""
        return Account("(operator)", claimed=False)

    def check(self, account: Account, action: Action | None, repository: str) -> None:
        """Let everything pass."""

    def may(self, account: Account, action: Action, repository: str) -> bool:
        """Tell that it may."""
        return True


class Access:
    """Decides for every request; `anonymous` lists the actions that need no account."""

    def __init__(self, *, accounts: Accounts, realm: str, anonymous: Collection[Action]) -> None:
        self._accounts = accounts
        self._challenge = (("WWW-Authenticate", f'Basic realm="{_quoted(realm)}"'),)
        self._anonymous = frozenset(anonymous)

    async def authenticate(self, authorization: Sequence[bytes]) -> Account:
        """Find out who is asking; raises UNAUTHORIZED for credentials that prove nothing.

        Wrong credentials are never taken for none: whoever claims a name must prove it.
        """
        try:
            credentials = parse_credentials(authorization)
        except RegistryError as error:
            raise self._unauthorized(error.message) from None
        if credentials is None:
            return Account("", claimed=bool(authorization))
        if not await self._accounts.verify(credentials):
            raise self._unauthorized("unknown account or wrong password")
        weakness = self._accounts.weakness(credentials.account)
        return Account(credentials.account, claimed=True, weakness=weakness)

    def check(self, account: Account, action: Action | None, repository: str) -> None:
        """Let the action pass, or raise UNAUTHORIZED with the challenge, or DENIED."""
        if action is None or self.may(account, action, repository):
            return
        raise self._unauthorized(
            f"{action} on {repository} needs an account" if repository else None
        )

    def may(self, account: Account, action: Action, repository: str) -> bool:
        """Tell whether the action passes."""
        if not account.is_anonymous or action in self._anonymous:
            return True
        # `/v2/` is how clients ask whether to send a password at all: they must be challenged
        # there even where pulling needs none, or docker would never send one for a push.
        return action is Action.LOGIN and bool(self._anonymous) and account.claimed

    def _unauthorized(self, message: str | None) -> RegistryError:
        return UNAUTHORIZED.error(message, headers=self._challenge)


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
