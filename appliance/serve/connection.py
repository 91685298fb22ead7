"""What every connection knows about itself, whichever version of HTTP it speaks."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from appliance.serve.proxies import TrustedProxies

Scope = dict[str, Any]
Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApplication = Callable[[Scope, Receive, Send], Awaitable[None]]
Fields = list[tuple[bytes, bytes]]

ASGI = {"version": "3.0", "spec_version": "2.5"}
DISCONNECT: Message = {"type": "http.disconnect"}
WITHOUT_BODY = {204, 304}
"""Statuses of which the answer has no body (RFC 9110, 6.4.1)."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a client is waited for, in seconds."""

    handshake: float
    """For a whole TLS handshake, and for a PROXY header before it."""
    idle: float
    """For the next request on a connection."""
    head: float
    """For the head of a request, from its first byte on."""
    stall: float
    """For the next bytes of a body, or until the client takes some of ours."""


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The two ends of a connection, and what may stand between them and the client."""

    client: tuple[str, int]
    """The peer, or whom it speaks for by the PROXY protocol."""
    server: tuple[str, int]
    secure: bool
    """Whether TLS lies between them."""
    proxies: TrustedProxies | None
    """Set when the peer is a proxy whose word on its clients is taken."""
    client_names: tuple[str, ...] = ()
    """What the peer's certificate calls it, where it has shown one."""

    def describe(self, fields: Fields) -> Scope:
        """Give the part of a request's scope that depends on who really asks."""
        client, scheme = self.client, "https" if self.secure else "http"
        names = self.client_names
        if self.proxies is not None:
            asker = self.proxies.forwarded(client[0], fields)
            client = (asker.client, 0)
            names = ()  # those of the proxy are not those of whoever asks
            scheme = asker.scheme or scheme
            if asker.host is not None:
                host = (b"host", asker.host.encode("latin-1"))
                fields = [host, *(field for field in fields if field[0] != b"host")]
        return {
            "client": client,
            "server": self.server,
            "scheme": scheme,
            "headers": fields,
            "registry.client_names": names,
        }
