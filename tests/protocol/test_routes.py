"""Paths: which resource each is, whose name it carries, and which never get that far."""

import re
from urllib.parse import quote

import hypothesis.strategies as st
import pytest
from hypothesis import given

from appliance.oci.errors import (
    METHOD_UNSUPPORTED,
    NAME_INVALID,
    PATH_UNKNOWN,
    REQUEST_INVALID,
    ErrorRow,
)
from appliance.protocol.routes import ACTIONS, Action, Resource, Route, is_private, resolve
from tests.refused import attempt, refused

DIGEST = "sha256:" + "a" * 64
NAME = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*")
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get"]


def located(path: str) -> tuple[Resource, str, str]:
    """Find a resource by the first method that it has."""
    for method in METHODS:
        found = attempt(lambda method=method: resolve(method, path.encode()))  # type: ignore[misc]
        if found is not METHOD_UNSUPPORTED:
            assert isinstance(found, Route), found
            return found.resource, found.name, found.tail
    raise AssertionError(path)


# --- what is found


@pytest.mark.parametrize(
    ("path", "resource"),
    [
        ("/", Resource.HOME),
        ("/healthz", Resource.HEALTH),
        ("/readyz", Resource.READY),
        ("/ca.crt", Resource.CA),
        ("/v2/", Resource.BASE),
        ("/v2/_catalog", Resource.CATALOG),
    ],
)
def test_a_fixed_path_is_its_resource(path: str, resource: Resource) -> None:
    assert located(path) == (resource, "", "")
    assert located(path.rstrip("/")) == located(path.rstrip("/") + "/") == (resource, "", "")


ORDINARY = [
    ("/v2/{}/tags/list", Resource.TAGS, ""),
    ("/v2/{}/manifests/latest", Resource.MANIFEST, "latest"),
    (f"/v2/{{}}/manifests/{DIGEST}", Resource.MANIFEST, DIGEST),
    (f"/v2/{{}}/blobs/{DIGEST}", Resource.BLOB, DIGEST),
    ("/v2/{}/blobs/uploads", Resource.UPLOADS, ""),
    ("/v2/{}/blobs/uploads/4711", Resource.UPLOAD, "4711"),
    (f"/v2/{{}}/referrers/{DIGEST}", Resource.REFERRERS, DIGEST),
]
NAMES = [
    "a",
    "library/nginx",
    "a/b/c/d",
    "v2",
    "v2/v2",
    "blobs",
    "blobs/uploads",
    "a/blobs",
    "a/blobs/uploads",
    "a/blobs/uploads/b",
    "uploads",
    "manifests",
    "a/manifests",
    "manifests/latest",
    "tags",
    "tags/list",
    "a/tags/list",
    "list",
    "referrers",
    "referrers/tags/list/manifests/blobs/uploads",
    "catalog",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_may_contain_any_word_of_the_api(name: str) -> None:
    for path, resource, tail in ORDINARY:
        found = (resource, name, tail)
        assert located(path.format(name)) == located(path.format(name) + "/") == found


@pytest.mark.parametrize("word", ["uploads", "list", "tags", "blobs", "manifests", "referrers"])
def test_a_tag_may_be_a_word_of_the_api(word: str) -> None:
    assert located(f"/v2/a/manifests/{word}") == (Resource.MANIFEST, "a", word)


def test_escaped_characters_mean_what_plain_ones_mean() -> None:
    plain = f"/v2/a-b/blobs/{DIGEST}"
    assert located("/%76%32/a%2Db/bl%6fbs/sha256%3A" + "a" * 64) == located(plain)
    assert located("/v%32/") == located("/v2/")


def test_what_is_escaped_twice_is_unescaped_once() -> None:
    with refused(NAME_INVALID):
        resolve("GET", b"/v2/a%252fb/manifests/x")
    assert located("/v2/a/manifests/%2561")[2] == "%61"


# --- what is not


@pytest.mark.parametrize(
    "path",
    [
        "//",
        "/v2//",
        "//v2/",
        "/v1/",
        "/V2/",
        "/v3",
        "/v2x",
        "/v2/a",
        "/v2/a/b",
        "/v2/tags/list",
        "/v2/a/tags",
        "/v2/a/tags/list/more",
        "/v2/a/tags/List",
        "/v2/manifests/latest",
        "/v2/a/manifests",
        "/v2/a/manifests/",
        "/v2/a/manifests/b/c",
        "/v2/blobs/uploads/",
        "/v2/blobs/uploads/4711",
        "/v2/a/blobs",
        "/v2/a/blobs/uploads/4711/more",
        "/v2/a/referrers",
        "/v2/_catalog/more",
        "/v2/_catalog//",
        "/healthz/more",
        "/metrics",
        "/favicon.ico",
        "/../v2/",
        "/./v2/",
        "/..",
        "*",
    ],
)
def test_any_other_path_is_unknown(path: str) -> None:
    for method in METHODS:
        if method == "DELETE" and path.startswith("/v2/") and path.endswith("/"):
            continue
        with refused(PATH_UNKNOWN):
            resolve(method, path.encode())


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v2/a/", "a"),
        ("/v2/a/b/c/", "a/b/c"),
        ("/v2/a/manifests/", "a/manifests"),
        ("/v2/blobs/uploads/", "blobs/uploads"),
        ("/v2/a/manifests/b/", "a/manifests/b"),
        ("/v2/a/tags/list/", "a/tags/list"),
        ("/v2/a/blobs/uploads/", "a/blobs/uploads"),
        ("/v2/a/blobs/uploads/4711/", "a/blobs/uploads/4711"),
    ],
)
def test_a_repository_is_deleted_by_its_name_and_a_slash(path: str, name: str) -> None:
    route = resolve("DELETE", path.encode())
    assert (route.resource, route.name) == (Resource.REPOSITORY, name)
    assert route.action is Action.ADMIN
    bare = attempt(lambda: resolve("DELETE", path.removesuffix("/").encode()))
    assert not isinstance(bare, Route) or bare.resource is not Resource.REPOSITORY


@pytest.mark.parametrize(
    "path", ["/v2//", "/v2/_catalog/", "/v2/_catalog//", "/v2/A/", "/v2/a//b/"]
)
def test_a_repository_without_a_proper_name_is_not_deleted(path: str) -> None:
    with refused(NAME_INVALID):
        resolve("DELETE", path.encode())


@pytest.mark.parametrize(
    "name",
    [
        "..",
        "../..",
        "a/..",
        "a/../b",
        ".",
        "./a",
        "A",
        "Library/nginx",
        "a//b",
        "a//",
        "/a",
        "-a",
        "a-",
        "a..b",
        "_catalog",
        "a b",
        "ä",
        "a\\b",
        "a" * 256,
    ],
)
def test_a_bad_name_goes_no_further(name: str) -> None:
    escaped = "/".join(quote(part) for part in name.split("/"))
    for path, resource, _ in ORDINARY:
        method = next(iter(ACTIONS[resource]))
        with refused(NAME_INVALID):
            resolve(method, path.format(name).encode())
        with refused(NAME_INVALID):
            resolve(method, path.format(escaped).encode())


@pytest.mark.parametrize("path", [path.format("") for path, *_ in ORDINARY])
def test_an_empty_name_goes_no_further(path: str) -> None:
    for method in METHODS:
        found = attempt(lambda method=method: resolve(method, path.encode()))  # type: ignore[misc]
        assert found in {NAME_INVALID, PATH_UNKNOWN, METHOD_UNSUPPORTED}


@pytest.mark.parametrize(
    "path",
    [
        b"/v2/a%2fb/manifests/x",
        b"/v2/a%2Fb/manifests/x",
        b"/v2%2fa/manifests/x",
        b"/v2/a/manifests%2fx",
        b"/v2/a/manifests/x%2f",
        b"/v2/a/manifests/..%2f..%2fx",
        b"/v2/%2e%2e%2f/manifests/x",
        b"/v2/a%00/manifests/x",
        b"/v2/a/manifests/x%00",
        b"/v2/a/manifests/x\0",
        b"/%00",
        b"/healthz%2f",
    ],
)
def test_no_segment_carries_a_slash_or_nul(path: bytes) -> None:
    with refused(NAME_INVALID, "encoded slash or NUL"):
        resolve("GET", path)


@pytest.mark.parametrize(
    "path", [b"/%ff", b"/\xff", b"/v2/%c3%28/manifests/x", b"/v2/a/manifests/%ed%a0%80", b"/v2%80/"]
)
def test_what_is_not_text_goes_no_further(path: bytes) -> None:
    with refused(REQUEST_INVALID, "not UTF-8"):
        resolve("GET", path)


# --- methods and actions


def test_every_resource_has_its_actions() -> None:
    assert set(ACTIONS) == set(Resource)
    for resource, methods in ACTIONS.items():
        free = resource in {
            Resource.HOME,
            Resource.HEALTH,
            Resource.READY,
            Resource.CA,
            Resource.TOKEN,
        }
        assert all((action is None) == free for action in methods.values())
        assert resource.value.startswith("/v2") != free


@pytest.mark.parametrize(
    ("method", "path", "action"),
    [
        ("GET", "/v2/", Action.LOGIN),
        ("GET", "/v2/_catalog", Action.LIST),
        ("GET", "/v2/a/tags/list", Action.PULL),
        ("GET", "/v2/a/manifests/x", Action.PULL),
        ("PUT", "/v2/a/manifests/x", Action.PUSH),
        ("DELETE", "/v2/a/manifests/x", Action.DELETE),
        ("GET", f"/v2/a/blobs/{DIGEST}", Action.PULL),
        ("DELETE", f"/v2/a/blobs/{DIGEST}", Action.DELETE),
        ("POST", "/v2/a/blobs/uploads/", Action.PUSH),
        ("GET", "/v2/a/blobs/uploads/1", Action.PUSH),
        ("PATCH", "/v2/a/blobs/uploads/1", Action.PUSH),
        ("PUT", "/v2/a/blobs/uploads/1", Action.PUSH),
        ("DELETE", "/v2/a/blobs/uploads/1", Action.PUSH),
        ("GET", f"/v2/a/referrers/{DIGEST}", Action.PULL),
    ],
)
def test_a_method_takes_an_action(method: str, path: str, action: Action) -> None:
    found = resolve(method, path.encode())
    assert (found.method, found.action) == (method, action)


def test_head_is_get_wherever_get_is() -> None:
    assert resolve("HEAD", b"/v2/") == resolve("GET", b"/v2/")
    with refused(METHOD_UNSUPPORTED):
        resolve("HEAD", b"/v2/a/blobs/uploads/")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/", "HEAD, GET"),
        ("DELETE", "/v2/", "HEAD, GET"),
        ("POST", "/v2/a/manifests/x", "HEAD, GET, PUT, DELETE"),
        ("PUT", f"/v2/a/blobs/{DIGEST}", "HEAD, GET, DELETE"),
        ("GET", "/v2/a/blobs/uploads/", "POST"),
        ("POST", "/v2/a/blobs/uploads/1", "HEAD, GET, PATCH, PUT, DELETE"),
        ("get", "/v2/", "HEAD, GET"),
        ("", "/v2/", "HEAD, GET"),
        ("X" * 10_000, "/v2/", "HEAD, GET"),
    ],
)
def test_another_method_is_told_which_there_are(method: str, path: str, allowed: str) -> None:
    with refused(METHOD_UNSUPPORTED, f"use {allowed}") as caught:
        resolve(method, path.encode())
    assert caught.value.headers == (("Allow", allowed),)
    assert len(str(caught.value)) < 120


# --- the gate


@pytest.mark.parametrize(
    "path",
    [
        b"/v2",
        b"/v2/",
        b"v2/",
        b"//v2/",
        b"///v2",
        b"/V2/",
        b"/v2//",
        b"/v2/a/manifests/x",
        b"/v2/..",
        b"/%76%32/",
        b"/%562/",
        b"/%2fv2/",
        b"%2F%2Fv2",
        b"/v2%2f",
        b"/v2%00",
        b"/v2%ff",
        b"/v2\xff",
        b"/v2;a=b/",
        b"/v2?x",
        b"/v2x",
        b"/v2./",
    ],
)
def test_every_spelling_of_v2_is_private(path: bytes) -> None:
    assert is_private(path)


@pytest.mark.parametrize("path", [b"", b"/", b"/healthz", b"/ca.crt", b"/v1/", b"/v", b"/a/v2/"])
def test_all_else_is_public(path: bytes) -> None:
    assert not is_private(path)


# --- anything at all

WORDS = ["v2", "_catalog", "blobs", "uploads", "manifests", "tags", "list", "referrers", DIGEST]
PIECES = ["", "a", "A", "..", ".", "%2e%2e", "%2f", "%00", "%61", "%41", "%ff", "%", "%2", "a%20"]
SEGMENTS = st.lists(st.sampled_from([*WORDS, *PIECES]), max_size=8).map("/".join)
ENDINGS = st.sampled_from([path.removeprefix("/v2/{}") for path, *_ in ORDINARY])
PATHS = (
    st.binary()
    | SEGMENTS.map(str.encode)
    | st.builds("/v2/{}{}".format, SEGMENTS, ENDINGS).map(str.encode)
)


@given(st.sampled_from(METHODS) | st.text(), PATHS)
def test_any_path_resolves_to_a_good_name_or_is_refused(method: str, path: bytes) -> None:
    found = attempt(lambda: resolve(method, path))
    if isinstance(found, ErrorRow):
        assert found in {METHOD_UNSUPPORTED, NAME_INVALID, PATH_UNKNOWN, REQUEST_INVALID}
        return
    assert found.action == ACTIONS[found.resource][found.method]
    if "<name>" in found.resource.value:
        assert NAME.fullmatch(found.name), found.name
    else:
        assert found.name == ""
    assert not {"/", "\0"} & set(found.tail)


@given(st.sampled_from(METHODS), PATHS)
def test_what_takes_an_account_is_private(method: str, path: bytes) -> None:
    found = attempt(lambda: resolve(method, path))
    if isinstance(found, Route) and found.action is not None:
        assert is_private(path)
