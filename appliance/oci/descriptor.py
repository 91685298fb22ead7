"""Descriptors: media type, digest and size of content held elsewhere."""

import msgspec

from appliance.oci.digest import Digest


class RawPlatform(msgspec.Struct):
    """What an entry of an index says it runs on."""

    # null is what other languages write for what is not there
    os: str | None = None
    architecture: str | None = None
    variant: str | None = None

    def __str__(self) -> str:
        named = f"{self.os or ''}/{self.architecture or ''}"
        return f"{named}/{self.variant}" if self.variant else named


class RawDescriptor(msgspec.Struct, rename="camel"):
    """A descriptor as it stands in JSON; unknown fields are allowed and ignored."""

    media_type: str
    digest: str
    size: int
    artifact_type: str | None = None
    urls: list[str] | None = None


class RawEntry(RawDescriptor, rename="camel"):
    """An entry of an index."""

    platform: RawPlatform | None = None


class Descriptor(msgspec.Struct, frozen=True):
    """A descriptor whose digest has been read."""

    media_type: str
    digest: Digest
    size: int
    platform: str = ""
    """`os/architecture[/variant]` of an entry in an index that states it, else empty."""


class ReferrerDescriptor(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One entry in the answer to a referrers request ("Listing Referrers")."""

    media_type: str
    digest: str
    size: int
    artifact_type: str | None = None
    annotations: dict[str, str] | None = None
