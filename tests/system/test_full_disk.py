"""A disk that is full, to the reserve or to the last byte: what is there stays, pushes come back."""

import json
import os
import shlex
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import trustme

from tests.system import daemon, images
from tests.system.daemon import Daemon
from tests.system.test_read_only import on_disk
from tests.system.tools import eventually, run
from tests.system.wire import Answer, Client, digest_of, read_answer

MEBIBYTE = 1 << 20
HERE = "full/app"
INDEX = b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}'

Start = Callable[..., Daemon]


def in_memory(folder: Path, options: str) -> tuple[str, ...]:
    """Put before a command, gives it a file system of its own, which goes with it."""
    script = f'mount -t tmpfs -o {options},mode=700 tmpfs {shlex.quote(str(folder))}; exec "$@"'
    return ("unshare", "--mount", "--propagation", "private", "sh", "-euc", script, "sh")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a registry on a small disk, with that much in reserve."""
    authority = trustme.CA()
    pem = tmp_path / "server.pem"
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(pem)
    storage = tmp_path / "disk"
    storage.mkdir()

    with ExitStack() as running:

        def start(reserve: str, *, kind: str = "tmpfs", options: str = "size=64m") -> Daemon:
            prefix = in_memory(storage, options)
            if kind == "ext4":
                image = tmp_path / "image"
                image.touch()
                os.truncate(image, 64 * MEBIBYTE)
                run("mkfs.ext4", "-q", "-m", "0", image)
                prefix = on_disk(image, storage)
            settings = {
                "tls": {"mode": "files", "certificate": str(pem), "key": str(pem)},
                "storage": {"path": str(storage), "reserve": reserve},
            }
            return running.enter_context(
                daemon.running(
                    tmp_path,
                    storage=storage,
                    ca=tmp_path / "ca.crt",
                    settings=settings,
                    prefix=prefix,
                )
            )

        yield start


def inside(registry: Daemon) -> Path:
    """The registry's folder as the registry sees it."""
    return Path(f"/proc/{registry.pid}/root{registry.storage}")


def free(registry: Daemon) -> int:
    """Bytes that are free on its disk."""
    state = os.statvfs(inside(registry))
    return state.f_bavail * state.f_frsize


def fill(registry: Daemon, *, leaving: int) -> Path:
    """Place a file beside the registry's own that takes up the room; it can be removed again."""
    filler = inside(registry) / "filler"
    with filler.open("ab") as file, suppress(OSError):
        while (size := min(free(registry) - leaving, MEBIBYTE)) > 0 or leaving == 0:
            os.write(file.fileno(), bytes(max(size, 1)))
    return filler


def until_ready(client: Client, status: int = 200) -> None:
    """Wait until the registry knows that there is room, or that there is none."""
    eventually(
        lambda: client.request("GET", "/readyz").status == status,
        within=10,
        what=f"/readyz answers {status}",
    )


def assert_full(answer: Answer) -> str:
    """Insist on a refusal for want of room; what it says."""
    (error,) = answer.expect(507).json()["errors"]
    assert error["code"] == "DENIED"
    message: str = error["message"]
    assert message.startswith("the registry's disk ")
    return message


def push_until_full(client: Client, blobs: dict[str, bytes], *, seed: str) -> str:
    """Push blobs of 3 MiB as long as they are taken; the sentence with which that ends."""
    for number in range(100):
        data = images.noise(3 * MEBIBYTE, f"{seed} {number}")
        target = f"/v2/{HERE}/blobs/uploads/?digest={digest_of(data)}"
        answer = client.request("POST", target, [data])
        if answer.status != 201:
            return assert_full(answer)
        blobs[digest_of(data)] = data
    raise AssertionError("such a disk has no room for 300 MiB")


def assert_whole(client: Client, blobs: dict[str, bytes]) -> None:
    for digest, data in blobs.items():
        assert client.get_blob(HERE, digest).expect(200).body == data


def messages(registry: Daemon) -> list[str]:
    """What was logged of pushes as a whole."""
    events = [json.loads(line)["event"] for line in registry.log().splitlines()]
    return [event for event in events if event.startswith("pushes are")]


# --- full to the reserve


def test_pushes_stop_at_the_reserve_and_come_back_by_themselves(
    start: Start, tmp_path: Path
) -> None:
    registry = start("16MiB")
    client = registry.client()
    layout = images.layout_of(tmp_path / "layout", images.small())
    client.push_layout(HERE, "1", layout)
    manifest = layout.read(layout.top())
    filler = fill(registry, leaving=30 * MEBIBYTE)
    time.sleep(2.5)  # what others put on the disk is seen at the next look
    blobs: dict[str, bytes] = {}

    push_until_full(client, blobs, seed="first")
    # At the edge an upload gives back what came of it: a little later there may be room for some.
    fill(registry, leaving=16 * MEBIBYTE)
    until_ready(client, 503)
    assert len(blobs) >= 3
    told = assert_full(client.request("POST", f"/v2/{HERE}/blobs/uploads/"))
    assert told.startswith("the registry's disk is full: ")
    assert "of 64 MiB are free, and storage.reserve keeps 16 MiB free; pulls, " in told
    assert client.request("GET", "/readyz").body.decode() == f"{told}\n"
    assert_full(client.put_manifest(HERE, "new", INDEX))

    assert_whole(client, blobs)
    assert client.pull_image(HERE, "1")
    layer = layout.manifest(layout.top())["layers"][0]["digest"]
    assert client.request("HEAD", f"/v2/{HERE}/blobs/{layer}").status == 200
    mount = f"/v2/other/app/blobs/uploads/?mount={layer}&from={HERE}"
    client.request("POST", mount).expect(201)
    client.put_manifest(HERE, "2", manifest).expect(201)
    client.request("DELETE", f"/v2/{HERE}/manifests/1").expect(202)
    assert client.pull_image(HERE, "2")
    gone = next(iter(blobs))
    client.request("DELETE", f"/v2/{HERE}/blobs/{gone}").expect(202)
    del blobs[gone]

    filler.unlink()
    until_ready(client)
    client.push_blob(HERE, images.noise(5 * MEBIBYTE, "again"))
    client.put_manifest(HERE, "new", INDEX).expect(201)
    assert_whole(client, blobs)
    assert messages(registry)[-1] == "pushes are taken again"
    assert len(messages(registry)) <= 4
    assert '"request failed"' not in registry.log()


def test_an_upload_that_reaches_the_reserve_is_cut_off_with_an_answer(start: Start) -> None:
    registry = start("16MiB")
    client = registry.client()
    before = free(registry)
    session = client.start_upload(HERE)
    piece = images.noise(MEBIBYTE, "stream")
    answer = client.request("PATCH", session, (piece for _ in range(100)), within=60)
    assert_full(answer)
    assert free(registry) > before - MEBIBYTE  # nobody else is kept waiting by it
    assert client.request("GET", session).expect(204).headers["Range"] == "0-0"
    until_ready(client)
    # Who comes back with the same hears it at once.
    told = assert_full(client.request("POST", f"/v2/{HERE}/blobs/uploads/"))
    assert told.startswith("the registry's disk has no room for these ")
    client.push_blob("another/app", images.noise(20 * MEBIBYTE, "fits"))
    client.request("DELETE", session).expect(204)


@pytest.mark.parametrize("method", ["PATCH", "PUT", "POST"])
def test_what_is_announced_too_large_is_not_asked_for(start: Start, method: str) -> None:
    registry = start("16MiB")
    client = registry.client()
    digest = digest_of(b"")
    target = f"/v2/{HERE}/blobs/uploads/?digest={digest}"
    if method != "POST":
        target = client.start_upload(HERE) + (f"?digest={digest}" if method == "PUT" else "")
    headers = {"Content-Length": str(60 * MEBIBYTE), "Expect": "100-continue"}
    with client.connect() as connection:
        connection.sendall(client.head(method, target, headers))
        answer = read_answer(connection)  # a 100 would have been passed over, and kept us waiting
    assert "has no room for these 60 MiB: " in assert_full(answer)


def test_the_reserve_can_be_changed_while_serving(start: Start) -> None:
    registry = start("16MiB")
    client = registry.client()
    text = registry.settings.read_text()
    for reserve, fits in (("1TiB", False), ("0", True), ("1TiB", False), ("16MiB", True)):
        registry.settings.write_text(text.replace("16MiB", reserve))
        os.kill(registry.pid, signal.SIGHUP)
        until_ready(client, 200 if fits else 503)
        answer = client.request("POST", f"/v2/{HERE}/blobs/uploads/")
        assert answer.status == (202 if fits else 507)
    registry.stop()
    registry.settings.write_text(text.replace("16MiB", "1TiB"))
    done = registry.command("check")
    assert done.returncode == 0
    assert "warning: " in done.stdout
    assert "storage.reserve keeps 1 TiB free, and of the 64 MiB of " in done.stdout


# --- full to the last byte


def mount(client: Client, layer: str, number: int) -> Answer:
    """Ask for a layer in one more repository, which costs some rows and nothing else."""
    target = f"/v2/other/{number}/blobs/uploads/?mount={layer}&from={HERE}"
    return client.request("POST", target)


def mount_until_full(registry: Daemon, layer: str) -> int:
    """Mount a layer as often as that is recorded; how often."""
    client = registry.client()
    for number in range(500):
        fill(registry, leaving=0)  # what the registry gave back, too
        answer = mount(client, layer, number)
        if answer.status != 201:
            assert_full(answer)
            return number
    raise AssertionError("the records never need more room")


@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_disk_that_is_really_full_loses_nothing(start: Start, tmp_path: Path, kind: str) -> None:
    registry = start("0", kind=kind)
    client = registry.client()
    layout = images.layout_of(tmp_path / "layout", images.small())
    client.push_layout(HERE, "1", layout)
    image = client.pull_image(HERE, "1")
    blobs: dict[str, bytes] = {}

    # In the middle of a blob.
    fill(registry, leaving=20 * MEBIBYTE)
    push_until_full(client, blobs, seed="blob")
    session = client.start_upload(HERE)
    piece = images.noise(MEBIBYTE, "stream")
    assert_full(client.request("PATCH", session, (piece for _ in range(50)), within=60))
    assert client.request("GET", session).expect(204).headers["Range"] == "0-0"

    # Of a manifest, and of a commit of the catalogue.
    filler = fill(registry, leaving=0)
    large = json.loads(INDEX) | {"annotations": {"text": "x" * MEBIBYTE}}
    manifest = json.dumps(large).encode()
    assert_full(client.put_manifest(HERE, "large", manifest))
    client.get_manifest(HERE, "large").expect(404)
    layer = layout.manifest(layout.top())["layers"][0]["digest"]
    mounted = mount_until_full(registry, layer)

    def assert_nothing_is_lost() -> None:
        assert_whole(client, blobs)
        assert client.pull_image(HERE, "1") == image
        for number in range(mounted + 1):
            answer = client.request("HEAD", f"/v2/other/{number}/blobs/{layer}")
            assert answer.status == (200 if number < mounted else 404)

    assert_nothing_is_lost()
    fill(registry, leaving=0)
    until_ready(client, 503)
    assert client.request("GET", "/readyz").body.startswith(b"the registry's disk is full ")

    filler.unlink()
    until_ready(client)
    client.put_manifest(HERE, "large", manifest).expect(201)
    client.request("DELETE", session).expect(204)
    client.request("DELETE", f"/v2/{HERE}/blobs/{next(iter(blobs))}").expect(202)
    del blobs[next(iter(blobs))]
    mount(client, layer, mounted).expect(201)
    mounted += 1
    assert_nothing_is_lost()
    if kind == "ext4":
        registry.restart()
        assert_nothing_is_lost()
        assert client.get_manifest(HERE, "large").expect(200).body == manifest
    assert registry.uploads() == []


def test_a_disk_that_is_out_of_inodes_loses_nothing(start: Start, tmp_path: Path) -> None:
    registry = start("0", options="size=64m,nr_inodes=900")
    client = registry.client()
    layout = images.layout_of(tmp_path / "layout", images.small())
    client.push_layout(HERE, "1", layout)
    session = client.send_chunk(client.start_upload(HERE), 0, b"begun")
    fillers = inside(registry) / "fillers"
    fillers.mkdir()
    with suppress(OSError):
        for number in range(1000):
            (fillers / str(number)).touch()

    assert_full(client.request("POST", f"/v2/{HERE}/blobs/uploads/"))
    data = b"whole"
    target = f"/v2/{HERE}/blobs/uploads/?digest={digest_of(data)}"
    assert_full(client.request("POST", target, data))
    assert_full(client.put_manifest(HERE, "new", INDEX))
    until_ready(client, 503)
    assert client.pull_image(HERE, "1")
    client.finish_upload(session, digest_of(b"begun"), b"").expect(201)  # its file is there
    client.request("DELETE", f"/v2/{HERE}/manifests/1").expect(202)

    for filler in fillers.iterdir():
        filler.unlink()
    until_ready(client)
    client.push_blob(HERE, data)
    client.put_manifest(HERE, "new", INDEX).expect(201)
    client.put_manifest(HERE, "1", layout.read(layout.top())).expect(201)
    assert client.pull_image(HERE, "1")
    assert list((inside(registry) / "uploads").iterdir()) == []
