"""Leases for tests that are not about them."""

import time

from appliance.registry.leases import LEASE_SECONDS, Leases


def leased() -> Leases:
    """Leases of the usual length."""
    return Leases(LEASE_SECONDS, time.monotonic)
