"""Reading blobs, and taking them out of a repository."""

from contextlib import AbstractAsyncContextManager
from types import TracebackType

from appliance.oci.digest import Digest
from appliance.oci.errors import BLOB_UNKNOWN, RegistryError
from appliance.registry.damage import Suspect, unsuspected
from appliance.registry.leases import Leases
from appliance.registry.ports import BlobStore, Region
from appliance.registry.records import BlobRecords


class Blobs:
    """The blobs of every repository; a repository shows only those it links."""

    def __init__(
        self,
        *,
        store: BlobStore,
        records: BlobRecords,
        leases: Leases,
        suspect: Suspect = unsuspected,
    ) -> None:
        self._store = store
        self._suspect = suspect
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

    def open(self, digest: Digest, size: int) -> AbstractAsyncContextManager[Region]:
        """Open a blob of the `size` that has been told.

        Entering raises BLOB_UNKNOWN, also where its bytes are not as many any more.
        """
        return _Opening(self._store.open(digest), digest, size, self._suspect)

    async def delete(self, repository: str, digest: Digest) -> None:
        """Take a blob out of a repository; raises BLOB_UNKNOWN, or METHOD_UNSUPPORTED if in use."""
        await self._records.unlink(repository, digest)


class _Opening(AbstractAsyncContextManager[Region]):
    """A blob that is opened if it has its size; no generator, as every pull comes this way."""

    def __init__(
        self,
        opening: AbstractAsyncContextManager[Region],
        digest: Digest,
        size: int,
        suspect: Suspect,
    ) -> None:
        self._opening = opening
        self._digest = digest
        self._size = size
        self._suspect = suspect

    async def __aenter__(self) -> Region:
        try:
            region = await self._opening.__aenter__()
        except RegistryError as error:
            if error.row is BLOB_UNKNOWN:
                await self._suspect(self._digest)
            raise
        if region.size != self._size:
            await self._opening.__aexit__(None, None, None)
            await self._suspect(self._digest)
            raise BLOB_UNKNOWN.error(details=({"digest": str(self._digest)},))
        return region

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        return await self._opening.__aexit__(kind, error, trace)
