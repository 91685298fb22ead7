"""Anybody may pull and only some may push, with the clients that people have: tokens, keys, rules."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.system import dockerd, images
from tests.system.containers import Tool
from tests.system.daemon import PASSWORD, USER, Daemon, running
from tests.system.dockerd import Docker
from tests.system.tools import Network, environment, eventually, refused, run
from tests.system.trust import CONTAINERS, DOCKER, trusting

_RULES = f"""
[[group]]
name = "people"
members = ["{USER}"]

[[rule]]
repositories = ["open/*"]
accounts = ["(anonymous)", "*"]
allow = ["pull"]

[[rule]]
repositories = ["*"]
accounts = ["@people"]
allow = ["pull", "push", "overwrite", "delete"]

[[rule]]
repositories = ["open/*"]
accounts = ["ci"]
allow = ["push"]

[[rule]]
repositories = ["built/*"]
accounts = ["builder"]
allow = ["pull", "push"]

[[certificate]]
name = "cn:a builder"
account = "builder"
"""


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Whoever issues certificates to clients."""
    return trustme.CA()


@pytest.fixture(scope="module")
def registry(
    net: Network, authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("access")
    authority.cert_pem.write_to_path(folder / "clients.crt")
    settings = {"auth": {"client_ca": str(folder / "clients.crt")}}
    with (
        running(
            folder, host=net.theirs, prefix=net.prefix, settings=settings, more=_RULES
        ) as found,
        trusting(found, DOCKER),
        trusting(found, CONTAINERS),
    ):
        yield found


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    with dockerd.engine(tmp_path_factory.mktemp("docker")) as docker:
        yield docker


@pytest.fixture
def skopeo(tmp_path: Path) -> Tool:
    return Skopeo(tmp_path)


class Skopeo(Tool):
    """`skopeo`, with logins of its own."""

    def __init__(self, folder: Path) -> None:
        self._argv = ["skopeo"]
        (folder / "auth.json").write_text("{}")
        self._environment = environment(
            HOME=str(folder), REGISTRY_AUTH_FILE=str(folder / "auth.json")
        )


def key(registry: Daemon, *words: str) -> str:
    """A key for a robot, as its operator makes it."""
    argv = ("token", "create", "ci", *words)
    made = registry.command(*argv)
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


def loaded(docker: Docker, folder: Path, name: str, content: bytes) -> None:
    layers = [*images.small(), images.tree({"srv/file": content})]
    docker("load", "--input", images.archive(folder / "image.tar", layers, name))


def test_docker_pulls_without_an_account_and_pushes_with_one(
    registry: Daemon, docker: Docker, tmp_path: Path
) -> None:
    name = f"{registry.address}/open/docker:1"
    loaded(docker, tmp_path, name, b"by docker")
    assert "denied" in docker.refused("push", name) or "unauthorized" in docker.refused(
        "push", name
    )
    docker("login", registry.address, "--username", USER, "--password-stdin", given=PASSWORD)
    docker("push", name)
    docker("logout", registry.address)
    image = docker.image(name)
    docker("rmi", name)
    docker("pull", name)
    assert docker.image(name) == image
    hidden = f"{registry.address}/hidden/docker:1"
    told = docker.refused("pull", hidden)
    assert "denied" in told or "unauthorized" in told


def test_docker_keeps_an_identity_token_in_the_place_of_a_password(
    registry: Daemon, docker: Docker, tmp_path: Path
) -> None:
    name = f"{registry.address}/hidden/identity:1"
    loaded(docker, tmp_path, name, b"by identity token")
    docker("login", registry.address, "--username", USER, "--password-stdin", given=PASSWORD)
    kept = json.loads((docker.folder / "config" / "config.json").read_text())
    assert kept["auths"][registry.address]["identitytoken"]
    assert PASSWORD not in json.dumps(kept)
    docker("push", name)
    image = docker.image(name)
    docker("rmi", name)
    docker("pull", name)
    assert docker.image(name) == image
    docker("logout", registry.address)


def test_docker_is_told_what_is_wrong_with_a_password(registry: Daemon, docker: Docker) -> None:
    told = docker.refused(
        "login", registry.address, "--username", USER, "--password-stdin", given="wrong"
    )
    assert "unauthorized" in told.lower()
    assert "unknown account or wrong password" in told


def test_a_robot_pushes_with_a_key_until_it_is_revoked_and_overwrites_nothing(
    registry: Daemon, docker: Docker, tmp_path: Path
) -> None:
    secret = key(registry, "--scope", "repository:open/*:pull,push", "--expires", "1d")
    assert secret not in registry.log()
    docker("login", registry.address, "--username", "ci", "--password-stdin", given=secret)
    name = f"{registry.address}/open/robot:1"
    loaded(docker, tmp_path, name, b"first")
    docker("push", name)
    loaded(docker, tmp_path, name, b"second")
    assert "the tag 1 is there already" in docker.refused("push", name)
    elsewhere = f"{registry.address}/hidden/robot:1"
    docker("tag", name, elsewhere)
    assert "denied" in docker.refused("push", elsewhere)
    assert registry.command("token", "revoke", secret.split("_")[1]).returncode == 0
    other = f"{registry.address}/open/robot:2"
    docker("tag", name, other)
    told = docker.refused("push", other)
    assert "unauthorized" in told or "denied" in told
    docker("logout", registry.address)


def test_podman_pulls_without_an_account_and_pushes_with_one(
    registry: Daemon, podman: Tool, tmp_path: Path
) -> None:
    layout = images.layout_of(tmp_path / "layout", images.small())
    name = f"{registry.address}/open/podman:1"
    image = podman("pull", "--quiet", f"oci:{layout.folder}:latest")
    told = podman.refused("push", image, name)
    assert "unauthorized" in told or "authentication required" in told
    podman("login", registry.address, "--username", USER, "--password-stdin", given=PASSWORD)
    podman("push", image, name)
    podman("logout", registry.address)
    podman("rmi", "--force", image)
    assert podman("pull", "--quiet", name) == image
    told = podman.refused("pull", f"{registry.address}/hidden/podman:1")
    assert "unauthorized" in told or "authentication required" in told
    login = ("login", registry.address, "--username", USER, "--password-stdin")
    assert "invalid username/password" in podman.refused(*login, given="wrong")


def test_skopeo_pulls_without_an_account_and_pushes_with_one(
    registry: Daemon, skopeo: Tool, tmp_path: Path
) -> None:
    layout = images.layout_of(tmp_path / "in", images.small())
    name = f"docker://{registry.address}/open/skopeo:1"
    copy = ("copy", "--preserve-digests")
    told = skopeo.refused(*copy, f"oci:{layout.folder}:latest", name)
    assert "unauthorized" in told or "authentication required" in told
    skopeo(*copy, "--dest-creds", registry.login, f"oci:{layout.folder}:latest", name)
    skopeo(*copy, name, f"oci:{tmp_path / 'out'}:latest")
    assert images.existing(tmp_path / "out").contents() == layout.contents()
    secret = key(registry, "--scope", "repository:open/*:pull")
    skopeo(*copy, "--src-creds", f"ci:{secret}", name, f"oci:{tmp_path / 'again'}:latest")
    told = skopeo.refused(
        *copy, "--dest-creds", f"ci:{secret}", f"oci:{layout.folder}:latest", f"{name}2"
    )
    assert "unauthorized" in told or "denied" in told


def test_curl_pulls_with_a_password_and_with_none(registry: Daemon) -> None:
    url = f"https://{registry.address}/v2/open/skopeo/tags/list"
    curl = ("curl", "--silent", "--fail", "--cacert", registry.ca)
    for login in ((), ("--user", registry.login)):
        assert json.loads(run(*curl, *login, url))["name"] == "open/skopeo"
    refused(*curl, "--user", f"{USER}:wrong", url)


def shown(registry: Daemon, authority: trustme.CA, folder: Path, name: str) -> Path:
    """A folder with a certificate of that common name, as clients of containers take it."""
    folder.mkdir()
    (folder / "ca.crt").write_bytes(registry.ca.read_bytes())
    issued = authority.issue_cert(common_name=name)
    issued.cert_chain_pems[0].write_to_path(folder / "client.cert")
    issued.private_key_pem.write_to_path(folder / "client.key")
    return folder


def test_buildah_pushes_with_a_certificate(
    registry: Daemon, authority: trustme.CA, buildah: Tool, tmp_path: Path
) -> None:
    layout = images.layout_of(tmp_path / "layout", images.small())
    image = buildah("pull", "--quiet", f"oci:{layout.folder}:latest")
    name = f"docker://{registry.address}/built/image:1"
    mine = shown(registry, authority, tmp_path / "mine", "a builder")
    buildah("push", "--cert-dir", mine, image, name)
    entries = registry.storage / "audit.log"
    eventually(lambda: '"builder"' in entries.read_text(), within=5, what="the push is told")
    told = buildah.refused("push", "--cert-dir", mine, image, name.replace("built", "other"))
    assert "denied" in told or "403 (Forbidden)" in told
    other = shown(registry, authority, tmp_path / "other", "somebody else")
    told = buildah.refused("push", "--cert-dir", other, image, name)
    assert "unauthorized" in told or "authentication required" in told
    false = shown(registry, trustme.CA(), tmp_path / "false", "a builder")
    assert "certificate" in buildah.refused("push", "--cert-dir", false, image, name)
