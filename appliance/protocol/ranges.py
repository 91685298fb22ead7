"""Byte ranges: of a blob on its way out (RFC 9110, 14) and of a chunk on its way in.

The `Content-Range` of a chunk is the distribution specification's own, `<start>-<end>` without
unit or size ("Pushing a blob in chunks"); the standard form is understood as well.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from appliance.oci.errors import RANGE_INVALID, RANGE_UNSATISFIABLE, RegistryError

RANGES_MAX = 1024
"""Ranges of one request that are answered each by itself: what a partial pull asks for at most."""

_RANGES = re.compile(r"bytes[ \t]*=(.*)", re.IGNORECASE | re.ASCII)
_RANGE = re.compile(r"(\d{1,18})-(\d{0,18})|-(\d{1,18})", re.ASCII)
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


def select_spans(header: str | None, size: int) -> tuple[Span, ...]:
    """Choose the bytes that a `Range` header asks of a blob of that size; none means all of it.

    A range that ends past the blob is cut, and one that starts past it is left out; where nothing
    is left, or a range runs backward, this raises RANGE_UNSATISFIABLE. Of an empty blob there are
    no parts. Other units and malformed headers are ignored, as RFC 9110 14.2 allows, and so are
    ranges that are too many, or together longer than the blob: the whole of it costs less.
    """
    asked = _RANGES.fullmatch(header) if header and size else None
    if asked is None:
        return ()
    stated = [text for text in (one.strip(" \t") for one in asked[1].split(",")) if text]
    ranges = [_RANGE.fullmatch(text) for text in stated[: RANGES_MAX + 1]]
    if not ranges or len(ranges) > RANGES_MAX:
        return ()
    spans = []
    for one in ranges:
        if one is None:
            return ()
        first, last, suffix = one.groups()
        if last and int(last) < int(first):
            raise _unsatisfiable("a range ends before it starts", size)
        if suffix is None:
            offset, end = int(first), min(int(last) + 1, size) if last else size
        else:
            offset, end = max(size - int(suffix), 0), size
        if offset < end:
            spans.append(Span(offset, end - offset))
    if not spans:
        raise _unsatisfiable(f"the blob has {size} bytes", size)
    return tuple(spans) if sum(span.length for span in spans) <= size else ()


def _unsatisfiable(reason: str, size: int) -> RegistryError:
    return RANGE_UNSATISFIABLE.error(reason, headers=(("Content-Range", f"bytes */{size}"),))


def byteranges(spans: Iterable[Span], size: int, kind: str, boundary: str) -> list[bytes | Span]:
    """Lay out the body of an answer with several parts of a blob (RFC 9110, 14.6).

    What comes back are the frames between the parts as bytes, and the parts as spans, in order;
    `kind` is the media type of each part.
    """
    body: list[bytes | Span] = []
    lead = ""
    for span in spans:
        frame = (
            f"{lead}--{boundary}\r\nContent-Type: {kind}\r\n"
            f"Content-Range: {span.content_range(size)}\r\n\r\n"
        )
        body += [frame.encode("ascii"), span]
        lead = "\r\n"
    return [*body, f"\r\n--{boundary}--\r\n".encode("ascii")]


def parse_content_range(header: str) -> ContentRange:
    """Read a chunk's `Content-Range`; raises RANGE_INVALID when it is malformed or runs backward."""
    stated = _CONTENT_RANGE.fullmatch(header.strip())
    if stated is None or int(stated[2]) < int(stated[1]):
        raise RANGE_INVALID.error("Content-Range reads start-end, both counted from 0")
    return ContentRange(int(stated[1]), int(stated[2]))
