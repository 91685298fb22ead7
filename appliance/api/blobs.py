"""Blobs of a repository: read in whole or in part, looked at, taken out."""

from secrets import token_hex

from appliance.api.exchange import Exchange
from appliance.oci.digest import Digest
from appliance.protocol.ranges import Span, byteranges, select_spans
from appliance.registry.access import Grant
from appliance.registry.blobs import Blobs

_BYTES = ("Content-Type", "application/octet-stream")

IMMUTABLE = "max-age=31536000, immutable"
"""The `Cache-Control` of whatever is named by its digest."""


class BlobResource:
    """`/v2/<name>/blobs/<digest>` ("Pulling blobs", "Deleting Blobs")."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    async def get(self, exchange: Exchange, grant: Grant) -> None:
        """Answer 200, 206 for parts of it, 304 to a client that has it, or only the head."""
        digest = Digest.parse(grant.route.tail)
        size = await self._blobs.size(grant.route.name, digest)
        headers = [
            ("Accept-Ranges", "bytes"),
            ("Cache-Control", IMMUTABLE),
            ("Docker-Content-Digest", str(digest)),
            ("ETag", f'"{digest}"'),
        ]
        if is_fresh(exchange, digest):
            return await exchange.answer(304, headers, size=size)
        if exchange.is_head:
            return await exchange.answer(200, [*headers, _BYTES], size=size)
        spans = select_spans(_range(exchange, digest), size)
        async with self._blobs.open(digest, size) as region:
            if not spans:
                return await exchange.answer_region(200, [*headers, _BYTES], region, Span(0, size))
            if len(spans) == 1:
                headers += [_BYTES, ("Content-Range", spans[0].content_range(size))]
                return await exchange.answer_region(206, headers, region, *spans)
            boundary = token_hex(16)
            headers.append(("Content-Type", f"multipart/byteranges; boundary={boundary}"))
            parts = byteranges(spans, size, _BYTES[1], boundary)
            return await exchange.answer_region(206, headers, region, *parts)

    async def delete(self, exchange: Exchange, grant: Grant) -> None:
        """Answer 202 once the repository has the blob no more."""
        await self._blobs.delete(grant.route.name, Digest.parse(grant.route.tail))
        await exchange.answer(202)


def _range(exchange: Exchange, digest: Digest) -> str | None:
    """Return the `Range` that counts: none where `If-Range` names another content (RFC 9110, 13.1.5)."""
    condition = exchange.header(b"if-range")
    if condition is not None and condition.strip() != f'"{digest}"':
        return None
    return exchange.header(b"range")


def is_fresh(exchange: Exchange, digest: Digest) -> bool:
    """Tell whether the client's `If-None-Match` names this content."""
    known = exchange.header(b"if-none-match")
    if known is None:
        return False
    tags = {tag.strip().removeprefix("W/").strip('"') for tag in known.split(",")}
    return str(digest) in tags or "*" in tags
