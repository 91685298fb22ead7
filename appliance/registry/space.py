"""Room for more blobs, and who should hear that there is little of it."""

import math

import trio

from appliance.oci.errors import RegistryError
from appliance.registry.ports import BlobStore

SHORT_BELOW = 0.05
"""The free part of a disk below which it counts as nearly full."""

_KEEP_SECONDS = 10.0
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


class Space:
    """How much room the store has, looked at once in a while."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._looked_at = -math.inf
        self._shortage: str | None = None

    async def shortage(self) -> str | None:
        """Say in a sentence that the disk is nearly full; None when it is not."""
        now = trio.current_time()
        if now - self._looked_at > _KEEP_SECONDS:
            self._looked_at = now
            try:
                self._shortage = _sentence(await self._store.room())
            except RegistryError:  # whoever writes next will hear what is wrong
                self._shortage = None
        return self._shortage


def _sentence(room: tuple[int, int] | None) -> str | None:
    if room is None:
        return None
    free, total = room
    if free >= SHORT_BELOW * total:
        return None
    return (
        f"the registry's disk is nearly full: {_amount(free)} of {_amount(total)} are free;"
        " tell its operator"
    )


def _amount(size: int) -> str:
    amount, power = float(size), 0
    while amount >= 1000 and power < len(_UNITS) - 1:
        amount, power = amount / 1024, power + 1
    return f"{amount:.3g} {_UNITS[power]}"
