"""Where clients look for the authorities of registries."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.system.daemon import Daemon

DOCKER = Path("/etc/docker/certs.d")
CONTAINERS = Path("/etc/containers/certs.d")
"""Those of podman, skopeo and buildah."""


@contextmanager
def trusting(registry: Daemon, shelf: Path) -> Iterator[Path]:
    """Have the clients of this machine know a registry's authority for a while; the folder for it."""
    made = [folder for folder in (shelf.parent, shelf) if not folder.exists()]
    folder = shelf / registry.address
    folder.mkdir(parents=True)
    try:
        (folder / "ca.crt").write_bytes(registry.ca.read_bytes())
        yield folder
    finally:
        shutil.rmtree(folder)
        for empty in reversed(made):
            empty.rmdir()
