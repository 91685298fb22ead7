"""What nobody needs: the words in which stores and records tell a sweep of it."""

from dataclasses import dataclass
from typing import NamedTuple

from appliance.oci.digest import Digest


class Place(NamedTuple):
    """Where something idle stands in its list, which goes from the longest idle to the latest."""

    idle_since: int
    repository: int
    blob: int


@dataclass(frozen=True, slots=True)
class IdleBlob:
    """A blob that could go, and its bytes."""

    digest: Digest
    size: int
    is_damaged: bool = False


@dataclass(frozen=True, slots=True)
class IdlePair:
    """A blob or manifest of one repository that could go there."""

    place: Place
    repository: str
    blob: IdleBlob


@dataclass(slots=True)
class Totals:
    """How much of what is, or would be, removed."""

    manifests: int = 0
    links: int = 0
    blobs: int = 0
    size: int = 0
    """Bytes of those blobs."""
    purged: int = 0
    """Bytes that have left quarantine and the disk."""
