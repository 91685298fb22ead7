"""All that a registry does, over one store and its records."""

from typing import Protocol

from appliance.registry.blobs import Blobs
from appliance.registry.manifests import Manifests
from appliance.registry.ports import BlobRecords, BlobStore, ManifestRecords, SessionRecords
from appliance.registry.readiness import Readiness
from appliance.registry.space import Space
from appliance.registry.uploads import Uploads


class Records(BlobRecords, ManifestRecords, SessionRecords, Protocol):
    """Everything that is asked of records."""


class Registry:
    """The use cases, each of which there is once: what they hold in memory is not to be divided."""

    def __init__(self, *, store: BlobStore, records: Records) -> None:
        self.blobs = Blobs(store=store, records=records)
        self.uploads = Uploads(store=store, records=records)
        self.manifests = Manifests(store=store, records=records)
        self.readiness = Readiness(store=store, records=records)
        self.space = Space(store)
