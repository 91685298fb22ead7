"""Images made from nothing: always the same bytes, quickly, with the standard library alone."""

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_CREATED = "2026-01-01T00:00:00Z"
_INDEX = "application/vnd.oci.image.index.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"

Descriptor = dict[str, Any]
Files = Mapping[str, bytes]


def noise(size: int, seed: str) -> bytes:
    """Bytes that do not compress and are the same on every run."""
    return hashlib.shake_128(seed.encode()).digest(size)


def tree(files: Files) -> bytes:
    """An uncompressed layer."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            entry.mode = 0o755
            entry.mtime = 1767225600
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def small() -> list[bytes]:
    """Two layers: busybox, and a file beside it."""
    return [
        tree({"bin/busybox": Path("/bin/busybox").read_bytes()}),
        tree({"etc/motd": b"a small image\n"}),
    ]


def tall() -> list[bytes]:
    """Twenty layers from a kilobyte to eight megabytes, about forty in all."""
    sizes = [1 << (10 + number * 13 // 18) for number in range(19)]
    return [
        small()[0],
        *(
            tree({f"srv/{number:02}.bin": noise(size, f"layer {number}")})
            for number, size in enumerate(sizes)
        ),
    ]


def config(layers: Sequence[bytes], platform: Mapping[str, str]) -> bytes:
    """An image's configuration, the same in both worlds."""
    content = {
        "created": _CREATED,
        **platform,
        "config": {"Cmd": ["/bin/busybox", "sh"], "Env": ["PATH=/bin"]},
        "rootfs": {
            "type": "layers",
            "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers],
        },
        "history": [{"created": _CREATED, "created_by": "tests"} for _ in layers],
    }
    return json.dumps(content).encode()


class Layout:
    """An OCI image layout in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._blobs = folder / "blobs" / "sha256"
        self._blobs.mkdir(parents=True)
        (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')

    def add_blob(self, data: bytes, media_type: str) -> Descriptor:
        """Keep some bytes; how to point at them."""
        hexadecimal = hashlib.sha256(data).hexdigest()
        (self._blobs / hexadecimal).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{hexadecimal}", "size": len(data)}

    def add_image(
        self, layers: Sequence[bytes], *, architecture: str = "amd64", variant: str | None = None
    ) -> Descriptor:
        """Keep an image for one platform."""
        platform = {"architecture": architecture, "os": "linux"}
        if variant is not None:
            platform["variant"] = variant
        manifest = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": self.add_blob(config(layers, platform), _CONFIG),
            "layers": [self.add_blob(gzip.compress(layer, 1, mtime=0), _LAYER) for layer in layers],
        }
        descriptor = self.add_blob(json.dumps(manifest).encode(), _MANIFEST)
        return descriptor | {"platform": platform}

    def add_index(self, images: Sequence[Descriptor]) -> Descriptor:
        """Keep a list of images by platform."""
        index = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": list(images)}
        return self.add_blob(json.dumps(index).encode(), _INDEX)

    def tag(self, descriptor: Descriptor, name: str) -> str:
        """Say what the layout is about; the digest of that."""
        top = {key: value for key, value in descriptor.items() if key != "platform"}
        top["annotations"] = {"org.opencontainers.image.ref.name": name}
        (self.folder / "index.json").write_text(
            json.dumps({"schemaVersion": 2, "manifests": [top]})
        )
        digest: str = descriptor["digest"]
        return digest

    def read(self, digest: str) -> bytes:
        """The bytes behind a digest."""
        return (self._blobs / digest.removeprefix("sha256:")).read_bytes()

    def top(self) -> str:
        """The digest of what the layout is about."""
        [descriptor] = json.loads((self.folder / "index.json").read_text())["manifests"]
        digest: str = descriptor["digest"]
        return digest

    def manifest(self, digest: str) -> Any:
        """A manifest or an index, read."""
        return json.loads(self.read(digest))

    def contents(self) -> dict[str, str]:
        """Each blob's file name with the sha256 of what is really in it."""
        return {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in self._blobs.iterdir()
        }


def existing(folder: Path) -> Layout:
    """A layout that some client wrote."""
    layout = Layout.__new__(Layout)
    layout.folder = folder
    layout._blobs = folder / "blobs" / "sha256"
    return layout


def layout_of(folder: Path, layers: Sequence[bytes], tag: str = "latest") -> Layout:
    """A layout with one image in it."""
    layout = Layout(folder)
    layout.tag(layout.add_image(layers), tag)
    return layout


def many_platforms(folder: Path, tag: str = "latest") -> Layout:
    """A layout with one index of four platforms, two layers each, one of them shared by all."""
    layout = Layout(folder)
    shared = tree({"usr/share/text": b"the same everywhere\n" * 50_000})
    images = [
        layout.add_image(
            [shared, tree({"bin/app": noise(1 << 20, architecture)})],
            architecture=architecture,
            variant=variant,
        )
        for architecture, variant in (
            ("amd64", None),
            ("arm64", "v8"),
            ("arm", "v7"),
            ("s390x", None),
        )
    ]
    layout.tag(layout.add_index(images), tag)
    return layout


def archive(path: Path, layers: Sequence[bytes], *names: str) -> Path:
    """What `docker save` would have written, for `docker load`."""
    about = config(layers, {"architecture": "amd64", "os": "linux"})
    about_name = hashlib.sha256(about).hexdigest() + ".json"
    files = {f"{number:02}/layer.tar": layer for number, layer in enumerate(layers)}
    manifest = [{"Config": about_name, "RepoTags": list(names), "Layers": list(files)}]
    path.write_bytes(
        tree({**files, about_name: about, "manifest.json": json.dumps(manifest).encode()})
    )
    return path
