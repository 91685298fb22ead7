"""What only files have: modes, the order of their way to the disk, and all that disks do wrong."""

import errno
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from appliance import work
from appliance.oci.digest import Digest
from appliance.oci.errors import (
    BLOB_UNKNOWN,
    BLOB_UPLOAD_UNKNOWN,
    STORE_FULL,
    STORE_UNAVAILABLE,
    ErrorRow,
)
from appliance.storage import staged as module
from appliance.storage.files import FileStore
from tests.refused import refused

CONTENT = bytes(range(256)) * 40
DIGEST = Digest.of(CONTENT)
SESSION = "00000000-0000-4000-8000-000000000000"


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    found = FileStore(tmp_path)
    found.prepare()
    return found


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def staged_files(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "uploads").iterdir())


# --- where files lie, and who may read them


async def test_a_blob_lies_under_its_digest(store: FileStore, tmp_path: Path) -> None:
    await store.put(DIGEST, CONTENT)
    path = tmp_path / "blobs" / "sha256" / DIGEST.hex[:2] / DIGEST.hex
    assert store.path(DIGEST) == path
    assert path.read_bytes() == CONTENT
    assert staged_files(tmp_path) == []


async def test_a_blob_cannot_be_written_any_more(store: FileStore) -> None:
    await store.put(DIGEST, CONTENT)
    assert mode(store.path(DIGEST)) == 0o444


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
async def test_a_staged_file_is_its_owners_alone(
    store: FileStore, tmp_path: Path, umask: int
) -> None:
    before = os.umask(umask)
    try:
        await store.stage(SESSION, "sha256")
    finally:
        os.umask(before)
    assert mode(tmp_path / "uploads" / SESSION) == 0o600


def test_the_folders_are_their_owners_alone(store: FileStore, tmp_path: Path) -> None:
    for folder in ("uploads", "blobs/sha256", "blobs/sha512"):
        assert mode(tmp_path / folder) == 0o700


def test_preparing_twice_keeps_everything(store: FileStore, tmp_path: Path) -> None:
    (tmp_path / "uploads" / SESSION).write_bytes(CONTENT)
    store.prepare()
    assert (tmp_path / "uploads" / SESSION).read_bytes() == CONTENT


def test_preparing_makes_the_folder_itself(tmp_path: Path) -> None:
    FileStore(tmp_path / "a" / "b").prepare()
    assert (tmp_path / "a" / "b" / "uploads").is_dir()


def test_a_file_in_the_way_is_said_aloud(tmp_path: Path) -> None:
    (tmp_path / "uploads").write_bytes(b"")
    with pytest.raises(FileExistsError):
        FileStore(tmp_path).prepare()


# --- the way to the disk


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Record what is made durable and what is renamed, in order."""
    taken: list[tuple[str, str]] = []

    def record(name: str, subject: Callable[..., str]) -> None:
        original = getattr(os, name)

        def recorded(*args: object, **kwargs: object) -> object:
            taken.append((name, subject(*args)))
            return original(*args, **kwargs)

        monkeypatch.setattr(os, name, recorded)

    def file_of(descriptor: int) -> str:
        return Path(f"/proc/self/fd/{descriptor}").readlink().name

    record("fsync", file_of)
    record("fdatasync", file_of)
    record("chmod", lambda path, _: Path(path).name)
    record("rename", lambda _, target: Path(target).name)
    record("mkdir", lambda path, *_: Path(path).name)
    return taken


async def test_bytes_are_durable_before_the_name_and_the_name_before_the_answer(
    store: FileStore, steps: list[tuple[str, str]]
) -> None:
    staged = await store.stage(SESSION, "sha256")
    staged.append([CONTENT])
    steps.clear()
    await staged.publish(DIGEST)
    assert steps == [
        ("fsync", SESSION),
        ("rename", DIGEST.hex),
        ("chmod", DIGEST.hex),
        ("fsync", DIGEST.hex[:2]),
    ]


async def test_long_uploads_are_flushed_along_the_way(
    store: FileStore, steps: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FLUSH_EVERY", 1000)
    staged = await store.stage(SESSION, "sha256")
    for size, flushes in ((999, 0), (1, 1), (999, 1), (500, 2), (500, 2), (2000, 3)):
        staged.append([bytes(size)])
        assert steps.count(("fdatasync", SESSION)) == flushes
    await staged.truncate(0)
    staged.append([bytes(1000)])
    assert steps.count(("fdatasync", SESSION)) == 4


async def test_hashing_catches_up_in_steps(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CATCH_UP_STEP", 7)
    (await store.stage(SESSION, "sha256")).append([CONTENT[:100]])
    staged = await store.resume(SESSION, "sha256")
    assert await staged.digest("sha256") == Digest.of(CONTENT[:100])


# --- a full disk


class Disk:
    """Writes to files in this process; `room` bytes fit, then `fault` strikes until it is mended."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room: int | None = None
        self.fault = errno.ENOSPC
        self._pwritev = os.pwritev
        monkeypatch.setattr(os, "pwritev", self._write)

    def _write(self, descriptor: int, pieces: Sequence[bytes | memoryview], offset: int) -> int:
        if self.room is None:
            return self._pwritev(descriptor, pieces, offset)
        if not self.room:
            raise OSError(self.fault, os.strerror(self.fault))
        written = self._pwritev(descriptor, [b"".join(pieces)[: self.room]], offset)
        self.room -= written
        return written


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.mark.parametrize("room", [0, 1, 1000, 1999])
async def test_of_an_append_that_did_not_fit_no_byte_counts(
    store: FileStore, tmp_path: Path, disk: Disk, room: int
) -> None:
    staged = await store.stage(SESSION, "sha256")
    staged.append([CONTENT[:3000]])
    disk.room = room
    with refused(STORE_FULL):
        staged.append([CONTENT[3000:4000], CONTENT[4000:5000]])
    assert staged.size == 3000
    assert (tmp_path / "uploads" / SESSION).stat().st_size == 3000
    assert await staged.digest("sha256") == Digest.of(CONTENT[:3000])
    disk.room = None
    staged.append([CONTENT[3000:]])
    assert await staged.digest("sha256") == DIGEST
    await staged.publish(DIGEST)
    assert store.path(DIGEST).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("fault", "row"),
    [
        (errno.ENOSPC, STORE_FULL),
        (errno.EDQUOT, STORE_FULL),
        (errno.EIO, STORE_UNAVAILABLE),
        (errno.EROFS, STORE_UNAVAILABLE),
        (errno.EACCES, STORE_UNAVAILABLE),
    ],
)
async def test_a_whole_blob_that_cannot_be_written_leaves_nothing(
    store: FileStore, tmp_path: Path, disk: Disk, fault: int, row: ErrorRow
) -> None:
    disk.room, disk.fault = 100, fault
    with refused(row) as caught:
        await store.put(DIGEST, CONTENT)
    assert isinstance(caught.value.__cause__, OSError)
    assert staged_files(tmp_path) == []
    with refused(BLOB_UNKNOWN):
        async with store.open(DIGEST):
            pass


@pytest.mark.parametrize("size", [1, 7, 100, 101])
async def test_a_disk_that_writes_little_at_a_time_writes_all(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    pwritev, writes = os.pwritev, 0

    def write(descriptor: int, pieces: Sequence[bytes | memoryview], offset: int) -> int:
        nonlocal writes
        writes += 1
        return pwritev(descriptor, [b"".join(pieces)[:size]], offset)

    monkeypatch.setattr(os, "pwritev", write)
    content = CONTENT[:1000]
    staged = await store.stage(SESSION, "sha256")
    staged.append([b"", content[:1], content[1:101], b"", content[101:108], content[108:], b""])
    assert writes >= 1000 // size
    await staged.publish(Digest.of(content))
    assert store.path(Digest.of(content)).read_bytes() == content


async def test_a_flush_that_fails_fails_the_append(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(module, "_FLUSH_EVERY", 1000)
    staged = await store.stage(SESSION, "sha256")
    staged.append([CONTENT[:500]])
    with monkeypatch.context() as broken:
        broken.setattr(os, "fdatasync", fail)
        with refused(STORE_UNAVAILABLE):
            staged.append([CONTENT[500:2000]])
    assert staged.size == 500
    staged.append([CONTENT[500:]])
    assert await staged.digest("sha256") == DIGEST


@pytest.mark.parametrize("broken", ["fsync", "rename"])
async def test_a_blob_that_could_not_be_published_can_be_published_later(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    staged = await store.stage(SESSION, "sha256")
    staged.append([CONTENT])
    with monkeypatch.context() as patch:
        patch.setattr(os, broken, fail)
        with refused(STORE_FULL):
            await staged.publish(DIGEST)
    assert not store.path(DIGEST).exists()
    assert staged_files(tmp_path) == [SESSION]
    await staged.publish(DIGEST)
    assert store.path(DIGEST).read_bytes() == CONTENT


async def test_a_blob_that_could_not_be_published_still_takes_bytes(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    staged = await store.stage(SESSION, "sha256")
    staged.append([CONTENT[:5000]])
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", fail)
        with refused(STORE_FULL):
            await staged.publish(Digest.of(CONTENT[:5000]))
    assert mode(tmp_path / "uploads" / SESSION) & stat.S_IWUSR  # root may write regardless
    staged.append([CONTENT[5000:]])
    assert await staged.digest("sha256") == DIGEST


@pytest.mark.parametrize("flush", ["fsync", "fdatasync"])
async def test_what_could_not_be_flushed_is_read_back_before_it_counts(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flush: str
) -> None:
    def lose(descriptor: int) -> None:
        with (tmp_path / "uploads" / SESSION).open("r+b") as file:
            file.write(b"lost")  # what the disk had there before
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(module, "_FLUSH_EVERY", 1000)
    staged = await store.stage(SESSION, "sha256")
    staged.append([CONTENT[:900]])
    assert await staged.digest("sha256") == Digest.of(CONTENT[:900])
    with monkeypatch.context() as broken:
        broken.setattr(os, flush, lose)
        with refused(STORE_UNAVAILABLE):
            if flush == "fsync":
                await staged.publish(Digest.of(CONTENT[:900]))
            else:
                staged.append([CONTENT[900:1000]])
    assert await staged.digest("sha256") == Digest.of(b"lost" + CONTENT[4:900])


@pytest.mark.parametrize("broken", ["chmod", "fsync"])
async def test_a_blob_that_has_its_name_and_could_not_be_settled_can_be_published_again(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    original = getattr(os, broken)

    def fail(subject: object, *args: object, **kwargs: object) -> None:
        if store.path(DIGEST).exists():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        original(subject, *args, **kwargs)

    staged = await store.stage(SESSION, "sha256")
    staged.append([CONTENT])
    with monkeypatch.context() as patch:
        patch.setattr(os, broken, fail)
        with refused(STORE_UNAVAILABLE):
            await staged.publish(DIGEST)
    await staged.publish(DIGEST)
    assert (store.path(DIGEST).read_bytes(), mode(store.path(DIGEST))) == (CONTENT, 0o444)
    with refused(BLOB_UPLOAD_UNKNOWN):
        await staged.publish(Digest.of(b"other"))
    await staged.discard()
    assert store.path(DIGEST).exists()


# --- files that change under our hands


def cut(path: Path, size: int) -> None:
    path.chmod(0o600)
    os.truncate(path, size)


@pytest.mark.parametrize("size", [0, 1, 5000])
async def test_a_blob_that_became_shorter_is_never_sent_short(store: FileStore, size: int) -> None:
    await store.put(DIGEST, CONTENT)
    async with store.open(DIGEST) as region:
        cut(store.path(DIGEST), size)
        assert await region.read(0, size) == CONTENT[:size]
        with refused(STORE_UNAVAILABLE, "shorter than it was"):
            await region.read(0, len(CONTENT))
        with refused(STORE_UNAVAILABLE, "shorter than it was"):
            await region.read(len(CONTENT) - 1, 1)


async def test_a_blob_that_is_removed_can_be_read_to_its_end(store: FileStore) -> None:
    await store.put(DIGEST, CONTENT)
    async with store.open(DIGEST) as region:
        store.path(DIGEST).unlink()
        assert await region.read(0, region.size) == CONTENT
    with refused(BLOB_UNKNOWN):
        async with store.open(DIGEST):
            pass


async def test_a_staged_file_that_became_shorter_is_noticed(
    store: FileStore, tmp_path: Path
) -> None:
    (await store.stage(SESSION, "sha256")).append([CONTENT])
    staged = await store.resume(SESSION, "sha256")
    os.truncate(tmp_path / "uploads" / SESSION, 100)
    with refused(STORE_UNAVAILABLE):
        await staged.digest("sha256")


async def test_a_staged_file_that_is_gone_is_an_unknown_upload(
    store: FileStore, tmp_path: Path
) -> None:
    (await store.stage(SESSION, "sha256")).append([CONTENT])
    staged = await store.resume(SESSION, "sha256")
    (tmp_path / "uploads" / SESSION).unlink()
    for verb in (
        lambda: work.disk(staged.append, [b"x"]),
        lambda: staged.truncate(0),
        lambda: staged.digest("sha256"),
        lambda: staged.publish(DIGEST),
    ):
        with refused(BLOB_UPLOAD_UNKNOWN):
            await verb()


async def test_two_uploads_never_share_a_file(store: FileStore, tmp_path: Path) -> None:
    staged = await store.stage(SESSION, "sha256")
    staged.append([CONTENT])
    with refused(STORE_UNAVAILABLE):
        await store.stage(SESSION, "sha256")
    assert (tmp_path / "uploads" / SESSION).read_bytes() == CONTENT


async def test_a_store_that_has_lost_its_folder_says_so(store: FileStore, tmp_path: Path) -> None:
    (tmp_path / "uploads").rmdir()
    for verb in (
        store.check_writable,
        store.staged,
        lambda: store.stage(SESSION, "sha256"),
        lambda: store.put(DIGEST, CONTENT),
    ):
        with refused(STORE_UNAVAILABLE):
            await verb()


async def test_a_store_that_is_full_says_so(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(path: Path, content: bytes) -> int:
        with Path("/dev/full").open("wb", buffering=0) as file:
            return file.write(content)

    monkeypatch.setattr(Path, "write_bytes", write)
    with refused(STORE_FULL):
        await store.check_writable()
    assert staged_files(tmp_path) == []


# --- descriptors


def descriptors() -> list[str]:
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


async def test_no_descriptor_stays_open(
    store: FileStore, tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def everything() -> None:
        staged = await store.stage(SESSION, "sha256")
        staged.append([CONTENT])
        await (await store.resume(SESSION, "sha256")).digest("sha512")
        await staged.truncate(5000)
        disk.room = 10
        with refused(STORE_FULL):
            staged.append([CONTENT])
        disk.room = None
        await staged.digest("sha256")
        await staged.publish(Digest.of(CONTENT[:5000]))
        await store.put(DIGEST, CONTENT)
        async with store.open(DIGEST) as region:
            await region.read(0, 10)
        with pytest.raises(ZeroDivisionError):
            async with store.open(DIGEST):
                raise ZeroDivisionError
        with refused(BLOB_UNKNOWN):
            async with store.open(Digest.of(b"")):
                pass
        with refused(BLOB_UPLOAD_UNKNOWN):
            staged.append([b"x"])
        await store.check_writable()
        await store.staged()
        store.prepare()

    await everything()
    before = descriptors()
    await everything()
    assert descriptors() == before
