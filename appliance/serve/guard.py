"""How many connections there may be, in all and from one address.

Counts are exact: what was admitted is released once, and an address without a connection leaves
nothing behind. An address counts as `network_key` says.
"""

from appliance.protocol.addresses import network_key


class ConnectionLimits:
    """Counts open connections; 0 stands for no limit."""

    def __init__(self, total: int = 0, per_address: int = 0) -> None:
        self._total = total
        self._per_address = per_address
        self._open = 0
        self._by_key: dict[str, int] = {}

    @property
    def open(self) -> int:
        """How many connections are admitted and not yet released."""
        return self._open

    @property
    def addresses(self) -> int:
        """From how many addresses they come."""
        return len(self._by_key)

    def limit(self, *, total: int, per_address: int) -> None:
        """Change the limits for new connections; those that are open stay."""
        self._total = total
        self._per_address = per_address

    def admit(self, address: str) -> bool:
        """Count a connection and return True, or return False if there is no room for it.

        The empty address counts in the total alone: it stands for peers that bring the connections
        of many, as trusted proxies do, and for those of which the address is not yet known.
        """
        if self._total and self._open >= self._total:
            return False
        if address:
            key = network_key(address)
            count = self._by_key.get(key, 0)
            if self._per_address and count >= self._per_address:
                return False
            self._by_key[key] = count + 1
        self._open += 1
        return True

    def release(self, address: str) -> None:
        """Take back one admission of that address; raises KeyError if there is none."""
        if address:
            key = network_key(address)
            if self._by_key[key] > 1:
                self._by_key[key] -= 1
            else:
                del self._by_key[key]
        self._open -= 1
