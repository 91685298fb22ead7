"""Everything a client can do wrong, one row each; code raises a row, `api` alone makes JSON of it.

The codes are those of the OCI Distribution Specification 1.1, "Error codes"; the statuses are
those which the clients in use expect with them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field


class RegistryError(Exception):
    """A failure a client is told: its row, a sentence on what was wrong here, details as JSON."""

    def __init__(
        self,
        row: "ErrorRow",
        message: str | None = None,
        *,
        headers: tuple[tuple[str, str], ...] = (),
        details: tuple[dict[str, str], ...] = (),
    ) -> None:
        super().__init__(row, message, details)
        self.row = row
        self.message = message or row.message
        self.headers = headers
        self.details = details

    def __str__(self) -> str:
        return f"{self.row.code}: {self.message}"


@dataclass(frozen=True, slots=True)
class ErrorRow:
    """One failure that a client can see: the code on the wire, the HTTP status, a sentence."""

    code: str
    status: int
    message: str = field(repr=False)

    def error(
        self,
        message: str | None = None,
        *,
        headers: tuple[tuple[str, str], ...] = (),
        details: tuple[dict[str, str], ...] = (),
    ) -> RegistryError:
        """Make the exception to raise; `message` says more exactly what was wrong."""
        return RegistryError(self, message, headers=headers, details=details)


BLOB_UNKNOWN = ErrorRow("BLOB_UNKNOWN", 404, "blob unknown to registry")
BLOB_UPLOAD_UNKNOWN = ErrorRow("BLOB_UPLOAD_UNKNOWN", 404, "blob upload unknown to registry")
BODY_STALLED = ErrorRow("BLOB_UPLOAD_INVALID", 408, "the request body stopped arriving")
BODY_TOO_LARGE = ErrorRow("SIZE_INVALID", 413, "the request body is too large")
DIGEST_INVALID = ErrorRow("DIGEST_INVALID", 400, "provided digest did not match uploaded content")
MANIFEST_BLOB_UNKNOWN = ErrorRow(
    "MANIFEST_BLOB_UNKNOWN", 400, "manifest references a manifest or blob unknown to registry"
)
MANIFEST_INVALID = ErrorRow("MANIFEST_INVALID", 400, "manifest invalid")
MANIFEST_TOO_LARGE = ErrorRow("MANIFEST_INVALID", 413, "manifest too large")
MANIFEST_UNKNOWN = ErrorRow("MANIFEST_UNKNOWN", 404, "manifest unknown to registry")
METHOD_UNSUPPORTED = ErrorRow("UNSUPPORTED", 405, "the operation is unsupported")
NAME_INVALID = ErrorRow("NAME_INVALID", 400, "invalid repository name")
NAME_UNKNOWN = ErrorRow("NAME_UNKNOWN", 404, "repository name not known to registry")
PAGINATION_INVALID = ErrorRow("UNSUPPORTED", 400, "invalid number of results requested")
PATH_UNKNOWN = ErrorRow("UNSUPPORTED", 404, "there is no such endpoint")
ADDRESS_REFUSED = ErrorRow("DENIED", 403, "requests from this address are not answered")
FORBIDDEN = ErrorRow("DENIED", 403, "requested access to the resource is denied")
DIRECTORY_UNAVAILABLE = ErrorRow(
    "UNKNOWN", 503, "the directory of accounts does not answer; try later"
)
ISSUER_UNAVAILABLE = ErrorRow("UNKNOWN", 503, "the issuer of the token cannot be asked now")
MISDIRECTED = ErrorRow("UNSUPPORTED", 421, "this registry has another name")
QUOTA_REACHED = ErrorRow("DENIED", 403, "the repository has reached its quota")
RANGE_INVALID = ErrorRow(
    "BLOB_UPLOAD_INVALID", 416, "the chunk does not start where the upload session stands"
)
RANGE_UNSATISFIABLE = ErrorRow("BLOB_UNKNOWN", 416, "the range lies outside the blob")
REQUEST_INVALID = ErrorRow("UNSUPPORTED", 400, "the request is malformed")
SESSION_TAKEN_OVER = ErrorRow(
    "BLOB_UPLOAD_INVALID", 409, "a newer request goes on with this upload session"
)
SIZE_INVALID = ErrorRow("SIZE_INVALID", 400, "provided length did not match content length")
STORE_FULL = ErrorRow("DENIED", 507, "the registry's disk is full (of bytes or of inodes)")
STORE_UNAVAILABLE = ErrorRow("UNKNOWN", 503, "the registry cannot reach its storage")
TAGS_TOO_MANY = ErrorRow("TAG_INVALID", 414, "too many tags in one request")
TAG_IMMUTABLE = ErrorRow("DENIED", 403, "the tag is immutable")
TAG_INVALID = ErrorRow("TAG_INVALID", 400, "invalid tag")
TOO_MANY_LOGINS = ErrorRow("TOOMANYREQUESTS", 429, "too many logins are being checked; try later")
TOO_MANY_REQUESTS = ErrorRow("TOOMANYREQUESTS", 429, "too many requests; try later")
TOO_MANY_FAILURES = ErrorRow(
    "TOOMANYREQUESTS", 429, "too many wrong passwords; wait, and check the password"
)
UNAUTHORIZED = ErrorRow("UNAUTHORIZED", 401, "authentication required")


Objection = Callable[[str], RegistryError | None]
"""Tells what stands against a tag's moving or going; None where nothing does."""


def taken(tag: str) -> RegistryError:
    """Make the error of whoever may push, but not overwrite, and would move a tag."""
    return FORBIDDEN.error(
        f"the tag {tag} is there already, and this account may not overwrite it",
        details=({"tag": tag},),
    )


def tag_immutable(tag: str) -> RegistryError:
    """Make the error of whoever would move or remove a tag that is fixed."""
    return TAG_IMMUTABLE.error(
        f"the tag {tag} is immutable (push.immutable): it neither moves nor goes",
        details=({"tag": tag},),
    )
