"""podman and buildah as root, with storage of their own."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system import images
from tests.system.containers import Tool
from tests.system.daemon import PASSWORD, USER, Daemon
from tests.system.tools import run
from tests.system.trust import CONTAINERS, trusting


@pytest.fixture
def trusted(registry: Daemon) -> Iterator[Daemon]:
    """The registry, its authority known to every tool of the family while the test lasts."""
    with trusting(registry, CONTAINERS):
        yield registry


@pytest.fixture
def entered(trusted: Daemon, podman: Tool) -> Iterator[Daemon]:
    """The same registry, after `podman login`."""
    podman("login", trusted.address, "--username", USER, "--password-stdin", given=PASSWORD)
    yield trusted
    podman("logout", trusted.address)


def test_podman_refuses_an_unknown_authority(registry: Daemon, podman: Tool) -> None:
    login = ("login", registry.address, "--username", USER, "--password-stdin")
    assert "x509" in podman.refused(*login, given=PASSWORD)


def test_podman_login_needs_the_right_password(trusted: Daemon, podman: Tool) -> None:
    login = ("login", trusted.address, "--username", USER, "--password-stdin")
    assert "invalid username/password" in podman.refused(*login, given="wrong")
    assert "Login Succeeded" in podman(*login, given=PASSWORD)
    podman("logout", trusted.address)


def test_what_podman_pushes_it_pulls_again(entered: Daemon, podman: Tool, tmp_path: Path) -> None:
    layout = images.layout_of(tmp_path / "layout", images.small())
    name = f"{entered.address}/podman/small:1"
    image = podman("pull", "--quiet", f"oci:{layout.folder}:latest")
    podman("push", "--digestfile", tmp_path / "digest", image, name)
    pushed = (tmp_path / "digest").read_text()
    podman("rmi", "--force", image)
    assert podman("pull", "--quiet", name) == image
    [inspected] = json.loads(podman("image", "inspect", name))
    assert inspected["Digest"] == pushed
    parts = entered.client().pull_image("podman/small", "1")
    assert next(iter(parts)) == pushed
    assert f"sha256:{image}" in parts
    assert all(entered.blob_path(digest).read_bytes() == parts[digest] for digest in parts)


def test_podman_pulls_exactly_what_a_layout_held(
    entered: Daemon, podman: Tool, certificates: Path, tmp_path: Path
) -> None:
    layout = images.many_platforms(tmp_path / "layout")
    trust = ("--dest-cert-dir", certificates, "--dest-creds", entered.login)
    name = f"{entered.address}/podman/platforms"
    source = f"oci:{layout.folder}:latest"
    run("skopeo", "copy", "--preserve-digests", "--all", *trust, source, f"docker://{name}:1")
    for image in layout.manifest(layout.top())["manifests"]:
        architecture = image["platform"]["architecture"]
        podman("pull", "--quiet", "--platform", f"linux/{architecture}", f"{name}:1")
        [inspected] = json.loads(podman("image", "inspect", f"{name}:1"))
        config = layout.manifest(image["digest"])["config"]["digest"]
        assert f"sha256:{inspected['Id']}" == config
        assert f"{name}@{image['digest']}" in inspected["RepoDigests"]


def test_podman_says_what_is_not_there(entered: Daemon, podman: Tool) -> None:
    said = podman.refused("pull", "--quiet", f"{entered.address}/never/pushed:1")
    assert "unknown" in said


def test_buildah_builds_pushes_and_pulls(
    registry: Daemon, certificates: Path, buildah: Tool, tmp_path: Path
) -> None:
    access = ("--cert-dir", certificates, "--creds", registry.login)
    name = f"{registry.address}/buildah/made:1"
    (tmp_path / "motd").write_text("made by buildah\n")
    container = buildah("from", "scratch")
    buildah("copy", container, tmp_path / "motd", "/etc/motd")
    image = buildah("commit", "--quiet", container, "made")
    buildah("push", *access, "--digestfile", tmp_path / "digest", "made", f"docker://{name}")
    pushed = (tmp_path / "digest").read_text()
    buildah("rm", container)
    buildah("rmi", "made")
    assert buildah("pull", "--quiet", *access, f"docker://{name}") == image
    parts = registry.client().pull_image("buildah/made", "1")
    assert next(iter(parts)) == pushed
    assert f"sha256:{image}" in parts
