"""What a request brings to prove an account (RFC 7617, the Basic scheme)."""

from binascii import Error, a2b_base64
from collections.abc import Sequence
from dataclasses import dataclass, field

from appliance.oci.errors import UNAUTHORIZED


@dataclass(frozen=True, slots=True)
class Credentials:
    """An account's name and the password offered for it."""

    account: str
    password: bytes = field(repr=False)


def parse_credentials(headers: Sequence[bytes]) -> Credentials | None:
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
    if scheme.lower() != b"basic":
        raise UNAUTHORIZED.error("this registry understands Basic authentication")
    try:
        account, colon, password = a2b_base64(value.strip(), strict_mode=True).partition(b":")
        name = account.decode()
    except (Error, UnicodeDecodeError):
        raise UNAUTHORIZED.error("the credentials are not base64 of name:password") from None
    if not colon:
        raise UNAUTHORIZED.error("the credentials are not base64 of name:password")
    if not name and not password:
        return None
    return Credentials(name, password)
