"""One registry for all tests that do not disturb each other, and its log when one of them fails."""

import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.system import daemon, debian, tools
from tests.system.containers import Tool, tool
from tests.system.daemon import Daemon
from tests.system.storage import Storage, storage_in
from tests.system.tools import Network


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A registry with a certificate of its own and a password, shared by the session."""
    with daemon.running(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture(scope="session")
def certificates(registry: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the authority's certificate, as podman and skopeo take it."""
    folder = tmp_path_factory.mktemp("certificates")
    (folder / "ca.crt").write_bytes(registry.ca.read_bytes())
    return folder


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    """A network whose addresses no client takes for this machine's own."""
    with tools.network() as network:
        yield network


@pytest.fixture(scope="module")
def remote(net: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A registry at an address in that network."""
    folder = tmp_path_factory.mktemp("remote")
    with daemon.running(folder, host=net.theirs, prefix=net.prefix) as running:
        yield running


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tool]:
    """podman as root, with storage of its own."""
    folder = tmp_path_factory.mktemp("podman")
    options = ("--cgroup-manager", "cgroupfs", "--events-backend", "none")
    with tool("podman", folder, *options) as found:
        yield found


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tool]:
    """buildah likewise."""
    with tool("buildah", tmp_path_factory.mktemp("buildah")) as found:
        yield found


@pytest.fixture(scope="session")
def rootfs(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh Debian as an archive, kept from one session to the next where pytest keeps anything."""
    kept = pytestconfig.cache
    folder = tmp_path_factory.mktemp("debian") if kept is None else kept.mkdir("debian")
    return debian.debian_root(folder)


@pytest.fixture(scope="session")
def deb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our package for Debian, as this checkout builds it."""
    return debian.deb(tmp_path_factory.mktemp("deb"))


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pip finds the registry, and all that it needs on Debian 12, without a network."""
    wheel = debian.build("wheel", tmp_path_factory.mktemp("wheel"))
    folder = tmp_path_factory.mktemp("wheels")
    fitting = ("--only-binary=:all:", "--python-version=3.11")
    fetch = ("-m", "pip", "download", "--quiet", "--dest", folder, *fitting, wheel)
    tools.run(sys.executable, *fetch, within=300, env=debian.builder())
    return folder


@pytest.fixture(scope="session")
def storage(rootfs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    """Storage for containers of our own."""
    with storage_in(rootfs, tmp_path_factory.mktemp("storage")) as made:
        yield made


@pytest.fixture(scope="session")
def archive(storage: Storage, deb: Path) -> Path:
    """Our container image, as an archive."""
    return storage.build(deb)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the daemons said beside the failure."""
    del item, call
    report = yield
    if report.failed:
        for running in daemon.alive:
            lines = running.log().splitlines()[-80:]
            report.sections.append((f"log of {running.address}", "\n".join(lines)))
    return report
