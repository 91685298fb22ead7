"""What of the settings counts for the next request, and what only after a restart."""

import os

from msgspec import structs

from appliance.api.doors import Doors
from appliance.serve.connection import Timeouts
from appliance.serve.connections import Terms
from appliance.serve.proxies import TrustedProxies
from appliance.settings import Settings, SettingsError

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
