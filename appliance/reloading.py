"""What of the settings counts for the next request, and what only after a restart."""

import os
from pathlib import Path

from msgspec import structs

from appliance.accounts.jwks import KeysInFile
from appliance.accounts.workloads import IssuedAccounts, Issuer, PublishedKeys, Workload
from appliance.api.doors import Doors
from appliance.serve.connection import Timeouts
from appliance.serve.connections import Terms
from appliance.serve.proxies import TrustedProxies
from appliance.settings import Settings, SettingsError, TokenIssuer

_NEEDS_RESTART = (
    "server.listen",
    "server.plain",
    "storage.path",
    "log.format",
    "log.level",
    "log.audit",
)


def without_restart(now: Settings, wanted: Settings) -> tuple[Settings, list[str]]:
    """Take from the wanted settings what can change while serving; name the rest.

    Raises SettingsError where taking them over would lock everybody out.
    """
    fixed = []
    if now.tls.mode != wanted.tls.mode:  # the files of a mode belong to it
        fixed.append("tls.mode")
        wanted = structs.replace(wanted, tls=now.tls)
    for path in _NEEDS_RESTART:
        table, key = path.split(".")
        before = getattr(now, table)
        after = getattr(wanted, table)
        if getattr(before, key) != getattr(after, key):
            fixed.append(path)
            kept = structs.replace(after, **{key: getattr(before, key)})
            wanted = structs.replace(wanted, **{table: kept})
    if not os.access(wanted.htpasswd, os.R_OK):
        raise SettingsError(
            [f"auth.htpasswd: {wanted.htpasswd} cannot be read; nobody could log in with it."]
        )
    return wanted, fixed


def doors(settings: Settings) -> Doors:
    """Say who may knock, and at which names."""
    server = settings.server
    return Doors(
        allow=[network.network for network in server.allow],
        deny=[network.network for network in server.deny],
        hosts=server.hosts,
    )


def terms(settings: Settings) -> Terms:
    """Say how long connections are waited for, how many there may be, and which proxies count."""
    server, limits = settings.server, settings.limits
    return Terms(
        timeouts=Timeouts(
            handshake=limits.handshake, idle=limits.idle, head=limits.head, stall=limits.stall
        ),
        connections=limits.connections,
        connections_per_address=limits.connections_per_address,
        proxies=TrustedProxies([network.network for network in server.trusted_proxies]),
        proxy_protocol=server.proxy_protocol,
    )


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
