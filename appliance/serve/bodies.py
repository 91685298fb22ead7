"""Where a request's body ends, and which of the bytes that arrive are its content (RFC 9112, 6, 7).

A decoder is fed whatever arrives, in pieces of any size, and gives back views of the content among
it, copying nothing. It runs on the loop or in a worker thread, wherever the bytes are.
"""

import re
from typing import Protocol

from appliance.serve.heads import RequestHead, malformed

_LINE_MAX = 4096
"""Bytes of a chunk's size with its extensions, or of one trailer field."""

_TRAILERS_MAX = 8192

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")
_TRAILER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*")


class BodyDecoder(Protocol):
    """Finds the content among the bytes of a connection."""

    finished: bool
    """Whether the body has ended."""

    def decode(self, arrived: memoryview) -> tuple[list[memoryview], int]:
        """Give the content in what arrived, and how many of the bytes belong to this body.

        Bytes are left over only once the body has ended. Raises RefusalError for bad framing.
        """

    def missing_after(self, arrived: memoryview) -> int | None:
        """Tell how many bytes must follow these before the body is over; None if that is unknown.

        With 0 it may be over, so that waiting for more may be in vain.
        """


def decoder_for(head: RequestHead) -> BodyDecoder:
    """Make the decoder of a request's body; one without a body has ended already."""
    return ChunkedBody() if head.chunked else SizedBody(head.length)


class SizedBody:
    """A body whose length was announced."""

    __slots__ = ("_missing", "finished")

    def __init__(self, length: int) -> None:
        self._missing = length
        self.finished = not length

    def decode(self, arrived: memoryview) -> tuple[list[memoryview], int]:
        """See BodyDecoder."""
        content = arrived[: self._missing]
        self._missing -= len(content)
        self.finished = not self._missing
        return ([content] if content else []), len(content)

    def missing_after(self, arrived: memoryview) -> int:
        """See BodyDecoder."""
        return max(0, self._missing - len(arrived))


class ChunkedBody:
    """A body in chunks; extensions and trailers are checked for their form and dropped."""

    def __init__(self) -> None:
        self.finished = False
        self._missing = 0
        self._line = bytearray()
        self._at_line_end = self._size
        self._trailers = 0

    def decode(self, arrived: memoryview) -> tuple[list[memoryview], int]:
        """See BodyDecoder."""
        content = []
        position = 0
        while position < len(arrived) and not self.finished:
            if self._missing:
                piece = arrived[position : position + self._missing]
                content.append(piece)
                position += len(piece)
                self._missing -= len(piece)
            else:
                position += self._read_line(arrived[position : position + _LINE_MAX])
        return content, position

    def missing_after(self, arrived: memoryview) -> int | None:
        """See BodyDecoder."""
        return 0 if bytes(arrived[-5:]) == b"0\r\n\r\n" else None

    def _read_line(self, arrived: memoryview) -> int:
        """Take bytes up to the end of a line, or all of them."""
        found = bytes(arrived[:128]).find(b"\n")
        if found < 0:
            found = bytes(arrived).find(b"\n")
        taken = len(arrived) if found < 0 else found + 1
        self._line += arrived[:taken]
        if len(self._line) > _LINE_MAX:
            raise malformed("a line among the chunks is too long")
        if found >= 0:
            if not self._line.endswith(b"\r\n"):
                raise malformed("a line among the chunks ends with a bare LF")
            line = bytes(self._line[:-2])
            self._line.clear()
            self._at_line_end(line)
        return taken

    def _size(self, line: bytes) -> None:
        found = _SIZE.fullmatch(line)
        if found is None:
            raise malformed("the size of a chunk is malformed")
        self._missing = int(found[1], 16)
        self._at_line_end = self._after_chunk if self._missing else self._trailer

    def _after_chunk(self, line: bytes) -> None:
        if line:
            raise malformed("a chunk does not end where its size says")
        self._at_line_end = self._size

    def _trailer(self, line: bytes) -> None:
        if not line:
            self.finished = True
            return
        self._trailers += len(line)
        if self._trailers > _TRAILERS_MAX or not _TRAILER.fullmatch(line):
            raise malformed("the trailer is malformed, or too long")
