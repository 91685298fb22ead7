"""A registry that is stopped, filled and asked in this process by the way of its operator."""

import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self
from unittest.mock import patch

from appliance.control import Operator
from appliance.oci.digest import Digest
from appliance.parts import DataFolder
from appliance.settings import Settings, load
from appliance.storage.files import FileStore

IMAGE = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


def described(content: bytes, media_type: str = "application/octet-stream") -> dict[str, Any]:
    return {"mediaType": media_type, "digest": str(Digest.of(content)), "size": len(content)}


def image_of(layers: Sequence[bytes], subject: dict[str, Any] | None = None) -> bytes:
    manifest = {
        "schemaVersion": 2,
        "mediaType": IMAGE,
        "config": described(b"{}", "application/vnd.oci.image.config.v1+json"),
        "layers": [described(layer) for layer in layers],
    }
    return json.dumps(manifest | ({"subject": subject} if subject else {})).encode()


def index_of(images: Sequence[bytes]) -> bytes:
    manifests = [described(image, IMAGE) for image in images]
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}).encode()


class _Operator(Operator):
    """One that leaves logging alone: a command sets it up for all of its process, which is ours."""

    def __enter__(self) -> Self:
        with patch("appliance.reach.log.configure"):
            return super().__enter__()


class World:
    """A data folder with its settings, and what was pushed into it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.data = folder / "data"
        self.source = folder / "registry.toml"
        self.source.write_text(
            f'[storage]\npath = "{self.data}"\n[auth]\nhtpasswd = "{folder / "htpasswd"}"\n'
            '[gc]\ngrace = "1ms"\nlease = "1ms"\n'
        )
        (folder / "htpasswd").write_text("somebody:hash\n")
        self.settings: Settings = load(self.source, {})
        self.catalogue = self.data / "catalogue.sqlite3"
        self.store = FileStore(self.data)

    def make(self) -> None:
        """Make it as its first start would."""
        opened = DataFolder(self.settings, self.source)
        opened.database.close()
        opened.release(stopped=True)

    def operator(self) -> Operator:
        return _Operator(self.settings, self.source)

    def push(self, name: str, tag: str, layers: Sequence[bytes]) -> Digest:
        """Push an image; its digest."""
        with self.operator() as operator:
            for blob in (b"{}", *layers):
                self._push_blob(operator, name, blob)
            return self._push(operator, name, tag, image_of(layers), IMAGE)

    def push_manifest(self, name: str, reference: str, content: bytes, kind: str = IMAGE) -> Digest:
        with self.operator() as operator:
            return self._push(operator, name, reference, content, kind)

    def remove(self, what: str) -> None:
        with self.operator() as operator:
            operator.ask("DELETE", f"/v2/{what}").document()

    def tags(self, name: str) -> dict[str, str]:
        """Its tags, with the digests that they point to."""
        with self.operator() as operator:
            answer = operator.ask("GET", f"/v2/{name}/tags/list")
            return {
                tag: operator.ask("HEAD", f"/v2/{name}/manifests/{tag}").headers[
                    "docker-content-digest"
                ]
                for tag in (answer.document()["tags"] if answer.status == 200 else [])
            }

    def repositories(self) -> list[str]:
        with self.operator() as operator:
            found: list[str] = operator.ask("GET", "/v2/_catalog").document()["repositories"]
            return found

    def pull(self, name: str, reference: str) -> set[Digest]:
        """Pull an image, checking every byte; the digests of its parts."""
        with self.operator() as operator:
            return self._pull(operator, name, reference)

    def blob(self, digest: Digest) -> Path:
        return self.store.path(digest)

    def files(self) -> set[Path]:
        """All files of blobs."""
        return {path for path in (self.data / "blobs").rglob("*") if path.is_file()}

    def _pull(self, operator: Operator, name: str, reference: str) -> set[Digest]:
        content = self._fetch(operator, f"/v2/{name}/manifests/{reference}")
        manifest: Mapping[str, Any] = json.loads(content)
        parts = {Digest.of(content)}
        for child in manifest.get("manifests", []):
            parts |= self._pull(operator, name, child["digest"])
        for part in [manifest["config"], *manifest["layers"]] if "layers" in manifest else []:
            found = self._fetch(operator, f"/v2/{name}/blobs/{part['digest']}")
            assert str(Digest.of(found)) == part["digest"]
            parts.add(Digest.of(found))
        return parts

    @staticmethod
    def _fetch(operator: Operator, target: str) -> bytes:
        found = io.BytesIO()
        operator.fetch(target, found.write)
        return found.getvalue()

    @staticmethod
    def _push_blob(operator: Operator, name: str, content: bytes) -> None:
        with tempfile.TemporaryFile() as file:
            file.write(content)
            file.flush()
            file.seek(0)
            target = f"/v2/{name}/blobs/uploads/?digest={Digest.of(content)}"
            operator.ask("POST", target, file).document()

    @staticmethod
    def _push(operator: Operator, name: str, reference: str, content: bytes, kind: str) -> Digest:
        with tempfile.TemporaryFile() as file:
            file.write(content)
            file.flush()
            file.seek(0)
            target = f"/v2/{name}/manifests/{reference}"
            operator.ask("PUT", target, file, {"Content-Type": kind}).document()
        return Digest.of(content)
