"""Folders with copies of blobs: backups, and OCI image layouts.

    <folder>/blobs/<algorithm>/<ab>/<hex>    as a store or a backup has them
    <folder>/blobs/<algorithm>/<hex>         as a layout has them

Nothing in them is trusted: whoever copies from here compares the digest.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from io import FileIO
from pathlib import Path

from appliance import work
from appliance.oci.digest import Digest
from appliance.oci.errors import BLOB_UNKNOWN, STORE_UNAVAILABLE
from appliance.storage.files import FileRegion
from appliance.storage.translation import translated


class SourceFolder:
    """One such folder."""

    def __init__(self, folder: Path) -> None:
        self._blobs = folder / "blobs"
        self.name = str(folder)

    async def fault(self) -> str | None:
        """Say in a sentence why nothing can be had from it; None where nothing is in the way."""
        try:
            await work.disk(os.listdir, self._blobs)
        except OSError as error:
            return f"verify.sources: {self._blobs} cannot be read ({error.strerror})"
        return None

    @asynccontextmanager
    async def open(self, digest: Digest) -> AsyncIterator[FileRegion]:
        """Open a copy for reading; raises BLOB_UNKNOWN or STORE_UNAVAILABLE."""
        with translated(STORE_UNAVAILABLE):
            file = await work.disk(self._open, digest)
        if file is None:
            raise BLOB_UNKNOWN.error()
        with file:
            yield FileRegion(file)

    def _open(self, digest: Digest) -> FileIO | None:
        shelf = self._blobs / digest.algorithm
        for path in (shelf / digest.hex[:2] / digest.hex, shelf / digest.hex):
            with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return FileIO(path)
        return None
