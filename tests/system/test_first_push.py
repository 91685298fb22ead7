"""README.md, "From nothing to the first push": each of its commands is run as it stands there.

Only what a test cannot have differs: names of machines become addresses, root needs no sudo, packages
come from a folder, and a container has no network.
"""

import base64
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance import __version__
from tests.system import containers, debian, dockerd, images
from tests.system.daemon import PASSWORD, USER, Daemon
from tests.system.debian import ROOT
from tests.system.storage import ULIMITS, Storage
from tests.system.tools import environment, run

_HOST = "registry.example.com"
_SUDO = 'sudo() { "$@"; }\n'


def blocks(title: str) -> list[str]:
    """The commands below a heading."""
    page = (ROOT / "README.md").read_text()
    _, _, rest = page.partition(f"\n### {title}\n")
    section = re.split(r"^##", rest, maxsplit=1, flags=re.MULTILINE)[0]
    found = re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert found, f"README.md shows no commands below {title}"
    return found


def typed(title: str, registry: Daemon, folder: Path, given: str = "", **variables: str) -> str:
    """Type the commands below a heading at a client of a registry; what they say."""
    script = "".join(blocks(title)).replace(_HOST, registry.address)
    script = script.replace("--username admin", f"--username {USER}")
    script = script.replace("--docker-username=admin", f"--docker-username={USER}")
    known = environment(HOME=str(folder), PASSWORD=PASSWORD, **variables)
    return run("bash", "-euxc", f"{_SUDO}{given}{script}", cwd=folder, env=known, within=120)


@pytest.fixture
def untouched(remote: Daemon) -> Iterator[None]:
    """Leave nothing behind below /etc."""
    yield
    for client in ("docker", "containerd"):
        shutil.rmtree(Path("/etc", client, "certs.d", remote.address), ignore_errors=True)


# -- the registry


@pytest.fixture(scope="module")
def system(rootfs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = debian.unpacked(rootfs, tmp_path_factory.mktemp("first") / "root")
    yield root
    shutil.rmtree(root)


_SERVES = f"""
for _ in $(seq 100); do if curl -fsk https://localhost/readyz; then break; fi; sleep 0.1; done
curl -fsSk https://localhost/ca.crt | grep -F 'BEGIN CERTIFICATE'
[ "$(stat --format=%U /proc/$(systemctl show --property=MainPID --value registry))" = registry ]
systemctl is-enabled registry
registry info | grep -F 'Registry {__version__} at https://{_HOST}'
[ -s /var/lib/registry/admin-password ]
"""


def test_with_apt(system: Path, deb: Path, tmp_path: Path) -> None:
    shutil.copy(deb, tmp_path)
    (commands,) = blocks("With apt")
    debian.booted(
        system,
        tmp_path,
        f"""
        export DEBIAN_FRONTEND=noninteractive HOME=/root
        hostname {_HOST}
        cd /outside
        {commands}
        {_SERVES}
        """,
    )


def test_with_pip(system: Path, wheels: Path, tmp_path: Path) -> None:
    (commands,) = blocks("With pip")
    debian.booted(
        system,
        tmp_path,
        f"""
        export HOME=/root PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels
        hostname {_HOST}
        {commands}
        {_SERVES}
        """,
        f"--bind-ro={wheels}:/wheels",
    )


def test_in_a_container(storage: Storage, archive: Path) -> None:
    (commands,) = blocks("In a container")
    limits = " ".join(ULIMITS)
    script = f"""
    podman() {{
      case $1 in
        run) shift; command podman --cgroup-manager cgroupfs --events-backend none run --network none {limits} "$@" ;;
        *) command podman --cgroup-manager cgroupfs --events-backend none "$@" ;;
      esac
    }}
    {commands}
    """.replace("--publish 443:443", "")
    running = ("podman", "--cgroup-manager", "cgroupfs", "--events-backend", "none")
    storage(*running, "image", "rm", "--force", f"localhost/registry-appliance:{__version__}")
    try:
        said = storage("bash", "-euc", f"cd {archive.parent}\n{script}")
        assert f"Registry {__version__} at https://{_HOST}" in said
    finally:
        storage(*running, "rm", "--force", "--time", "0", "registry")


# -- its clients


@pytest.mark.usefixtures("untouched")
def test_on_each_client(remote: Daemon, tmp_path: Path) -> None:
    (tmp_path / "docker").mkdir()
    with dockerd.engine(tmp_path / "docker") as docker:
        docker(
            "load",
            "--input",
            images.archive(tmp_path / "hello", images.small(), "hello-world:latest"),
        )
        told = typed(
            "On each client",
            remote,
            tmp_path,
            DOCKER_HOST=f"unix://{tmp_path / 'docker' / 'socket'}",
            DOCKER_CONFIG=str(tmp_path / "docker" / "config"),
        )
    shown = remote.command("info").stdout
    (fingerprint,) = re.findall(r"Fingerprint=(\S+)", told)
    assert fingerprint in shown
    remote.client().get_manifest("hello-world", "latest").expect(200)


@pytest.mark.usefixtures("untouched")
def test_in_kubernetes(remote: Daemon, tmp_path: Path) -> None:
    layers = [images.tree({"srv/first": images.noise(4096, "first push")})]
    layout = images.layout_of(tmp_path / "layout", layers)
    remote.client().push_layout("hello-world", "latest", layout)
    # There is no cluster here to keep the secret.
    kubectl = 'kubectl() { command kubectl "$@" --dry-run=client --output=json; }\n'
    told = typed("In Kubernetes", remote, tmp_path, kubectl)
    secret = json.loads(told[told.index("{") :])["data"]
    settings = json.loads(base64.b64decode(secret[".dockerconfigjson"]))
    login = base64.b64decode(settings["auths"][remote.address]["auth"]).decode()
    (tmp_path / "containerd").mkdir()
    with containers.containerd(tmp_path / "containerd") as ctr:
        fetch = (
            "images",
            "pull",
            "--snapshotter",
            "native",
            "--hosts-dir",
            "/etc/containerd/certs.d",
        )
        ctr(*fetch, "--user", login, f"{remote.address}/hello-world:latest")
