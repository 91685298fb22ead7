"""Repository names, tags and references (OCI Distribution Specification 1.1, "Pulling manifests")."""

import re

from appliance.oci.digest import Digest
from appliance.oci.errors import NAME_INVALID, TAG_INVALID

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")

NAME_LENGTH_MAX = 255
"""Characters in a repository's name; the specification allows clients to expect this much."""


def parse_name(text: str) -> str:
    """Return a repository's name as given, or raise NAME_INVALID saying what is wrong with it."""
    if len(text) > NAME_LENGTH_MAX:
        raise NAME_INVALID.error(
            f"a repository name has at most {NAME_LENGTH_MAX} characters, this one {len(text)}"
        )
    if _NAME.fullmatch(text) is None:
        reason = "repository names are lower case" if text != text.lower() else "invalid name"
        raise NAME_INVALID.error(
            f"{reason}: components of a-z, 0-9 and single . _ __ or - between them, joined by /",
            details=({"name": text},),
        )
    return text


def parse_tag(text: str) -> str:
    """Return a tag as given, or raise TAG_INVALID."""
    if _TAG.fullmatch(text) is None:
        raise TAG_INVALID.error(
            "a tag has 1 to 128 letters, digits, _ . or -, and does not start with . or -",
            details=({"tag": text[:200]},),
        )
    return text


def parse_reference(text: str) -> Digest | str:
    """Read a digest (anything with a colon) or a tag; raises DIGEST_INVALID or TAG_INVALID."""
    return Digest.parse(text) if ":" in text else parse_tag(text)
