"""What must be true: one client's view of what it has been promised.

Everything a client can change is a key with a value, and every request is a set of changes to keys.
Each key belongs to one client, which has one request on its way at a time. So there are two
worlds that may be found after a kill: the one before that request and the one after it. What is
found must be one of them, whole.
"""

import threading
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

_EVENTS_MAX = 60
"""Events of one key that are kept for a report."""


class Violation(AssertionError):  # noqa: N818 - a promise was broken; that is what it is
    """The registry broke a promise."""


class Key(NamedTuple):
    """Something in a repository: a `blob`, a `manifest` or a `tag`."""

    repository: str
    kind: str
    name: str


Changes = Mapping[Key, str | None]
"""What keys mean afterwards; None: nothing, they are gone."""


@dataclass
class Upload:
    """An upload session that is under way."""

    repository: str
    target: str
    content: bytes
    digest: str
    acknowledged: int = 0
    """Bytes that the registry said it has."""
    sent: int = 0
    """Bytes that it may have."""
    ending: bool = False
    """Whether a request that ends the session went without an answer."""


@dataclass
class Figures:
    """What was done, counted by all clients together."""

    answered: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    checks: Counter[str] = field(default_factory=Counter)
    unanswered: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, counter: Counter[str], name: str, number: int = 1) -> None:
        """Count from any thread."""
        with self.lock:
            counter[name] += number


class Commons:
    """Blobs that all clients push to the shared repository, and that nobody takes out."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.sure: set[str] = set()
        """Some push of it was answered."""
        self.possible: set[str] = set()
        """Some push of it was sent."""

    def sending(self, digest: str) -> None:
        """Note that a push is on its way."""
        with self._lock:
            self.possible.add(digest)

    def pushed(self, digest: str) -> None:
        """Note that a push was answered."""
        with self._lock:
            self.sure.add(digest)

    def settle(self, found: set[str]) -> None:
        """Take what was found after a restart for what is."""
        self.sure, self.possible = set(found), set(found)


class Ledger:
    """What one client has asked for and been told."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.world: dict[Key, str] = {}
        self.pending: Changes = {}
        self.uploads: list[Upload] = []
        self.contents: dict[str, bytes] = {}
        """Every blob and manifest that this client ever made, by digest."""
        self.references: dict[str, tuple[str, ...]] = {}
        """The blobs that a manifest needs."""
        self._touched: set[Key] = set()
        self._events: dict[Key | str, deque[str]] = defaultdict(lambda: deque(maxlen=_EVENTS_MAX))

    # -- while requests are made

    def asking(self, sentence: str, changes: Changes, about: Iterable[Key | str] = ()) -> None:
        """Note a request before it is sent."""
        self.pending = changes
        self._touched.update(changes)
        self.note(sentence, (*changes, *about))

    def answered(self, sentence: str, *, done: bool, about: Iterable[Key | str] = ()) -> None:
        """Note the answer; the changes hold from now on if the request was done."""
        self.note(sentence, (*self.pending, *about))
        if done:
            self.world = changed(self.world, self.pending)
        self.pending = {}

    def note(self, sentence: str, about: Iterable[Key | str]) -> None:
        """Add to the history of keys or of upload sessions."""
        for key in about:
            self._events[key].append(sentence)

    # -- what holds

    def names(self, repository: str, kind: str) -> list[str]:
        """The names of that kind in a repository, sorted."""
        return sorted(
            key.name for key in self.world if key.repository == repository and key.kind == kind
        )

    def holds(self, repository: str, kind: str, name: str) -> bool:
        """Whether there is such a thing."""
        return Key(repository, kind, name) in self.world

    def users(self, repository: str, blob: str) -> list[str]:
        """The manifests of a repository that need a blob."""
        return [
            manifest
            for manifest in self.names(repository, "manifest")
            if blob in self.references[manifest]
        ]

    # -- after a restart

    def supposing(
        self, world: Mapping[Key, str], pending: Changes, keys: Iterable[Key]
    ) -> "Ledger":
        """A ledger of the same contents for another moment, in which those keys are to be checked."""
        other = Ledger(self.name)
        other.contents, other.references = self.contents, self.references
        other.world = dict(world)
        other.asking("at the power cut", pending, keys)
        other._touched.update(keys)
        return other

    def to_check(self) -> set[Key]:
        """Every key that holds something, and every key that changed since the last check."""
        return {*self.world, *self._touched}

    def sweep(self, found: Mapping[Key, str | None]) -> int:
        """Forget those blobs that are gone and that no manifest needs; how many they were."""
        after = changed(self.world, self.pending)
        needed = {
            (key.repository, blob)
            for key in self.world
            if key.kind == "manifest" and key in after
            for blob in self.references[key.name]
        }
        gone = [
            key
            for key in self.world
            if key.kind == "blob"
            and found[key] is None
            and (key.repository, key.name) not in needed
        ]
        for key in gone:
            del self.world[key]
            self.note("after the restart: swept", [key])
        return len(gone)

    def settle(self, found: Mapping[Key, str | None]) -> str:
        """Compare what was found with what may be; take it for what is, and say which it was."""
        differing = {
            key: value for key, value in self.pending.items() if self.world.get(key) != value
        }
        after = changed(self.world, self.pending)
        for key, value in found.items():
            if key not in differing and self.world.get(key) != value:
                raise self.violation(key, f"should be {self.world.get(key)}, is {value}")
        happened = [key for key, value in differing.items() if found[key] == value]
        if happened and len(happened) != len(differing):
            lacking = next(key for key in differing if key not in happened)
            raise self.violation(lacking, f"half done: {happened[0]} has changed, this has not")
        for key in differing:
            if not happened and found[key] != self.world.get(key):
                raise self.violation(key, f"neither {self.world.get(key)} nor {after.get(key)}")
        outcome = "nothing" if not differing else "done" if happened else "not done"
        if happened:
            self.world = after
        self.note(f"after the restart: {outcome}", differing)
        self.pending = {}
        self._touched.clear()
        return outcome

    def violation(self, key: Key | str, sentence: str) -> Violation:
        """What to raise about a key, with all that is known of it."""
        events = "\n".join(f"    {event}" for event in self._events[key])
        return Violation(f"{self.name}: {key}: {sentence}\n  its history:\n{events}")


def changed(world: Mapping[Key, str], changes: Changes) -> dict[Key, str]:
    """The world after some changes."""
    after = dict(world)
    for key, value in changes.items():
        if value is None:
            after.pop(key, None)
        else:
            after[key] = value
    return after
