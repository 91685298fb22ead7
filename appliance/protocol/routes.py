"""Which resource a request is about, and which action it takes: the one table of the API.

A name may itself contain words such as `blobs` or `tags`, so a path is read from its end: the
last segments say what is asked, all before them is the name. Segments are split on the slashes of
the raw path and percent-decoded afterwards, so that `%2f` can never join or split a name.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from functools import lru_cache
from types import MappingProxyType
from urllib.parse import unquote_to_bytes

from appliance.oci.errors import METHOD_UNSUPPORTED, NAME_INVALID, PATH_UNKNOWN, REQUEST_INVALID
from appliance.oci.names import parse_name


class Action(StrEnum):
    """What an account may be allowed to do."""

    LOGIN = "login"
    LIST = "list"
    PULL = "pull"
    PUSH = "push"
    OVERWRITE = "overwrite"
    DELETE = "delete"
    ADMIN = "admin"


class Resource(Enum):
    """What a path can name."""

    HOME = "/"
    HEALTH = "/healthz"
    READY = "/readyz"
    CA = "/ca.crt"
    TOKEN = "/auth/token"  # noqa: S105  a path
    BASE = "/v2/"
    CATALOG = "/v2/_catalog"
    TAGS = "/v2/<name>/tags/list"
    MANIFEST = "/v2/<name>/manifests/<reference>"
    BLOB = "/v2/<name>/blobs/<digest>"
    UPLOADS = "/v2/<name>/blobs/uploads/"
    UPLOAD = "/v2/<name>/blobs/uploads/<session id>"
    REFERRERS = "/v2/<name>/referrers/<digest>"
    REPOSITORY = "/v2/<name>/"


ACTIONS: Mapping[Resource, Mapping[str, Action | None]] = MappingProxyType(
    {
        Resource.HOME: {"GET": None},
        Resource.HEALTH: {"GET": None},
        Resource.READY: {"GET": None},
        Resource.CA: {"GET": None},
        Resource.TOKEN: {"GET": None, "POST": None},
        Resource.BASE: {"GET": Action.LOGIN},
        Resource.CATALOG: {"GET": Action.LIST},
        Resource.TAGS: {"GET": Action.PULL},
        Resource.MANIFEST: {"GET": Action.PULL, "PUT": Action.PUSH, "DELETE": Action.DELETE},
        Resource.BLOB: {"GET": Action.PULL, "DELETE": Action.DELETE},
        Resource.UPLOADS: {"POST": Action.PUSH},
        Resource.UPLOAD: {
            "GET": Action.PUSH,
            "PATCH": Action.PUSH,
            "PUT": Action.PUSH,
            "DELETE": Action.PUSH,
        },
        Resource.REFERRERS: {"GET": Action.PULL},
        Resource.REPOSITORY: {"DELETE": Action.ADMIN},
    }
)
"""The methods of each resource and the action each takes; None asks nothing of anyone.

HEAD is answered wherever GET is. Who asks for a token proves there who it is. That a tag moves is an
overwrite as well, which only the manifest's way in can tell. Cancelling an upload session is a push: clients that may push
cancel sessions they no longer need.
"""

_FIXED = {
    (): Resource.HOME,
    ("healthz",): Resource.HEALTH,
    ("readyz",): Resource.READY,
    ("ca.crt",): Resource.CA,
    ("auth", "token"): Resource.TOKEN,
    ("v2",): Resource.BASE,
    ("v2", "_catalog"): Resource.CATALOG,
}


@dataclass(frozen=True, slots=True)
class Route:
    """What a request asks for."""

    resource: Resource
    method: str
    """GET, PUT, …; HEAD counts as GET."""
    action: Action | None
    """What must be allowed; None for what everybody may see."""
    name: str = ""
    """The repository, where the resource lies in one."""
    tail: str = ""
    """The path's last segment where it varies: a reference, a digest or a session id."""


_Located = tuple[Resource, str | None, str]


def is_private(raw_path: bytes) -> bool:
    """Tell whether a path lies under `/v2/`, where even errors are only for accounts."""
    return unquote_to_bytes(raw_path).lstrip(b"/").lower().startswith(b"v2")


def resolve(method: str, raw_path: bytes) -> Route:
    """Find what a request asks for.

    Raises PATH_UNKNOWN, NAME_INVALID, REQUEST_INVALID for text that is not UTF-8, or
    METHOD_UNSUPPORTED with the `Allow` header.
    """
    return (_recent if len(raw_path) <= _RECENT_MAX else _resolve)(method, raw_path)


def _resolve(method: str, raw_path: bytes) -> Route:
    segments = _segments(raw_path)
    meant = "GET" if method == "HEAD" else method
    if meant == "DELETE" and raw_path.endswith(b"/") and _in_repository(segments):
        # The slash says that the whole repository is meant, whatever words its name ends with.
        located: _Located = Resource.REPOSITORY, "/".join(segments[1:]), ""
    else:
        located = _locate(segments)
    resource, name, tail = located
    methods = ACTIONS[resource]
    if meant not in methods:
        allowed = ", ".join(("HEAD", *methods) if "GET" in methods else methods)
        raise METHOD_UNSUPPORTED.error(
            f"{method[:20]} is not supported here; use {allowed}", headers=(("Allow", allowed),)
        )
    if name is not None:
        parse_name(name)
    return Route(resource, meant, methods[meant], name or "", tail)


_recent = lru_cache(maxsize=4096)(_resolve)
_RECENT_MAX = 512
"""Bytes of a path that is remembered; longer ones would make the memory of strangers' size."""


def _in_repository(segments: tuple[str, ...]) -> bool:
    return len(segments) > 1 and segments[0] == "v2"


def _segments(raw_path: bytes) -> tuple[str, ...]:
    """Split and decode a path; one trailing slash makes no difference."""
    pieces = raw_path.removeprefix(b"/").split(b"/")
    if pieces[-1] == b"":
        pieces.pop()
    try:
        segments = tuple(unquote_to_bytes(piece).decode() for piece in pieces)
    except UnicodeDecodeError:
        raise REQUEST_INVALID.error("the path is not UTF-8") from None
    if any("/" in segment or "\0" in segment for segment in segments):
        raise NAME_INVALID.error("a path segment contains an encoded slash or NUL")
    return segments


def _locate(segments: tuple[str, ...]) -> _Located:
    fixed = _FIXED.get(segments)
    if fixed is not None:
        return fixed, None, ""
    if segments[0] == "v2":
        match segments[1:]:
            case (*name, "tags", "list") if name:
                return Resource.TAGS, "/".join(name), ""
            case (*name, "manifests", reference) if name:
                return Resource.MANIFEST, "/".join(name), reference
            case (*name, "referrers", digest) if name:
                return Resource.REFERRERS, "/".join(name), digest
            case (*name, "blobs", "uploads") if name:
                return Resource.UPLOADS, "/".join(name), ""
            case (*name, "blobs", "uploads", session_id) if name:
                return Resource.UPLOAD, "/".join(name), session_id
            case (*name, "blobs", digest) if name:
                return Resource.BLOB, "/".join(name), digest
            case _:
                pass
    raise PATH_UNKNOWN.error()
