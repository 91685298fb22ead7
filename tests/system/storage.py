"""Images and containers of podman and buildah that nobody else sees."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.system.debian import ROOT
from tests.system.tools import attempt, environment, run

# This machine may give containers less than podman asks for.
ULIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")

_BASE = "localhost/registry-test-base"


class Storage:
    """Images and containers that nobody else sees."""

    def __init__(self, folder: Path) -> None:
        settings = folder / "storage.conf"
        settings.write_text(
            f'[storage]\ndriver = "vfs"\ngraphroot = "{folder}/graph"\nrunroot = "{folder}/run"\n'
        )
        self.folder = folder
        self.environment = environment(
            HOME=str(folder),
            CONTAINERS_STORAGE_CONF=str(settings),
            DEBIAN_FRONTEND="noninteractive",
        )

    def __call__(self, *argv: str | Path) -> str:
        """Run buildah, podman or what uses them; its output."""
        return run(*argv, within=180, env=self.environment).strip()

    def podman(self, *words: str | Path) -> str:
        """Run podman."""
        return self("podman", "--cgroup-manager", "cgroupfs", "--events-backend", "none", *words)

    def build(self, package: Path) -> Path:
        """Build our image around a package; the archive it is in, being here itself as well."""
        options = ("--base", _BASE, "--package", package)
        told = self(ROOT / "packaging" / "build", "image", self.folder, *options)
        return Path(told.splitlines()[-1])


@contextmanager
def storage_in(rootfs: Path, folder: Path) -> Iterator[Storage]:
    """Storage in which a Debian is for images to be based on."""
    made = Storage(folder)
    try:
        made.podman("import", "--quiet", rootfs, _BASE)
        yield made
    finally:
        attempt("umount", folder / "graph" / "vfs")
        shutil.rmtree(folder, ignore_errors=True)
