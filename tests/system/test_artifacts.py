"""What is kept in registries beside images: charts, signatures, bills of materials, modules.

Each is really one of its kind, is pushed the way its tools push it and must come back as it was.
"""

import base64
import gzip
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import oras.client
import oras.oci
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from tests.system import artifacts, images
from tests.system.artifacts import (
    attest,
    blob,
    described,
    keep,
    manifest,
    push,
    push_busybox,
    referrers,
)
from tests.system.daemon import Daemon
from tests.system.dialogues import CONFIG, EMPTY, IMAGE
from tests.system.wire import Answer, Client, digest_of

_CHART_CONFIG = "application/vnd.cncf.helm.config.v1+json"
_CHART = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
_SIGNED = "application/vnd.dev.cosign.simplesigning.v1+json"
_SIGNATURE = "application/vnd.dev.cosign.artifact.sig.v1+json"
_SIGNATURE_KEY = "dev.cosignproject.cosign/signature"
_SPDX = "application/spdx+json"
_CYCLONE = "application/vnd.cyclonedx+json"
_WASM_CONFIG = "application/vnd.wasm.config.v0+json"
_WASM = "application/wasm"


@pytest.fixture
def pusher(registry: Daemon) -> Iterator[oras.client.OrasClient]:
    with artifacts.oras_client(registry) as client:
        yield client


@pytest.fixture
def client(registry: Daemon) -> Client:
    return registry.client()


# -- charts


def chart() -> tuple[dict[str, Any], bytes]:
    """A chart as `helm package` makes it: what is in Chart.yaml, and the archive."""
    about = {
        "apiVersion": "v2",
        "name": "greeting",
        "description": "Says hello",
        "type": "application",
        "version": "0.1.0+build.7",
        "appVersion": "1.0",
    }
    files = {
        "greeting/Chart.yaml": "".join(f"{key}: {json.dumps(about[key])}\n" for key in about),
        "greeting/values.yaml": "greeting: hello\n",
        "greeting/templates/map.yaml": (
            "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {{ .Release.Name }}\n"
            "data:\n  greeting: {{ .Values.greeting | quote }}\n"
        ),
        "greeting/.helmignore": "*.orig\n",
    }
    archive = images.tree({name: text.encode() for name, text in files.items()})
    return about, gzip.compress(archive, mtime=0)


def test_a_helm_chart_comes_back_byte_for_byte(
    registry: Daemon, pusher: oras.client.OrasClient, client: Client, tmp_path: Path
) -> None:
    about, archive = chart()
    config, packed = tmp_path / "config.json", tmp_path / "greeting-0.1.0+build.7.tgz"
    config.write_text(json.dumps(about))
    packed.write_bytes(archive)
    # A tag may have no plus sign, so helm writes an underscore.
    tag = str(about["version"]).replace("+", "_")
    name = f"{registry.address}/charts/greeting:{tag}"
    annotations = {
        "org.opencontainers.image.title": "greeting",
        "org.opencontainers.image.version": "0.1.0+build.7",
    }
    sent = push(
        pusher, name, config, _CHART_CONFIG, f"{packed}:{_CHART}", manifest_annotations=annotations
    ).expect(201)

    found = client.get_manifest("charts/greeting", tag).expect(200)
    assert found.body == sent.body
    content = found.json()
    assert content["config"]["mediaType"] == _CHART_CONFIG
    assert content["annotations"] == annotations
    assert json.loads(blob(client, "charts/greeting", content["config"])) == about
    [layer] = content["layers"]
    assert layer["mediaType"] == _CHART
    [pulled] = pusher.pull(target=name, outdir=str(tmp_path / "out"))
    assert Path(pulled).read_bytes() == archive
    with tarfile.open(fileobj=io.BytesIO(Path(pulled).read_bytes())) as opened:
        assert "greeting/Chart.yaml" in opened.getnames()


# -- signatures


def sign(key: ec.EllipticCurvePrivateKey, name: str, digest: str) -> tuple[bytes, str]:
    """Sign an image as cosign does: what is signed, and the signature in base64."""
    payload = json.dumps(
        {
            "critical": {
                "identity": {"docker-reference": name},
                "image": {"docker-manifest-digest": digest},
                "type": "cosign container image signature",
            },
            "optional": None,
        },
        separators=(",", ":"),
    ).encode()
    return payload, base64.b64encode(key.sign(payload, ec.ECDSA(SHA256()))).decode()


def verify(
    client: Client, repository: str, key: ec.EllipticCurvePublicKey, digest: str, signature: Answer
) -> None:
    """Verify, with nothing but the key and what the registry gives out."""
    [layer] = signature.expect(200).json()["layers"]
    assert layer["mediaType"] == _SIGNED
    payload = blob(client, repository, layer)
    given = base64.b64decode(layer["annotations"][_SIGNATURE_KEY])
    key.verify(given, payload, ec.ECDSA(SHA256()))
    assert json.loads(payload)["critical"]["image"]["docker-manifest-digest"] == digest
    with pytest.raises(InvalidSignature):
        key.verify(given, payload + b" ", ec.ECDSA(SHA256()))


def test_a_signature_is_found_in_both_places_and_still_verifies(
    registry: Daemon, client: Client, tmp_path: Path
) -> None:
    repository = "artifacts/signed"
    subject = push_busybox(client, repository, tmp_path)
    digest = digest_of(subject)
    key = ec.generate_private_key(ec.SECP256R1())
    payload, signature = sign(key, f"{registry.address}/{repository}", digest)
    layer = keep(client, repository, payload, _SIGNED, annotations={_SIGNATURE_KEY: signature})

    rootfs = {"type": "layers", "diff_ids": [layer["digest"]]}
    about = {"architecture": "", "created": "0001-01-01T00:00:00Z", "os": "", "rootfs": rootfs}
    config = keep(client, repository, json.dumps({**about, "config": {}}).encode(), CONFIG)
    tag = digest.replace(":", "-") + ".sig"
    tagged = manifest([layer], config)
    client.put_manifest(repository, tag, tagged).expect(201)

    config = keep(client, repository, b"{}", EMPTY)
    attached = manifest([layer], config, artifactType=_SIGNATURE, subject=described(subject))
    answer = client.put_manifest(repository, digest_of(attached), attached).expect(201)
    assert answer.headers["OCI-Subject"] == digest

    resolved = client.get_manifest(repository, "1").headers["Docker-Content-Digest"]
    found = client.get_manifest(repository, resolved.replace(":", "-") + ".sig")
    assert found.body == tagged
    verify(client, repository, key.public_key(), resolved, found)
    # Under its tag it is not attached: that is what the other form is for.
    [entry] = referrers(client, repository, resolved, _SIGNATURE).values()
    assert entry["digest"] == digest_of(attached)
    found = client.get_manifest(repository, entry["digest"])
    assert found.body == attached
    verify(client, repository, key.public_key(), resolved, found)


# -- bills of materials


def spdx(name: str, digest: str) -> bytes:
    """What is in the image, in SPDX."""
    hexadecimal = digest.removeprefix("sha256:")
    document = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": f"https://example.com/spdx/{hexadecimal}",
        "creationInfo": {"created": "2026-01-01T00:00:00Z", "creators": ["Tool: tests"]},
        "packages": [
            {
                "SPDXID": "SPDXRef-Package-busybox",
                "name": "busybox",
                "versionInfo": "1.36",
                "downloadLocation": "NOASSERTION",
                "filesAnalyzed": False,
                "licenseConcluded": "GPL-2.0-only",
            }
        ],
        "relationships": [
            {
                "spdxElementId": "SPDXRef-DOCUMENT",
                "relationshipType": "DESCRIBES",
                "relatedSpdxElement": "SPDXRef-Package-busybox",
            }
        ],
    }
    return json.dumps(document).encode()


def cyclonedx(name: str, digest: str) -> bytes:
    """What is in the image, in CycloneDX."""
    component = {"type": "container", "name": name, "version": digest}
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"timestamp": "2026-01-01T00:00:00Z", "component": component},
        "components": [{"type": "application", "name": "busybox", "version": "1.36"}],
    }
    return json.dumps(document).encode()


def test_bills_of_materials_are_found_by_what_they_are_about(
    registry: Daemon, pusher: oras.client.OrasClient, client: Client, tmp_path: Path
) -> None:
    repository = "artifacts/bills"
    name = f"{registry.address}/{repository}"
    subject = push_busybox(client, repository, tmp_path)
    digest = digest_of(subject)

    # By oras, which names no artifact type: that of the configuration counts.
    empty, bill = tmp_path / "empty.json", tmp_path / "bill.spdx.json"
    empty.write_text("{}")
    bill.write_bytes(spdx(name, digest))
    about = oras.oci.Subject(IMAGE, digest, len(subject))
    sent = push(pusher, f"{name}:bill", empty, _SPDX, f"{bill}:{_SPDX}", subject=about)
    assert sent.expect(201).headers["OCI-Subject"] == digest
    first = digest_of(sent.body)

    # By hand, as the specification would have it.
    layer = keep(client, repository, cyclonedx(name, digest), _CYCLONE)
    config = keep(client, repository, b"{}", EMPTY)
    attached = manifest(
        [layer],
        config,
        artifactType=_CYCLONE,
        subject=described(subject),
        annotations={"org.opencontainers.image.created": "2026-01-01T00:00:00Z"},
    )
    second = digest_of(attached)
    client.put_manifest(repository, second, attached).expect(201)

    found = referrers(client, repository, digest)
    assert {key: entry["artifactType"] for key, entry in found.items()} == {
        first: _SPDX,
        second: _CYCLONE,
    }
    assert found[second]["annotations"] == {
        "org.opencontainers.image.created": "2026-01-01T00:00:00Z"
    }
    for artifact_type, expected, content in (
        (_SPDX, first, spdx(name, digest)),
        (_CYCLONE, second, cyclonedx(name, digest)),
    ):
        [entry] = referrers(client, repository, digest, artifact_type).values()
        assert entry == found[expected]
        answer = client.get_manifest(repository, expected).expect(200)
        assert len(answer.body) == entry["size"]
        [layer] = answer.json()["layers"]
        assert blob(client, repository, layer) == content
    assert referrers(client, repository, digest, "application/vnd.example.none") == {}
    [pulled] = pusher.pull(target=f"{name}:bill", outdir=str(tmp_path / "out"))
    assert Path(pulled).read_bytes() == bill.read_bytes()

    # What is deleted refers to nothing any more; what it was about stays.
    client.request("DELETE", f"/v2/{repository}/manifests/{second}").expect(202)
    assert set(referrers(client, repository, digest)) == {first}
    assert client.get_manifest(repository, "1").body == subject


# -- attestations and modules


def test_an_index_keeps_the_attestation_that_runs_on_no_platform(
    client: Client, tmp_path: Path
) -> None:
    repository = "artifacts/attested"
    layout = images.Layout(tmp_path / "attested")
    image = layout.add_image(images.small())
    attestation = attest(layout, image)
    top = layout.tag(layout.add_index([image, attestation]), "latest")

    assert client.push_layout(repository, "latest", layout) == top
    parts = client.pull_image(repository, "latest")
    assert {digest[7:] for digest in parts} == set(layout.contents())
    assert all(layout.read(digest) == data for digest, data in parts.items())
    kept = json.loads(parts[top])["manifests"][1]
    assert kept == attestation


def test_a_webassembly_module_comes_back_as_it_was(
    registry: Daemon, pusher: oras.client.OrasClient, client: Client, tmp_path: Path
) -> None:
    # (module (func (export "answer") (result i32) i32.const 42))
    module = bytes.fromhex(
        "0061736d010000000105016000017f03020100070a0106616e7377657200000a06010400412a0b"
    )
    config, file = tmp_path / "config.json", tmp_path / "answer.wasm"
    file.write_bytes(module)
    about = {"created": "2026-01-01T00:00:00Z", "architecture": "wasm", "os": "wasip2"}
    about["layerDigests"] = digest_of(module)
    config.write_text(json.dumps(about))
    name = f"{registry.address}/artifacts/module:1"
    sent = push(pusher, name, config, _WASM_CONFIG, f"{file}:{_WASM}").expect(201)
    found = client.get_manifest("artifacts/module", "1").expect(200)
    assert found.body == sent.body
    [layer] = found.json()["layers"]
    assert layer["mediaType"] == _WASM
    assert blob(client, "artifacts/module", layer) == module
    [pulled] = pusher.pull(target=name, outdir=str(tmp_path / "out"))
    assert Path(pulled).read_bytes() == module
