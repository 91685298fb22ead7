"""Who may knock at all, and at which name: looked at before anybody is asked who it is."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network

from appliance.oci.errors import ADDRESS_REFUSED, MISDIRECTED
from appliance.protocol.addresses import parse_address

_REMEMBERED = 4096

Networks = Sequence[IPv4Network | IPv6Network]


class Doors:
    """Addresses that are let in, and names that are answered to; without any, all are."""

    def __init__(
        self, *, allow: Networks = (), deny: Networks = (), hosts: Sequence[str] = ()
    ) -> None:
        self._allow = tuple(allow)
        self._deny = tuple(deny)
        self._hosts = tuple(host.lower() for host in hosts)
        self._lets_in = lru_cache(maxsize=_REMEMBERED)(self._is_let_in)

    def check_address(self, address: str) -> None:
        """Raise ADDRESS_REFUSED for an address that is denied, or not among those allowed."""
        if (self._allow or self._deny) and not self._lets_in(address):
            raise ADDRESS_REFUSED.error()

    def check_host(self, host: str) -> None:
        """Raise MISDIRECTED for a Host header that is none of our names (RFC 9110 15.5.20)."""
        if not self._hosts:
            return
        name = (
            host.lower() if host.endswith("]") else host.lower().rpartition(":")[0] or host.lower()
        )
        if not any(fnmatchcase(name, pattern) for pattern in self._hosts):
            raise MISDIRECTED.error()

    def _is_let_in(self, text: str) -> bool:
        try:
            address = parse_address(text)
        except ValueError:
            return not self._allow
        if any(address in network for network in self._deny):
            return False
        return not self._allow or any(address in network for network in self._allow)
