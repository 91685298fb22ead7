"""Content digests, `algorithm:hex` (OCI Image Specification, "Digests")."""

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, Self

from appliance.oci.errors import DIGEST_INVALID

_HEX_LENGTH = {"sha256": 64, "sha512": 128}
_SHAPE = re.compile(r"([a-z0-9]+(?:[+._-][a-z0-9]+)*):([0-9a-zA-Z=_-]+)")
_HEX = re.compile(r"[0-9a-f]+")

ALGORITHMS = tuple(_HEX_LENGTH)
"""The algorithms this registry computes, the usual one first."""


class Hasher(Protocol):
    """What `hashlib` hands out."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Take more bytes."""

    def hexdigest(self) -> str:
        """Give the digest of all bytes taken so far, in lower-case hex."""


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A digest of a known algorithm and the right length."""

    algorithm: str
    hex: str

    @classmethod
    @lru_cache(maxsize=8192)
    def parse(cls, text: str) -> Self:
        """Read `algorithm:hex`; raises DIGEST_INVALID with what is wrong with the text."""
        shape = _SHAPE.fullmatch(text)
        if shape is None:
            raise DIGEST_INVALID.error(
                "a digest reads algorithm:hex, as in sha256:…", details=({"digest": text[:200]},)
            )
        algorithm, value = shape.groups()
        length = _HEX_LENGTH.get(algorithm)
        if length is None:
            raise DIGEST_INVALID.error(
                f"digest algorithm {algorithm} is not supported; use {' or '.join(ALGORITHMS)}",
                details=({"digest": text[:200]},),
            )
        if len(value) != length or _HEX.fullmatch(value) is None:
            raise DIGEST_INVALID.error(
                f"a {algorithm} digest has {length} lower-case hex digits",
                details=({"digest": text[:200]},),
            )
        return cls(algorithm, value)

    @classmethod
    def of(cls, content: bytes, algorithm: str = "sha256") -> Self:
        """Compute the digest of bytes at hand."""
        return cls(algorithm, hashlib.new(algorithm, content).hexdigest())

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


def new_hasher(algorithm: str) -> Hasher:
    """Start hashing with a supported algorithm; raises DIGEST_INVALID for any other."""
    if algorithm not in _HEX_LENGTH:
        raise DIGEST_INVALID.error(
            f"digest algorithm {algorithm[:40]} is not supported; use {' or '.join(ALGORITHMS)}"
        )
    return hashlib.new(algorithm)
