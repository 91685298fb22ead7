"""A disk that is nearly full: told to whoever pushes, before anything fails."""

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.system import daemon, images
from tests.system.daemon import Daemon

_MEBIBYTE = 1 << 20
_INDEX = b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}'


def small_disk(folder: Path, size: int) -> tuple[str, ...]:
    """Put before a command, gives it a file system of that many bytes, which goes with it."""
    mount = f"mount -t tmpfs -o size={size},mode=700 tmpfs {shlex.quote(str(folder))}"
    script = f'{mount}; exec "$@"'
    return ("unshare", "--mount", "--propagation", "private", "sh", "-euc", script, "sh")


@pytest.fixture
def cramped(tmp_path: Path) -> Iterator[Daemon]:
    """A registry on 64 MiB."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    pem = tmp_path / "server.pem"
    certificate.private_key_and_cert_chain_pem.write_to_path(pem)
    storage = tmp_path / "disk"
    storage.mkdir()
    with daemon.running(
        tmp_path,
        storage=storage,
        ca=tmp_path / "ca.crt",
        settings={"tls": {"mode": "files", "certificate": str(pem), "key": str(pem)}},
        prefix=small_disk(storage, 64 * _MEBIBYTE),
    ) as registry:
        yield registry


def warnings(registry: Daemon) -> list[str]:
    """What the end of a push warns of, passwords aside."""
    answer = registry.client().put_manifest("small/app", "latest", _INDEX).expect(201)
    told = answer.headers.get_all("warning") or []
    return [warning for warning in told if "password" not in warning]


def test_a_push_to_a_disk_that_is_nearly_full_is_warned_of(cramped: Daemon) -> None:
    cramped.client().push_blob("small/app", images.noise(61 * _MEBIBYTE, "cramped"))
    (warning,) = warnings(cramped)
    assert warning.startswith("299 - \"the registry's disk is nearly full: ")
    assert warning.endswith(' MiB of 64 MiB are free; tell its operator"')


def test_a_push_to_a_disk_with_room_is_not(cramped: Daemon) -> None:
    cramped.client().push_blob("small/app", images.noise(30 * _MEBIBYTE, "roomy"))
    assert not warnings(cramped)
