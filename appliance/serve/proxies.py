"""Who really asks, when a reverse proxy asks on somebody's behalf.

Proxies append: each writes the address it was asked from at the right of `X-Forwarded-For`, after
whatever its client had put there. So the list is read from the right, and only as long as the one
who wrote an entry is trusted; the first address that is no trusted proxy is the client, and what
stands left of it is its own invention. An entry that is no address ends the walk: whoever wrote it
is the last one known.

`X-Forwarded-Proto` and `X-Forwarded-Host` are the last ones given, those of the nearest proxy. The
standard's `Forwarded` (RFC 7239) is ignored: most proxies pass on a client's own unread, and a proxy
set up for one of the two kinds would let the client choose its address through the other.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

from appliance.protocol.addresses import parse_address

_REMEMBERED = 1024

# Some proxies add the port; an address that has one and is IPv6 stands in brackets.
_ENTRY = re.compile(
    rb"[ \t]*(?:\[([0-9A-Fa-f:.]+)\](?::\d{1,5})?|([0-9.]+)(?::\d{1,5})?|([0-9A-Fa-f:.]+))[ \t]*"
)
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::\d{1,5})?")


class Asker(NamedTuple):
    """Who asks, and how it reached the outermost proxy, as far as that is known."""

    client: str
    """An address without port."""
    scheme: str | None
    """`http` or `https`; None where only the connection itself can tell."""
    host: str | None
    """The host that was asked for, with its port if one was named; None as above."""


class TrustedProxies:
    """The proxies that are believed, by the networks they are in."""

    def __init__(self, networks: Sequence[IPv4Network | IPv6Network]) -> None:
        self._networks = tuple(networks)
        self._known = lru_cache(maxsize=_REMEMBERED)(self._contains)

    def trusts(self, address: str) -> bool:
        """Tell whether an address is a trusted proxy's; text that is no address never is."""
        return bool(self._networks) and self._known(address)

    def forwarded(self, peer: str, headers: Iterable[tuple[bytes, bytes]]) -> Asker:
        """Find out who asks, from the connection's peer and the request's headers.

        Header names are in lower case. What a peer says that is not trusted counts for nothing.
        """
        if not self.trusts(peer):
            return Asker(peer, None, None)
        chain: list[bytes] = []
        scheme = host = b""
        for name, value in headers:
            if name == b"x-forwarded-for":
                chain.append(value)
            elif name == b"x-forwarded-proto":
                scheme = _last(value).lower()
            elif name == b"x-forwarded-host":
                host = _last(value)
        return Asker(
            self._walk(peer, b",".join(chain)),
            scheme.decode() if scheme in {b"http", b"https"} else None,
            host.decode() if _HOST.fullmatch(host) else None,
        )

    def _walk(self, peer: str, chain: bytes) -> str:
        client = peer
        while chain:
            chain, _, entry = chain.rpartition(b",")
            address = _address(entry)
            if address is None:
                break
            client = address
            if not self.trusts(client):
                break
        return client

    def _contains(self, address: str) -> bool:
        try:
            found = parse_address(address)
        except ValueError:
            return False
        return any(found in network for network in self._networks)


def _last(values: bytes) -> bytes:
    return values.rpartition(b",")[2].strip()


def _address(entry: bytes) -> str | None:
    parts = _ENTRY.fullmatch(entry)
    if parts is None:
        return None
    try:
        return str(parse_address((parts[1] or parts[2] or parts[3]).decode()))
    except ValueError:
        return None
