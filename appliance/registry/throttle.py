"""Wrong passwords slow down whoever tries them.

A check costs a third of a second of a processor, and guessing has to cost time. Each check that
does not succeed counts against the address it came from, against the account, and most of all
against the two together; who has succeeded is counted nowhere.
"""

import math
import time
from collections.abc import Callable, Iterator

from appliance.oci.errors import TOO_MANY_FAILURES
from appliance.protocol.addresses import network_key
from appliance.protocol.rates import Rates

_BOTH = (10, 1 / 5)  # at once, and a second
_ADDRESS = (20, 1 / 5)
_ACCOUNT = (100, 1.0)


class Throttle:
    """Counts failed logins; its memory is bounded, as that of `protocol.rates` is."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._both, self._addresses, self._accounts = (
            Rates(per_second=rate, burst=burst, clock=clock)
            for burst, rate in (_BOTH, _ADDRESS, _ACCOUNT)
        )

    def begin(self, address: str, account: str) -> None:
        """Count an attempt; raises TOO_MANY_FAILURES with `Retry-After` for one too many."""
        counted: list[tuple[Rates, str]] = []
        for rates, key in self._keys(address, account):
            wait_seconds = rates.wait(key)
            if wait_seconds:
                for before, other in counted:
                    before.give_back(other)
                raise TOO_MANY_FAILURES.error(
                    headers=(("Retry-After", str(math.ceil(wait_seconds))),)
                )
            counted.append((rates, key))

    def succeed(self, address: str, account: str) -> None:
        """Take back an attempt that was right."""
        for rates, key in self._keys(address, account):
            rates.give_back(key)

    def _keys(self, address: str, account: str) -> Iterator[tuple[Rates, str]]:
        network = network_key(address)
        yield self._both, f"{network} {account}"
        yield self._addresses, network
        yield self._accounts, account
