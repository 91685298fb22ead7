"""What tags have meant and which manifests were removed: the words in which it is told."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Change:
    """A tag that was set, moved or removed, or a manifest that was removed."""

    at: int
    """When, in seconds since 1970."""
    tag: str
    """Empty where a manifest itself was removed."""
    digest: str | None
    """The manifest; None for a tag that was removed."""
    state: Literal["here", "kept", "gone"] | None
    """Whether that manifest is in the repository, can be brought back, or neither."""
    kept_since: int | None = None
    """When it was put into quarantine, which it will leave."""


@dataclass(frozen=True, slots=True)
class Removal:
    """How a manifest was removed."""

    change: int
    """Later ones have higher numbers."""
    at: int
    """When, in seconds since 1970."""
    media_type: str


@dataclass(frozen=True, slots=True)
class Holding:
    """A blob whose bytes are still here."""

    size: int
    is_linked: bool
    """Whether its repository has it, as a blob or as a manifest."""
    is_away: bool
    """Whether it is in quarantine."""
    content: bytes | None = None
    """Its bytes, where the records hold them."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What was brought back."""

    digest: str
    manifests: int
    blobs: int
    size: int
    """Bytes of those blobs and manifests."""
