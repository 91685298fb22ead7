"""Manifests and the lists made of them: tags, repositories, referrers."""

from collections.abc import Sequence
from functools import lru_cache, partial

from appliance.api.blobs import IMMUTABLE, is_fresh
from appliance.api.exchange import Exchange
from appliance.api.uploads import created
from appliance.oci.digest import Digest
from appliance.oci.errors import (
    MANIFEST_TOO_LARGE,
    MANIFEST_UNKNOWN,
    TAG_INVALID,
    TAGS_TOO_MANY,
    RegistryError,
)
from appliance.oci.manifest import SIZE_MAX
from appliance.oci.mediatypes import OCI_INDEX
from appliance.oci.names import parse_reference, parse_tag
from appliance.protocol.paging import Page, next_link
from appliance.protocol.routes import Action
from appliance.registry.access import Gate, Grant
from appliance.registry.manifests import Manifests

TAGS_MAX = 50
"""Tags that one push by digest may set: each is a header of the answer, and clients take a hundred."""


class ManifestResource:
    """`/v2/<name>/manifests/<reference>` ("Pulling manifests", "Pushing Manifests")."""

    def __init__(self, manifests: Manifests, access: Gate) -> None:
        self._manifests = manifests
        self._access = access

    async def get(self, exchange: Exchange, grant: Grant) -> None:
        """Answer 200 with the bytes as pushed, 304 to a client that has them, or only the head."""
        reference = _existing(grant.route.tail)
        found = await self._manifests.find(grant.route.name, reference)
        digest = found.descriptor.digest
        headers = _described(digest, found.descriptor.media_type)
        if isinstance(reference, Digest):
            headers = (*headers, ("Cache-Control", IMMUTABLE))
        if is_fresh(exchange, digest):
            await exchange.answer(304, headers, size=found.descriptor.size)
        elif exchange.is_head:
            await exchange.answer(200, headers, size=found.descriptor.size)
        else:
            await exchange.answer(200, headers, await self._manifests.content(found))

    async def put(self, exchange: Exchange, grant: Grant) -> None:
        """Answer 201 once the manifest is stored and whatever tags were named point to it.

        A push by tag names that one; a push by digest names any number in parameters `tag`.
        """
        reference = parse_reference(grant.route.tail)
        tags = _tags(exchange) if isinstance(reference, Digest) else ()
        content = await exchange.read(SIZE_MAX, MANIFEST_TOO_LARGE)
        digest, manifest = await self._manifests.put(
            grant.route.name,
            reference,
            content,
            _media_type(exchange),
            tags=tags,
            may_overwrite=self._access.may(grant.account, Action.OVERWRITE, grant.route.name),
        )
        headers = created(grant.route.name, digest, "manifests")
        headers += (("OCI-Tag", tag) for tag in tags)
        if manifest.subject is not None:
            headers.append(("OCI-Subject", str(manifest.subject.digest)))
        await exchange.answer(201, headers)

    async def delete(self, exchange: Exchange, grant: Grant) -> None:
        """Answer 202 once the tag, or the manifest with its tags, is gone."""
        await self._manifests.delete(grant.route.name, _existing(grant.route.tail))
        await exchange.answer(202)


class RepositoryResource:
    """`/v2/<name>/`: a repository as a whole, an extension of ours."""

    def __init__(self, manifests: Manifests) -> None:
        self._manifests = manifests

    async def delete(self, exchange: Exchange, grant: Grant) -> None:
        """Answer 202 once nothing is left of it; what is on its way into it may still arrive."""
        await self._manifests.delete_repository(grant.route.name)
        await exchange.answer(202)


class ListResource:
    """`tags/list`, `_catalog` and `referrers`, each in pages that a `Link` joins."""

    def __init__(self, manifests: Manifests, access: Gate) -> None:
        self._manifests = manifests
        self._access = access

    async def tags(self, exchange: Exchange, grant: Grant) -> None:
        """Answer with a page of a repository's tags ("Listing Tags")."""
        page = _page(exchange)
        tags, more = await self._manifests.tags(grant.route.name, page)
        headers = _link(f"/v2/{grant.route.name}/tags/list", page, tags, more=more)
        await exchange.answer_json(200, {"name": grant.route.name, "tags": tags}, headers)

    async def repositories(self, exchange: Exchange, grant: Grant) -> None:
        """Answer with a page of what the account may pull, as Docker's registries do."""
        page = _page(exchange)
        visible = partial(self._access.may, grant.account, Action.PULL)
        names, more = await self._manifests.repositories(page, visible)
        headers = _link("/v2/_catalog", page, names, more=more)
        await exchange.answer_json(200, {"repositories": names}, headers)

    async def referrers(self, exchange: Exchange, grant: Grant) -> None:
        """Answer with an index of what refers to a digest; it may be empty ("Listing Referrers")."""
        page = _page(exchange)
        artifact_type = exchange.query.get("artifactType")
        found, more = await self._manifests.referrers(
            grant.route.name, Digest.parse(grant.route.tail), artifact_type, page
        )
        kept = () if artifact_type is None else (("artifactType", artifact_type),)
        headers = [
            ("Content-Type", OCI_INDEX),
            *_link(
                f"/v2/{grant.route.name}/referrers/{grant.route.tail}",
                page,
                [entry.digest for entry in found],
                kept,
                more=more,
            ),
        ]
        if artifact_type is not None:
            headers.append(("OCI-Filters-Applied", "artifactType"))
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": found}
        await exchange.answer_json(200, document, headers)


@lru_cache(maxsize=1024)
def _described(digest: Digest, media_type: str) -> tuple[tuple[str, str], ...]:
    return (
        ("Content-Type", media_type),
        ("Docker-Content-Digest", str(digest)),
        ("ETag", f'"{digest}"'),
    )


def _tags(exchange: Exchange) -> Sequence[str]:
    """Read the parameters `tag`, each once, as they came."""
    tags = tuple(dict.fromkeys(exchange.parameters("tag")))
    if len(tags) > TAGS_MAX:
        raise TAGS_TOO_MANY.error(f"a manifest is pushed with at most {TAGS_MAX} tags at once")
    return tuple(map(parse_tag, tags))


def _existing(text: str) -> Digest | str:
    """Read what a request refers to; a tag that cannot be is one that is not there."""
    try:
        return parse_reference(text)
    except RegistryError as error:
        if error.row is TAG_INVALID:
            raise MANIFEST_UNKNOWN.error(details=({"tag": text[:200]},)) from None
        raise


def _media_type(exchange: Exchange) -> str | None:
    stated = (exchange.header(b"content-type") or "").partition(";")[0].strip()
    return stated or None


def _page(exchange: Exchange) -> Page:
    return Page.parse(exchange.query.get("n"), exchange.query.get("last"))


def _link(
    path: str,
    page: Page,
    entries: list[str],
    kept: tuple[tuple[str, str], ...] = (),
    *,
    more: bool,
) -> list[tuple[str, str]]:
    if not more or not entries:
        return []
    return [next_link(path, (("n", str(page.limit)), ("last", entries[-1]), *kept))]
