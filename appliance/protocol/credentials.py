"""What a request brings to prove an account: a password (RFC 7617) or a token (RFC 6750)."""

import re
from binascii import Error, a2b_base64
from collections.abc import Sequence
from dataclasses import dataclass, field

from appliance.oci.errors import UNAUTHORIZED

_JWT = re.compile(rb"eyJ[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)


PASSING = "passing "
"""What begins the generation of an account that was proved by what may end without changing it."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """An account's name and the password offered for it."""

    account: str
    password: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Bearer:
    """A token, which says itself whose it is."""

    token: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Proof:
    """What a token of somebody else proves."""

    account: str
    generation: str = field(repr=False)
    """What it is proved by, without telling it."""
    subject: str
    """What the issuer of the token calls whoever has it."""


def is_jwt(secret: bytes) -> bool:
    """Tell whether a secret has the shape of a signed JSON Web Token (RFC 7515, 7.1)."""
    return _JWT.fullmatch(secret) is not None


def parse_credentials(headers: Sequence[bytes]) -> Credentials | Bearer | None:
    """Read the `Authorization` headers of a request.

    None means that nobody claims to be anyone: no header, or the empty pair (`Basic Og==`) that
    podman and skopeo send without a login. Raises UNAUTHORIZED for anything unreadable, for
    several headers at once and for other schemes.
    """
    if not headers:
        return None
    if len(headers) > 1:
        raise UNAUTHORIZED.error("one Authorization header, not several")
    scheme, _, value = headers[0].strip().partition(b" ")
    match scheme.lower():
        case b"basic":
            return _basic(value.strip())
        case b"bearer":
            return Bearer(value.strip())
        case _:
            raise UNAUTHORIZED.error("this registry understands Basic and Bearer authentication")


def _basic(value: bytes) -> Credentials | None:
    try:
        account, colon, password = a2b_base64(value, strict_mode=True).partition(b":")
        name = account.decode()
    except (Error, UnicodeDecodeError):
        raise UNAUTHORIZED.error("the credentials are not base64 of name:password") from None
    if not colon:
        raise UNAUTHORIZED.error("the credentials are not base64 of name:password")
    if not name and not password:
        return None
    return Credentials(name, password)
