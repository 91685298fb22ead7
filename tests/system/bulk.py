"""Blobs of gibibytes: made as they are sent, hashed as they come, kept nowhere but in the registry."""

import hashlib
import http.client
import shutil
from collections.abc import Iterator
from pathlib import Path

from tests.system import images

MEBIBYTE = 1 << 20
GIBIBYTE = 1 << 30
BLOCK = 64 * MEBIBYTE
FIVE_GIBIBYTES = 80
"""In blocks."""
PIECE = MEBIBYTE
ENOUGH_SECONDS = 600
"""How long a test waits for one answer about so much."""


def check_room(folder: Path) -> None:
    """Fail at once, and in words, where five gibibytes and some more do not fit."""
    free = shutil.disk_usage(folder).free
    assert free > 7 * GIBIBYTE, f"only {free / GIBIBYTE:.1f} GiB are free below {folder}"


def content(blocks: int, seed: str = "big") -> Iterator[memoryview]:
    """One block of noise over and over, each time with another number in front."""
    block = bytearray(images.noise(BLOCK, seed))
    view = memoryview(block)
    for number in range(blocks):
        block[:8] = number.to_bytes(8, "big")
        for start in range(0, BLOCK, PIECE):
            yield view[start : start + PIECE]


def digest_of_pieces(pieces: Iterator[memoryview]) -> str:
    """The digest of what is never there as a whole."""
    seen = hashlib.sha256()
    for piece in pieces:
        seen.update(piece)
    return f"sha256:{seen.hexdigest()}"


def receive(response: http.client.HTTPResponse) -> tuple[str, int]:
    """Read a body to its end, keeping nothing; its digest and its size."""
    seen = hashlib.sha256()
    buffer = bytearray(PIECE)
    view = memoryview(buffer)
    size = 0
    while count := response.readinto(view):
        seen.update(view[:count])
        size += count
    return f"sha256:{seen.hexdigest()}", size
