"""What is not as it was: the words in which stores and records tell a scrub of it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal

from appliance.oci.digest import Digest

State = Literal["damaged", "mended", "repaired", "moved", "noted"]

Pace = Callable[[int], Awaitable[None]]
"""Told of every part that was read, it waits for as long as that may have taken."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a look at all bytes of a blob found."""

    size: int | None
    """None where there is nothing under its digest."""
    computed: Digest | None = None
    """The digest of what is there; None where it cannot be read."""
    fault: str = ""
    """Why it cannot be read."""
    mark: object = None
    """Tells the bytes that were read from others that come to their place."""


@dataclass(frozen=True, slots=True)
class Found:
    """Something that lies in a store."""

    path: str
    """Where, as the store's owner would look for it."""
    digest: Digest | None
    """The blob that it is or should be; None where it is no blob's."""
    size: int
    modified: float
    """In seconds since 1970."""
    fault: str = ""
    """What is wrong with where it lies."""


@dataclass(frozen=True, slots=True)
class Held:
    """A blob as it is recorded."""

    digest: Digest
    size: int
    is_damaged: bool
    is_manifest: bool
    content: bytes | None
    """Its bytes, where the records hold them."""


@dataclass(frozen=True, slots=True)
class Images:
    """The images that need something."""

    names: tuple[str, ...] = ()
    """Some of them, as repository:tag or repository@digest."""
    count: int = 0
    """How many there are; at least that many where they are very many."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be."""

    what: str
    """A digest, a path, or a part of the catalogue."""
    fault: str
    """What is wrong with it, and what was done about it."""
    state: State
    """Only what is damaged needs somebody to do something."""
    images: Images = Images()


@dataclass(slots=True)
class Verified:
    """How everything is."""

    blobs: int = 0
    size: int = 0
    """Bytes of those blobs."""
    found: list[Finding] = field(default_factory=list)
    left_out: int = 0
    """Findings that are too many to be listed."""
    counts: dict[str, int] = field(default_factory=dict)
    """How many findings there are of each state."""
    remarks: list[str] = field(default_factory=list)
    """Sentences for whoever asked."""

    def add(self, finding: Finding, listed_max: int) -> None:
        """Take a finding up."""
        self.counts[finding.state] = self.counts.get(finding.state, 0) + 1
        if len(self.found) < listed_max:
            self.found.append(finding)
        else:
            self.left_out += 1
