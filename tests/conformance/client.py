"""A client of any registry: requests exactly as they are meant, and what came back, untouched."""

import json
import re
import secrets
import ssl
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

import httpx2

from tests.conformance.content import (
    EMPTY_OBJECT,
    LAYER,
    MANIFESTS,
    OCTETS,
    Content,
    config,
    digest_of,
    image,
)

_TIMEOUT_SECONDS = 60
_PATH_MAX = 100

Body = bytes | Iterable[bytes] | None
Query = Sequence[tuple[str, str]]
Headers = Mapping[str, str] | Sequence[tuple[str, str]]

_USUAL = {"Accept": "*/*", "Accept-Encoding": "identity"}


@dataclass(frozen=True)
class Target:
    """Which registry to ask, as whom, and how."""

    url: str
    user: str | None = None
    password: str = ""
    ca: Path | None = None
    insecure: bool = False
    http2: bool = False


@dataclass(frozen=True)
class Answer:
    """What came back, its body without any decoding."""

    asked: str
    """The request, for people."""
    url: str
    status: int
    headers: httpx2.Headers
    body: bytes

    def expect(self, *statuses: int) -> "Answer":
        """Insist on a status; the answer itself."""
        wanted = " or ".join(map(str, statuses))
        said = self.body[:300].decode(errors="replace").strip()
        assert self.status in statuses, f"{self.asked}: {self.status} instead of {wanted}  {said}"
        return self

    def header(self, name: str) -> str:
        """Return a header that has to be there."""
        assert name in self.headers, f"{self.asked}: {self.status} without {name}"
        return str(self.headers[name])

    def json(self) -> Any:
        """Read the body as JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            raise AssertionError(f"{self.asked}: {self.body[:100]!r} is not JSON") from None

    def location(self) -> str:
        """Say where to go on."""
        return urljoin(self.url, self.header("Location"))

    def next_page(self) -> str | None:
        """Say where the next page is, if there is one (RFC 5988)."""
        if "Link" not in self.headers:
            return None
        stated = self.header("Link")
        found = re.fullmatch(r'\s*<([^>]*)>\s*(?:;.*)?;\s*rel="?next"?\s*(?:;.*)?', stated)
        assert found is not None, f"{self.asked}: Link: {stated} is no link to a next page"
        return urljoin(self.url, str(found[1]))

    def page_of(self, field: str) -> list[Any]:
        """Return the list in a JSON object."""
        document = self.json()
        assert isinstance(document, dict), f"{self.asked}: {document!r} is no object"
        found = document.get(field)
        assert isinstance(found, list), f"{self.asked}: {field} is {found!r} and not a list"
        return found


class Registry:
    """The registry under test, over one version of HTTP."""

    def __init__(self, target: Target, client: httpx2.Client) -> None:
        self.target = target
        self._client = client
        self._base = str(httpx2.URL(target.url)).rstrip("/")
        self._version = "HTTP/2" if target.http2 else "HTTP/1.1"
        pair = f"{target.user}:{target.password}".encode()
        self.login = f"Basic {b64encode(pair).decode()}" if target.user is not None else None

    @property
    def host(self) -> str:
        """What stands before the first slash of an image's name."""
        return urlsplit(self._base).netloc

    def ask(
        self,
        method: str,
        url: str,
        *,
        query: Query = (),
        headers: Headers = (),
        body: Body = None,
    ) -> Answer:
        """Send one request; a body of several pieces goes without an announced length.

        Parameters are added to those a URL has, since a Location may bring some of its own.
        """
        target = self._base + url if url.startswith("/") else url
        if query:
            target += f"{'&' if '?' in target else '?'}{urlencode(query)}"
        given = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
        named = {name for name, _ in given}
        sent = [(name, value) for name, value in _USUAL.items() if name not in named] + given
        if self.login is not None and self._owns(target):
            sent.append(("Authorization", self.login))
        # Any answer may be a redirect; but what was made for one sending cannot be sent again.
        follows = body is None or isinstance(body, bytes)
        request = self._client.build_request(method, target, headers=sent, content=body)
        response = self._client.send(request, stream=True, follow_redirects=follows)
        try:
            content = b"".join(response.iter_raw())
        finally:
            response.close()
        asked = f"{method} {_short(request.url.raw_path.decode())}"
        if self._owns(str(response.url)):
            spoken = response.http_version
            assert spoken == self._version, f"{asked}: answered over {spoken}"
        return Answer(asked, str(response.url), response.status_code, response.headers, content)

    def _owns(self, url: str) -> bool:
        """Tell whether a URL is the registry's own, however its port is written."""
        mine = f"{self._base}/"
        return url.startswith(mine) or str(httpx2.URL(url)).startswith(mine)

    def repository(self, name: str = "") -> "Repository":
        """Take a repository, a new one unless it is named."""
        return Repository(self, name or f"conformance/{secrets.token_hex(8)}")


@contextmanager
def connected(target: Target) -> Iterator[Registry]:
    """Keep connections to a registry for a while."""
    verify: ssl.SSLContext | bool = False
    if not target.insecure:
        verify = ssl.create_default_context(cafile=target.ca)
    with httpx2.Client(
        http1=not target.http2,
        http2=target.http2,
        verify=verify,
        trust_env=False,
        timeout=_TIMEOUT_SECONDS,
        headers={"User-Agent": "conformance"},
    ) as client:
        yield Registry(target, client)


@dataclass(frozen=True)
class Upload:
    """An upload session: where it goes on, and the least size of its chunks."""

    location: str
    least: int

    @property
    def piece(self) -> int:
        """Bytes in a chunk that is large enough."""
        return max(self.least, 1000)


class Repository:
    """One repository, and the requests about it."""

    def __init__(self, registry: Registry, name: str) -> None:
        self.registry = registry
        self.name = name

    def url(self, rest: str) -> str:
        """Name something in the repository."""
        return f"/v2/{self.name}/{rest}"

    # -- blobs

    def get_blob(self, digest: str, span: str | None = None) -> Answer:
        """Ask for a blob, or for a Range of it."""
        headers = {} if span is None else {"Range": span}
        return self.registry.ask("GET", self.url(f"blobs/{digest}"), headers=headers)

    def head_blob(self, digest: str) -> Answer:
        """Ask whether a blob is there."""
        return self.registry.ask("HEAD", self.url(f"blobs/{digest}"))

    def delete_blob(self, digest: str) -> Answer:
        """Ask that a blob be deleted."""
        return self.registry.ask("DELETE", self.url(f"blobs/{digest}"))

    def post(self, query: Query = (), body: bytes = b"") -> Answer:
        """Ask for an upload session, or for what makes one unnecessary."""
        headers = {"Content-Length": str(len(body))} | ({"Content-Type": OCTETS} if body else {})
        return self.registry.ask(
            "POST", self.url("blobs/uploads/"), query=query, headers=headers, body=body
        )

    def start(self, query: Query = ()) -> Upload:
        """Begin an upload session."""
        answer = self.post(query).expect(202)
        return Upload(answer.location(), int(answer.headers.get("OCI-Chunk-Min-Length", "0")))

    def chunk(self, location: str, data: bytes, offset: int) -> Answer:
        """Send a chunk and say where it belongs."""
        headers = _chunk_headers(data, offset)
        return self.registry.ask("PATCH", location, headers=headers, body=data)

    def stream(self, location: str, pieces: Iterable[bytes]) -> Answer:
        """Send a chunk and say neither where it belongs nor how long it is."""
        headers = {"Content-Type": OCTETS}
        return self.registry.ask("PATCH", location, headers=headers, body=iter(pieces))

    def status(self, location: str) -> Answer:
        """Ask how far an upload session has come."""
        return self.registry.ask("GET", location)

    def close(
        self, location: str, digest: str, data: bytes = b"", offset: int | None = None
    ) -> Answer:
        """Ask that an upload become a blob, with the last of it or with nothing more."""
        headers = {"Content-Length": str(len(data))} | ({"Content-Type": OCTETS} if data else {})
        if offset is not None:
            headers = _chunk_headers(data, offset)
        query = [("digest", digest)]
        return self.registry.ask("PUT", location, query=query, headers=headers, body=data)

    def cancel(self, location: str) -> Answer:
        """Ask that an upload session be forgotten."""
        return self.registry.ask("DELETE", location, headers={"Content-Length": "0"})

    def push_blob(self, data: bytes, algorithm: str = "sha256") -> str:
        """Push a blob in the way that every registry has; its digest."""
        digest = digest_of(data, algorithm)
        query = [] if algorithm == "sha256" else [("digest-algorithm", algorithm)]
        self.close(self.start(query).location, digest, data).expect(201)
        return digest

    # -- manifests

    def put(
        self,
        reference: str,
        content: Content,
        *,
        query: Query = (),
        media_type: str | None = None,
    ) -> Answer:
        """Ask that a manifest be stored."""
        headers = {
            "Content-Type": media_type or content.media_type,
            "Content-Length": str(len(content.data)),
        }
        return self.registry.ask(
            "PUT",
            self.url(f"manifests/{reference}"),
            query=query,
            headers=headers,
            body=content.data,
        )

    def get(self, reference: str) -> Answer:
        """Ask for a manifest."""
        return self._manifest("GET", reference)

    def head(self, reference: str) -> Answer:
        """Ask whether a manifest is there."""
        return self._manifest("HEAD", reference)

    def delete(self, reference: str) -> Answer:
        """Ask that a tag or a manifest be deleted."""
        return self.registry.ask("DELETE", self.url(f"manifests/{reference}"))

    def push(
        self, content: Content, reference: str | None = None, algorithm: str = "sha256"
    ) -> str:
        """Store a manifest, under its digest unless a tag is given; its digest."""
        digest = content.digest(algorithm)
        self.put(reference or digest, content).expect(201)
        return digest

    def push_image(self, *tags: str, algorithm: str = "sha256", **fields: Any) -> Content:
        """Store an image under its digest and some tags.

        Its config is its layer, too: a blob less to push, hundreds of times.
        """
        described = config()
        self.push_blob(described.data, algorithm)
        layers = [Content(described.data, LAYER)]
        return self._push_tagged(image(described, layers, algorithm, **fields), tags, algorithm)

    def push_artifact(
        self, artifact_type: str | None, *tags: str, algorithm: str = "sha256", **fields: Any
    ) -> Content:
        """Store an artifact: an image manifest without an image's config."""
        fields.setdefault("annotations", {"test.unique": secrets.token_hex(8)})
        self.push_blob(EMPTY_OBJECT.data, algorithm)
        content = image(
            EMPTY_OBJECT, [EMPTY_OBJECT], algorithm, artifactType=artifact_type, **fields
        )
        return self._push_tagged(content, tags, algorithm)

    def _push_tagged(self, content: Content, tags: Sequence[str], algorithm: str) -> Content:
        if algorithm != "sha256" or not tags:
            self.push(content, algorithm=algorithm)
        for tag in tags:
            self.push(content, tag)
        return content

    # -- lists

    def tags(self, query: Query = ()) -> Answer:
        """Ask for the tags."""
        return self.registry.ask("GET", self.url("tags/list"), query=query)

    def referrers(self, digest: str, query: Query = ()) -> Answer:
        """Ask what refers to a digest."""
        headers = {"Accept": "application/vnd.oci.image.index.v1+json"}
        url = self.url(f"referrers/{digest}")
        return self.registry.ask("GET", url, query=query, headers=headers)

    def pages(self, first: Answer) -> list[Answer]:
        """Follow the links from a list's first page to its end."""
        answers = [first.expect(200)]
        while (url := answers[-1].next_page()) is not None:
            assert len(answers) < 1000, f"{first.asked}: the links lead nowhere"
            answers.append(self.registry.ask("GET", url).expect(200))
        return answers

    def all_referrers(self, digest: str, query: Query = ()) -> list[dict[str, Any]]:
        """List what refers to a digest, whatever the number of pages."""
        pages = self.pages(self.referrers(digest, query))
        return [entry for page in pages for entry in page.page_of("manifests")]

    def _manifest(self, method: str, reference: str) -> Answer:
        headers = {"Accept": ", ".join(MANIFESTS)}
        return self.registry.ask(method, self.url(f"manifests/{reference}"), headers=headers)


def _chunk_headers(data: bytes, offset: int) -> dict[str, str]:
    return {
        "Content-Type": OCTETS,
        "Content-Length": str(len(data)),
        "Content-Range": f"{offset}-{offset + len(data) - 1}",
    }


def _short(path: str) -> str:
    """Cut a path to what a person needs of it."""
    cut = re.sub(r"([0-9a-f]{12})[0-9a-f]{20,}", r"\1…", path)
    return cut if len(cut) <= _PATH_MAX else f"{cut[:_PATH_MAX]}…"
