"""A disk that fails now and then under a daemon that runs: in the calls of SQLite, too.

strace makes system calls fail. Whatever is answered with a success holds, whatever fails has changed
nothing and can be asked for again at once, and after a kill everything is as it was answered.
(What each step of our own does when it fails is in tests/registry/test_faults.py.)
"""

import json
import random
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.soak.recording import Settings, Watched
from tests.soak.replay import Disk
from tests.system import daemon, images
from tests.system.daemon import Daemon
from tests.system.tools import eventually
from tests.system.wire import Answer, Client, digest_of

HERE, THERE = "here/app", "there/app"
_ROUNDS = 6
_ATTEMPTS = 12
_SETTINGS: Settings = {
    "tls": {"mode": "off"},
    "gc": {"grace": "1ms", "lease": "1ms", "quarantine": "1ms"},
}


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Daemon]:
    with daemon.running(tmp_path, settings=_SETTINGS) as running:
        yield running


@contextmanager
def failing(registry: Daemon, call: str, error: str, when: str, *paths: Path) -> Iterator[Path]:
    """Let those of the daemon's system calls fail that `when` says (of files, if any); a log of all."""
    log = registry.folder / "strace"
    tasks = Path(f"/proc/{registry.pid}/task")
    argv: list[str | Path] = [
        "strace",
        "-f",
        "-o",
        log,
        "-p",
        str(registry.pid),
        "-e",
        f"trace={call}",
    ]
    argv += ["-e", f"inject={call}:error={error}:when={when}"]
    for path in paths:
        argv += ["-P", path]
    tracer = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
    try:
        eventually(
            lambda: all(
                "TracerPid:\t0" not in (task / "status").read_text() for task in tasks.iterdir()
            ),
            within=10,
            what="strace watches every thread",
        )
        yield log
    finally:
        tracer.terminate()
        tracer.wait(10)


class Insistent:
    """A client that asks again when it is told that the disk has failed; how often it had to."""

    def __init__(self, registry: Daemon) -> None:
        self.client: Client = registry.client()
        self.failures = 0
        self._registry = registry

    def until(
        self, status: int, asking: Callable[[], Answer], unchanged: Callable[[], None]
    ) -> None:
        """Ask until that is answered; all before that are failures, and change nothing."""
        for _ in range(_ATTEMPTS):
            answer = asking()
            if answer.status == status:
                return
            assert answer.status in {503, 507}, answer
            (error,) = json.loads(answer.body)["errors"]
            assert error["message"].startswith("the registry"), error
            self.failures += 1
            unchanged()
        raise AssertionError("it never goes through")

    def is_blob(self, repository: str, data: bytes, *, there: bool) -> Callable[[], None]:
        def check() -> None:
            answer = self.client.get_blob(repository, digest_of(data))
            if there:
                assert answer.expect(200).body == data
            else:
                answer.expect(404)

        return check

    def is_tag(self, manifest: bytes, *, there: bool) -> Callable[[], None]:
        def check() -> None:
            answer = self.client.get_manifest(HERE, "latest")
            assert (answer.status == 200 and answer.body == manifest) is there

        return check

    def push_whole(self, data: bytes) -> None:
        target = f"/v2/{HERE}/blobs/uploads/?digest={digest_of(data)}"
        absent = self.is_blob(HERE, data, there=False)
        self.until(201, lambda: self.client.request("POST", target, data), absent)
        self.is_blob(HERE, data, there=True)()

    def push_in_chunks(self, data: bytes) -> None:
        def push() -> Answer:
            answer = self.client.request("POST", f"/v2/{HERE}/blobs/uploads/")
            for part in (data[:1000], data[1000:]):
                if answer.status == 202:
                    answer = self.client.request("PATCH", answer.location(), part)
            if answer.status == 202:
                answer = self.client.finish_upload(answer.location(), digest_of(data))
            return answer

        self.until(201, push, self.is_blob(HERE, data, there=False))
        self.is_blob(HERE, data, there=True)()

    def mount(self, data: bytes) -> None:
        target = f"/v2/{THERE}/blobs/uploads/?mount={digest_of(data)}&from={HERE}"
        absent = self.is_blob(THERE, data, there=False)
        self.until(201, lambda: self.client.request("POST", target), absent)
        self.is_blob(THERE, data, there=True)()

    def tag(self, manifest: bytes) -> None:
        absent = self.is_tag(manifest, there=False)
        self.until(201, lambda: self.client.put_manifest(HERE, "latest", manifest), absent)
        self.is_tag(manifest, there=True)()

    def untag(self, manifest: bytes) -> None:
        target = f"/v2/{HERE}/manifests/latest"
        there = self.is_tag(manifest, there=True)
        self.until(202, lambda: self.client.request("DELETE", target), there)
        self.is_tag(manifest, there=False)()

    def delete(self, repository: str, data: bytes) -> None:
        target = f"/v2/{repository}/blobs/{digest_of(data)}"
        there = self.is_blob(repository, data, there=True)
        self.until(202, lambda: self.client.request("DELETE", target), there)
        self.is_blob(repository, data, there=False)()

    def sweep(self) -> None:
        for _ in range(_ATTEMPTS):
            done = self._registry.command("gc")
            if done.returncode == 0:
                return
            assert "Traceback" not in done.stderr
            self.failures += 1
        raise AssertionError("it never goes through")


def manifest(*layers: bytes, number: int) -> bytes:
    def descriptor(data: bytes) -> dict[str, object]:
        kind = "application/vnd.oci.image.layer.v1.tar"
        return {"mediaType": kind, "digest": digest_of(data), "size": len(data)}

    config, *rest = map(descriptor, layers)
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config,
            "layers": rest,
            "annotations": {"number": str(number)},
        }
    ).encode()


_CATALOGUE = ("catalogue.sqlite3", "catalogue.sqlite3-wal")


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
@pytest.mark.parametrize(
    ("call", "when", "files"),
    [
        ("pwrite64", "1+83", _CATALOGUE),
        ("pwrite64", "3+97", _CATALOGUE),
        ("fdatasync", "1+5", _CATALOGUE),
        ("fdatasync", "2+7", _CATALOGUE),
        ("pwritev,pwritev2", "1+5", ()),
        ("fsync", "1+3", ()),
        ("rename", "1..9+2", ()),
        ("chmod", "1+2", ()),
        ("unlink", "1..9+2", ()),
    ],
)
def test_what_fails_now_and_then_goes_through_when_asked_again(
    registry: Daemon, error: str, call: str, when: str, files: tuple[str, ...]
) -> None:
    asker = Insistent(registry)
    kept: dict[bytes, tuple[bytes, bytes]] = {}
    asker.push_whole(b"{}")
    with failing(registry, call, error, when, *(registry.storage / file for file in files)) as log:
        for number in range(_ROUNDS):
            whole, chunks, mounted = (
                images.noise(3000, f"{number} {manner}") for manner in ("whole", "chunks", "mount")
            )
            asker.push_whole(whole)
            asker.push_in_chunks(chunks)
            asker.push_whole(mounted)
            asker.mount(mounted)
            image = manifest(whole, chunks, number=number)
            asker.tag(image)
            if number % 2:
                asker.untag(image)
            asker.delete(HERE, mounted)
            kept[image] = (whole, chunks)
        asker.sweep()
        injected = log.read_text().count("(INJECTED)")
    assert injected
    print(f"{injected} calls failed, and {asker.failures} requests")

    def assert_everything_is_there() -> None:
        for image, layers in kept.items():
            asker.client.get_manifest(HERE, digest_of(image)).expect(200)
            for layer in layers:
                asker.is_blob(HERE, layer, there=True)()

    assert_everything_is_there()
    needed = {digest_of(content) for image, layers in kept.items() for content in (image, *layers)}

    def nothing_else_is_left() -> bool:
        asker.sweep()
        return needed == {f"sha256:{path.name}" for path in registry.blobs()}

    eventually(nothing_else_is_left, within=20, what="what nobody needs leaves the disk")
    assert_everything_is_there()
    asker.push_whole(b"life goes on")
    asker.client.request("GET", "/readyz").expect(200)
    registry.kill()
    registry.start()
    assert_everything_is_there()
    assert "Traceback" not in registry.log()


_DEAF = """
import os
sync = os.fsync
def fsync(file):
    try:
        sync(file)
    except OSError:
        pass
os.fsync = fsync
"""


def pushed_while_syncs_fail(folder: Path, careless: str, faults: str) -> None:
    """Push while syncs fail, cut the power after the last answer, and look for all of it."""
    registry = folder / "registry"
    (registry / "data").mkdir(parents=True)
    watched = Watched(
        registry, folder / "trace", careless, _SETTINGS, registry / "data", faults=faults
    )
    kept = {}
    try:
        watched.start()
        asker = Insistent(watched)
        for number in range(20):
            layers = [images.noise(3000, f"{number} {manner}") for manner in ("whole", "chunks")]
            asker.push_whole(layers[0])
            asker.push_in_chunks(layers[1])
            asker.mount(layers[0])
            image = manifest(*layers, number=number)
            asker.tag(image)
            kept[image] = layers
        steps = watched.end()
    finally:
        watched.kill()
    last = max(position for position, step in enumerate(steps) if step.call.answers())
    disk = Disk(watched.storage)
    failed = 0
    for step in steps[:last]:
        disk.take(step)
        failed += step.ends and step.call.name in {"fsync", "fdatasync"} and step.call.result < 0
    assert failed > 5
    after = Daemon(folder, settings=_SETTINGS)
    disk.rebuild(after.storage, "promised", random.Random(0))  # noqa: S311 - by that rule none is left to it
    try:
        after.start()
        found = Insistent(after)
        for image, layers in kept.items():
            answer = found.client.get_manifest(HERE, digest_of(image))
            assert answer.status == 200, "a manifest is lost"
            for layer in layers:
                assert found.client.get_blob(HERE, digest_of(layer)).status == 200, "a blob is lost"
            found.is_blob(THERE, layers[0], there=True)()
    finally:
        after.kill()


# Every thread counts for itself; the first calls are those of the start.
@pytest.mark.parametrize(
    "faults", ["fdatasync:error=EIO:when=30+5", "fsync,fdatasync:error=EIO:when=30+7"]
)
def test_what_is_acknowledged_after_a_failed_sync_is_durable(tmp_path: Path, faults: str) -> None:
    pushed_while_syncs_fail(tmp_path, "", faults)


def test_a_daemon_that_does_not_hear_of_failed_syncs_is_found_out(tmp_path: Path) -> None:
    with pytest.raises((AssertionError, OSError), match=r"lost|without response|reset"):
        pushed_while_syncs_fail(tmp_path, _DEAF, "fsync:error=EIO:when=10+3")
