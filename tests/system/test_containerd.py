"""containerd itself, driven by its own `ctr`: with a password, and with us as a mirror of docker.io.

containerd takes an address of this machine's own for one without TLS, so the registry has another
one, in a network namespace.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system import containers, images
from tests.system.containers import Ctr
from tests.system.daemon import USER, Daemon


@pytest.fixture(scope="module")
def ctr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ctr]:
    with containers.containerd(tmp_path_factory.mktemp("containerd")) as ctr:
        yield ctr


@pytest.fixture
def access(remote: Daemon) -> list[str]:
    """Options with which containerd trusts the registry and is let in."""
    return ["--tlscacert", str(remote.ca), "--user", remote.login]


@pytest.fixture
def hosts(remote: Daemon, tmp_path: Path) -> Path:
    """Settings that send containerd here for whatever docker.io has, and nowhere else."""
    folder = tmp_path / "hosts" / "docker.io"
    folder.mkdir(parents=True)
    (folder / "hosts.toml").write_text(
        f'server = "https://{remote.address}"\n'
        f'ca = "{remote.ca}"\n'
        f'[host."https://{remote.address}"]\n'
        'capabilities = ["pull", "resolve"]\n'
        f'ca = "{remote.ca}"\n'
    )
    return folder.parent


def held(ctr: Ctr, layout: images.Layout) -> set[str]:
    """Which parts of an image containerd has; it believes none that is not what its digest says."""
    kept = set(ctr("content", "list", "--quiet").split())
    return kept & {f"sha256:{digest}" for digest in layout.contents()}


def assert_held(ctr: Ctr, layout: images.Layout) -> None:
    """containerd has each part."""
    assert held(ctr, layout) == {f"sha256:{digest}" for digest in layout.contents()}


def forget(ctr: Ctr, name: str, layout: images.Layout) -> None:
    """Remove an image with its content, so that the next pull has to bring it again."""
    ctr("images", "remove", "--sync", name)
    assert not held(ctr, layout)


def test_what_containerd_pushes_it_pulls_again(
    remote: Daemon, ctr: Ctr, access: list[str], tmp_path: Path
) -> None:
    layout = images.layout_of(tmp_path / "layout", images.tall(), "1")
    name = f"{remote.address}/containerd/tall"
    ctr.load(layout, name, "1")
    ctr("images", "push", *access, f"{name}:1")
    parts = remote.client().pull_image("containerd/tall", "1")
    assert {digest: layout.read(digest) for digest in parts} == parts
    ctr("images", "push", *access, f"{name}:1")  # all of it is there already
    forget(ctr, f"{name}:1", layout)
    ctr("images", "pull", "--snapshotter", "native", *access, f"{name}:1")
    assert_held(ctr, layout)


def test_containerd_pushes_and_fetches_every_platform_of_an_index(
    remote: Daemon, ctr: Ctr, access: list[str], tmp_path: Path
) -> None:
    layout = images.many_platforms(tmp_path / "layout", "1")
    name = f"{remote.address}/containerd/platforms"
    ctr.load(layout, name, "1")
    ctr("images", "push", *access, f"{name}:1")
    assert next(iter(remote.client().pull_image("containerd/platforms", "1"))) == layout.top()
    forget(ctr, f"{name}:1", layout)
    ctr("content", "fetch", "--all-platforms", *access, f"{name}:1")
    assert_held(ctr, layout)


def test_containerd_is_not_let_in_without_the_right_password(
    remote: Daemon, ctr: Ctr, tmp_path: Path
) -> None:
    layout = images.layout_of(tmp_path / "layout", images.small(), "1")
    name = f"{remote.address}/containerd/secret"
    ctr.load(layout, name, "1")
    trust = ("--tlscacert", remote.ca)
    for login in ((), ("--user", f"{USER}:wrong")):
        said = ctr.refused("images", "push", *trust, *login, f"{name}:1")
        assert "401" in said or "no basic auth credentials" in said or "authorization" in said
        ctr.refused("content", "fetch", *trust, *login, f"{name}:1")
    assert remote.client().get_manifest("containerd/secret", "1").status == 404


def test_containerd_finds_images_of_docker_hub_in_its_mirror(
    remote: Daemon, ctr: Ctr, hosts: Path, tmp_path: Path
) -> None:
    # A layer of its own: what containerd has from elsewhere it does not ask for.
    layers = [*images.small(), images.tree({"srv/mirror": b"busybox, as docker.io has it"})]
    layout = images.layout_of(tmp_path / "layout", layers, "1")
    remote.client().push_layout("library/busybox", "1", layout)
    name = "docker.io/library/busybox:1"
    told = ("--hosts-dir", hosts, "--user", remote.login)
    said = ctr("images", "pull", "--http-dump", "--snapshotter", "native", *told, name)
    assert "/v2/library/busybox/manifests/1?ns=docker.io" in said
    assert f"/v2/library/busybox/manifests/{layout.top()}?ns=docker.io" in said
    for layer in layout.manifest(layout.top())["layers"][-1:]:
        assert f"/v2/library/busybox/blobs/{layer['digest']}?ns=docker.io" in said
    assert_held(ctr, layout)


def test_what_the_mirror_does_not_have_is_not_found(remote: Daemon, ctr: Ctr, hosts: Path) -> None:
    told = ("--hosts-dir", hosts, "--user", remote.login)
    said = ctr.refused("content", "fetch", *told, "docker.io/library/never-pushed:1")
    assert "not found" in said
