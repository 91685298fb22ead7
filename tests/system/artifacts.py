"""Artifacts pushed by the client of PyPI's `oras` or by hand, and looked at in the registry."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import oras.client

from tests.system import images
from tests.system.daemon import Daemon
from tests.system.dialogues import CONFIG, IMAGE, INDEX
from tests.system.wire import Answer, Client, digest_of


@contextmanager
def oras_client(registry: Daemon) -> Iterator[oras.client.OrasClient]:
    """`oras`, logged in."""
    client = oras.client.OrasClient(
        hostname=registry.address, tls_verify=str(registry.ca), auth_backend="basic"
    )
    user, _, password = registry.login.partition(":")
    client.auth.set_basic_auth(user, password)
    try:
        yield client
    finally:
        client.session.close()


def push(
    pusher: oras.client.OrasClient,
    name: str,
    config: Path,
    config_type: str,
    *files: str,
    **more: Any,
) -> Answer:
    """Push an artifact by `oras`, which says what it sent."""
    done = pusher.push(
        name,
        files=list(files),
        manifest_config=f"{config}:{config_type}",
        disable_path_validation=True,
        quiet=True,
        **more,
    )
    return Answer(done.status_code, done.headers, done.request.body)


def manifest(layers: list[dict[str, Any]], config: dict[str, Any], **more: Any) -> bytes:
    """A manifest as tools write it that do not use `oras`."""
    content = {"schemaVersion": 2, "mediaType": IMAGE, "config": config, "layers": layers, **more}
    return json.dumps(content).encode()


def keep(
    client: Client, repository: str, data: bytes, media_type: str, **more: Any
) -> dict[str, Any]:
    """Push a blob; what points at it."""
    digest = client.push_blob(repository, data)
    return {"mediaType": media_type, "digest": digest, "size": len(data), **more}


def described(data: bytes) -> dict[str, Any]:
    """What points at a manifest."""
    return {"mediaType": IMAGE, "digest": digest_of(data), "size": len(data)}


def referrers(
    client: Client, repository: str, digest: str, artifact_type: str | None = None
) -> dict[str, dict[str, Any]]:
    """What refers to a manifest, by digest."""
    query = "" if artifact_type is None else f"?artifactType={quote(artifact_type, safe='')}"
    answer = client.request("GET", f"/v2/{repository}/referrers/{digest}{query}").expect(200)
    assert answer.headers["Content-Type"] == INDEX
    filtered = answer.headers["OCI-Filters-Applied"]
    assert filtered == (None if artifact_type is None else "artifactType")
    return {entry["digest"]: entry for entry in answer.json()["manifests"]}


def blob(client: Client, repository: str, descriptor: dict[str, Any]) -> bytes:
    """The bytes a descriptor points at, which must be those."""
    data = client.get_blob(repository, descriptor["digest"]).expect(200).body
    assert (digest_of(data), len(data)) == (descriptor["digest"], descriptor["size"])
    return data


def push_busybox(client: Client, repository: str, folder: Path) -> bytes:
    """Push the image that artifacts are about; its manifest."""
    layout = images.layout_of(folder / "busybox", images.small())
    return layout.read(client.push_layout(repository, "1", layout))


def attest(layout: images.Layout, image: images.Descriptor) -> images.Descriptor:
    """Say where an image came from, as buildx does: an image of its own that runs nowhere."""
    predicate = "https://slsa.dev/provenance/v1"
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "busybox", "digest": {"sha256": image["digest"][7:]}}],
        "predicateType": predicate,
        "predicate": {"buildDefinition": {"buildType": "https://example.com/by-hand"}},
    }
    layer = layout.add_blob(json.dumps(statement).encode(), "application/vnd.in-toto+json")
    layer["annotations"] = {"in-toto.io/predicate-type": predicate}
    platform = {"architecture": "unknown", "os": "unknown"}
    rootfs = {"type": "layers", "diff_ids": [layer["digest"]]}
    config = layout.add_blob(json.dumps({**platform, "rootfs": rootfs}).encode(), CONFIG)
    attestation = layout.add_blob(manifest([layer], config), IMAGE)
    attestation["platform"] = platform
    attestation["annotations"] = {
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": image["digest"],
    }
    return attestation
