"""Content codings: which one a client asked for (RFC 9110, 12.5.3), and how it is applied.

Only what this registry writes itself is ever coded. Blobs and manifests are known by their digest,
which is that of the bytes themselves, and clients ask for them in parts and by size.
"""

import gzip
import re
from collections.abc import Callable, Mapping, Sequence

import zstandard

_MEMBER = re.compile(
    r"\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*(?:;\s*[qQ]=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)\s*)?",
    re.ASCII,
)
_ALIASES = {"x-gzip": "gzip"}


def _zstd(content: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=3).compress(content)


def _gzip(content: bytes) -> bytes:
    return gzip.compress(content, compresslevel=5, mtime=0)


_ENCODERS: Mapping[str, Callable[[bytes], bytes]] = {"zstd": _zstd, "gzip": _gzip}

CODINGS = tuple(_ENCODERS)
"""The codings that can be asked for, the one that is preferred first."""


def choose_coding(accepted: Sequence[str]) -> str | None:
    """Choose among `CODINGS` by the `Accept-Encoding` headers of a request; None is no coding.

    A coding counts as asked for only by its own name: a `*`, or no header at all, asks for nothing.
    Of several the client's favourite is taken, and among equals ours. Malformed members are ignored.
    """
    weights: dict[str, float] = {}
    for text in ",".join(accepted).lower().split(","):
        member = _MEMBER.fullmatch(text)
        if member is not None:
            name = _ALIASES.get(member[1], member[1])
            weights[name] = 1.0 if member[2] is None else float(member[2])
    best = max(CODINGS, key=lambda coding: weights.get(coding, 0.0))
    weight = weights.get(best, 0.0)
    return best if weight > 0 and weight >= weights.get("identity", 0.0) else None


def encode(coding: str, content: bytes) -> bytes:
    """Apply one of `CODINGS`."""
    return _ENCODERS[coding](content)
