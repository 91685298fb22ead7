"""All that a registry does, over one store and its records."""

import time
from typing import Protocol

from appliance.registry.blobs import Blobs
from appliance.registry.damage import Damage
from appliance.registry.leases import LEASE_SECONDS, Leases
from appliance.registry.locks import DigestLocks
from appliance.registry.manifests import Manifests
from appliance.registry.ports import BlobStore
from appliance.registry.quotas import Quotas
from appliance.registry.readiness import Readiness
from appliance.registry.records import (
    BlobRecords,
    GarbageRecords,
    InspectionRecords,
    ManifestRecords,
    PastRecords,
    SessionRecords,
)
from appliance.registry.scrub import Scrub
from appliance.registry.sharing import Sharing
from appliance.registry.space import Space
from appliance.registry.sweep import Sweep
from appliance.registry.undo import Undo
from appliance.registry.uploads import Uploads

_COUNTED_MAX = 10_000  # on the loop, in well below a millisecond


class Records(BlobRecords, ManifestRecords, SessionRecords, Protocol):
    """Everything that is asked of records."""


class Registry:
    """The use cases, each of which there is once: what they hold in memory is not to be divided."""

    def __init__(
        self,
        *,
        store: BlobStore,
        records: Records,
        garbage: GarbageRecords,
        past: PastRecords,
        inspection: InspectionRecords,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        self.leases = Leases(lease_seconds, time.monotonic)
        locks = DigestLocks()
        self.sharing = Sharing()
        self.space = Space(store)
        self.quotas = Quotas(records)
        damage = Damage(store=store, records=inspection, locks=locks)
        self.blobs = Blobs(store=store, records=records, leases=self.leases, suspect=damage.suspect)
        self.uploads = Uploads(
            store=store,
            records=records,
            leases=self.leases,
            locks=locks,
            space=self.space,
            quotas=self.quotas,
            sharing=self.sharing,
        )
        self.manifests = Manifests(
            store=store,
            records=records,
            leases=self.leases,
            locks=locks,
            space=self.space,
            quotas=self.quotas,
            suspect=damage.suspect,
        )
        self.sweep = Sweep(
            store=store,
            records=garbage,
            leases=self.leases,
            locks=locks,
            sharing=self.sharing,
        )
        self.scrub = Scrub(
            store=store,
            records=inspection,
            locks=locks,
            sweep=self.sweep,
            damage=damage,
            sharing=self.sharing,
        )
        self.undo = Undo(
            store=store,
            records=past,
            locks=locks,
            sweep=self.sweep,
            objection=self.manifests.objection,
            sharing=self.sharing,
        )
        self.readiness = Readiness(store=store, records=records, space=self.space)
        self._records = records

    async def summary(self) -> str:
        """Say in a few words what there is and goes on; raises STORE_UNAVAILABLE."""
        repositories = await self._records.count_repositories(_COUNTED_MAX)
        running, used = self.uploads.running, await self.space.used()
        more = " or more" if repositories == _COUNTED_MAX else ""
        words = [
            f"{repositories:,}{more} repositor{'y' if repositories == 1 else 'ies'}",
            f"{running} upload{'' if running == 1 else 's'} running",
        ]
        if used is not None:
            words.append(f"{used:.0%} disk".replace("%", " %"))
        return ", ".join(words)
