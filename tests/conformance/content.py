"""Things to push: digests, descriptors, and manifests of every shape."""

import hashlib
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

IMAGE = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
ELSEWHERE = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_IMAGE = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
OCTETS = "application/octet-stream"

MANIFESTS = (INDEX, IMAGE, DOCKER_LIST, DOCKER_IMAGE)
"""The media types of manifests that clients say they accept."""

Document = dict[str, Any]


def unique(size: int = 512) -> bytes:
    """Bytes that no registry has seen before."""
    return secrets.token_bytes(size)


def digest_of(data: bytes, algorithm: str = "sha256") -> str:
    """Return the digest of some bytes."""
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Content:
    """Some bytes and what they are: a blob or a manifest."""

    data: bytes
    media_type: str

    def digest(self, algorithm: str = "sha256") -> str:
        """Return the digest of the bytes."""
        return digest_of(self.data, algorithm)

    def descriptor(self, algorithm: str = "sha256", **fields: Any) -> Document:
        """Describe the bytes, as manifests do."""
        return {
            "mediaType": self.media_type,
            "digest": self.digest(algorithm),
            "size": len(self.data),
            **fields,
        }


EMPTY_OBJECT = Content(b"{}", EMPTY)
"""What an artifact has in place of a config."""


def layer(size: int = 256, media_type: str = LAYER) -> Content:
    """Make a layer, of noise."""
    return Content(unique(size), media_type)


def config(media_type: str = CONFIG) -> Content:
    """Make a config like no other."""
    document = {"architecture": "amd64", "os": "linux", "author": secrets.token_hex(8)}
    return Content(json.dumps(document).encode(), media_type)


def manifest(media_type: str, **fields: Any) -> Content:
    """Make a manifest of some fields; one that is None is left out."""
    document = {"schemaVersion": 2, "mediaType": media_type, **fields}
    kept = {name: value for name, value in document.items() if value is not None}
    # Spaces that no encoder would write again betray a registry that keeps a copy of its own making.
    return Content(json.dumps(kept, indent=3, separators=(" ,", " : ")).encode(), media_type)


def image(
    config_: Content, layers: Sequence[Content], algorithm: str = "sha256", **fields: Any
) -> Content:
    """Make the manifest of an image, or of an artifact."""
    return manifest(
        IMAGE,
        config=config_.descriptor(algorithm),
        layers=[one.descriptor(algorithm) for one in layers],
        **fields,
    )


def index(children: Sequence[Content], algorithm: str = "sha256", **fields: Any) -> Content:
    """Make an index."""
    return manifest(INDEX, manifests=[one.descriptor(algorithm) for one in children], **fields)


def absent(media_type: str = IMAGE, algorithm: str = "sha256") -> Document:
    """Describe something that is nowhere."""
    return Content(unique(), media_type).descriptor(algorithm)


def referrers_tag(digest: str) -> str:
    """Name the tag where clients without a referrers API look ("Referrers Tag Schema")."""
    algorithm, _, encoded = digest.partition(":")
    return f"{algorithm[:32]}-{encoded[:64]}"


def broken() -> Content:
    """Make what claims to be an image's manifest and is not."""
    return Content(b'{"schemaVersion": 2, "config": ', IMAGE)
