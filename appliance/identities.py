"""Who can prove to be whom, as the settings have it: a password file, a directory, issuers of tokens."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from appliance.accounts.directory import Directory
from appliance.accounts.files import stamp
from appliance.accounts.htpasswd import PasswordAccounts
from appliance.accounts.jwks import KeysInFile
from appliance.accounts.ldap import DirectoryError, Terms
from appliance.accounts.several import SeveralAccounts
from appliance.accounts.workloads import IssuedAccounts, Issuer, PublishedKeys, Workload
from appliance.settings import Settings, SettingsError, TokenIssuer

KeySources = Mapping[tuple[str, str, str], PublishedKeys]
"""Where the keys of each issuer are had from: its address, file and authorities → source."""

NO_SOURCES: KeySources = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Basis:
    """All that whose passwords are known depends on; what is equal need not be put together anew."""

    htpasswd: Path
    directory: Terms | None
    authority: object
    """What differs once the file of authorities has changed."""


def basis(settings: Settings) -> Basis:
    """Read what passwords are checked by; it blocks, and raises SettingsError."""
    ldap = settings.ldap
    if not ldap.url:
        return Basis(settings.htpasswd, None, None)
    password = b""
    try:
        if ldap.bind_password_file:
            password = Path(ldap.bind_password_file).read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise SettingsError(
            [f"ldap.bind_password_file: {ldap.bind_password_file}: {error.strerror}."]
        ) from error
    terms = Terms(
        url=ldap.url,
        base=ldap.base,
        filter=ldap.filter,
        start_tls=ldap.start_tls,
        ca=Path(ldap.ca) if ldap.ca else None,
        bind_dn=ldap.bind_dn,
        bind_password=password,
    )
    return Basis(settings.htpasswd, terms, stamp(terms.ca) if terms.ca else None)


def accounts(basis: Basis) -> PasswordAccounts | SeveralAccounts:
    """Put together whose passwords are known; it blocks, and raises SettingsError."""
    file = PasswordAccounts(basis.htpasswd)
    if basis.directory is None:
        return file
    try:
        return SeveralAccounts(file, Directory(basis.directory))
    except DirectoryError as error:
        raise SettingsError([f"ldap: {error}."]) from error


def key_sources(settings: Settings, before: KeySources = NO_SOURCES) -> KeySources:
    """Say where keys of issuers are had from; what is known from before is known still. It blocks."""
    return {
        _source(issuer): before.get(_source(issuer)) or _keys_of(issuer)
        for issuer in settings.issuer
    }


def issued_accounts(settings: Settings, sources: KeySources) -> IssuedAccounts | None:
    """Say whose tokens are believed, and for which accounts they stand; None where nobody's are."""
    if not settings.issuer:
        return None
    issuers = [
        Issuer(issuer.name, issuer.url, issuer.audiences, sources[_source(issuer)])
        for issuer in settings.issuer
    ]
    workloads = [
        Workload(
            job.issuer,
            job.account,
            {
                name: (wanted,) if isinstance(wanted, str) else wanted
                for name, wanted in job.claims.items()
            },
        )
        for job in settings.workload
    ]
    return IssuedAccounts(issuers, workloads)


def _source(issuer: TokenIssuer) -> tuple[str, str, str]:
    return issuer.url, issuer.keys, issuer.ca


def _keys_of(issuer: TokenIssuer) -> PublishedKeys:
    if issuer.keys:
        return KeysInFile(Path(issuer.keys))
    # Only who has such issuers waits for what asks them to be imported, and has it in memory.
    from appliance.accounts.issuers import KeysAtAddress  # noqa: PLC0415

    return KeysAtAddress(issuer.url, Path(issuer.ca) if issuer.ca else None)
