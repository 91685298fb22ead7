"""Descriptors: media type, digest and size of content held elsewhere."""

import msgspec

from appliance.oci.digest import Digest


class RawDescriptor(msgspec.Struct, rename="camel"):
    """A descriptor as it stands in JSON; unknown fields are allowed and ignored."""

    media_type: str
    digest: str
    size: int
    artifact_type: str | None = None
    urls: list[str] | None = None


class Descriptor(msgspec.Struct, frozen=True):
    """A descriptor whose digest has been read."""

    media_type: str
    digest: Digest
    size: int


class ReferrerDescriptor(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """One entry in the answer to a referrers request ("Listing Referrers")."""

    media_type: str
    digest: str
    size: int
    artifact_type: str | None = None
    annotations: dict[str, str] | None = None
