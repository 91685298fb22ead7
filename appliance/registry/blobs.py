"""Reading blobs, and taking them out of a repository."""

from contextlib import AbstractAsyncContextManager

from appliance.oci.digest import Digest
from appliance.oci.errors import BLOB_UNKNOWN
from appliance.registry.leases import Leases
from appliance.registry.ports import BlobRecords, BlobStore, Region


class Blobs:
    """The blobs of every repository; a repository shows only those it links."""

    def __init__(self, *, store: BlobStore, records: BlobRecords, leases: Leases) -> None:
        self._store = store
        self._records = records
        self._leases = leases

    async def size(self, repository: str, digest: Digest) -> int:
        """Return a blob's size in bytes, and lease it to whoever asked.

        Raises BLOB_UNKNOWN unless the repository links it.
        """
        while True:
            size = await self._records.find_blob(repository, digest)
            if size is None:
                raise BLOB_UNKNOWN.error(details=({"digest": str(digest)},))
            settled = self._leases.take(repository, digest)
            if settled is None:
                return size
            await settled.wait()

    def open(self, digest: Digest) -> AbstractAsyncContextManager[Region]:
        """Open a blob whose `size` has been asked; entering raises BLOB_UNKNOWN."""
        return self._store.open(digest)

    async def delete(self, repository: str, digest: Digest) -> None:
        """Take a blob out of a repository; raises BLOB_UNKNOWN, or METHOD_UNSUPPORTED if in use."""
        await self._records.unlink(repository, digest)
