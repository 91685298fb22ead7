"""Strays: what lies in the store and is in no record, and records of quarantine without bytes.

A blob's bytes come before its record, so what has come lately may be on its way. The rest goes
into quarantine, from where a sweep removes it in its time. Nothing is moved while anything is
being brought back, which goes that way in the other direction.
"""

import time

from appliance.oci.damage import Finding, Found, Inspection
from appliance.oci.digest import Digest
from appliance.oci.errors import RegistryError
from appliance.registry.damage import unpaced
from appliance.registry.locks import DigestLocks
from appliance.registry.pace import Pacer
from appliance.registry.ports import BlobStore
from appliance.registry.records import InspectionRecords
from appliance.registry.sweep import Sweep

_YOUNG_SECONDS = 3600.0
_BATCH = 256


class Strays:
    """Looks through a store for what is in no record."""

    def __init__(
        self,
        *,
        store: BlobStore,
        records: InspectionRecords,
        locks: DigestLocks,
        sweep: Sweep,
    ) -> None:
        self._store = store
        self._records = records
        self._locks = locks
        self._sweep = sweep

    async def shelf(self, name: str, pace: Pacer) -> list[Finding]:
        """Look through one part of the store."""
        findings = []
        old = time.time() - _YOUNG_SECONDS
        files = await self._store.shelf(name)
        for start in range(0, len(files), _BATCH):
            batch = files[start : start + _BATCH]
            known = await self._records.known([one.digest for one in batch if one.digest])
            for found in batch:
                if found.fault or found.digest is None:
                    findings.append(_noted(found))
                elif found.digest not in known and found.modified < old:
                    async with self._sweep.hold():
                        finding = await self._put_away(found, found.digest, pace)
                    findings += [finding] if finding else []
        return findings

    async def quarantine(self, pace: Pacer) -> list[Finding]:
        """Look through quarantine, and its records."""
        findings = []
        files = await self._store.quarantine()
        for found in files:
            if found.fault or found.digest is None:
                findings.append(_noted(found))
                continue
            async with self._sweep.hold():
                finding = await self._check_kept(found, found.digest, pace)
            findings += [finding] if finding else []
        here = {one.digest for one in files}
        dropped, after = 0, ""
        while recorded := await self._records.in_quarantine(after, _BATCH):
            after = recorded[-1]
            for text in recorded:
                digest = _parsed(text)
                if digest is not None and digest not in here:
                    async with self._sweep.hold():
                        dropped += await self._drop_record(digest)
        if dropped:
            fault = f"{dropped} records of it had no bytes and are dropped"
            findings.append(Finding("quarantine", fault, "mended"))
        return findings

    async def _put_away(self, found: Found, digest: Digest, pace: Pacer) -> Finding | None:
        """Move a stray into quarantine, as what it is."""
        inspection = await self._store.inspect(digest, pace)
        async with self._locks.hold((digest,)):
            if await self._records.known((digest,)) or inspection.size is None:
                return None
            if inspection.computed != digest:
                if not await self._store.set_aside(digest, inspection.mark):
                    return None
                fault = f"no record knows it, and its bytes are not right: {_why(inspection)}"
                return Finding(found.path, f"{fault}; it is set aside in quarantine", "moved")
            # 1. noted as in quarantine  2. moved there: a sweep makes up for a crash in between
            await self._records.note_quarantine(digest, inspection.size)
            await self._store.put_away((digest,))
        return Finding(found.path, "no record knows it; it is in quarantine now", "moved")

    async def _check_kept(self, found: Found, digest: Digest, pace: Pacer) -> Finding | None:
        """Look at a blob in quarantine: what is not right must not be brought back."""
        inspection = await self._store.inspect(digest, pace, in_quarantine=True)
        async with self._locks.hold((digest,)):
            if inspection.size is None:
                return None
            if inspection.computed != digest:
                if not await self._store.set_aside(digest, inspection.mark, in_quarantine=True):
                    return None
                await self._records.drop_quarantine(digest)
                fault = f"its bytes are not right any more: {_why(inspection)}"
                return Finding(found.path, f"{fault}; it cannot be brought back", "moved")
            if await self._is_recorded(digest):
                return None
            await self._records.note_quarantine(digest, inspection.size)
        return Finding(
            found.path, "no record knew it; a sweep will remove it in its time", "mended"
        )

    async def _drop_record(self, digest: Digest) -> bool:
        """Drop the record of a blob in quarantine that is neither there nor where it belongs."""
        async with self._locks.hold((digest,)):
            inspection = await self._store.inspect(digest, unpaced, in_quarantine=True)
            if inspection.size is not None or not await self._is_recorded(digest):
                return False
            if await self._store.measure(digest) is not None:
                return False  # a crash came before it was moved, and a sweep makes up for that
            await self._records.drop_quarantine(digest)
            return True

    async def _is_recorded(self, digest: Digest) -> bool:
        found = await self._records.in_quarantine(str(digest)[:-1], 16)
        return str(digest) in found


def _noted(found: Found) -> Finding:
    return Finding(found.path, f"it {found.fault}", "noted")


def _why(inspection: Inspection) -> str:
    if inspection.computed is None:
        return inspection.fault
    return f"they have the digest {inspection.computed}"


def _parsed(text: str) -> Digest | None:
    try:
        return Digest.parse(text)
    except RegistryError:
        return None
