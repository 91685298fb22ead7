"""What a token of ours says."""

from dataclasses import dataclass
from typing import Literal

from appliance.protocol.scopes import Scope

PULL_SECONDS = 3600
"""The life of a token that is for pulling."""

PUSH_SECONDS = 12 * 3600
"""The life of one that is for more: pushes take long."""

REFRESH_SECONDS = 90 * 86400
"""The life of an identity token, which clients keep in the place of a password."""

TOKEN_MAX = 16 << 10
"""Bytes of a token; with longer ones, requests had heads that are refused."""

Kind = Literal["access", "refresh"]


@dataclass(frozen=True, slots=True)
class Claims:
    """What a token says."""

    account: str
    """Empty for one that anybody gets."""
    generation: str
    """What the account proved itself by, without telling it; another one ends the token."""
    kind: Kind
    issued_at: int
    """In seconds since 1970, as is `expires_at`."""
    expires_at: int
    scopes: tuple[Scope, ...] = ()
    key: str = ""
    """The key that the account proved itself by, where it was one."""
    subject: str = ""
    """What another issuer's token called it, where it proved itself by one."""
