"""`registry backup`, `restore` and `rebuild` as an operator runs them, under everybody's feet."""

import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import pytest

from appliance.catalogue.integrity import SMALL
from tests.bench import worlds
from tests.system import images
from tests.system.daemon import Daemon, running
from tests.system.tools import eventually, run
from tests.system.wire import Client, digest_of
from tests.unprivileged import NOBODY

# What is idle is garbage at once, and leaves the disk at once.
_AT_ONCE = {"gc": {"grace": "1ms", "lease": "1ms", "quarantine": "1ms"}}

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root runs things as others")


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Daemon]:
    with running(tmp_path / "one", settings=_AT_ONCE) as found:
        yield found


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Daemon]:
    """A machine on which nothing has been started yet."""
    folder = tmp_path / "other"
    folder.mkdir()
    daemon = Daemon(folder)
    try:
        yield daemon
    finally:
        daemon.kill()


def told(registry: Daemon, *words: str | Path) -> list[str]:
    ran = registry.command(*map(str, words))
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout.splitlines()


def sentence(registry: Daemon, *words: str | Path, status: int = 2) -> str:
    ran = registry.command(*map(str, words))
    assert (ran.returncode, ran.stderr.count("\n")) == (status, 1), ran
    return ran.stderr


def push(registry: Daemon, folder: Path, tag: str) -> str:
    layout = images.layout_of(folder / f"layout-{tag}", [images.noise(1 << 16, tag)])
    return registry.client().push_layout("app", tag, layout)


def everything(client: Client) -> dict[str, str]:
    """Every tag with its digest; every image was pulled, and each of its bytes is right."""
    found = {}
    for name in client.request("GET", "/v2/_catalog?n=1000").expect(200).json()["repositories"]:
        for tag in client.request("GET", f"/v2/{name}/tags/list").expect(200).json()["tags"]:
            parts = client.pull_image(name, tag)
            found[f"{name}:{tag}"] = next(iter(parts))
    return found


class Storm:
    """Clients that push, tag and delete for as long as the context lasts, and a sweep at times."""

    def __init__(self, registry: Daemon) -> None:
        self._registry = registry
        self._stop = threading.Event()
        self.failures: list[BaseException] = []
        self.pushes = 0
        self._threads = [
            *(threading.Thread(target=self._do, args=(partial(self._push, n),)) for n in range(4)),
            threading.Thread(target=self._do, args=(self._sweep,)),
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _do(self, turn: Callable[[int], None]) -> None:
        try:
            for number in count():
                if self._stop.is_set():
                    return
                turn(number)
        except BaseException as error:  # noqa: BLE001  the test tells of it
            self.failures.append(error)

    def _push(self, number: int, turn: int) -> None:
        chance = random.Random(f"{number} {turn}")  # noqa: S311
        client, name = self._registry.client(), f"storm/{number}"
        layers = [images.noise(30_000, f"{number}-{chance.randrange(40)}") for _ in range(2)]
        config = json.dumps({"turn": turn, "client": number}).encode()
        for blob in (config, *layers):
            client.push_blob(name, blob)
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _described(config),
            "layers": [_described(layer) for layer in layers],
        }
        content = json.dumps(manifest).encode()
        answer = client.put_manifest(name, f"t{chance.randrange(6)}", content)
        # A sweep may be quicker than the client: with a lease of a millisecond that is its right.
        assert answer.status == 201 or answer.json()["errors"][0]["code"] == "MANIFEST_BLOB_UNKNOWN"
        self.pushes += answer.status == 201
        if chance.random() < 0.3:
            client.request("DELETE", f"/v2/{name}/manifests/{digest_of(content)}")

    def _sweep(self, turn: int) -> None:
        del turn
        assert self._registry.command("gc").returncode == 0
        time.sleep(0.2)


def _described(content: bytes) -> dict[str, object]:
    return {
        "mediaType": "application/vnd.example",
        "digest": digest_of(content),
        "size": len(content),
    }


@pytest.mark.parametrize("kind", ["folder", "elsewhere", "file"])
def test_a_backup_under_a_storm_of_pushes_restores_to_whole_images(
    registry: Daemon, other: Daemon, tmp_path: Path, kind: str
) -> None:
    with TemporaryDirectory(dir="/dev/shm") as far:
        target = {
            "folder": tmp_path / "backup",
            "elsewhere": Path(far) / "backup",
            "file": tmp_path / "backup.tar.zst",
        }[kind]
        with Storm(registry) as storm:
            eventually(lambda: storm.pushes > 20, within=60, what="there is something")
            for _ in range(3):
                before = storm.pushes
                told(registry, "backup", target)
                eventually(lambda: storm.pushes > before, within=60, what="pushes go on")  # noqa: B023
        assert storm.failures == []
        told(other, "restore", target)
    other.start()
    found = everything(other.client())
    assert len(found) > 10
    assert other.command("check").returncode == 0
    # Another one, now that nothing moves, is the registry as it is.
    again = tmp_path / "again"
    told(registry, "backup", again)
    other.stop()
    shutil.rmtree(other.storage)
    told(other, "restore", again)
    other.start()
    assert everything(other.client()) == everything(registry.client())


def test_a_backup_that_is_killed_leaves_the_one_before(
    registry: Daemon, other: Daemon, tmp_path: Path
) -> None:
    chance = random.Random(7)  # noqa: S311
    target = tmp_path / "backup"
    for number in range(8):
        push(registry, tmp_path, f"base{number}")
    told(registry, "backup", target)
    started = time.monotonic()
    told(registry, "backup", target)
    whole = time.monotonic() - started
    known = [everything(registry.client())]
    interrupted = 0
    for attempt in range(6):
        push(registry, tmp_path, f"more{attempt}")
        registry.client().request("DELETE", f"/v2/app/manifests/base{attempt}").expect(202)
        known.append(everything(registry.client()))
        process = subprocess.Popen(
            [sys.executable, "-m", "appliance", "backup", target, "--settings", registry.settings],
            stdout=subprocess.DEVNULL,
        )
        with suppress(subprocess.TimeoutExpired):
            process.wait(whole * (0.4 + 0.6 * chance.random()))
        process.send_signal(signal.SIGKILL)
        interrupted += process.wait() == -signal.SIGKILL
        told(registry, "gc")
        told(other, "restore", target)
        other.start()
        assert everything(other.client()) in known
        other.stop()
        shutil.rmtree(other.storage)
    assert interrupted
    told(registry, "backup", target)
    assert {path.name for path in (target / "blobs").rglob("*") if path.is_file()} == {
        path.name for path in registry.blobs()
    }
    assert not list(target.rglob(".*"))


def test_a_restore_that_is_killed_is_not_served_and_goes_on(
    registry: Daemon, other: Daemon, tmp_path: Path
) -> None:
    for number in range(30):
        push(registry, tmp_path, str(number))
    told(registry, "backup", tmp_path / "backup")
    words = [sys.executable, "-m", "appliance", "restore", str(tmp_path / "backup")]
    marker, interrupted = other.storage / "restoring", 0
    for delay in (0.0, 0.02, 0.05, 0.1, 0.2):
        process = subprocess.Popen([*words, "--settings", other.settings])
        eventually(marker.exists, within=30, what="it has begun")
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if not marker.exists():  # it was quicker
            shutil.rmtree(other.storage)
            break
        _check_refused(other, tmp_path / "backup")
        interrupted += 1
    assert interrupted
    told(other, "restore", tmp_path / "backup")
    other.start()
    assert everything(other.client()) == everything(registry.client())


def _check_refused(registry: Daemon, place: Path) -> None:
    for verb in ("serve", "check", "ls"):
        refused = registry.command(verb)
        assert refused.returncode == 2
        assert f"is restored by half; go on with registry restore {place}" in refused.stderr


def test_the_certificates_come_back_so_that_clients_go_on(
    registry: Daemon, other: Daemon, tmp_path: Path
) -> None:
    push(registry, tmp_path, "1")
    told(registry, "backup", tmp_path / "backup")
    lines = told(other, "restore", tmp_path / "backup")
    assert f"Its passwords are in {tmp_path}/backup/etc/registry.htpasswd" in lines[1]
    other.start()
    assert other.ca.read_bytes() == registry.ca.read_bytes()
    other.ca = registry.ca
    other.client().pull_image("app", "1")


@contextmanager
def somebody_elses(folder: Path) -> Iterator[Daemon]:
    """A registry that runs as a user of its own, while its commands are root's."""
    folder.mkdir()
    folder.chmod(0o755)
    daemon = Daemon(folder, settings=_AT_ONCE)
    daemon.storage.mkdir(mode=0o700)
    for path in (daemon.storage, daemon.htpasswd, daemon.settings):
        os.chown(path, NOBODY, NOBODY)
    start = daemon._program

    def program() -> list[str]:
        words = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *start()]
        return words if sys._getframe(1).f_code.co_name == "start" else start()

    daemon._program = program  # type: ignore[method-assign]
    try:
        daemon.start()
        yield daemon
        if daemon.running:
            daemon.stop()
    finally:
        daemon.kill()


def owners(folder: Path) -> set[int]:
    return {path.lstat().st_uid for path in (folder, *folder.rglob("*"))}


@needs_root
@pytest.mark.parametrize("alive", [True, False], ids=["running", "stopped"])
def test_root_saves_and_restores_a_registry_of_somebody_else(tmp_path: Path, alive: bool) -> None:
    with TemporaryDirectory(dir="/tmp") as place:
        Path(place).chmod(0o755)
        with somebody_elses(Path(place) / "one") as registry:
            push(registry, tmp_path, "1")
            expected = everything(registry.client())
            if not alive:
                registry.stop()
            before = {
                path: (path.stat().st_ino, path.stat().st_mode, path.stat().st_uid)
                for path in registry.blobs()
            }
            for target in (tmp_path / "backup", tmp_path / "backup", tmp_path / "b.tar.zst"):
                told(registry, "backup", target)
            assert owners(registry.storage) == {NOBODY}
            assert owners(tmp_path / "backup" / "tls") == {0, NOBODY}
            assert before == {
                path: (path.stat().st_ino, path.stat().st_mode, path.stat().st_uid)
                for path in registry.blobs()
            }
            if alive:
                registry.stop()
            for target in (tmp_path / "backup", tmp_path / "b.tar.zst"):
                shutil.rmtree(registry.storage)
                registry.storage.mkdir(mode=0o700)
                os.chown(registry.storage, NOBODY, NOBODY)
                told(registry, "restore", target)
                assert owners(registry.storage) == {NOBODY}
                registry.start()
                assert everything(registry.client()) == expected
                registry.stop()
            for path in registry.storage.glob("catalogue.*"):
                path.unlink()
            told(registry, "rebuild", "--from", tmp_path / "backup")
            assert owners(registry.storage) == {NOBODY}
            registry.start()
            assert everything(registry.client()) == expected


def test_a_start_without_its_catalogue_is_refused_until_it_is_made_anew(
    registry: Daemon, tmp_path: Path
) -> None:
    push(registry, tmp_path, "1")
    expected = everything(registry.client())
    registry.stop()
    catalogue = registry.storage / "catalogue.sqlite3"
    with catalogue.open("r+b") as file:
        file.seek(4096 * 2)
        file.write(b"\xff" * 4096 * 3)
    for verb in ("serve", "check", "ls", "gc"):
        refused = registry.command(verb)
        assert refused.returncode == 2
        assert f"{catalogue} is damaged (" in refused.stderr
        assert "registry restore DIR" in refused.stderr
        assert "registry rebuild" in refused.stderr
    catalogue.unlink()
    for verb in ("serve", "check", "ls", "gc"):
        refused = registry.command(verb)
        assert refused.returncode == 2
        assert f"{catalogue} is missing, though" in refused.stderr
    lines = told(registry, "rebuild")
    assert "manifests in recovered   1" in lines
    registry.start()
    assert registry.command("ls").stdout == "recovered\n"
    registry.client().pull_image("recovered", expected["app:1"])


def test_a_large_catalogue_that_is_damaged_is_told_of_while_it_is_served(tmp_path: Path) -> None:
    registry = Daemon(tmp_path)
    worlds.make_littered(registry.storage, worlds.littered(230_000, 0))
    catalogue = registry.storage / "catalogue.sqlite3"
    assert catalogue.stat().st_size > SMALL
    content = bytearray(catalogue.read_bytes())
    content[content.index(b"sha256:") + 20] ^= 1
    catalogue.write_bytes(content)
    registry._ready = lambda: _answers(registry, "/healthz") == 200  # type: ignore[method-assign]
    try:
        registry.start()
        eventually(
            lambda: _answers(registry, "/readyz") == 503, within=30, what="it has been looked at"
        )
        told_of = registry.client(login=None).request("GET", "/readyz").body.decode()
        assert f"{catalogue} is damaged (page " in told_of
        eventually(lambda: "catalogue damaged" in registry.log(), within=10, what="it is logged")
        assert registry.client().request("GET", "/v2/_catalog").status == 200
        registry.stop()
    finally:
        registry.kill()
    assert not (registry.storage / "snapshots").exists()


def _answers(registry: Daemon, target: str) -> int:
    try:
        return registry.client(login=None).request("GET", target).status
    except OSError:
        return 0


def test_today_has_a_snapshot_from_which_a_catalogue_is_made(
    registry: Daemon, tmp_path: Path
) -> None:
    push(registry, tmp_path, "1")
    expected = everything(registry.client())
    folder = registry.storage / "snapshots"
    eventually(
        lambda: folder.exists() and any(folder.glob("catalogue-*.sqlite3")),
        within=60,
        what="a snapshot of today is there",
    )
    (taken,) = folder.glob("catalogue-*.sqlite3")
    assert stat.S_IMODE(taken.stat().st_mode) == 0o600
    later = push(registry, tmp_path, "2")
    registry.stop()
    for path in registry.storage.glob("catalogue.*"):
        path.unlink()
    lines = told(registry, "rebuild")
    assert f"begun with               {taken}" in lines
    assert f"recovered@{later} is an image or artifact whose repository nobody knows." in lines
    registry.start()
    assert everything(registry.client()) == expected
    registry.client().pull_image("recovered", later)


def test_what_cannot_be_is_told_in_a_sentence(
    registry: Daemon, other: Daemon, tmp_path: Path
) -> None:
    push(registry, tmp_path, "1")
    assert "lie in one another" in sentence(registry, "backup", registry.storage / "backup")
    assert "neither empty nor a backup" in sentence(registry, "backup", other.folder)
    assert "there is no registry in" in sentence(other, "backup", tmp_path / "backup")
    told(registry, "backup", tmp_path / "backup")
    assert "in use by a registry" in sentence(registry, "restore", tmp_path / "backup")
    assert "in use by a registry" in sentence(registry, "rebuild")
    assert "is no backup" in sentence(other, "restore", tmp_path)
    registry.blob_path(digest_of(b"none")).unlink(missing_ok=True)
    lost = max(registry.blobs(), key=lambda path: path.stat().st_size)
    lost.unlink()
    shutil.rmtree(tmp_path / "backup")
    line = sentence(registry, "backup", tmp_path / "backup", status=1)
    assert f"sha256:{lost.name} is not in the backup as it should be: its file is missing" in line
    assert "needed by app:1" in line
    registry.stop()
    assert "is there; to have the backup in its place" in sentence(
        registry, "restore", tmp_path / "backup"
    )
    assert "is whole, and there is nothing to make anew" in sentence(registry, "rebuild")
    assert "needed by app:1" in sentence(other, "restore", tmp_path / "backup", status=1)


@needs_root
def test_a_disk_of_its_own_takes_a_backup(registry: Daemon, tmp_path: Path) -> None:
    push(registry, tmp_path, "1")
    disk, mounted = tmp_path / "disk", tmp_path / "mounted"
    with disk.open("wb") as file:
        file.truncate(64 << 20)
    mounted.mkdir()
    run("mkfs.ext4", "-q", disk)
    run("mount", "-o", "loop", disk, mounted)
    try:
        told(registry, "backup", mounted)  # there is lost+found in it
        for path in registry.blobs():
            copied = mounted / path.relative_to(registry.storage)
            assert copied.read_bytes() == path.read_bytes()
            assert stat.S_IMODE(copied.stat().st_mode) == 0o444
    finally:
        run("umount", mounted)
