"""Engines and tools that keep images, each with storage nobody else sees."""

import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.system import images
from tests.system.tools import attempt, background, environment, refused, run


class Ctr:
    """`ctr`, the command of a containerd that is ours alone."""

    def __init__(self, socket: Path) -> None:
        self._argv = ["ctr", "--address", str(socket)]

    def __call__(self, *words: str | Path) -> str:
        """Run a command that must succeed; everything it said."""
        done = attempt(*self._argv, *words, within=120)
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def refused(self, *words: str | Path) -> str:
        """Run a command that must fail; what it said."""
        return refused(*self._argv, *words, within=120)

    def up(self) -> bool:
        """Whether containerd answers."""
        return attempt(*self._argv, "version").returncode == 0

    def load(self, layout: images.Layout, name: str, tag: str) -> None:
        """Give containerd an image it has never seen in a registry."""
        archive = layout.folder.with_suffix(".tar")
        with tarfile.open(archive, "w") as tar:
            tar.add(layout.folder, arcname=".")
        self("images", "import", "--all-platforms", "--no-unpack", "--base-name", name, archive)
        assert f"{name}:{tag}" in self("images", "list", "--quiet").splitlines()


@contextmanager
def containerd(folder: Path) -> Iterator[Ctr]:
    """Run a containerd; it listens on a socket file and takes part in no network."""
    socket = folder / "socket"
    settings = folder / "config.toml"
    settings.write_text(
        "version = 2\n"
        f'root = "{folder}/root"\n'
        f'state = "{folder}/state"\n'
        # The part for Kubernetes would listen on a port.
        'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
        f'[grpc]\naddress = "{socket}"\n'
        f'[ttrpc]\naddress = "{socket}.ttrpc"\n'
    )
    ctr = Ctr(socket)
    try:
        with background("containerd", "--config", settings, log=folder / "log", up=ctr.up):
            yield ctr
    finally:
        shutil.rmtree(folder / "root", ignore_errors=True)


class Tool:
    """`podman` or `buildah`."""

    def __init__(self, name: str, folder: Path, *options: str) -> None:
        self._argv = [name, "--root", str(folder / "root"), "--runroot", str(folder / "run")]
        self._argv += ["--storage-driver", "vfs", *options]
        logins = folder / "auth.json"
        logins.write_text("{}")
        self._environment = environment(HOME=str(folder), REGISTRY_AUTH_FILE=str(logins))

    def __call__(self, *words: str | Path, given: str | None = None) -> str:
        """Run a command that must succeed."""
        return run(*self._argv, *words, given=given, within=120, env=self._environment).strip()

    def refused(self, *words: str | Path, given: str | None = None) -> str:
        """Run a command that must fail; what it said."""
        return refused(*self._argv, *words, given=given, within=120, env=self._environment)


@contextmanager
def tool(name: str, folder: Path, *options: str) -> Iterator[Tool]:
    """Have a tool of that family for a while; its storage goes with it."""
    try:
        yield Tool(name, folder, *options)
    finally:
        attempt("umount", folder / "root" / "vfs")
        shutil.rmtree(folder, ignore_errors=True)
