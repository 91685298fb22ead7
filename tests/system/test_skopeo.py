"""skopeo, which shows exactly what a registry keeps: layouts go in and must come out unchanged."""

import json
from pathlib import Path

import pytest

from tests.system import images
from tests.system.daemon import USER, Daemon
from tests.system.tools import refused, run

# skopeo remembers elsewhere which blobs hold the same files, and would put one in another's place.
_COPY = ("skopeo", "copy", "--preserve-digests")


@pytest.fixture
def source(registry: Daemon, certificates: Path) -> list[str]:
    """Options for reading from the registry."""
    return ["--src-cert-dir", str(certificates), "--src-creds", registry.login]


@pytest.fixture
def target(registry: Daemon, certificates: Path) -> list[str]:
    """Options for writing to the registry."""
    return ["--dest-cert-dir", str(certificates), "--dest-creds", registry.login]


@pytest.fixture
def either(registry: Daemon, certificates: Path) -> list[str]:
    """Options for everything that is not a copy."""
    return ["--cert-dir", str(certificates), "--creds", registry.login]


def test_a_layout_comes_back_unchanged(
    registry: Daemon, source: list[str], target: list[str], tmp_path: Path
) -> None:
    layout = images.layout_of(tmp_path / "in", images.tall())
    name = f"docker://{registry.address}/skopeo/tall:latest"
    run(*_COPY, *target, f"oci:{layout.folder}:latest", name)
    run(*_COPY, *source, name, f"oci:{tmp_path / 'out'}:latest")
    back = images.existing(tmp_path / "out")
    assert back.contents() == layout.contents()
    assert back.top() == layout.top()
    assert_all_named_by_their_bytes(back)


def test_an_index_of_four_platforms_comes_back_unchanged(
    registry: Daemon, source: list[str], target: list[str], tmp_path: Path
) -> None:
    layout = images.many_platforms(tmp_path / "in")
    name = f"docker://{registry.address}/skopeo/platforms:latest"
    run(*_COPY, "--all", *target, f"oci:{layout.folder}:latest", name)
    run(*_COPY, "--all", *source, name, f"oci:{tmp_path / 'out'}:latest")
    back = images.existing(tmp_path / "out")
    assert back.contents() == layout.contents()
    assert back.top() == layout.top()
    assert_all_named_by_their_bytes(back)


def test_an_image_goes_from_repository_to_repository(
    registry: Daemon, source: list[str], target: list[str], tmp_path: Path
) -> None:
    layout = images.layout_of(tmp_path / "in", images.small())
    first = f"docker://{registry.address}/skopeo/first:1"
    second = f"docker://{registry.address}/skopeo/second:1"
    run(*_COPY, *target, f"oci:{layout.folder}:latest", first)
    run(*_COPY, *source, *target, first, second)
    run(*_COPY, *source, second, f"oci:{tmp_path / 'out'}:latest")
    assert images.existing(tmp_path / "out").contents() == layout.contents()


def test_inspect_tells_digest_layers_and_tags(
    registry: Daemon, target: list[str], either: list[str], tmp_path: Path
) -> None:
    layout = images.layout_of(tmp_path / "in", images.small())
    name = f"docker://{registry.address}/skopeo/inspected"
    for tag in ("1", "1.0", "latest"):
        run(*_COPY, *target, f"oci:{layout.folder}:latest", f"{name}:{tag}")
    told = json.loads(run("skopeo", "inspect", *either, f"{name}:1.0"))
    assert told["Digest"] == layout.top()
    assert told["Architecture"] == "amd64"
    assert told["Layers"] == [layer["digest"] for layer in layout.manifest(layout.top())["layers"]]
    assert told["RepoTags"] == ["1", "1.0", "latest"]
    listed = json.loads(run("skopeo", "list-tags", *either, name))
    assert listed["Tags"] == ["1", "1.0", "latest"]
    raw = run("skopeo", "inspect", "--raw", *either, f"{name}:1")
    assert raw.encode() == layout.read(layout.top())


def test_what_is_deleted_is_gone(
    registry: Daemon, target: list[str], either: list[str], tmp_path: Path
) -> None:
    layout = images.layout_of(tmp_path / "in", images.small())
    name = f"docker://{registry.address}/skopeo/deleted:1"
    run(*_COPY, *target, f"oci:{layout.folder}:latest", name)
    run("skopeo", "delete", *either, name)
    assert "manifest unknown" in refused("skopeo", "inspect", *either, name)
    client = registry.client()
    for reference in ("1", layout.top()):
        assert client.get_manifest("skopeo/deleted", reference).status == 404


def test_a_wrong_password_opens_nothing(
    registry: Daemon, certificates: Path, tmp_path: Path
) -> None:
    layout = images.layout_of(tmp_path / "in", images.small())
    name = f"docker://{registry.address}/skopeo/secret:1"
    trust = ("--dest-cert-dir", certificates)
    for login in (f"{USER}:wrong", "nobody:at-all"):
        said = refused(*_COPY, *trust, "--dest-creds", login, f"oci:{layout.folder}:latest", name)
        assert "authentication required" in said or "unauthorized" in said
    assert registry.client().get_manifest("skopeo/secret", "1").status == 404


def test_an_unknown_authority_is_refused(registry: Daemon, tmp_path: Path) -> None:
    layout = images.layout_of(tmp_path / "in", images.small())
    name = f"docker://{registry.address}/skopeo/untrusted:1"
    said = refused(*_COPY, "--dest-creds", registry.login, f"oci:{layout.folder}:latest", name)
    assert "x509" in said


def assert_all_named_by_their_bytes(layout: images.Layout) -> None:
    """Each blob's name is the digest of what is in it."""
    contents = layout.contents()
    assert contents
    assert all(name == digest for name, digest in contents.items())
