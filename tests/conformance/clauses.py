"""What the OCI Distribution Specification asks of a registry: one row for each normative sentence.

The sentences are shortened and in our own words, under the titles the specification uses. Where it
only permits something ("a registry MAY …"), the permission is a row of level MAY and what follows
from using it is a row of its own. A registry without the feature holds neither: absent is not held. A few more rows of level MAY are about what the text leaves open
and clients rely on: streams without a length, Docker's manifests, layers that are kept elsewhere,
parameters that nobody knows.

Left out are sentences that bind clients, and two that nobody can observe from outside in a
reasonable time: that unfinished uploads time out, and that 429 comes with Retry-After.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pytest

Level = Literal["MUST", "MUST NOT", "SHOULD", "SHOULD NOT", "MAY"]
Version = Literal["1.1", "dev"]

VERSIONS: tuple[Version, ...] = ("1.1", "dev")
"""The released text, and the text under development, which contains it."""

_HARDENED = {"manifest-digest-1.1", "blob-digest-1.1", "head-digest-1.1", "head-length-1.1"}
"""Recommendations that the later text has turned into obligations, with rows of their own."""


@dataclass(frozen=True, slots=True)
class Clause:
    """One obligation, or one permission."""

    id: str
    section: str
    level: Level
    since: Version
    """The first version of the text that says so."""
    sentence: str

    @property
    def required(self) -> bool:
        """Whether a registry that does not hold this does not conform."""
        return self.level in {"MUST", "MUST NOT"}

    def applies(self, version: Version) -> bool:
        """Tell whether the text of that version says so."""
        later = version == "dev" and self.id in _HARDENED
        return VERSIONS.index(self.since) <= VERSIONS.index(version) and not later


_Row = tuple[str, Level, Version, str]


def _section(title: str, *rows: _Row) -> tuple[Clause, ...]:
    return tuple(Clause(id_, title, level, since, text) for id_, level, since, text in rows)


TABLE: tuple[tuple[Clause, ...], ...] = (
    _section(
        "Determining Support",
        ("support-200", "MUST", "1.1", "GET /v2/ answers 200"),
    ),
    _section(
        "Pulling manifests",
        ("name-valid", "MUST", "1.1", "names of the grammar are repositories"),
        ("name-invalid", "MUST NOT", "1.1", "a name outside the grammar is a repository"),
        ("tag-valid", "MUST", "1.1", "tags of the grammar work, up to 128 characters"),
        (
            "reference-invalid",
            "MUST NOT",
            "1.1",
            "a reference that is neither tag nor digest is taken",
        ),
        ("manifest-200", "MUST", "1.1", "an existing manifest comes whole, with 200"),
        ("manifest-media-type", "SHOULD", "1.1", "Content-Type is the one it was pushed with"),
        ("manifest-no-parameters", "SHOULD NOT", "1.1", "Content-Type has parameters"),
        ("manifest-digest-1.1", "SHOULD", "1.1", "Docker-Content-Digest says its digest"),
        ("manifest-digest-dev", "MUST", "dev", "Docker-Content-Digest says its digest"),
        ("manifest-404", "MUST", "1.1", "a manifest the repository lacks is answered 404"),
        ("sha512-manifest", "MAY", "1.1", "a manifest pushed by its sha512 digest is pulled by it"),
    ),
    _section(
        "Pulling blobs",
        ("blob-200", "MUST", "1.1", "an existing blob comes whole, with 200"),
        ("blob-digest-1.1", "SHOULD", "1.1", "Docker-Content-Digest says its digest"),
        ("blob-digest-dev", "MUST", "dev", "Docker-Content-Digest says its digest"),
        ("blob-digest-value", "MUST", "1.1", "where Docker-Content-Digest is sent, it is right"),
        ("blob-404", "MUST", "1.1", "a blob the repository lacks is answered 404"),
        ("range-one", "SHOULD", "1.1", "a Range of bytes is answered 206 with those bytes"),
        ("range-beyond", "SHOULD", "1.1", "a Range past the end is answered 416"),
        ("range-backward", "SHOULD", "1.1", "a Range that runs backward is answered 416"),
        ("range-several", "SHOULD", "1.1", "several ranges are answered multipart/byteranges"),
    ),
    _section(
        "Checking if content exists in the registry",
        ("head-blob-200", "MUST", "1.1", "HEAD of an existing blob answers 200"),
        ("head-manifest-200", "MUST", "1.1", "HEAD of an existing manifest answers 200"),
        ("head-digest-1.1", "SHOULD", "1.1", "HEAD says the digest in Docker-Content-Digest"),
        ("head-digest-dev", "MUST", "dev", "HEAD says the digest in Docker-Content-Digest"),
        ("head-length-1.1", "SHOULD", "1.1", "HEAD says the size in Content-Length"),
        ("head-length-dev", "MUST", "dev", "HEAD says the size in Content-Length"),
        ("head-body", "MUST NOT", "1.1", "an answer to HEAD has a body"),
        ("head-404", "MUST", "1.1", "HEAD of what the repository lacks answers 404"),
        ("head-like-get", "SHOULD", "1.1", "HEAD answers with the headers of GET"),
    ),
    _section(
        "Push",
        ("subject-missing", "MUST", "1.1", "a manifest whose subject is not there is accepted"),
        (
            "references-missing",
            "MUST",
            "1.1",
            "a refusal for missing content says MANIFEST_BLOB_UNKNOWN",
        ),
    ),
    _section(
        "Pushing blobs",
        ("digest-mismatch", "SHOULD", "1.1", "content of another digest is refused with 400"),
        ("digest-malformed", "SHOULD", "1.1", "a malformed digest is refused with 400"),
        ("digest-unsupported", "SHOULD", "1.1", "an unknown algorithm is refused with 400"),
    ),
    _section(
        "POST then PUT",
        ("post-202", "MUST", "1.1", "an upload session begins with 202"),
        (
            "post-location",
            "MUST",
            "1.1",
            "an upload session begins with the Location where it goes on",
        ),
        ("post-unique", "MUST", "1.1", "every upload session has its own Location"),
        ("post-concurrent", "MUST", "dev", "several uploads may run at the same time"),
        ("put-201", "MUST", "1.1", "the whole blob in one PUT is answered 201"),
        (
            "put-location",
            "MUST",
            "1.1",
            "a PUT is answered with a Location the blob is pulled from",
        ),
        ("put-empty", "MUST", "1.1", "a blob may be empty"),
        ("sha512-put", "MAY", "1.1", "a blob from a PUT may have a sha512 digest"),
    ),
    _section(
        "Single POST",
        ("single-supported", "MAY", "1.1", "a whole blob is taken in a single POST"),
        ("single-201", "MUST", "1.1", "a single POST that suffices is answered 201"),
        (
            "single-location",
            "MUST",
            "1.1",
            "a single POST is answered with a Location the blob is pulled from",
        ),
        (
            "single-fallback",
            "SHOULD",
            "1.1",
            "a single POST that does not suffice begins a session, with 202",
        ),
        ("sha512-single", "MAY", "1.1", "a blob from a single POST may have a sha512 digest"),
    ),
    _section(
        "Pushing a blob in chunks",
        ("chunk-minimum", "SHOULD", "1.1", "a minimum size is announced in OCI-Chunk-Min-Length"),
        ("chunk-202", "MUST", "1.1", "a chunk is answered 202"),
        ("chunk-location", "MUST", "1.1", "a chunk is answered with the Location for the next"),
        (
            "chunk-range",
            "MUST",
            "1.1",
            "a chunk is answered with a Range that ends at its last byte",
        ),
        ("chunk-order", "MUST", "1.1", "a chunk out of order is answered 416"),
        (
            "chunk-order-put",
            "MUST",
            "dev",
            "a final chunk out of order, in the PUT, is answered 416",
        ),
        ("chunk-recovery", "MAY", "1.1", "after 416, GET tells where to go on"),
        ("chunk-stream", "MAY", "1.1", "a chunk may come as a stream without Content-Range"),
        ("close-201", "MUST", "1.1", "the closing PUT is answered 201"),
        (
            "close-location",
            "MUST",
            "1.1",
            "the closing PUT is answered with a Location the blob is pulled from",
        ),
        ("close-final-chunk", "MAY", "1.1", "the final chunk may come with the closing PUT"),
        ("status-204", "MUST", "1.1", "GET of an active session answers 204"),
        ("status-location", "MUST", "1.1", "GET of a session says the Location for the next chunk"),
        ("status-range", "MUST", "1.1", "GET of a session says a Range that ends at its last byte"),
        ("session-404", "MUST", "1.1", "an unknown session is answered 404"),
        ("sha512-chunks", "MAY", "1.1", "a blob from chunks may have a sha512 digest"),
        ("algorithm-announced", "SHOULD", "dev", "digest-algorithm says which algorithm to use"),
    ),
    _section(
        "Cancel a blob upload",
        ("cancel-204", "SHOULD", "1.1", "DELETE of a session answers 204"),
        ("cancel-gone", "SHOULD", "1.1", "a cancelled session is gone"),
    ),
    _section(
        "Mounting a blob from another repository",
        ("mount-201", "MUST", "1.1", "a mount is answered 201"),
        (
            "mount-location",
            "MUST",
            "1.1",
            "a mount is answered with a Location the blob is pulled from",
        ),
        ("mount-unknown", "SHOULD", "1.1", "what cannot be mounted begins a session, with 202"),
        ("mount-anywhere", "MAY", "1.1", "a mount without from finds the blob wherever it is"),
        ("sha512-mount", "MAY", "1.1", "a mounted blob may have a sha512 digest"),
    ),
    _section(
        "Pushing Manifests",
        ("push-201", "MUST", "1.1", "a manifest that is stored is answered 201"),
        (
            "push-location",
            "MUST",
            "1.1",
            "a push is answered with a Location the manifest is pulled from",
        ),
        ("push-bytes", "MUST", "1.1", "a manifest is kept byte for byte"),
        (
            "push-digest-equal",
            "MUST",
            "1.1",
            "a manifest is stored under the digest the client gave",
        ),
        (
            "push-digest-header",
            "MUST",
            "dev",
            "Docker-Content-Digest says the digest of a pushed manifest",
        ),
        ("push-parameters", "SHOULD", "1.1", "parameters of Content-Type are ignored"),
        ("push-no-layers", "MAY", "1.1", "a manifest's list of blobs may be empty"),
        ("push-elsewhere", "MAY", "1.1", "non-distributable layers need not be pushed"),
        ("push-types", "MAY", "1.1", "Docker's manifests are kept as OCI's are"),
        ("repository-404", "MUST", "1.1", "a pull from a repository that is not there: 404"),
        ("push-limit", "SHOULD", "1.1", "the size of manifests has a limit"),
        ("push-413", "SHOULD", "1.1", "a manifest that is too large is answered 413"),
        ("push-large", "SHOULD", "1.1", "a manifest of almost 4 megabytes is taken"),
        ("tags-supported", "MAY", "dev", "tags in the query of a push by digest are set"),
        ("tags-ten", "MUST", "dev", "ten tags at least are set with one push"),
        ("tags-header", "MUST", "dev", "OCI-Tag names each tag that was set with a push"),
        ("tags-limit", "MAY", "dev", "too many tags for one push are answered 414"),
        ("sha512-tags", "MAY", "dev", "tags that are set with a push may point to a sha512 digest"),
    ),
    _section(
        "Pushing Manifests with Subject",
        ("subject-header", "MUST", "1.1", "OCI-Subject says the digest of an image's subject"),
        (
            "subject-header-index",
            "MUST",
            "1.1",
            "OCI-Subject says the digest of an index's subject",
        ),
        ("sha512-subject", "MAY", "1.1", "a subject may have a sha512 digest"),
    ),
    _section(
        "Listing Tags",
        ("tags-200", "MUST", "1.1", "the tags of a repository are answered 200"),
        (
            "tags-body",
            "MUST",
            "1.1",
            "the list is JSON, with the name of the repository and its tags",
        ),
        ("tags-empty", "MAY", "1.1", "the list may be empty"),
        ("tags-order", "MUST", "1.1", "the tags are in order"),
        ("tags-n", "MUST", "1.1", "n tags come where n were asked for, or a Link follows"),
        ("tags-link", "MUST", "1.1", "a Link leads to the next page, with rel next"),
        ("tags-zero", "MUST", "1.1", "no tags come where n is 0"),
        ("tags-zero-link", "MUST NOT", "1.1", "where n is 0, a Link follows"),
        ("tags-last", "MUST", "1.1", "last is a tag, after which the list goes on"),
        ("tags-last-alone", "MAY", "1.1", "last may come without n"),
    ),
    _section(
        "Listing Referrers",
        ("referrers-200", "MUST", "1.1", "the referrers of a digest are answered 200"),
        ("referrers-404", "MUST NOT", "1.1", "a list of referrers is answered 404"),
        ("referrers-400", "MUST", "1.1", "a digest that is none is answered 400"),
        ("referrers-type", "MUST", "1.1", "Content-Type is that of an index"),
        ("referrers-index", "MUST", "1.1", "the body is an index of descriptors"),
        (
            "referrers-listed",
            "MUST",
            "1.1",
            "the index lists the manifests of the repository about the digest",
        ),
        ("referrers-artifact-type", "MUST", "1.1", "an entry has the artifactType of its manifest"),
        (
            "referrers-config-type",
            "MUST",
            "1.1",
            "the entry of an image without one has its config's media type",
        ),
        ("referrers-index-type", "MUST", "1.1", "the entry of an index without one has none"),
        ("referrers-annotations", "MUST", "1.1", "an entry has the annotations of its manifest"),
        ("referrers-empty", "MUST", "1.1", "the index is empty where nothing refers to the digest"),
        ("referrers-link", "MUST", "1.1", "a Link with rel next follows what does not fit"),
        ("referrers-filter", "SHOULD", "1.1", "artifactType in the query filters the list"),
        (
            "referrers-filter-header",
            "MUST",
            "1.1",
            "OCI-Filters-Applied says that a filter was applied",
        ),
    ),
    _section(
        "Deleting tags",
        ("tag-delete-202", "MUST", "1.1", "deleting a tag is answered 202"),
        ("tag-delete-gone", "MUST", "1.1", "a deleted tag is answered 404"),
        (
            "tag-delete-only",
            "MUST",
            "1.1",
            "the manifest and its other tags stay when a tag is deleted",
        ),
        (
            "tag-delete-disabled",
            "MUST",
            "1.1",
            "where tags cannot be deleted, the answer is 400 or 405",
        ),
    ),
    _section(
        "Deleting Manifests",
        ("manifest-delete-202", "MUST", "1.1", "deleting a manifest is answered 202"),
        ("manifest-delete-gone", "MUST", "1.1", "a deleted manifest is answered 404"),
        (
            "manifest-delete-tags",
            "MUST",
            "1.1",
            "the tags that pointed to a deleted manifest are answered 404",
        ),
        (
            "manifest-delete-404",
            "MUST",
            "1.1",
            "deleting from a repository that is not there is answered 404",
        ),
        (
            "manifest-delete-disabled",
            "MUST",
            "1.1",
            "where manifests cannot be deleted, the answer is 400 or 405",
        ),
        ("manifest-delete-referrer", "MUST", "1.1", "a deleted referrer is listed no more"),
    ),
    _section(
        "Deleting Blobs",
        ("blob-delete-202", "MUST", "1.1", "deleting a blob is answered 202"),
        ("blob-delete-gone", "MUST", "1.1", "a deleted blob is answered 404"),
        ("blob-delete-404", "MUST", "1.1", "deleting a blob that is not there is answered 404"),
        (
            "blob-delete-disabled",
            "MUST",
            "1.1",
            "where blobs cannot be deleted, the answer is 400 or 405",
        ),
        (
            "blob-delete-only",
            "MUST",
            "1.1",
            "other repositories keep a blob that is deleted in one",
        ),
    ),
    _section(
        "Registry Proxying",
        ("ns-served", "MAY", "dev", "a pull with ns in its query is served"),
        ("ns-header", "SHOULD", "dev", "OCI-Namespace says the ns that was used"),
    ),
    _section(
        "Enabling the Referrers API",
        ("enable-listed", "MUST", "1.1", "what a referrers tag lists is a referrer"),
        (
            "enable-valid",
            "MUST",
            "1.1",
            "what a referrers tag lists counts only where its subject says so too",
        ),
        ("enable-new", "MUST", "1.1", "each new manifest with a subject is a referrer"),
    ),
    _section(
        "Endpoints",
        ("unknown-parameters", "MAY", "1.1", "unknown parameters of a query change nothing"),
        ("unknown-404", "MUST", "1.1", "deleting a manifest that is not there is answered 404"),
    ),
    _section(
        "Error Codes",
        ("error-shape", "MUST", "1.1", "a JSON body of an error is a list errors"),
        ("error-code", "MUST", "1.1", "a code is of capitals and underscores"),
        ("error-known", "MUST", "1.1", "a code is one of those in the table"),
        ("error-meaning", "MUST", "1.1", "a code says what was wrong"),
        ("error-message", "SHOULD", "1.1", "a message is text"),
    ),
    _section(
        "Warnings",
        ("warning-format", "MUST", "1.1", 'a Warning reads 299 - "text"'),
        ("warning-date", "MUST NOT", "1.1", "a Warning has a date"),
        ("warning-size", "MUST NOT", "1.1", "the warnings of one answer exceed 4096 bytes"),
    ),
)
"""The rows, section by section, in the specification's order."""

CLAUSES: dict[str, Clause] = {clause.id: clause for section in TABLE for clause in section}
"""The same by their ids."""


def clause(*ids: str) -> pytest.MarkDecorator:
    """Say which rows a test is about."""
    return pytest.mark.clause(*ids)


def by_algorithm(*sha256: str, sha512: str) -> pytest.MarkDecorator:
    """Run a test for both algorithms: what it says of sha256, and of sha512, which is optional."""
    return pytest.mark.parametrize(
        "algorithm",
        [
            pytest.param("sha256", marks=clause(*sha256)),
            pytest.param("sha512", marks=clause(sha512)),
        ],
    )


def named_by(test: Callable[..., Any]) -> set[str]:
    """Collect the ids that a test names, its parameters included."""
    ids: set[str] = set()
    for mark in getattr(test, "pytestmark", ()):
        if mark.name == "clause":
            ids.update(mark.args)
        elif mark.name == "parametrize":
            for values in mark.args[1]:
                for inner in getattr(values, "marks", ()):
                    ids.update(inner.args if inner.name == "clause" else ())
    return ids
