"""The container image: what is in it, and what becomes of root and of a volume when it starts."""

import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance import __version__
from tests.system.debian import ROOT
from tests.system.storage import ULIMITS, Storage
from tests.system.tools import eventually

_NET_BIND_SERVICE = "0000000000000400"


class Container:
    """A container of the image, on no network, with what compose.yaml gives it."""

    def __init__(self, storage: Storage, image: str, volume: Path) -> None:
        self._podman = storage.podman
        self._name = f"registry-test-{uuid.uuid4().hex[:8]}"
        compose = (ROOT / "packaging" / "compose.yaml").read_text()
        (capabilities,) = re.findall(r"cap_add: \[(.*)\]", compose)
        assert "cap_drop: [ALL]" in compose
        assert 'security_opt: ["no-new-privileges:true"]' in compose
        self._podman(
            *("run", "--detach", "--name", self._name, "--network", "none", *ULIMITS),
            *("--cap-drop", "all", "--cap-add", capabilities.replace(" ", "")),
            *("--security-opt", "no-new-privileges", "--volume", f"{volume}:/var/lib/registry"),
            image,
        )

    def inside(self, *words: str) -> str:
        """Run a command in it, as root."""
        return self._podman("exec", self._name, *words)

    def healthy(self) -> bool:
        """Whether the check that compose.yaml names says so."""
        try:
            self.inside("healthcheck")
        except AssertionError:
            return False
        return True

    def stop(self) -> int:
        """Stop it as compose does; the exit status."""
        self._podman("stop", "--time", "20", self._name)
        return int(self._podman("inspect", "--format", "{{.State.ExitCode}}", self._name))

    def remove(self) -> None:
        """Remove it, whatever it does."""
        self._podman("rm", "--force", "--time", "0", self._name)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    folder = tmp_path / "volume"
    folder.mkdir(mode=0o755)
    return folder


@pytest.fixture
def container(storage: Storage, archive: Path, volume: Path) -> Iterator[Container]:
    """A container on a volume that is root's, in which somebody has been before."""
    (volume / "old").mkdir()
    (volume / "old" / "file").write_text("x")
    secret = volume.parent / "secret"
    secret.write_text("of somebody else")
    (volume / "old" / "name").hardlink_to(secret)
    (volume / "old" / "link").symlink_to(secret)
    assert archive.exists()
    started = Container(storage, f"localhost/registry-appliance:{__version__}", volume)
    yield started
    started.remove()


def test_the_archive_says_how_the_image_is_run(storage: Storage, archive: Path) -> None:
    assert archive == storage.folder / f"registry-appliance-{__version__}.oci.tar"
    told = json.loads(storage("skopeo", "inspect", "--config", f"oci-archive:{archive}"))
    config = told["config"]
    assert config["Entrypoint"] == ["entrypoint"]
    assert config["Cmd"] == ["serve"]
    assert [port.partition("/")[0] for port in config["ExposedPorts"]] == ["443"]
    assert list(config["Volumes"]) == ["/var/lib/registry"]


def test_it_serves_as_its_own_user_with_one_right(container: Container, volume: Path) -> None:
    eventually(container.healthy, within=20, what="the container is healthy")
    assert container.inside("curl", "-fsk", "https://localhost:443/readyz") == "ready"
    user = int(container.inside("id", "--user", "registry"))
    status = dict(
        line.split(":\t", 1) for line in container.inside("cat", "/proc/1/status").splitlines()
    )
    assert set(status["Uid"].split()) == {str(user)}
    assert {status[f"Cap{which}"] for which in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {
        _NET_BIND_SERVICE
    }
    assert status["NoNewPrivs"] == "1"
    assert "admin, with the password in" in container.inside("registry", "info")
    # The volume is the registry's now, but not what has a name elsewhere as well.
    owners = {path.name: path.lstat().st_uid for path in (volume / "old").iterdir()}
    assert owners == {"file": user, "link": user, "name": 0}
    assert (volume.stat().st_uid, volume.stat().st_mode & 0o777) == (user, 0o700)
    assert container.stop() == 0
    assert not container.healthy()
