"""Blobs on their way in ("Pushing blobs", "Mounting a blob from another repository")."""

from appliance.api.exchange import Exchange
from appliance.oci.digest import ALGORITHMS, Digest
from appliance.oci.errors import DIGEST_INVALID, RegistryError
from appliance.oci.names import parse_name
from appliance.protocol.ranges import ContentRange, parse_content_range
from appliance.protocol.routes import Action
from appliance.protocol.session import range_header
from appliance.registry.access import Gate, Grant
from appliance.registry.uploads import Uploads


class UploadsResource:
    """`/v2/<name>/blobs/uploads/`: where a blob's way in begins."""

    def __init__(self, uploads: Uploads, access: Gate, chunk_min: int) -> None:
        self._uploads = uploads
        self._access = access
        self._chunk_min = chunk_min

    async def post(self, exchange: Exchange, grant: Grant) -> None:
        """Answer 201 to a mount or a whole blob, 202 with a session otherwise."""
        query = exchange.query
        if "mount" in query and await self._mount(exchange, grant):
            return
        if "digest" not in query:
            algorithm = query.get("digest-algorithm", _algorithm(query.get("mount", "")))
            session_id = await self._uploads.start(grant.route.name, grant.account.name, algorithm)
            headers = _progress(grant.route.name, session_id, 0)
            if self._chunk_min:
                headers.append(("OCI-Chunk-Min-Length", str(self._chunk_min)))
            await exchange.answer(202, headers)
            return
        digest = Digest.parse(query["digest"])
        await self._uploads.put(
            grant.route.name,
            grant.account.name,
            digest,
            exchange,
            content_length=exchange.content_length,
        )
        await exchange.answer(201, created(grant.route.name, digest))

    async def _mount(self, exchange: Exchange, grant: Grant) -> bool:
        """Try to mount; whatever stands against it, the client may still send the blob itself.

        Without `from` any repository will do that has the blob and that the account may pull from.
        """
        try:
            digest = Digest.parse(exchange.query["mount"])
            named = exchange.query.get("from")
            sources = [parse_name(named)] if named else await self._uploads.holders(digest)
        except RegistryError:
            return False
        for source in sources:
            if not self._access.may(grant.account, Action.PULL, source):
                continue
            if await self._uploads.mount(source, grant.route.name, digest):
                await exchange.answer(201, created(grant.route.name, digest))
                return True
        return False


class UploadResource:
    """`/v2/<name>/blobs/uploads/<session id>`: one upload session."""

    def __init__(self, uploads: Uploads) -> None:
        self._uploads = uploads

    async def get(self, exchange: Exchange, grant: Grant) -> None:
        """Answer 204 with how far the session has come."""
        offset = await self._uploads.offset(grant.route.name, grant.account.name, grant.route.tail)
        await exchange.answer(204, _progress(grant.route.name, grant.route.tail, offset))

    async def patch(self, exchange: Exchange, grant: Grant) -> None:
        """Answer 202 once the chunk is in the session."""
        offset = await self._uploads.append(
            grant.route.name,
            grant.account.name,
            grant.route.tail,
            exchange,
            content_range=_content_range(exchange),
            content_length=exchange.content_length,
        )
        await exchange.answer(202, _progress(grant.route.name, grant.route.tail, offset))

    async def put(self, exchange: Exchange, grant: Grant) -> None:
        """Answer 201 once the blob is whole, durable and linked."""
        if "digest" not in exchange.query:
            raise DIGEST_INVALID.error("the parameter digest is missing")
        digest = Digest.parse(exchange.query["digest"])
        length = exchange.content_length if exchange.may_bring_more else 0
        await self._uploads.commit(
            grant.route.name,
            grant.account.name,
            grant.route.tail,
            digest,
            exchange,
            # Some clients say with an empty body where another chunk would begin.
            content_range=_content_range(exchange) if length != 0 else None,
            content_length=length,
        )
        await exchange.answer(201, created(grant.route.name, digest))

    async def delete(self, exchange: Exchange, grant: Grant) -> None:
        """Answer 204 once the session and its bytes are gone."""
        await self._uploads.cancel(grant.route.name, grant.account.name, grant.route.tail)
        await exchange.answer(204)


def _algorithm(text: str) -> str:
    """Tell which algorithm the blob will have that was to be mounted; the usual one otherwise."""
    named = text.partition(":")[0]
    return named if named in ALGORITHMS else ALGORITHMS[0]


def created(name: str, digest: Digest, kind: str = "blobs") -> list[tuple[str, str]]:
    """Say where content that has just been stored is."""
    return [
        ("Location", f"/v2/{name}/{kind}/{digest}"),
        ("Docker-Content-Digest", str(digest)),
    ]


def _progress(name: str, session_id: str, offset: int) -> list[tuple[str, str]]:
    return [
        ("Location", f"/v2/{name}/blobs/uploads/{session_id}"),
        ("Range", range_header(offset)),
        ("Docker-Upload-UUID", session_id),
    ]


def _content_range(exchange: Exchange) -> ContentRange | None:
    header = exchange.header(b"content-range")
    return None if header is None else parse_content_range(header)
