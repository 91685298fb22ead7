"""The ports: what the registry needs of stores and accounts; for that of records see `records`.

Adapters satisfy these by shape; the daemon, which puts them together, is where mypy checks the
fit. What an adapter raises is a `RegistryError`: BLOB_UNKNOWN and its like for what is not there,
STORE_FULL or STORE_UNAVAILABLE for what cannot be done now.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from appliance.oci.damage import Found, Inspection, Pace
from appliance.oci.digest import Digest
from appliance.protocol.credentials import Credentials, Proof
from appliance.protocol.keys import Key

Sink = Callable[[Sequence[bytes | memoryview]], None]
"""Takes pieces of a body in their order; it blocks, and the pieces are good during the call only."""


class SupportsFileno(Protocol):
    """What has a file descriptor."""

    def fileno(self) -> int:
        """Return the descriptor."""


class Body(Protocol):
    """What a client sends."""

    async def drain(self, sink: Sink) -> None:
        """Hand all of it to `sink`, by worker threads, one call at a time.

        Raises what the sink raises; what arrived before anything else went wrong was handed over.
        """


class Region(Protocol):
    """An open blob."""

    @property
    def size(self) -> int:
        """Bytes in the blob."""

    @property
    def file(self) -> SupportsFileno | None:
        """The blob's file, where it has one of its own."""

    async def read(self, offset: int, length: int) -> bytes:
        """Return that part of the blob."""


class Staged(Protocol):
    """One blob on its way in: written is not yet visible."""

    @property
    def size(self) -> int:
        """Bytes that have arrived."""

    def append(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Add bytes at the end; after an error none of them count. It blocks: a `Sink`."""

    async def truncate(self, size: int) -> None:
        """Forget all bytes from `size` on."""

    async def digest(self, algorithm: str) -> Digest:
        """Compute the digest of all bytes."""

    async def catch_up(self) -> None:
        """Hash what was appended before a restart."""

    async def publish(self, digest: Digest) -> None:
        """Make the bytes the blob of that digest, whole and durable on return."""

    async def discard(self) -> None:
        """Remove the bytes."""

    @property
    def is_claimed(self) -> bool:
        """Whether this process has a claim."""

    async def claim(self) -> bool:
        """Keep other daemons from these bytes until `release`; False while one of them has them.

        What they have done to them counts from then on. Raises BLOB_UPLOAD_UNKNOWN where they have
        published or removed them.
        """

    async def release(self) -> None:
        """End a claim; nothing happens where there is none."""

    async def look_again(self) -> None:
        """Have count what other daemons have done; raises BLOB_UPLOAD_UNKNOWN, as `claim` does."""


class BlobStore(Protocol):
    """Where blobs live."""

    async def stage(self, session_id: str, algorithm: str) -> Staged:
        """Begin a blob."""

    async def resume(self, session_id: str, algorithm: str) -> Staged:
        """Take up a blob begun before a restart; raises BLOB_UPLOAD_UNKNOWN."""

    async def staged(self) -> dict[str, float]:
        """List what is on its way in: session id → time of its last byte, seconds since 1970."""

    async def discard(self, session_id: str) -> None:
        """Remove a staged blob that nobody holds open."""

    async def put(self, digest: Digest, content: bytes) -> None:
        """Store a whole blob at hand, durable on return."""

    def open(self, digest: Digest) -> AbstractAsyncContextManager[Region]:
        """Open a blob for reading; entering raises BLOB_UNKNOWN."""

    async def put_away(self, digests: Sequence[Digest]) -> None:
        """Move blobs into quarantine, those that are not there already, or nowhere."""

    async def bring_back(self, digests: Sequence[Digest]) -> None:
        """Move blobs out of quarantine, those that are there; durable on return."""

    async def purge(self, digests: Sequence[Digest]) -> None:
        """Remove blobs from quarantine, those that are there."""

    async def inspect(
        self, digest: Digest, pace: Pace, *, in_quarantine: bool = False
    ) -> Inspection:
        """Read all bytes of a blob and compute their digest.

        Raises STORE_UNAVAILABLE for what has nothing to do with this blob.
        """

    async def measure(self, digest: Digest) -> int | None:
        """Return how many bytes there are of a blob; None where it is not there."""

    async def set_aside(self, digest: Digest, mark: object, *, in_quarantine: bool = False) -> bool:
        """Move a blob whose bytes are not right to where nothing brings them back from.

        False where it is gone, or where by now there are others than those of that mark.
        """

    async def drop_set_aside(self, before: float) -> int:
        """Remove what was set aside before a moment, in seconds since 1970; return its bytes."""

    async def is_empty(self) -> bool:
        """Tell whether there is no blob at all; raises STORE_UNAVAILABLE."""

    async def shelves(self) -> list[str]:
        """Name the parts of the store that are looked through one by one."""

    async def shelf(self, name: str) -> list[Found]:
        """List all that lies in one part of the store."""

    async def quarantine(self) -> list[Found]:
        """List what is in quarantine, but for what was set aside."""

    def room(self) -> tuple[int, int] | None:
        """Return how many bytes are free, and how many there are in all; None without a bound.

        It blocks.
        """

    async def check_writable(self) -> None:
        """Raise STORE_FULL or STORE_UNAVAILABLE if nothing can be written now."""


class BlobSource(Protocol):
    """Where copies of blobs may be found elsewhere."""

    @property
    def name(self) -> str:
        """What a person calls it."""

    async def fault(self) -> str | None:
        """Say in a sentence why nothing can be had from it; None where nothing is in the way."""

    def open(self, digest: Digest) -> AbstractAsyncContextManager[Region]:
        """Open a copy for reading; entering raises BLOB_UNKNOWN or STORE_UNAVAILABLE."""


class RobotKeys(Protocol):
    """The keys of robots."""

    def find(self, secret: bytes) -> Key | None:
        """Return what a key is for; None for one that is not valid, or not any more."""

    def named(self, key: str) -> Key | None:
        """Return what the key of an ID is for, for who has shown it before."""


class Workloads(Protocol):
    """The accounts that tokens of other issuers stand for."""

    def knows(self, account: str, generation: str) -> bool:
        """Tell whether what once proved an account still does."""

    async def prove(self, token: bytes, account: str = "") -> Proof | None:
        """Return what a token proves: that account, or where none is named the one that it fits.

        None for what is no token of an issuer that is known. Raises UNAUTHORIZED with a sentence for
        one that proves nothing, and ISSUER_UNAVAILABLE.
        """


class Accounts(Protocol):
    """Who is known here."""

    async def recall(self, credentials: Credentials) -> str | None:
        """Return what `verify` does for a password that was right a moment ago, at little cost."""

    def is_wrong(self, credentials: Credentials) -> bool:
        """Tell whether this password was found wrong a moment ago, as clients try one again."""

    async def verify(self, credentials: Credentials) -> str | None:
        """Return the generation that a password proves; None if it is not the account's."""

    async def generation(self, account: str) -> str | None:
        """Return what changes with an account's password; None if there is no such account.

        It begins with PASSING where that cannot be told.
        """

    def knows(self, account: str) -> bool:
        """Tell whether there is such an account, as far as is known without asking for it."""

    def weakness(self, account: str) -> str | None:
        """Say in a sentence what is weak about how an account proves itself; None if nothing is."""
