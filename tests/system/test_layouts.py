"""`registry export oci` and `registry import oci`: images as files, which other tools read and write."""

import errno
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.control import Operator
from appliance.settings import load
from tests.system import images
from tests.system.daemon import Daemon, running
from tests.system.tools import run
from tests.system.wire import digest_of

EMPTY = b"{}"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Daemon]:
    with running(tmp_path / "one") as found:
        yield found


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Daemon]:
    with running(tmp_path / "other") as found:
        yield found


def told(registry: Daemon, *words: str | Path) -> list[str]:
    ran = registry.command(*map(str, words))
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout.splitlines()


def sentence(registry: Daemon, *words: str | Path) -> str:
    ran = registry.command(*map(str, words))
    assert (ran.returncode, ran.stdout) == (2, "")
    (line,) = ran.stderr.splitlines()
    return line


def sign(registry: Daemon, repository: str, subject: str) -> str:
    """Attach something to a manifest; the digest of what was attached."""
    client = registry.client()
    client.push_blob(repository, EMPTY)
    size = len(client.get_manifest(repository, subject).body)
    described = {"mediaType": "application/vnd.example", "digest": digest_of(EMPTY), "size": 2}
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": "application/vnd.example.signature",
        "config": described,
        "layers": [described],
        "subject": {
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "digest": subject,
            "size": size,
        },
    }
    content = json.dumps(manifest).encode()
    client.put_manifest(repository, digest_of(content), content).expect(201)
    return digest_of(content)


@pytest.mark.parametrize("alive", [True, False], ids=["running", "stopped"])
def test_a_repository_goes_from_one_registry_to_another_as_files(
    registry: Daemon, other: Daemon, tmp_path: Path, alive: bool
) -> None:
    many = images.many_platforms(tmp_path / "many")
    top = registry.client().push_layout("team/app", "many", many)
    signature = sign(registry, "team/app", top)
    small = images.layout_of(tmp_path / "small", images.small())
    registry.client().push_layout("team/app", "small", small)
    if not alive:
        registry.stop()
        other.stop()
    folder = tmp_path / "layout"
    assert told(registry, "export", "oci", "team/app", folder)[:2] == [
        f"team/app:many is in {folder}.",
        f"team/app:small is in {folder}.",
    ]
    told(other, "import", "oci", folder)
    told(other, "import", "oci", folder, "elsewhere/app")
    if not alive:
        registry.start()
        other.start()
    for name in ("team/app", "elsewhere/app"):
        for tag in ("many", "small"):
            expected = registry.client().pull_image("team/app", tag)
            assert other.client().pull_image(name, tag) == expected
        found = other.client().request("GET", f"/v2/{name}/referrers/{top}").json()["manifests"]
        assert [entry["digest"] for entry in found] == [signature]


def test_other_tools_read_what_is_exported_and_write_what_is_imported(
    registry: Daemon, tmp_path: Path
) -> None:
    layout = images.layout_of(tmp_path / "in", images.tall())
    top = registry.client().push_layout("app", "1.0", layout)
    told(registry, "export", "oci", "app:1.0", tmp_path / "out")
    run(
        "skopeo",
        "copy",
        "--preserve-digests",
        f"oci:{tmp_path}/out:1.0",
        f"oci:{tmp_path}/back:2.0",
    )
    copied = images.existing(tmp_path / "back")
    assert copied.top() == top
    told(registry, "import", "oci", tmp_path / "back", "app")
    told(registry, "import", "oci", tmp_path / "back", "app:3.0")
    for tag in ("2.0", "3.0"):
        pulled = registry.client().pull_image("app", tag)
        assert {digest.removeprefix("sha256:") for digest in pulled} == layout.contents().keys()


def test_a_layout_grows_and_nothing_is_brought_over_twice(registry: Daemon, tmp_path: Path) -> None:
    client, folder = registry.client(), tmp_path / "layout"
    shared, more = images.noise(1 << 16, "shared"), images.noise(1 << 16, "more")
    client.push_layout("app", "1", images.layout_of(tmp_path / "1", [shared]))
    client.push_layout("app", "2", images.layout_of(tmp_path / "2", [shared, more]))
    assert told(registry, "export", "oci", "app:1", folder)[-1].startswith("2 blobs")
    assert told(registry, "export", "oci", "app:2", folder)[-1].startswith("2 blobs")
    assert told(registry, "export", "oci", "app", folder)[-1] == "0 blobs of 0 B were brought over."
    index = json.loads((folder / "index.json").read_bytes())
    names = [
        entry["annotations"]["org.opencontainers.image.ref.name"] for entry in index["manifests"]
    ]
    assert names == ["1", "2"]
    again = told(registry, "import", "oci", folder)
    assert again[-1] == "0 blobs of 0 B were brought over."


def test_an_image_of_another_repository_is_not_replaced_by_one_of_the_same_tag(
    registry: Daemon, tmp_path: Path
) -> None:
    client, folder = registry.client(), tmp_path / "layout"
    for name in ("one", "two"):
        layout = images.layout_of(tmp_path / name, [images.noise(1 << 10, name)])
        client.push_layout(name, "latest", layout)
    told(registry, "export", "oci", "one", folder)
    before = (folder / "index.json").read_bytes()
    assert f"{folder} has one:latest under the tag latest" in sentence(
        registry, "export", "oci", "two", folder
    )
    assert (folder / "index.json").read_bytes() == before
    told(registry, "export", "oci", "one", folder)


def test_an_export_that_was_cut_off_at_its_beginning_goes_on(
    registry: Daemon, tmp_path: Path
) -> None:
    layout = images.layout_of(tmp_path / "in", images.small())
    registry.client().push_layout("app", "1", layout)
    folder = tmp_path / "layout"
    told(registry, "export", "oci", "app", folder)
    whole = images.existing(folder).contents()
    for left in (["blobs"], ["blobs", "index.json"]):
        for name in {"oci-layout", "index.json"} - set(left):
            (folder / name).unlink()
        told(registry, "export", "oci", "app", folder)
        assert images.existing(folder).contents() == whole
        assert (folder / "oci-layout").exists()


def test_what_is_wrong_is_told_in_a_sentence_and_leaves_nothing(
    registry: Daemon, tmp_path: Path
) -> None:
    layout = images.layout_of(tmp_path / "layout", images.small())
    folder = layout.folder
    assert "does not say where it belongs" in sentence(registry, "import", "oci", folder)
    assert "is no OCI layout" in sentence(registry, "import", "oci", tmp_path, "app")
    assert "is no OCI layout" in sentence(registry, "import", "oci", tmp_path / "none", "app")
    assert "neither empty nor an OCI layout" in sentence(
        registry, "export", "oci", "app:1", tmp_path
    )
    assert "manifest unknown" in sentence(registry, "export", "oci", "app:1", tmp_path / "new")
    assert "repository name not known" in sentence(
        registry, "export", "oci", "app", tmp_path / "new"
    )
    layer = max((folder / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)
    content = layer.read_bytes()
    layer.chmod(0o644)
    layer.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "have digest" in sentence(registry, "import", "oci", folder, "app:1")
    layer.unlink()
    assert "lacks sha256:" in sentence(registry, "import", "oci", folder, "app:1")
    assert registry.client().request("GET", "/v2/app/tags/list").status == 404


def test_a_disk_that_is_full_is_not_taken_for_a_registry_that_does_not_answer(
    registry: Daemon,
) -> None:
    digest = registry.client().push_blob("app", images.noise(1 << 16, "layer"))

    def take(_: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    source = registry.settings
    with (
        Operator(load(source, {}), source) as operator,
        pytest.raises(OSError, match="No space left on device"),
    ):
        operator.fetch(f"/v2/app/blobs/{digest}", take)


def test_indexes_within_indexes_without_end_are_refused_in_a_sentence(
    registry: Daemon, tmp_path: Path
) -> None:
    kind = "application/vnd.oci.image.index.v1+json"
    folder = tmp_path / "layout"
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    content, entries = b"", list[dict[str, object]]()
    client = registry.client()
    for _ in range(120):
        document = {"schemaVersion": 2, "mediaType": kind, "manifests": entries}
        content = json.dumps(document).encode()
        digest = digest_of(content)
        (blobs / digest.removeprefix("sha256:")).write_bytes(content)
        client.put_manifest("deep", digest, content).expect(201)
        entries = [{"mediaType": kind, "digest": digest, "size": len(content)}]
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    assert "in a row" in sentence(registry, "import", "oci", folder, "app:1")
    client.put_manifest("deep", "latest", content).expect(201)
    assert "in a row" in sentence(registry, "export", "oci", "deep", tmp_path / "out")


def test_an_image_of_another_algorithm_keeps_its_digest(registry: Daemon, tmp_path: Path) -> None:
    kind = "application/vnd.oci.image.index.v1+json"
    content = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": []}).encode()
    digest = f"sha512:{hashlib.sha512(content).hexdigest()}"
    folder = tmp_path / "layout"
    (folder / "blobs" / "sha512").mkdir(parents=True)
    (folder / "blobs" / "sha512" / digest.removeprefix("sha512:")).write_bytes(content)
    entries = [{"mediaType": kind, "digest": digest, "size": len(content)}]
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    told(registry, "import", "oci", folder, "app:1")
    found = registry.client().request("HEAD", "/v2/app/manifests/1")
    assert found.headers["docker-content-digest"] == digest
