"""A Docker Engine of our own: its own data, its own socket, no bridge, no firewall rules."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.system.tools import attempt, background, environment, refused, run

# Debian's client, which fits Debian's daemon, even where another is found first.
_CLIENT = "/usr/bin/docker"


class Docker:
    """The `docker` command of somebody whose engine this is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._environment = environment(
            DOCKER_HOST=f"unix://{folder / 'socket'}",
            DOCKER_CONFIG=str(folder / "config"),
            HOME=str(folder),
        )

    def __call__(self, *words: str | Path, given: str | None = None, within: float = 120) -> str:
        """Run a docker command that must succeed."""
        return run(_CLIENT, *words, given=given, within=within, env=self._environment)

    def refused(self, *words: str | Path, given: str | None = None, within: float = 120) -> str:
        """Run a docker command that must fail; what it said."""
        return refused(_CLIENT, *words, given=given, within=within, env=self._environment)

    def up(self) -> bool:
        """Whether the engine answers."""
        return attempt(_CLIENT, "version", env=self._environment).returncode == 0

    def image(self, name: str) -> str:
        """An image's identity: the digest of its configuration."""
        return self("image", "inspect", "--format", "{{.Id}}", name).strip()

    def digests(self, name: str) -> list[str]:
        """The names by digest under which an image is known."""
        return self(
            "image", "inspect", "--format", '{{join .RepoDigests "\\n"}}', name
        ).splitlines()


@contextmanager
def engine(folder: Path, *options: str) -> Iterator[Docker]:
    """Run an engine; with it go its containerd and its data."""
    docker = Docker(folder)
    argv: list[str | Path] = ["/usr/sbin/dockerd"]
    argv += ["--data-root", folder / "data", "--exec-root", folder / "run"]
    argv += ["--pidfile", folder / "pid", "--host", f"unix://{folder / 'socket'}"]
    argv += ["--iptables=false", "--ip6tables=false", "--bridge=none", "--ip-forward=false"]
    try:
        with background(*argv, *options, log=folder / "log", up=docker.up):
            yield docker
    finally:
        shutil.rmtree(folder / "data", ignore_errors=True)
