"""A disk that fails at any one of the steps of a push, and from any of them on.

Each step that touches the disk fails in its turn: what was to be stored is not to be seen then, what
was there before is whole, and once the disk works again the same push goes through. Whatever lies
about is gone when it has expired.
"""

import errno
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance import work
from appliance.catalogue.records import Catalogue
from appliance.oci.digest import Digest
from appliance.oci.errors import (
    BLOB_UNKNOWN,
    BLOB_UPLOAD_UNKNOWN,
    MANIFEST_UNKNOWN,
    STORE_FULL,
    STORE_UNAVAILABLE,
    ErrorRow,
    RegistryError,
)
from appliance.oci.mediatypes import OCI_INDEX
from appliance.registry.blobs import Blobs
from appliance.registry.locks import DigestLocks
from appliance.registry.manifests import Manifests
from appliance.registry.ports import Sink
from appliance.registry.quotas import Quotas
from appliance.registry.sharing import Sharing
from appliance.registry.space import Space
from appliance.registry.uploads import Uploads
from appliance.storage import staged as module
from appliance.storage.files import FileStore
from tests.refused import refused
from tests.registry.leased import leased

HERE, ALICE = "here/app", "alice"
CONTENT = bytes(range(256)) * 40
DIGEST = Digest.of(CONTENT)
EARLIER = b"from better days"
INDEX = b'{"schemaVersion":2,"manifests":[]}'
DAY = 86400.0

STEPS = ("open", "pwritev", "fdatasync", "fsync", "rename", "chmod", "truncate", "unlink")


class Faults:
    """The disk as this process sees it: the nth step fails, and all after it if that is to last."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, catalogue: Catalogue) -> None:
        self._left = 0
        self._lasting = False
        self._number = errno.EIO
        self.struck: list[str] = []
        for step in STEPS:
            monkeypatch.setattr(os, step, self._failing(step, getattr(os, step)))
        database = catalogue._database
        write = database.write

        async def record(writing: Callable[..., object]) -> object:
            try:
                self._count("commit")
            except OSError as error:
                raise self.row.error() from error
            return await write(writing)

        monkeypatch.setattr(database, "write", record)

    @property
    def row(self) -> ErrorRow:
        """What a client is told of such a fault."""
        full = {errno.ENOSPC, errno.EDQUOT}
        return STORE_FULL if self._number in full else STORE_UNAVAILABLE

    @contextmanager
    def at(self, step: int, number: int, *, lasting: bool) -> Iterator[None]:
        """Let the nth step from here fail."""
        self._left, self._number, self._lasting = step, number, lasting
        self.struck.clear()
        try:
            yield
        finally:
            self._left = 0

    def _failing(self, name: str, original: Callable[..., object]) -> Callable[..., object]:
        def step(*args: object, **kwargs: object) -> object:
            # Reading may go on where writing cannot.
            if name != "open" or (isinstance(args[1], int) and args[1] & os.O_CREAT):
                self._count(name)
            return original(*args, **kwargs)

        return step

    def _count(self, name: str) -> None:
        if not self._left:
            return
        self._left -= 1
        if not self._left:
            self._left = 1 if self._lasting else 0
            self.struck.append(name)
            raise OSError(self._number, os.strerror(self._number))


@dataclass
class World:
    """A registry on a disk that fails on demand."""

    root: Path
    store: FileStore
    catalogue: Catalogue
    blobs: Blobs
    uploads: Uploads
    manifests: Manifests
    faults: Faults

    async def whole(self) -> None:
        """Push a blob in one request."""
        await self.uploads.put(HERE, ALICE, DIGEST, Sent(CONTENT))

    async def in_chunks(self) -> None:
        """Push a blob in two chunks and an end."""
        session = await self.uploads.start(HERE, ALICE)
        for part in (CONTENT[:5000], CONTENT[5000:]):
            await self.uploads.append(HERE, ALICE, session, Sent(part))
        await self.uploads.commit(HERE, ALICE, session, DIGEST, Sent())

    async def manifest(self) -> None:
        """Push a manifest and tag it."""
        await self.manifests.put(HERE, "latest", INDEX, OCI_INDEX)

    async def served(self, digest: Digest) -> bytes:
        """Pull a blob."""
        size = await self.blobs.size(HERE, digest)
        async with self.blobs.open(digest, size) as region:
            return await region.read(0, size)

    def staged(self) -> list[Path]:
        return list((self.root / "uploads").iterdir())

    async def expire(self) -> None:
        """Let a day go by."""
        for path in self.staged():
            os.utime(path, (0, time.time() - 2 * DAY))
        for session in self.uploads._open.values():
            session.touched -= 2 * DAY
        await self.uploads.expire(DAY)


class Sent:
    """A body that comes in pieces."""

    def __init__(self, content: bytes = b"") -> None:
        self._content = content

    async def drain(self, sink: Sink) -> None:
        for start in range(0, len(self._content), 1000):
            await work.receiving(sink, [self._content[start : start + 1000]])


@pytest.fixture
async def world(tmp_path: Path, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> World:
    store = FileStore(tmp_path)
    store.prepare()
    leases, locks = leased(), DigestLocks()
    space = Space(store)
    uploads = Uploads(
        store=store,
        records=catalogue,
        leases=leases,
        locks=locks,
        space=space,
        quotas=Quotas(catalogue),
        sharing=Sharing(),
    )
    await uploads.put(HERE, ALICE, Digest.of(EARLIER), Sent(EARLIER))
    monkeypatch.setattr(module, "_FLUSH_EVERY", 4000)
    return World(
        tmp_path,
        store,
        catalogue,
        Blobs(store=store, records=catalogue, leases=leases),
        uploads,
        Manifests(
            store=store,
            records=catalogue,
            leases=leases,
            locks=locks,
            space=space,
            quotas=Quotas(catalogue),
        ),
        Faults(monkeypatch, catalogue),
    )


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def fail_at_every_step(
    world: World,
    push: Callable[[], Awaitable[None]],
    check: Callable[[], Awaitable[None]],
    number: int,
    *,
    lasting: bool,
) -> set[str]:
    """Fail a push at its first step, its second and so on, until it goes through."""
    seen: set[str] = set()
    opened = 0
    for step in range(1, 100):
        with world.faults.at(step, number, lasting=lasting):
            try:
                await push()
            except RegistryError as error:
                row = error.row
            else:
                assert not world.faults.struck
                return seen
        assert row is world.faults.row, world.faults.struck
        assert world.faults.struck
        seen |= set(world.faults.struck)
        await check()
        assert await world.served(Digest.of(EARLIER)) == EARLIER
        await world.expire()
        assert (world.staged(), await world.catalogue.sessions()) == ([], [])
        opened = opened or descriptors()  # some are opened when they are first needed
        assert descriptors() == opened
    raise AssertionError("it never goes through")


every_fault = pytest.mark.parametrize(
    ("number", "lasting"),
    [
        (errno.ENOSPC, False),
        (errno.EDQUOT, False),
        (errno.EIO, False),
        (errno.ENOSPC, True),
        (errno.EIO, True),
    ],
    ids=["full", "quota", "broken", "full-for-long", "broken-for-long"],
)


@every_fault
@pytest.mark.parametrize("way", ["whole", "in_chunks"])
async def test_a_blob_that_cannot_be_stored(
    world: World, way: str, number: int, lasting: bool
) -> None:
    async def nothing_is_there() -> None:
        with refused(BLOB_UNKNOWN):
            await world.blobs.size(HERE, DIGEST)

    push = getattr(world, way)
    seen = await fail_at_every_step(world, push, nothing_is_there, number, lasting=lasting)
    assert {"open", "pwritev", "fdatasync", "fsync", "rename", "chmod", "commit"} <= seen
    assert await world.served(DIGEST) == CONTENT


@every_fault
async def test_a_manifest_that_cannot_be_stored(world: World, number: int, lasting: bool) -> None:
    async def nothing_is_there() -> None:
        for reference in ("latest", Digest.of(INDEX)):
            with refused(MANIFEST_UNKNOWN):
                await world.manifests.find(HERE, reference)

    push = world.manifest
    seen = await fail_at_every_step(world, push, nothing_is_there, number, lasting=lasting)
    assert {"open", "pwritev", "fsync", "rename", "chmod", "commit"} <= seen
    assert await world.manifests.content(await world.manifests.find(HERE, "latest")) == INDEX


@every_fault
async def test_a_blob_that_is_there_survives_that_it_cannot_be_stored_again(
    world: World, number: int, lasting: bool
) -> None:
    async def it_is_whole() -> None:
        assert await world.served(DIGEST) == CONTENT

    await world.whole()
    await fail_at_every_step(world, world.whole, it_is_whole, number, lasting=lasting)


@every_fault
async def test_a_session_goes_on_where_it_says_or_has_ended(
    world: World, number: int, lasting: bool
) -> None:
    for step in range(1, 100):
        session = await world.uploads.start(HERE, ALICE)
        await world.uploads.append(HERE, ALICE, session, Sent(CONTENT[:5000]))
        with world.faults.at(step, number, lasting=lasting):
            try:
                await world.uploads.commit(HERE, ALICE, session, DIGEST, Sent(CONTENT[5000:]))
            except RegistryError as error:
                row = error.row
            else:
                return
        assert row is world.faults.row, world.faults.struck
        if world.faults.struck == ["commit"] or (lasting and "commit" in world.faults.struck):
            with refused(BLOB_UPLOAD_UNKNOWN):
                await world.uploads.offset(HERE, ALICE, session)
            continue
        offset = await world.uploads.offset(HERE, ALICE, session)
        if world.faults.row is STORE_FULL and world.faults.struck == ["pwritev"]:
            assert offset == 5000  # nothing that was not answered takes up room
        await world.uploads.commit(HERE, ALICE, session, DIGEST, Sent(CONTENT[offset:]))
        assert await world.served(DIGEST) == CONTENT
    raise AssertionError("it never goes through")


async def test_what_could_not_be_removed_goes_later_and_what_is_on_its_way_stays(
    world: World,
) -> None:
    stray, young = world.root / "uploads" / "put-stray", world.root / "uploads" / "put-young"
    stray.write_bytes(CONTENT)
    young.write_bytes(CONTENT)
    os.utime(stray, (0, time.time() - 2 * DAY))
    session = await world.uploads.start(HERE, ALICE)
    with world.faults.at(1, errno.EIO, lasting=True):
        assert await world.uploads.expire(DAY) == 0
    assert stray.exists()
    assert await world.uploads.expire(DAY) == 0
    assert sorted(path.name for path in world.staged()) == sorted(["put-young", session])
