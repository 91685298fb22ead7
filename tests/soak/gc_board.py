"""What must be there while garbage is being removed, as all clients together know it.

An image is *held* from the answer to its push until somebody is about to end it: to delete it, or
to move its tag away. While it is held, all of it is there for everybody, however long it took to
read. Afterwards any part of it may go at any time: whoever was reading it is overtaken, which is
nobody's fault.
"""

import random
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.soak.model import Figures, Violation

_EVENTS_MAX = 50_000
_REPORTED = 80


class Document(NamedTuple):
    """A manifest, and the blobs that it needs."""

    digest: str
    media_type: str
    content: bytes
    blobs: tuple[str, ...]


class Image(NamedTuple):
    """What one tag means: a manifest, those it lists, and those that are about it."""

    top: Document
    children: tuple[Document, ...] = ()
    referrers: tuple[Document, ...] = ()

    @property
    def documents(self) -> tuple[Document, ...]:
        """All of its manifests."""
        return (*self.children, self.top, *self.referrers)

    @property
    def blobs(self) -> set[str]:
        """The blobs that all of them need."""
        return {blob for document in self.documents for blob in document.blobs}

    @property
    def contents(self) -> set[str]:
        """The digests of all that it consists of."""
        return self.blobs | {document.digest for document in self.documents}


@dataclass(eq=False)
class Entry:
    """An image under a tag; it ends once and is never held again."""

    repository: str
    tag: str
    image: Image
    ended_at: float | None = None

    @property
    def held(self) -> bool:
        """Whether nobody has begun to end it."""
        return self.ended_at is None


class Board:
    """The images that are held."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[tuple[str, str], Entry] = {}
        self._holders: defaultdict[tuple[str, str], set[Entry]] = defaultdict(set)

    def publish(self, entry: Entry) -> None:
        """Hold an image whose push was answered."""
        with self._lock:
            self._held[entry.repository, entry.tag] = entry
            for digest in entry.image.contents:
                self._holders[entry.repository, digest].add(entry)

    def end(self, entries: Iterable[Entry]) -> None:
        """Hold images no more, just before the request that ends them."""
        with self._lock:
            for entry in entries:
                entry.ended_at = time.monotonic()
                del self._held[entry.repository, entry.tag]
                for digest in entry.image.contents:
                    key = (entry.repository, digest)
                    self._holders[key].discard(entry)
                    if not self._holders[key]:
                        del self._holders[key]

    def find(self, repository: str, tag: str) -> Entry | None:
        """The image that a tag is sure to mean."""
        with self._lock:
            return self._held.get((repository, tag))

    def held(self) -> list[Entry]:
        """All that is held now."""
        with self._lock:
            return list(self._held.values())

    def holders(self, repository: str, digest: str) -> list[Entry]:
        """The held images of a repository that need some content."""
        with self._lock:
            return list(self._holders.get((repository, digest), ()))

    def choose(self, chance: random.Random) -> Entry | None:
        """Any image that is held."""
        held = self.held()
        return chance.choice(held) if held else None


class History:
    """What happened lately, in order, for a report about some content."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._events: deque[str] = deque(maxlen=_EVENTS_MAX)

    def note(self, who: str, sentence: str) -> None:
        """Add something."""
        self._events.append(f"{time.monotonic() - self._began:9.3f} {who}: {sentence}")

    def violation(self, who: str, sentence: str, about: Iterable[str]) -> Violation:
        """What to raise, with all that is known about some digests, and the sweeps in between."""
        words = [*about, "sweep: "]
        events = [event for event in list(self._events) if any(word in event for word in words)]
        known = "\n".join(f"    {event}" for event in events[-_REPORTED:])
        now = time.monotonic() - self._began
        return Violation(f"{now:.3f} {who}: {sentence}\n  its history:\n{known}")


@dataclass
class Tally(Figures):
    """What was done and found, counted by all clients together."""

    swept: Counter[str] = field(default_factory=Counter)
    noticed: Counter[str] = field(default_factory=Counter)


class Pulse:
    """Wakes whoever wants to be there when something begins."""

    def __init__(self) -> None:
        self._condition = threading.Condition()

    def beat(self) -> None:
        """It begins now."""
        with self._condition:
            self._condition.notify_all()

    def wait(self, within: float) -> None:
        """Wait for the next beat, but no longer than that."""
        with self._condition:
            self._condition.wait(within)


@dataclass(frozen=True)
class Scene:
    """What all clients of one storm share."""

    seed: str
    lease_seconds: float
    board: Board = field(default_factory=Board)
    history: History = field(default_factory=History)
    tally: Tally = field(default_factory=Tally)
    sweep_begins: Pulse = field(default_factory=Pulse)
    stopping: threading.Event = field(default_factory=threading.Event)
