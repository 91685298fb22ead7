"""`registry gc`: what nobody needs goes, from a registry that runs and from one that is stopped."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system import daemon, images
from tests.system.daemon import Daemon
from tests.system.tools import eventually
from tests.system.wire import digest_of

# Nothing waits for anything: what is idle now is garbage.
_AT_ONCE = {"gc": {"grace": "1ms", "lease": "1ms", "quarantine": "1ms"}}


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Daemon]:
    with daemon.running(tmp_path, settings=_AT_ONCE) as running:
        yield running


def swept(registry: Daemon, *words: str) -> str:
    ran = registry.command("gc", *words)
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


@pytest.mark.parametrize("alive", [True, False], ids=["running", "stopped"])
def test_what_nobody_needs_leaves_the_disk_and_the_rest_stays(
    registry: Daemon, tmp_path: Path, alive: bool
) -> None:
    client = registry.client()
    kept = images.layout_of(tmp_path / "kept", [images.noise(1 << 16, "kept")])
    client.push_layout("app", "latest", kept)
    old = images.layout_of(tmp_path / "old", [images.noise(1 << 16, "old")])
    top = client.push_layout("app", "old", old)
    client.request("DELETE", f"/v2/app/manifests/{top}").expect(202)
    lost = images.noise(1 << 20, "lost")
    client.push_blob("app", lost)
    if not alive:
        registry.stop()
    assert "would go" in swept(registry, "--dry-run")
    assert registry.blob_path(digest_of(lost)).exists()

    def gone() -> bool:
        swept(registry)
        return not registry.blob_path(digest_of(lost)).exists()

    eventually(gone, within=30, what="the blob is gone")
    eventually(
        lambda: bool(swept(registry)) and not list((registry.storage / "quarantine").iterdir()),
        within=30,
        what="the quarantine is empty",
    )
    if not alive:
        registry.start()
    assert client.request("HEAD", f"/v2/app/blobs/{digest_of(lost)}").status == 404
    image = client.pull_image("app", "latest")
    assert {digest_of(path.read_bytes()) for path in registry.blobs()} == set(image)


def test_a_registry_sweeps_by_itself(tmp_path: Path) -> None:
    settings = {"gc": {**_AT_ONCE["gc"], "every": "200ms"}}
    with daemon.running(tmp_path, settings=settings) as registry:
        digest = registry.client().push_blob("app", b"nobody needs this")
        eventually(
            lambda: not registry.blob_path(digest).exists(), within=30, what="the blob is gone"
        )
        eventually(lambda: '"swept"' in registry.log(), within=10, what="the log tells of it")


def test_with_the_usual_settings_nothing_goes_that_came_today(tmp_path: Path) -> None:
    with daemon.running(tmp_path) as registry:
        digest = registry.client().push_blob("app", b"nobody needs this yet")
        assert swept(registry).startswith("0 manifests and 0 links went; 0 blobs of 0 B")
        registry.stop()
        assert swept(registry).startswith("0 manifests and 0 links went; 0 blobs of 0 B")
        assert registry.blob_path(digest).exists()
