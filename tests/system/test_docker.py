"""docker, as its users use it: an address that is not loopback, a password, a CA under certs.d.

Docker believes anybody on 127.0.0.0/8 without a certificate, so the registry lives in a network
namespace of its own and the engine has to look into /etc/docker/certs.d as it would elsewhere.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system import daemon, dockerd, images
from tests.system.daemon import PASSWORD, USER, Daemon
from tests.system.dockerd import Docker
from tests.system.tools import Network
from tests.system.trust import DOCKER, trusting
from tests.system.wire import digest_of

_PLAIN_PORT = 5000


@pytest.fixture(scope="module")
def docker(net: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    folder = tmp_path_factory.mktemp("docker")
    with dockerd.engine(folder, "--insecure-registry", f"{net.theirs}:{_PLAIN_PORT}") as docker:
        yield docker


@pytest.fixture
def trusted(remote: Daemon) -> Iterator[Daemon]:
    """The same registry, its authority known to docker for as long as the test lasts."""
    with trusting(remote, DOCKER):
        yield remote


@pytest.fixture
def entered(trusted: Daemon, docker: Docker) -> Iterator[Daemon]:
    """The same registry, after `docker login`."""
    docker("login", trusted.address, "--username", USER, "--password-stdin", given=PASSWORD)
    yield trusted
    docker("logout", trusted.address)


def load(docker: Docker, folder: Path, layers: list[bytes], name: str) -> str:
    """Give docker an image it has never seen in a registry; its identity."""
    docker("load", "--input", images.archive(folder / "image.tar", layers, name))
    return docker.image(name)


def test_docker_refuses_a_registry_whose_authority_it_does_not_know(
    remote: Daemon, docker: Docker, tmp_path: Path
) -> None:
    name = f"{remote.address}/stranger:1"
    load(docker, tmp_path, images.small(), name)
    login = ("login", remote.address, "--username", USER, "--password-stdin")
    assert "x509" in docker.refused(*login, given=PASSWORD)
    assert "x509" in docker.refused("push", name)
    assert "x509" in docker.refused("pull", name)


def test_docker_login_needs_the_right_password(trusted: Daemon, docker: Docker) -> None:
    login = ("login", trusted.address, "--username", USER, "--password-stdin")
    assert "401 Unauthorized" in docker.refused(*login, given="wrong")
    assert "401 Unauthorized" in docker.refused(
        "login", trusted.address, "--username", "nobody", "--password-stdin", given=PASSWORD
    )
    assert "Login Succeeded" in docker(*login, given=PASSWORD)
    docker("logout", trusted.address)


def test_docker_may_do_nothing_without_a_password(
    trusted: Daemon, docker: Docker, tmp_path: Path
) -> None:
    name = f"{trusted.address}/anonymous:1"
    load(docker, tmp_path, images.small(), name)
    assert "no basic auth credentials" in docker.refused("push", name)
    assert "no basic auth credentials" in docker.refused("pull", name)


def test_what_docker_pushes_it_pulls_again(entered: Daemon, docker: Docker, tmp_path: Path) -> None:
    name = f"{entered.address}/team/small:1"
    image = load(docker, tmp_path, images.small(), name)
    docker("push", name)
    pushed = docker.digests(name)
    docker("rmi", name)
    docker("pull", name)
    assert docker.image(name) == image
    assert docker.digests(name) == pushed
    assert_kept_as_sent(entered, "team/small", "1", image, pushed)


def test_docker_pushes_a_layer_only_once(entered: Daemon, docker: Docker, tmp_path: Path) -> None:
    layers = [*images.small(), images.tree({"srv/once": b"once"})]
    name = f"{entered.address}/once:1"
    load(docker, tmp_path, layers, name)
    docker("push", name)
    again = docker("push", name)
    assert again.count("Layer already exists") == len(layers)
    assert "Pushed" not in again
    elsewhere = f"{entered.address}/elsewhere/twice:1"
    docker("tag", name, elsewhere)
    assert docker("push", elsewhere).count("Mounted from once") == len(layers)
    image = docker.image(name)
    docker("rmi", name, elsewhere)
    docker("pull", elsewhere)
    assert docker.image(elsewhere) == image


def test_docker_pushes_and_pulls_twenty_layers(
    entered: Daemon, docker: Docker, tmp_path: Path
) -> None:
    name = f"{entered.address}/tall:1"
    layers = images.tall()
    assert len(layers) == 20
    image = load(docker, tmp_path, layers, name)
    docker("push", name)
    pushed = docker.digests(name)
    docker("rmi", name)
    docker("pull", name)
    assert docker.image(name) == image
    assert_kept_as_sent(entered, "tall", "1", image, pushed)


def test_docker_pulls_by_digest(entered: Daemon, docker: Docker, tmp_path: Path) -> None:
    name = f"{entered.address}/by-digest:1"
    image = load(docker, tmp_path, [*images.small(), images.tree({"srv/d": b"d"})], name)
    docker("push", name)
    [pinned] = docker.digests(name)
    docker("rmi", name)
    docker("pull", pinned)
    assert docker.image(pinned) == image


def test_a_moved_tag_is_pulled_anew_and_the_old_digest_stays(
    entered: Daemon, docker: Docker, tmp_path: Path
) -> None:
    name = f"{entered.address}/moving:latest"
    first = load(docker, tmp_path, [*images.small(), images.tree({"srv/v": b"1"})], name)
    docker("push", name)
    [pinned] = docker.digests(name)
    second = load(docker, tmp_path, [*images.small(), images.tree({"srv/v": b"2"})], name)
    docker("push", name)
    docker("rmi", "--force", first, second)
    docker("pull", name)
    assert docker.image(name) == second
    docker("pull", pinned)
    assert docker.image(pinned) == first


def test_docker_finds_its_platform_in_an_index(
    entered: Daemon, docker: Docker, tmp_path: Path
) -> None:
    layout = images.many_platforms(tmp_path / "layout")
    index = entered.client().push_layout("platforms", "latest", layout)
    name = f"{entered.address}/platforms"
    docker("pull", f"{name}:latest")
    assert docker.digests(f"{name}:latest") == [f"{name}@{index}"]
    wanted = ("pull", "--platform", "linux/arm64", f"{name}:latest")
    docker(*wanted)
    inspected = docker("image", "inspect", "--format", "{{.Architecture}}", f"{name}:latest")
    assert inspected.strip() == "arm64"


def test_docker_says_what_is_not_there(entered: Daemon, docker: Docker) -> None:
    said = docker.refused("pull", f"{entered.address}/never/pushed:1")
    assert "not found" in said or "manifest unknown" in said


def test_docker_uses_plain_http_where_both_sides_are_told_to(
    net: Network, docker: Docker, tmp_path: Path
) -> None:
    address = f"{net.theirs}:{_PLAIN_PORT}"
    name = f"{address}/plain/small:1"
    with daemon.running(
        tmp_path / "plain",
        host=net.theirs,
        port=_PLAIN_PORT,
        settings={"tls": {"mode": "off"}},
        prefix=net.prefix,
    ) as plain:
        docker("login", address, "--username", USER, "--password-stdin", given=PASSWORD)
        image = load(docker, tmp_path, [*images.small(), images.tree({"p": b"plain"})], name)
        docker("push", name)
        pushed = docker.digests(name)
        docker("rmi", name)
        docker("pull", name)
        assert docker.image(name) == image
        assert_kept_as_sent(plain, "plain/small", "1", image, pushed)
        docker("logout", address)


def assert_kept_as_sent(
    registry: Daemon, repository: str, tag: str, image: str, named: list[str]
) -> None:
    """What is on disk, what a client downloads and what docker knows are the same bytes."""
    parts = registry.client().pull_image(repository, tag)
    manifest = next(iter(parts))
    assert f"{registry.address}/{repository}@{manifest}" in named
    assert image in parts
    for digest, data in parts.items():
        kept = registry.blob_path(digest).read_bytes()
        assert digest_of(kept) == digest
        assert kept == data
