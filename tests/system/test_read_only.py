"""A data folder that cannot be written: said in one sentence at the start, survived while running."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.system import daemon, images
from tests.system.daemon import Daemon
from tests.system.tools import eventually, run

# In a mount namespace of its own, which goes with the process: nothing is left to unmount.
_PRIVATE = ("unshare", "--mount", "--propagation", "private", "sh", "-euc")


def read_only(folder: Path) -> tuple[str, ...]:
    """Put before a command, shows it a folder that cannot be written."""
    place = shlex.quote(str(folder))
    script = f'mount --bind {place} {place}; mount -o remount,bind,ro {place}; exec "$@"'
    return (*_PRIVATE, script, "sh")


def on_disk(image: Path, folder: Path) -> tuple[str, ...]:
    """Put before a command, shows it a disk that turns read-only at the first fault."""
    mount = f"mount -o loop,errors=remount-ro {shlex.quote(str(image))} {shlex.quote(str(folder))}"
    return (*_PRIVATE, f'{mount}; exec "$@"', "sh")


@pytest.mark.parametrize("verb", ["serve", "check"])
@pytest.mark.parametrize("used", [False, True])
def test_a_data_folder_that_cannot_be_written_is_said_in_a_sentence(
    tmp_path: Path, verb: str, used: bool
) -> None:
    folder = tmp_path / "registry"
    if used:
        with daemon.running(folder, keep=True) as registry:
            registry.client().push_blob("kept", b"from better days")
    folder.mkdir(exist_ok=True)
    registry = Daemon(folder, prefix=read_only(folder / "data"))
    registry.storage.mkdir(exist_ok=True)
    done = registry.command(verb)
    assert done.returncode == 2, done
    assert str(registry.storage) in done.stderr
    assert "storage.path" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


@pytest.fixture
def failing(tmp_path: Path) -> Iterator[tuple[Daemon, Path]]:
    """A registry on a small disk of its own, and the disk."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    disk, folder = tmp_path / "disk", tmp_path / "data"
    with disk.open("wb") as file:
        file.truncate(256 << 20)
    run("mkfs.ext4", "-q", disk)
    folder.mkdir()
    settings = {
        "tls": {
            "mode": "files",
            "certificate": str(tmp_path / "server.pem"),
            "key": str(tmp_path / "server.pem"),
        },
    }
    with daemon.running(
        tmp_path / "registry",
        settings=settings,
        storage=folder,
        ca=tmp_path / "ca.crt",
        prefix=on_disk(disk, folder),
    ) as registry:
        yield registry, disk


def fail(disk: Path) -> None:
    """Let the file system on a disk find a fault, so that it lets nobody write any more."""
    device = run("losetup", "--associated", disk).partition(":")[0]
    Path(f"/sys/fs/ext4/{Path(device).name}/trigger_fs_error").write_text("1")


def test_a_disk_that_turns_read_only_stops_pushes_and_not_pulls(
    failing: tuple[Daemon, Path], tmp_path: Path
) -> None:
    registry, disk = failing
    client = registry.client()
    blob = images.noise(1 << 20, "from better days")
    digest = client.push_blob("kept", blob)
    layout = images.layout_of(tmp_path / "layout", images.small())
    client.push_layout("kept", "1", layout)
    session = client.send_chunk(client.start_upload("kept"), 0, b"begun")

    fail(disk)

    eventually(
        lambda: client.request("GET", "/readyz").status == 503,
        within=30,
        what="/readyz says that the registry is not ready",
    )
    assert client.request("GET", "/healthz").status == 200
    manifest = layout.read(layout.top())
    rest = images.noise(1 << 20, "rest")
    for answer in (
        client.request("POST", "/v2/kept/blobs/uploads/"),
        client.request("PATCH", session, rest, {"Content-Range": f"5-{4 + len(rest)}"}),
        client.request("PATCH", session, [rest]),
        client.put_manifest("kept", "2", manifest),
    ):
        assert 500 <= answer.status < 600, answer
        assert json.loads(answer.body)["errors"][0]["code"]
        assert b"Traceback" not in answer.body
    assert client.get_blob("kept", digest).body == blob
    assert client.get_manifest("kept", "1").body == manifest
    assert client.request("GET", "/v2/_catalog").json() == {"repositories": ["kept"]}
    assert "Traceback" not in registry.log()
