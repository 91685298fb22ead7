"""Whether the registry can do its work now: write a blob, read a record."""

import trio

from appliance.oci.errors import RegistryError
from appliance.registry.ports import BlobStore
from appliance.registry.records import ManifestRecords
from appliance.registry.space import Space

_KEEP_SECONDS = 1.0  # anyone may ask, and asking costs a write


class Readiness:
    """The state of store and records, looked at once a second at most."""

    def __init__(self, *, store: BlobStore, records: ManifestRecords, space: Space) -> None:
        self._store = store
        self._records = records
        self._space = space
        self._looking = trio.Lock()
        self._looked_at = -float("inf")
        self._fault: str | None = None
        self._damage: str | None = None

    def tell_damage(self, sentence: str) -> None:
        """Have it known, for as long as this runs, that something is damaged."""
        self._damage = sentence

    async def fault(self) -> str | None:
        """Return what keeps the registry from working, as a sentence; None when nothing does."""
        if self._damage is not None:
            return self._damage
        async with self._looking:
            if trio.current_time() - self._looked_at > _KEEP_SECONDS:
                self._fault = await self._look()
                self._looked_at = trio.current_time()
            return self._fault

    async def _look(self) -> str | None:
        try:
            await self._store.check_writable()
            await self._records.check_readable()
        except RegistryError as error:
            return await self._space.fault() or error.message
        return await self._space.fault()
