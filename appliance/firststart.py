"""What the first start makes when it is not there: certificates and an administrator.

Nothing here opens anything: the administrator's password is random, the file that tells it can be
read by its owner alone, and so can every key.
"""

import secrets
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from appliance.accounts import editing
from appliance.accounts.schemes import hash_password
from appliance.durable import replace_file
from appliance.serve.certificates import Authority, Certificate, host_names, load
from appliance.settings import Settings

ADMINISTRATOR = "admin"
"""The account that the first start makes."""


def authority(settings: Settings) -> Authority | None:
    """Open our own certificate authority, making it if need be; None if another one is used.

    Raises CertificateError.
    """
    if settings.tls.mode != "auto":
        return None
    return Authority.open(settings.data / "tls", now=datetime.now(UTC))


def certificates(settings: Settings, own: Authority | None) -> list[Certificate]:
    """Give the certificates to show now, the default one first; none when TLS is off.

    Those of our own authority are issued anew when the machine's names change or their life runs
    out. Raises CertificateError.
    """
    if own is not None:
        return [own.server_certificate(names(settings), now=datetime.now(UTC))]
    if settings.tls.mode == "off":
        return []
    tls = settings.tls
    pairs = [(tls.certificate, tls.key), *((pair.certificate, pair.key) for pair in tls.additional)]
    return [load(Path(certificate), Path(key)) for certificate, key in pairs]


def names(settings: Settings) -> tuple[str, ...]:
    """List the names and addresses this registry is reached by, the one to show people first."""
    public = urlsplit(settings.server.public_url).hostname
    own = (public,) if public else ()
    return tuple(dict.fromkeys((*own, *settings.server.names, *host_names())))


def password_note(settings: Settings) -> Path:
    """Where the administrator's first password is told."""
    return settings.data / "admin-password"


def forget_password_note(settings: Settings, account: str) -> None:
    """Remove the note of the first password once it is no longer the administrator's."""
    if account == ADMINISTRATOR:
        with suppress(OSError):
            password_note(settings).unlink()


def administrator(settings: Settings) -> bool:
    """Make an administrator where there is no password file yet; tell whether that was so.

    Raises AccountError or OSError.
    """
    if settings.htpasswd.exists():
        return False
    password = secrets.token_urlsafe(18)
    # 1. the password is told  2. it counts: the other way round, a crash leaves an unknown password
    replace_file(password_note(settings), f"{password}\n".encode(), mode=0o600)
    editing.add(settings.htpasswd, ADMINISTRATOR, hash_password(password.encode()))
    return True
