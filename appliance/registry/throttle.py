"""Wrong passwords slow down whoever tries them.

A check costs a third of a second of a processor, and guessing has to cost time. Each password that
was wrong counts against the address it came from, against the account, and most of all against the
two together; the same one again, which clients send without being asked, counts once. Whoever is
right is counted nowhere, and only waits while others from the same address
are being looked at.
"""

import hashlib
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import trio

from appliance.oci.errors import TOO_MANY_FAILURES, TOO_MANY_LOGINS
from appliance.protocol.addresses import network_key
from appliance.protocol.rates import Rates

_BOTH = (10, 1 / 5)  # at once, and a second
_ADDRESS = (10, 1 / 5)
_ACCOUNT = (100, 1.0)
_SIDE_BY_SIDE = 4  # checks for one address
_TURN_SECONDS = 30.0  # that one more is waited for


class Throttle:
    """Counts wrong passwords; its memory is bounded, as that of `protocol.rates` is."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._both, self._addresses, self._accounts = (
            Rates(per_second=rate, burst=burst, clock=clock)
            for burst, rate in (_BOTH, _ADDRESS, _ACCOUNT)
        )
        self._turns: dict[str, tuple[trio.CapacityLimiter, int]] = {}

    @asynccontextmanager
    async def turn(self, address: str) -> AsyncIterator[None]:
        """Wait until not too many from an address are being checked; raises TOO_MANY_LOGINS."""
        network = network_key(address)
        limiter, waiting = self._turns.get(network) or (trio.CapacityLimiter(_SIDE_BY_SIDE), 0)
        self._turns[network] = limiter, waiting + 1
        try:
            try:
                with trio.fail_after(_TURN_SECONDS):
                    await limiter.acquire()
            except trio.TooSlowError:
                raise TOO_MANY_LOGINS.error(headers=(("Retry-After", "10"),)) from None
            try:
                yield
            finally:
                limiter.release()
        finally:
            waiting = self._turns[network][1] - 1
            if waiting:
                self._turns[network] = limiter, waiting
            else:
                del self._turns[network]

    def check(self, address: str, account: str) -> None:
        """Raise TOO_MANY_FAILURES with `Retry-After` where too many were wrong."""
        wait_seconds = max(rates.delay(key) for rates, key in self._keys(address, account))
        if wait_seconds:
            raise TOO_MANY_FAILURES.error(headers=(("Retry-After", str(math.ceil(wait_seconds))),))

    def fail(self, address: str, account: str) -> None:
        """Count a password that was wrong."""
        for rates, key in self._keys(address, account):
            rates.wait(key)

    def _keys(self, address: str, account: str) -> Iterator[tuple[Rates, str]]:
        # Strangers choose the name, and how long it is.
        name = hashlib.blake2b(account.encode(), digest_size=16).hexdigest()
        network = network_key(address)
        yield self._both, f"{network} {name}"
        yield self._addresses, network
        yield self._accounts, name
