"""Addresses of clients: read from text, and what one counts as where something is counted.

Whoever has IPv6 has at least a /64 of it, 2^64 addresses to come from, so such an address counts as
its /64 (RFC 4291 2.5.4). An IPv4 client on a socket for both families shows itself as an
IPv4-mapped address (RFC 4291 2.5.5.2) and is the same client as on a socket for IPv4 alone.
"""

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]{1,253})(?::\d{1,5})?")
"""What a Host header may say (RFC 9110 7.2): a name or an address, and a port."""

_NETWORK_BITS = ((1 << 64) - 1) << 64


def unmapped(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Return the IPv4 address that an IPv4-mapped one stands for, and any other as it is."""
    if isinstance(address, IPv6Address):
        return address.ipv4_mapped or address
    return address


def parse_address(text: str) -> IPv4Address | IPv6Address:
    """Read an address as the kernel shows it, unmapped, a zone (`%eth0`) left out.

    Raises ValueError for anything else.
    """
    return unmapped(ip_address(text.partition("%")[0]))


@lru_cache(maxsize=4096)
def network_key(address: str) -> str:
    """Return what an address counts as: itself for IPv4, its /64 for IPv6.

    Text that is no address counts as itself, so that every peer counts as something.
    """
    try:
        found = parse_address(address)
    except ValueError:
        return address
    if isinstance(found, IPv4Address):
        return str(found)
    return f"{IPv6Address(int(found) & _NETWORK_BITS)}/64"
