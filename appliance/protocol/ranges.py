"""Byte ranges: of a blob on its way out (RFC 9110, 14) and of a chunk on its way in.

The `Content-Range` of a chunk is the distribution specification's own, `<start>-<end>` without
unit or size ("Pushing a blob in chunks"); the standard form is understood as well.
"""

import re
from dataclasses import dataclass

from appliance.oci.errors import RANGE_INVALID, RANGE_UNSATISFIABLE

_RANGE = re.compile(r"bytes[ \t]*=[ \t]*(\d{0,18})-(\d{0,18})[ \t]*", re.IGNORECASE | re.ASCII)
_CONTENT_RANGE = re.compile(r"(?:bytes[ =])?(\d{1,18})-(\d{1,18})(?:/(?:\d{1,18}|\*))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive bytes of a blob."""

    offset: int
    length: int

    def content_range(self, size: int) -> str:
        """Make the `Content-Range` of an answer that sends these bytes of a blob of that size."""
        return f"bytes {self.offset}-{self.offset + self.length - 1}/{size}"


@dataclass(frozen=True, slots=True)
class ContentRange:
    """Where a chunk belongs: first and last byte, counted from 0."""

    start: int
    end: int

    @property
    def length(self) -> int:
        """Bytes in the chunk."""
        return self.end - self.start + 1


def select_span(header: str | None, size: int) -> Span | None:
    """Choose the bytes that a `Range` header asks of a blob of that size; None means all of it.

    A range that ends past the blob is cut, one that starts past it raises RANGE_UNSATISFIABLE.
    Of an empty blob there are no parts. Several ranges, other units and malformed headers are ignored, as RFC 9110 14.2 allows.
    """
    asked = _RANGE.fullmatch(header) if header and size else None
    if asked is None:
        return None
    first, last = asked.groups()
    if not first and not last:
        return None
    if not first:
        offset, end = max(size - int(last), 0), size
    else:
        offset, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < offset:
            return None
    if offset >= end:
        raise RANGE_UNSATISFIABLE.error(
            f"the blob has {size} bytes", headers=(("Content-Range", f"bytes */{size}"),)
        )
    return Span(offset, end - offset)


def parse_content_range(header: str) -> ContentRange:
    """Read a chunk's `Content-Range`; raises RANGE_INVALID when it is malformed or runs backward."""
    stated = _CONTENT_RANGE.fullmatch(header.strip())
    if stated is None or int(stated[2]) < int(stated[1]):
        raise RANGE_INVALID.error("Content-Range reads start-end, both counted from 0")
    return ContentRange(int(stated[1]), int(stated[2]))
