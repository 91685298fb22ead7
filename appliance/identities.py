"""Who can prove to be whom, as the settings have it: a password file, a directory, issuers of tokens."""

from pathlib import Path

from appliance.accounts.directory import Directory
from appliance.accounts.htpasswd import PasswordAccounts
from appliance.accounts.jwks import KeysInFile
from appliance.accounts.ldap import DirectoryError, Terms
from appliance.accounts.several import SeveralAccounts
from appliance.accounts.workloads import IssuedAccounts, Issuer, PublishedKeys, Workload
from appliance.settings import Settings, SettingsError, TokenIssuer


def accounts(settings: Settings) -> PasswordAccounts | SeveralAccounts:
    """Put together whose passwords are known; it blocks, and raises SettingsError."""
    file = PasswordAccounts(settings.htpasswd)
    ldap = settings.ldap
    if not ldap.url:
        return file
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
    try:
        return SeveralAccounts(file, Directory(terms))
    except DirectoryError as error:
        raise SettingsError([f"ldap: {error}."]) from error


class KeySources:
    """Where the keys of each issuer are had from; what is known of them outlives a reload."""

    def __init__(self) -> None:
        self._sources: dict[TokenIssuer, PublishedKeys] = {}

    def issued_accounts(self, settings: Settings) -> IssuedAccounts | None:
        """Say whose tokens are believed, and for which accounts they stand; None where nobody's are.

        It blocks.
        """
        self._sources = {
            issuer: self._sources.get(issuer) or _keys_of(issuer) for issuer in settings.issuer
        }
        if not settings.issuer:
            return None
        issuers = [
            Issuer(issuer.name, issuer.url, issuer.audiences, keys)
            for issuer, keys in self._sources.items()
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


def _keys_of(issuer: TokenIssuer) -> PublishedKeys:
    if issuer.keys:
        return KeysInFile(Path(issuer.keys))
    # Only who has such issuers waits for what asks them to be imported, and has it in memory.
    from appliance.accounts.issuers import KeysAtAddress  # noqa: PLC0415

    return KeysAtAddress(issuer.url, Path(issuer.ca) if issuer.ca else None)
