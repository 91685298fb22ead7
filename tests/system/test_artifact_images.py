"""Images of several platforms and of other codings, made, pushed and pulled by the tools people use."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import zstandard

from tests.system import containers, images
from tests.system.artifacts import attest
from tests.system.containers import Tool
from tests.system.daemon import Daemon
from tests.system.dialogues import INDEX
from tests.system.tools import run
from tests.system.wire import Client, digest_of

_PLATFORMS = (("amd64", ""), ("arm64", ""), ("arm", "v7"), ("s390x", ""))
_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
# skopeo remembers elsewhere which blobs hold the same files, and would put one in another's place.
_COPY = ("skopeo", "copy", "--preserve-digests")


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tool]:
    options = ("--cgroup-manager", "cgroupfs", "--events-backend", "none")
    with containers.tool("podman", tmp_path_factory.mktemp("podman"), *options) as podman:
        yield podman


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tool]:
    with containers.tool("buildah", tmp_path_factory.mktemp("buildah")) as buildah:
        yield buildah


class Access(NamedTuple):
    """Options with which a tool trusts the registry and is let in."""

    either: list[str]
    """Of podman, of buildah, and of skopeo where it copies nothing."""
    source: list[str]
    """Of skopeo for reading from the registry."""
    target: list[str]
    """Of skopeo for writing to the registry."""


@pytest.fixture
def access(registry: Daemon, certificates: Path) -> Access:
    trust, login = str(certificates), registry.login
    return Access(
        ["--cert-dir", trust, "--creds", login],
        ["--src-cert-dir", trust, "--src-creds", login],
        ["--dest-cert-dir", trust, "--dest-creds", login],
    )


def build(buildah: Tool, folder: Path, architecture: str, variant: str) -> str:
    """Build an image for a platform; its name."""
    program = folder / f"{architecture}{variant}"
    program.write_text(f"for {architecture} {variant}\n")
    container = buildah("from", "scratch")
    buildah("copy", "--chmod", "755", container, "/bin/busybox", "/bin/busybox")
    buildah("copy", container, program, "/etc/platform")
    buildah("config", "--os", "linux", "--arch", architecture, container)
    if variant:
        buildah("config", "--variant", variant, container)
    name = f"localhost/platform-{architecture}{variant}"
    buildah("commit", "--quiet", "--rm", container, name)
    return name


def the_platform(entry: dict[str, Any]) -> tuple[str, str]:
    """What an entry of an index is for."""
    return entry["platform"]["architecture"], entry["platform"].get("variant", "")


def test_an_index_that_buildah_made_is_pulled_by_platform_and_in_whole(
    registry: Daemon,
    buildah: Tool,
    access: Access,
    tmp_path: Path,
) -> None:
    name = f"docker://{registry.address}/platforms/made:1"
    buildah("manifest", "create", "several")
    for architecture, variant in _PLATFORMS:
        buildah("manifest", "add", "several", build(buildah, tmp_path, architecture, variant))
    buildah("manifest", "push", "--all", "--format", "oci", *access.either, "several", name)

    raw = run("skopeo", "inspect", "--raw", *access.either, name)
    index = json.loads(raw)
    assert index["mediaType"] == INDEX
    entries = {the_platform(entry): entry for entry in index["manifests"]}
    assert set(entries) == set(_PLATFORMS)
    for (architecture, variant), entry in entries.items():
        wanted = ["--override-os", "linux", "--override-arch", architecture]
        if variant:
            wanted += ["--override-variant", variant]
        told = json.loads(run("skopeo", *wanted, "inspect", *access.either, name))
        assert told["Architecture"] == architecture
        folder = tmp_path / f"of-{architecture}"
        run("skopeo", *wanted, *_COPY[1:], *access.source, name, f"oci:{folder}:1")
        one = images.existing(folder)
        assert one.top() == entry["digest"]
        assert one.manifest(one.top())["config"]["digest"][7:] in one.contents()

    run(*_COPY, "--all", *access.source, name, f"oci:{tmp_path / 'all'}:1")
    whole = images.existing(tmp_path / "all")
    assert whole.read(whole.top()).decode() == raw
    elsewhere = f"docker://{registry.address}/platforms/copied:1"
    run(*_COPY, "--all", *access.source, *access.target, name, elsewhere)
    assert registry.client().pull_image("platforms/copied", "1").keys() == {
        f"sha256:{digest}" for digest in whole.contents()
    }


def layers_in_zstd(client: Client, repository: str) -> list[str]:
    """Insist on layers that are what their types and the configuration say; their digests."""
    content = client.get_manifest(repository, "1").expect(200).json()
    config = client.get_blob(repository, content["config"]["digest"]).expect(200).json()
    digests = [layer["digest"] for layer in content["layers"]]
    for layer, diff_id in zip(content["layers"], config["rootfs"]["diff_ids"], strict=True):
        assert layer["mediaType"] == _ZSTD
        answer = client.get_blob(repository, layer["digest"]).expect(200)
        assert answer.headers["Content-Encoding"] is None
        with zstandard.ZstdDecompressor().stream_reader(answer.body) as reader:
            assert digest_of(reader.read()) == diff_id
    return digests


def test_layers_that_skopeo_packed_with_zstd_are_pulled_by_podman(
    registry: Daemon,
    podman: Tool,
    access: Access,
    tmp_path: Path,
) -> None:
    layout = images.layout_of(tmp_path / "in", images.small())
    config = layout.manifest(layout.top())["config"]["digest"]
    name = f"{registry.address}/zstd/skopeo:1"
    packed = ("--dest-compress", "--dest-compress-format", "zstd")
    run(
        "skopeo", "copy", *packed, *access.target, f"oci:{layout.folder}:latest", f"docker://{name}"
    )
    digests = layers_in_zstd(registry.client(), "zstd/skopeo")

    run(*_COPY, *access.source, f"docker://{name}", f"oci:{tmp_path / 'out'}:1")
    back = images.existing(tmp_path / "out")
    assert {digest[7:] for digest in digests} < set(back.contents())
    assert podman("pull", "--quiet", *access.either, name) == config.removeprefix("sha256:")


def test_layers_that_buildah_packed_with_zstd_are_pulled_by_podman(
    registry: Daemon, podman: Tool, buildah: Tool, access: Access, tmp_path: Path
) -> None:
    name = f"{registry.address}/zstd/buildah:1"
    image = build(buildah, tmp_path, "amd64", "")
    packed = ("--compression-format", "zstd", "--format", "oci")
    buildah("push", *packed, *access.either, image, f"docker://{name}")
    layers_in_zstd(registry.client(), "zstd/buildah")
    config = registry.client().get_manifest("zstd/buildah", "1").json()["config"]["digest"]
    assert podman("pull", "--quiet", *access.either, name) == config.removeprefix("sha256:")


def test_an_index_with_an_attestation_comes_back_unchanged(
    registry: Daemon, access: Access, tmp_path: Path
) -> None:
    layout = images.Layout(tmp_path / "in")
    image = layout.add_image(images.small())
    attestation = attest(layout, image)
    layout.tag(layout.add_index([image, attestation]), "latest")
    name = f"docker://{registry.address}/platforms/attested:1"
    run(*_COPY, "--all", *access.target, f"oci:{layout.folder}:latest", name)
    run(*_COPY, "--all", *access.source, name, f"oci:{tmp_path / 'out'}:1")
    assert images.existing(tmp_path / "out").contents() == layout.contents()
    run(*_COPY, *access.source, name, f"oci:{tmp_path / 'one'}:1")
    assert images.existing(tmp_path / "one").top() == image["digest"]
