"""Quotas: how much the repositories of a name may hold, however many push into them at once.

What a repository holds are the blobs it links and its manifests, whoever else has them too. What
is on its way in counts from the moment at which it is about to be recorded, so that two pushes
cannot both take the last of the room.
"""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from appliance.oci.errors import QUOTA_REACHED, RegistryError
from appliance.registry.records import ManifestRecords
from appliance.registry.space import amount


@dataclass(frozen=True, slots=True)
class Quota:
    """How many bytes the repository of a name and those below it may hold together."""

    repositories: str
    """A name; empty for all there are."""
    size: int

    def covers(self, repository: str) -> bool:
        """Tell whether a repository is one of them."""
        return self.repositories in {"", repository} or repository.startswith(
            f"{self.repositories}/"
        )


class Quotas:
    """The quotas of a registry; all that cover a repository count."""

    def __init__(self, records: ManifestRecords) -> None:
        self._records = records
        self._quotas: Sequence[Quota] = ()
        self._coming: Counter[Quota] = Counter()

    def set(self, quotas: Sequence[Quota]) -> None:
        """Say which quotas there are."""
        self._quotas = quotas

    async def check(self, repository: str, size: int) -> None:
        """Raise QUOTA_REACHED unless that many bytes more may come into a repository."""
        for quota in self._quotas:
            if quota.covers(repository):
                used = await self._records.size(quota.repositories) + self._coming[quota]
                if size and used + size > quota.size:
                    raise _reached(quota, used, size)

    @asynccontextmanager
    async def claim(self, repository: str, size: int) -> AsyncIterator[None]:
        """Count bytes that are being recorded; raises QUOTA_REACHED."""
        await self.check(repository, size)
        covering = [quota for quota in self._quotas if quota.covers(repository)]
        self._coming.update(dict.fromkeys(covering, size))
        try:
            yield
        finally:
            self._coming.subtract(dict.fromkeys(covering, size))


def _reached(quota: Quota, used: int, size: int) -> RegistryError:
    whose = f"{quota.repositories} and below" if quota.repositories else "this registry"
    return QUOTA_REACHED.error(
        f"the quota of {whose} is {amount(quota.size)}: {amount(used)} are used, and this needs"
        f" {amount(size)} more; delete what is no longer needed, or ask the registry's operator",
        details=(
            {
                "repositories": quota.repositories,
                "quota": str(quota.size),
                "used": str(used),
                "needed": str(size),
            },
        ),
    )
