"""A disk of which only the reserve is left: what is refused, and all that goes on."""

import json
from pathlib import Path

import pytest
import structlog.testing

from appliance.oci.mediatypes import OCI_INDEX, OCI_MANIFEST
from tests.api.driver import Answer, Registry
from tests.api.test_endpoints import CONFIG, IMAGE, LAYER, digest

APP = "/v2/library/app"
UPLOADS = APP + "/blobs/uploads/"
MEBIBYTE = 1 << 20
INDEX = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}).encode()


class Disk:
    """The disk beneath a registry: a gibibyte, of which 100 MiB are to stay free."""

    def __init__(self, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
        self._registry = registry
        self._free = 0
        monkeypatch.setattr(registry.store, "room", lambda: (self._free, 1 << 30))
        self.leave(1 << 30)

    def leave(self, free: int) -> None:
        """Let so many bytes be free from now on."""
        self._free = free
        self._registry.space.keep_free(100 * MEBIBYTE)


@pytest.fixture
def disk(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(registry, monkeypatch)


@pytest.fixture
async def full(registry: Registry, disk: Disk) -> Disk:
    """Full, with an image on it that is tagged `old`."""
    for content in (LAYER, CONFIG):
        await registry.ask("POST", f"{UPLOADS}?digest={digest(content)}", body=content)
    assert (await push(registry, IMAGE, "old")).status == 201
    disk.leave(100 * MEBIBYTE)
    return disk


async def push(registry: Registry, manifest: bytes, reference: str) -> Answer:
    headers = {"Content-Type": OCI_MANIFEST if manifest is IMAGE else OCI_INDEX}
    return await registry.ask("PUT", f"{APP}/manifests/{reference}", headers, manifest)


def assert_refused(answer: Answer) -> None:
    assert (answer.status, answer.code) == (507, "DENIED")
    assert answer.json["errors"][0]["message"] == (
        "the registry's disk is full: 100 MiB of 1 GiB are free, and storage.reserve keeps"
        " 100 MiB free; pulls, deletions and garbage collection (gc) go on"
    )


async def test_new_content_is_refused_and_leaves_nothing(registry: Registry, full: Disk) -> None:
    for path, body in (
        (UPLOADS, b""),
        (f"{UPLOADS}?mount={digest(b'none')}&from=library/app", b""),
        (f"{UPLOADS}?digest={digest(b'new')}", b"new"),
    ):
        assert_refused(await registry.ask("POST", path, body=body))
    assert_refused(await push(registry, INDEX, "new"))
    assert await registry.store.staged() == {}
    assert (await registry.ask("GET", f"{APP}/tags/list")).json["tags"] == ["old"]


async def test_what_is_there_is_served_tagged_mounted_and_deleted(
    registry: Registry, full: Disk
) -> None:
    for method in ("GET", "HEAD"):
        for path in ("manifests/old", f"blobs/{digest(LAYER)}"):
            assert (await registry.ask(method, f"{APP}/{path}")).status == 200
    assert (await push(registry, IMAGE, "another")).status == 201
    mount = f"/v2/other/blobs/uploads/?mount={digest(LAYER)}&from=library/app"
    assert (await registry.ask("POST", mount)).status == 201
    for path, status in (
        ("manifests/old", 202),
        (f"manifests/{digest(IMAGE)}", 202),
        (f"blobs/{digest(LAYER)}", 202),
    ):
        assert (await registry.ask("DELETE", f"{APP}/{path}")).status == status


async def test_not_ready_until_there_is_room(registry: Registry, full: Disk) -> None:
    answer = await registry.ask("GET", "/readyz", login=None)
    assert answer.status == 503
    assert answer.body.startswith(b"the registry's disk is full: 100 MiB of 1 GiB are free, and")
    assert (await registry.ask("GET", "/healthz", login=None)).status == 200


# --- uploads that have begun


async def begin(registry: Registry) -> str:
    return (await registry.ask("POST", UPLOADS)).headers["location"]


@pytest.mark.parametrize("with_length", [True, False])
async def test_an_upload_that_has_come_ends_and_can_be_cancelled(
    registry: Registry, disk: Disk, with_length: bool
) -> None:
    ending, leaving = await begin(registry), await begin(registry)
    for session in (ending, leaving):
        assert (await registry.ask("PATCH", session, body=[b"con", b"tent"])).status == 202
    disk.leave(0)
    headers = {"content-length": "0"} if with_length else {}
    assert (await registry.ask("PATCH", leaving, body=b"more")).status == 507
    assert (await registry.ask("GET", leaving)).headers["range"] == "0-6"
    answer = await registry.ask("PUT", f"{ending}?digest={digest(b'content')}", headers)
    assert answer.status == 201
    assert (await registry.ask("DELETE", leaving)).status == 204


async def test_what_is_announced_too_large_is_refused_before_a_byte_of_it(
    registry: Registry, disk: Disk
) -> None:
    disk.leave(150 * MEBIBYTE)
    session = await begin(registry)
    length = {"content-length": str(50 * MEBIBYTE + 1)}
    for method, path in (
        ("PATCH", session),
        ("PUT", f"{session}?digest={digest(b'')}"),
        ("POST", f"{UPLOADS}?digest={digest(b'')}"),
    ):
        # The body is never asked for: it would not come, and this would wait for ever.
        answer = await registry.ask(method, path, length)
        assert (answer.status, answer.code) == (507, "DENIED")
        assert "has no room for these 50 MiB: 150 MiB of 1 GiB are free" in answer.body.decode()
    assert len(await registry.store.staged()) == 1
    assert (await registry.ask("GET", session)).status == 204


async def test_a_stream_is_cut_off_at_the_reserve_and_only_what_was_answered_stays(
    registry: Registry, disk: Disk, tmp_path: Path
) -> None:
    disk.leave(110 * MEBIBYTE)
    session = await begin(registry)
    piece = bytes(MEBIBYTE)
    assert (await registry.ask("PATCH", session, body=[piece] * 4)).status == 202
    assert (await registry.ask("PATCH", session, body=[piece] * 20)).status == 507
    assert (await registry.ask("GET", session)).headers["range"] == f"0-{4 * MEBIBYTE - 1}"
    assert [path.stat().st_size for path in (tmp_path / "uploads").iterdir()] == [4 * MEBIBYTE]
    disk.leave(1 << 30)
    rest = await registry.ask("PATCH", session, body=[piece] * 20)
    assert rest.status == 202
    done = await registry.ask("PUT", f"{session}?digest={digest(piece * 24)}")
    assert done.status == 201


async def test_a_whole_blob_cut_off_leaves_no_session(registry: Registry, disk: Disk) -> None:
    disk.leave(101 * MEBIBYTE)
    path = f"{UPLOADS}?digest={digest(b'')}"
    answer = await registry.ask("POST", path, body=[bytes(MEBIBYTE)] * 20)
    assert (answer.status, answer.code) == (507, "DENIED")
    assert await registry.store.staged() == {}


async def test_the_log_does_not_repeat_itself(registry: Registry, full: Disk) -> None:
    with structlog.testing.capture_logs() as events:
        for _ in range(10):
            assert_refused(await registry.ask("POST", UPLOADS))
            assert_refused(await push(registry, INDEX, "new"))
    loud = [event["event"] for event in events if event["log_level"] != "info"]
    assert loud == ["pushes are refused"]
