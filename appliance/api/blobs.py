"""Blobs of a repository: read in whole or in part, looked at, taken out."""

from appliance.api.exchange import Exchange
from appliance.oci.digest import Digest
from appliance.protocol.ranges import Span, select_span
from appliance.protocol.routes import Route
from appliance.registry.access import Account
from appliance.registry.blobs import Blobs

IMMUTABLE = "max-age=31536000, immutable"
"""The `Cache-Control` of whatever is named by its digest."""


class BlobResource:
    """`/v2/<name>/blobs/<digest>` ("Pulling blobs", "Deleting Blobs")."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs

    async def get(self, exchange: Exchange, route: Route, account: Account) -> None:
        """Answer 200, 206 for one range, 304 to a client that has it, or only the head."""
        digest = Digest.parse(route.tail)
        size = await self._blobs.size(route.name, digest)
        headers = [
            ("Accept-Ranges", "bytes"),
            ("Cache-Control", IMMUTABLE),
            ("Docker-Content-Digest", str(digest)),
            ("ETag", f'"{digest}"'),
        ]
        if is_fresh(exchange, digest):
            return await exchange.answer(304, headers, size=size)
        headers.append(("Content-Type", "application/octet-stream"))
        if exchange.is_head:
            return await exchange.answer(200, headers, size=size)
        span = select_span(exchange.header(b"range"), size)
        async with self._blobs.open(digest) as region:
            if span is None:
                return await exchange.answer_region(200, headers, region, Span(0, size))
            headers.append(("Content-Range", span.content_range(size)))
            return await exchange.answer_region(206, headers, region, span)

    async def delete(self, exchange: Exchange, route: Route, account: Account) -> None:
        """Answer 202 once the repository has the blob no more."""
        await self._blobs.delete(route.name, Digest.parse(route.tail))
        await exchange.answer(202)


def is_fresh(exchange: Exchange, digest: Digest) -> bool:
    """Tell whether the client's `If-None-Match` names this content."""
    known = exchange.header(b"if-none-match")
    if known is None:
        return False
    tags = {tag.strip().removeprefix("W/").strip('"') for tag in known.split(",")}
    return str(digest) in tags or "*" in tags
