"""`registry trust`: docker, podman and containerd pull after it, and not before."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from appliance.trust.install import remove
from appliance.trust.place import Place
from appliance.trust.shelves import CLIENTS
from tests.certificates import server_pem
from tests.pretenders import pretending
from tests.system import containers, dockerd, images
from tests.system.containers import Ctr
from tests.system.daemon import PASSWORD, USER, Daemon
from tests.system.dockerd import Docker
from tests.system.tools import attempt, environment, run
from tests.unprivileged import NOBODY

_PROGRAM = (sys.executable, "-m", "appliance")
_CURL = ("curl", "-fsS", "--noproxy", "*")


def trust(
    *words: str | Path, given: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the command, whatever it answers."""
    return attempt(*_PROGRAM, "trust", *words, given=given, env=environment(**variables))


def written(*words: str | Path, given: str = "") -> str:
    """Run the command, which must succeed; what it said."""
    done = trust(*words, given=given)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def fault(done: subprocess.CompletedProcess[str]) -> str:
    """The sentence with which it refused."""
    assert done.returncode == 2, done
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


def fingerprint(registry: Daemon) -> str:
    """What `registry info` shows beside the registry."""
    [line] = [line for line in registry.command("info").stdout.splitlines() if "SHA-256" in line]
    return line.split()[-1]


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    with dockerd.engine(tmp_path_factory.mktemp("docker")) as docker:
        yield docker


@pytest.fixture(scope="module")
def ctr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ctr]:
    with containers.containerd(tmp_path_factory.mktemp("containerd")) as ctr:
        yield ctr


@pytest.fixture(scope="module")
def pushed(remote: Daemon, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image in the registry that no client has seen."""
    layers = [images.tree({"srv/trust": images.noise(4096, "trust")})]
    layout = images.layout_of(tmp_path_factory.mktemp("image") / "layout", layers)
    remote.client().push_layout("trust/small", "1", layout)
    return f"{remote.address}/trust/small:1"


@pytest.fixture(autouse=True)
def untrusted(remote: Daemon) -> Iterator[None]:
    """Leave nothing behind below /etc."""
    had = {folder for folder in _shelves() if folder.exists()}
    yield
    remove(Place.parse(remote.address), CLIENTS, system=False, root=Path("/"))
    assert not any((folder / remote.address).exists() for folder in _shelves())
    for folder in _shelves():
        if folder not in had and folder.exists():
            folder.rmdir()


def _shelves() -> list[Path]:
    return [Path("/etc", name, "certs.d") for name in ("docker", "containers", "containerd")]


def test_docker_pulls_after_it_and_not_before(remote: Daemon, docker: Docker, pushed: str) -> None:
    login = ("login", remote.address, "--username", USER, "--password-stdin")
    assert "x509" in docker.refused(*login, given=PASSWORD)
    told = written(remote.address, "--fingerprint", fingerprint(remote))
    assert f"/etc/docker/certs.d/{remote.address}/ca.crt written" in told
    docker(*login, given=PASSWORD)
    docker("pull", pushed)
    assert docker.image(pushed)
    written(remote.address, "--remove")
    assert "x509" in docker.refused(*login, given=PASSWORD)


def test_skopeo_and_podman_pull_after_it_and_not_before(
    remote: Daemon, podman: containers.Tool, pushed: str, tmp_path: Path
) -> None:
    login = ("login", remote.address, "--username", USER, "--password-stdin")
    copy = ("skopeo", "copy", "--src-creds", remote.login, f"docker://{pushed}")
    assert "x509" in podman.refused(*login, given=PASSWORD)
    assert "x509" in attempt(*copy, f"dir:{tmp_path}/before").stderr
    written(remote.address, "--yes", "--for", "podman")
    assert not Path("/etc/docker/certs.d", remote.address).exists()
    podman(*login, given=PASSWORD)
    podman("pull", "--quiet", pushed)
    run(*copy, f"dir:{tmp_path}/after")
    podman("logout", remote.address)


def test_containerd_pulls_after_it_and_not_before(remote: Daemon, ctr: Ctr, pushed: str) -> None:
    fetch = ("images", "pull", "--snapshotter", "native", "--hosts-dir", "/etc/containerd/certs.d")
    access = ("--user", remote.login, pushed)
    assert "x509" in ctr.refused(*fetch, *access)
    told = written(f"https://{remote.address}/", "--for", "containerd", given="y\n")
    assert "config_path" in told
    assert fingerprint(remote) in told
    ctr(*fetch, *access)
    assert pushed in ctr("images", "list", "--quiet").splitlines()


def told_by_info(registry: Daemon, client: str) -> str:
    """The commands for a client of `registry info`, as one types them who is root already."""
    lines = registry.command("info").stdout.splitlines()
    [first] = [number for number, line in enumerate(lines) if line.startswith(f"  {client:<13}")]
    rest = [line for line in lines[first + 1 :] if line.startswith(" " * 15) or not line]
    more = rest[: rest.index("")] if client == "containerd" else []
    fetch = [line for line in lines if line.startswith("  curl ")]
    words = [line.removeprefix(f"  {client}") for line in (*fetch, lines[first], *more[:2])]
    return "\n".join(words).replace("sudo ", "")


def test_what_info_tells_to_type_is_enough(
    remote: Daemon, docker: Docker, ctr: Ctr, pushed: str, tmp_path: Path
) -> None:
    login = ("login", remote.address, "--username", USER, "--password-stdin")
    folders = [folder / remote.address for folder in _shelves()]
    try:
        for client in ("docker", "podman", "containerd"):
            run("sh", "-euc", told_by_info(remote, client), cwd=tmp_path)
        docker(*login, given=PASSWORD)
        fetch = ("content", "fetch", "--hosts-dir", "/etc/containerd/certs.d")
        ctr(*fetch, "--user", remote.login, pushed)
        copy = ("skopeo", "copy", "--src-creds", remote.login, f"docker://{pushed}")
        run(*copy, f"dir:{tmp_path}/image")
        assert (folders[2] / "hosts.toml").exists()
        for part in ("cri.v1.images", "grpc.v1.cri"):  # of containerd 2, and of 1
            assert f'[plugins."io.containerd.{part}".registry]' in remote.command("info").stdout
    finally:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


def test_curl_believes_the_registry_where_the_system_was_told(remote: Daemon) -> None:
    url = f"https://{remote.address}/healthz"
    assert attempt(*_CURL, url).returncode == 60
    written(remote.address, "--yes", "--system", "--for", "docker")
    try:
        run(*_CURL, url)
        again = written(remote.address)
        assert again == f"This system trusts {remote.address} as it is; there is nothing to do.\n"
    finally:
        written(remote.address, "--remove", "--system")
    assert attempt(*_CURL, url).returncode == 60


def test_nothing_is_written_without_a_yes_or_for_another_fingerprint(
    remote: Daemon, tmp_path: Path
) -> None:
    refused = trust(remote.address, "--root", tmp_path, given="n\n")
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    other = ":".join(["AB"] * 32)
    done = trust(remote.address, "--root", tmp_path, "--fingerprint", other)
    assert f"not {other}; nothing was written" in fault(done)
    assert not list(tmp_path.iterdir())


def test_whoever_is_not_root_is_told_to_be(remote: Daemon) -> None:
    ids = (f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    done = attempt("setpriv", *ids, *_PROGRAM, "trust", remote.address)
    assert fault(done).endswith(f"run: sudo registry trust {remote.address}.")


def test_a_slip_is_a_sentence() -> None:
    done = trust("https://alice:secret@registry.example")
    assert "a password does not belong into an address" in fault(done)
    assert "secret" not in done.stderr


def test_a_public_certificate_needs_nothing(tmp_path: Path) -> None:
    public = trustme.CA()
    public.cert_pem.write_to_path(tmp_path / "public.crt")
    with pretending({}, pem=server_pem(tmp_path, public, "127.0.0.1")) as address:
        done = trust(address, SSL_CERT_FILE=str(tmp_path / "public.crt"))
        assert done.returncode == 0, done
        assert done.stdout.startswith(f"This system trusts {address} as it is")
        assert "has no authority of its own" in fault(trust(address))
