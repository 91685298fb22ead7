"""How many requests one client address and one account may send, and the answer to one too many."""

import math
import time
from collections.abc import Callable

from appliance.oci.errors import TOO_MANY_REQUESTS
from appliance.protocol.addresses import network_key
from appliance.protocol.rates import Rates
from appliance.registry.access import Account


class RequestLimits:
    """Counts requests; `per_address` and `per_account` are requests a second, 0 for no limit.

    A client may save up for a burst (`BURST_SECONDS` of `protocol.rates`), because a pull is one.
    What has been counted is kept here: hand the same object to whatever replaces an application.
    """

    def __init__(
        self,
        *,
        per_address: float = 0,
        per_account: float = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._addresses = Rates(per_second=per_address, clock=clock)
        self._accounts = Rates(per_second=per_account, clock=clock)

    def limit(self, *, per_address: float, per_account: float) -> None:
        """Change the limits; counting starts anew under one that differs."""
        if per_address != self._addresses.per_second:
            self._addresses = Rates(per_second=per_address, clock=self._clock)
        if per_account != self._accounts.per_second:
            self._accounts = Rates(per_second=per_account, clock=self._clock)

    def check_address(self, address: str) -> None:
        """Count a request from an address; raises TOO_MANY_REQUESTS with `Retry-After`."""
        if self._addresses.per_second:
            _refuse_early(self._addresses.wait(network_key(address)), "from this address")

    def check_account(self, account: Account) -> None:
        """Count a request of an account, unless it is anonymous; raises as above."""
        if not account.is_anonymous:
            _refuse_early(self._accounts.wait(account.name), "of this account")


def _refuse_early(wait_seconds: float, whose: str) -> None:
    if wait_seconds:
        raise TOO_MANY_REQUESTS.error(
            f"too many requests {whose}; try later",
            headers=(("Retry-After", str(math.ceil(wait_seconds))),),
        )
