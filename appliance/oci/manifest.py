"""Reading manifests: the few fields a registry acts on, out of bytes that are kept exactly.

A manifest is judged by its media type. The document's own `mediaType`, where there is one, must
be the Content-Type it was pushed with, and one document cannot be an image and an index at once:
otherwise two clients could read two different images from the same bytes (CVE-2021-41190).
"""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import msgspec
from msgspec import structs

from appliance.oci.descriptor import Descriptor, RawDescriptor, RawEntry, ReferrerDescriptor
from appliance.oci.digest import Digest
from appliance.oci.errors import MANIFEST_INVALID
from appliance.oci.mediatypes import (
    DOCKER_SCHEMA1,
    FOREIGN_LAYERS,
    IMAGES,
    INDEXES,
    OCI_ARTIFACT,
    OCI_INDEX,
    OCI_MANIFEST,
)

SIZE_MAX = 4 << 20
"""Bytes in a manifest: what the specification asks registries to take, and no more."""


class _Document(msgspec.Struct, rename="camel"):
    schema_version: int | None = None
    media_type: str | None = None
    artifact_type: str | None = None
    config: RawDescriptor | None = None
    # null is what Go programs write for a list without entries
    layers: list[RawDescriptor] | msgspec.UnsetType | None = msgspec.UNSET
    manifests: list[RawEntry] | msgspec.UnsetType | None = msgspec.UNSET
    blobs: list[RawDescriptor] | None = None
    subject: RawDescriptor | None = None
    annotations: dict[str, str] | None = None


_MEDIA_TYPE = re.compile(r"[!#$&^_.+A-Za-z0-9-]{1,127}/[!#$&^_.+A-Za-z0-9-]{1,127}", re.ASCII)
_SCHEMA_1 = "docker schema 1 manifests are not accepted; docker 1.10 and later push schema 2"
_DECODER = msgspec.json.Decoder(_Document)
_FIELDS = {name.casefold(): name for name in _Document.__struct_encode_fields__}
_DESCRIPTOR_FIELDS = {name.casefold(): name for name in RawDescriptor.__struct_encode_fields__}
_DESCRIPTORS = msgspec.json.Decoder(dict[str, msgspec.Raw] | list[dict[str, msgspec.Raw]] | None)
_WITH_DESCRIPTORS = ("config", "layers", "manifests", "blobs", "subject")
_COLONS_MAX = 1 << 16  # more of them take long to decode, and no manifest has as many fields


REFERENCES_MAX = 2000
"""Blobs and manifests that one manifest may refer to; images have a hundred at most."""


@dataclass(frozen=True, slots=True)
class StoredManifest:
    """A manifest as the catalogue knows it."""

    descriptor: Descriptor
    content: bytes | None
    """Its bytes, where the catalogue holds them itself; larger ones are in the store alone."""
    is_rotten: bool = False
    """Whether what the catalogue holds are other bytes than those of its digest."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a registry needs to know of a manifest besides its bytes."""

    media_type: str
    blobs: tuple[Descriptor, ...]
    """Blobs that must be in the same repository: config and layers."""
    manifests: tuple[Descriptor, ...]
    """Manifests that belong into the same repository: the entries of an index."""
    subject: Descriptor | None
    """The manifest this one is about, which may be absent."""
    artifact_type: str | None
    annotations: dict[str, str] | None
    optional: frozenset[Digest] = frozenset()
    """Those of `manifests` that may be absent."""

    @property
    def references(self) -> tuple[Descriptor, ...]:
        """All content this manifest keeps alive."""
        return self.blobs + self.manifests

    def referrer(self, digest: Digest, size: int) -> ReferrerDescriptor:
        """Describe this manifest, of that digest and size, in a list of referrers."""
        return ReferrerDescriptor(
            media_type=self.media_type,
            digest=str(digest),
            size=size,
            artifact_type=self.artifact_type,
            annotations=self.annotations,
        )


@dataclass(frozen=True, slots=True)
class PushedManifest:
    """A manifest on its way into a repository."""

    repository: str
    digest: Digest
    content: bytes
    manifest: Manifest
    tags: Collection[str] = ()
    """Tags that are to point to it."""


def parse_manifest(content: bytes, content_type: str | None) -> Manifest:
    """Read a manifest pushed with that Content-Type (its bare media type, None if it had none).

    Raises MANIFEST_INVALID with the reason; digests inside are checked for form (DIGEST_INVALID).
    """
    if content_type in DOCKER_SCHEMA1:
        raise MANIFEST_INVALID.error(_SCHEMA_1)
    document = _decode(content)
    media_type = _media_type(document, content_type)
    if _MEDIA_TYPE.fullmatch(media_type) is None:  # it will be a header of every answer
        raise MANIFEST_INVALID.error(f"{media_type[:100]!r} is no media type")
    manifest = (_index if media_type in INDEXES else _image)(document, media_type)
    if len(manifest.references) > REFERENCES_MAX:
        raise MANIFEST_INVALID.error(f"a manifest refers to at most {REFERENCES_MAX} others")
    return manifest


def _decode(content: bytes) -> _Document:
    if content.count(b":") > _COLONS_MAX:
        raise MANIFEST_INVALID.error("the manifest has too many fields")
    try:
        content.decode()  # the decoder skips what it does not know without looking at the encoding
        document = _DECODER.decode(content)
        fields = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
        _check_case(fields, _FIELDS)
        for name in _WITH_DESCRIPTORS:
            found = _DESCRIPTORS.decode(fields[name]) if name in fields else None
            for descriptor in found if isinstance(found, list) else [found or {}]:
                _check_case(descriptor, _DESCRIPTOR_FIELDS)
    except msgspec.ValidationError as error:
        raise MANIFEST_INVALID.error(f"the manifest is not well-formed: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MANIFEST_INVALID.error(f"the manifest is not JSON: {error}") from None
    except RecursionError:
        raise MANIFEST_INVALID.error("the manifest nests too deeply") from None
    return document


def _check_case(names: Iterable[str], known: Mapping[str, str]) -> None:
    """Refuse a field that clients written in Go take for the one it resembles, and others do not."""
    for name in names:
        meant = known.get(name.casefold(), name)
        if meant != name:
            raise MANIFEST_INVALID.error(
                f"the manifest's field {name[:100]!r} differs from {meant} in case only"
            )


def _media_type(document: _Document, content_type: str | None) -> str:
    if document.schema_version == 1 or document.media_type in DOCKER_SCHEMA1:
        raise MANIFEST_INVALID.error(_SCHEMA_1)
    stated = document.media_type
    if stated and content_type and stated != content_type:
        raise MANIFEST_INVALID.error(
            f"the manifest says mediaType {stated} but was sent with Content-Type {content_type}"
        )
    if stated or content_type:
        return stated or content_type or ""
    if document.manifests is not msgspec.UNSET:
        return OCI_INDEX
    if document.layers is not msgspec.UNSET:
        return OCI_MANIFEST
    raise MANIFEST_INVALID.error("the manifest has neither a mediaType nor a Content-Type")


def _index(document: _Document, media_type: str) -> Manifest:
    if isinstance(document.layers, list) or document.config is not None:
        raise MANIFEST_INVALID.error(f"an index ({media_type}) cannot have layers or a config")
    if document.manifests is msgspec.UNSET:
        raise MANIFEST_INVALID.error(f"an index ({media_type}) needs a list of manifests")
    return Manifest(
        media_type=media_type,
        blobs=(),
        manifests=tuple(map(_read_entry, document.manifests or ())),
        subject=_subject(document),
        artifact_type=document.artifact_type or None,
        annotations=document.annotations,
    )


def _image(document: _Document, media_type: str) -> Manifest:
    if isinstance(document.manifests, list):
        raise MANIFEST_INVALID.error(f"a manifest of type {media_type} cannot list manifests")
    layers = document.layers if isinstance(document.layers, list) else []
    blobs = document.blobs or []
    if media_type in IMAGES and (document.config is None or document.layers is msgspec.UNSET):
        raise MANIFEST_INVALID.error(f"an image manifest ({media_type}) needs config and layers")
    held = [layer for layer in (*layers, *blobs) if not _foreign(layer)]
    if document.config is not None:
        held.insert(0, document.config)
    artifact_type = document.artifact_type or None
    if artifact_type is None and document.config is not None and media_type != OCI_ARTIFACT:
        artifact_type = document.config.media_type
    return Manifest(
        media_type=media_type,
        blobs=tuple(map(_read, held)),
        manifests=(),
        subject=_subject(document),
        artifact_type=artifact_type,
        annotations=document.annotations,
    )


def _foreign(layer: RawDescriptor) -> bool:
    return bool(layer.urls) or layer.media_type in FOREIGN_LAYERS


def _subject(document: _Document) -> Descriptor | None:
    return None if document.subject is None else _read(document.subject)


def _read_entry(raw: RawEntry) -> Descriptor:
    return structs.replace(_read(raw), platform=str(raw.platform or ""))


def _read(raw: RawDescriptor) -> Descriptor:
    if raw.size < 0:
        raise MANIFEST_INVALID.error(f"the size of {raw.digest[:100]} is negative")
    return Descriptor(raw.media_type, Digest.parse(raw.digest), raw.size)
