"""The registry that is asked: the one the runner was given, or our own over both versions of HTTP."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.conformance.client import Registry, Repository, Target, connected
from tests.conformance.results import PLUGIN, Results
from tests.system import daemon

_MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of its own is made there
_ROOM = 1 << 30


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "clause(*ids): the rows of the table a test is about")


def _asked(config: pytest.Config) -> Target | None:
    results = config.pluginmanager.get_plugin(PLUGIN)
    return results.target if isinstance(results, Results) else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "protocol" in metafunc.fixturenames:
        target = _asked(metafunc.config)
        both = ("http1", "http2")
        asked = both if target is None else both[target.http2 : target.http2 + 1]
        metafunc.parametrize("protocol", asked, scope="session")


@contextmanager
def _storage(folder: Path) -> Iterator[Path]:
    """Keep blobs in memory where there is room: it is the protocol that is tested, not the disk."""
    if not _MEMORY.is_dir() or shutil.disk_usage(_MEMORY).free < _ROOM:
        yield folder / "data"
        return
    with TemporaryDirectory(prefix="conformance-", dir=_MEMORY) as made:
        yield Path(made) / "data"


@pytest.fixture(scope="session")
def target(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    """Which registry is asked."""
    given = _asked(pytestconfig)
    if given is not None:
        yield given
        return
    folder = tmp_path_factory.mktemp("conformance")
    with _storage(folder) as storage, daemon.running(folder, storage=storage) as ours:
        url = f"https://{ours.address}"
        yield Target(url, daemon.USER, daemon.PASSWORD, ca=ours.ca)


@pytest.fixture(scope="session")
def registry(target: Target, protocol: str) -> Iterator[Registry]:
    """Connections to the registry, over one version of HTTP."""
    with connected(replace(target, http2=protocol == "http2")) as registry:
        yield registry


@pytest.fixture
def repository(registry: Registry) -> Repository:
    """A repository that nothing was pushed to yet."""
    return registry.repository()


@pytest.fixture
def other(registry: Registry) -> Repository:
    """Another one."""
    return registry.repository()
