"""Upload sessions: which chunk is accepted, decided from the session's offset alone.

A session is a growing run of bytes. Its offset is the number of bytes it holds; a chunk is
accepted only if it starts there (OCI Distribution Specification 1.1, "Pushing a blob in chunks").
A stream without `Content-Range` goes on where the session stands.
"""

from dataclasses import dataclass

from appliance.oci.errors import RANGE_INVALID, SIZE_INVALID
from appliance.protocol.ranges import ContentRange


@dataclass(frozen=True, slots=True)
class Session:
    """An upload session's record: to whom and to which repository it belongs."""

    id: str
    repository: str
    account: str
    algorithm: str
    """The digest algorithm computed while bytes arrive."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk that may be appended, and how many bytes it must bring; None if nobody said."""

    length: int | None

    def check_room(self, received: int) -> None:
        """Refuse bytes beyond what was announced, with SIZE_INVALID."""
        if self.length is not None and received > self.length:
            raise SIZE_INVALID.error(
                f"{self.length} bytes were announced, at least {received} arrived"
            )

    def check_end(self, received: int) -> None:
        """Refuse a body that ended before or after what was announced, with SIZE_INVALID."""
        if self.length is not None and received != self.length:
            raise SIZE_INVALID.error(f"{self.length} bytes were announced, {received} arrived")


def range_header(offset: int) -> str:
    """State a session's progress the way clients parse it: `0-<last byte>`, `0-0` when empty."""
    return f"0-{max(offset - 1, 0)}"


def accept_chunk(
    offset: int, content_range: ContentRange | None, content_length: int | None
) -> Chunk:
    """Decide on a chunk that arrives at a session holding `offset` bytes.

    Raises RANGE_INVALID (416) when it does not start there, SIZE_INVALID when its two lengths
    differ.
    """
    if content_range is None:
        return Chunk(content_length)
    if content_range.start != offset:
        raise RANGE_INVALID.error(
            f"the session stands at {offset}, the chunk starts at {content_range.start}"
        )
    if content_length is not None and content_length != content_range.length:
        raise SIZE_INVALID.error(
            f"Content-Range tells of {content_range.length} bytes, "
            f"Content-Length of {content_length}"
        )
    return Chunk(content_range.length)
