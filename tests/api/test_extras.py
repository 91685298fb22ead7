"""What answers carry besides what was asked for: tags set, codings, warnings, namespaces."""

import gzip
import json
from pathlib import Path

import bcrypt
import pytest
import zstandard

from appliance.api.manifests import TAGS_MAX
from appliance.oci.mediatypes import OCI_MANIFEST
from appliance.registry.space import SHORT_BELOW
from appliance.storage.files import FileStore
from tests.api.driver import BOB, Answer, Registry
from tests.api.test_endpoints import CONFIG, IMAGE, LAYER, digest

APP = "/v2/library/app"
TAGS = sorted(f"tag-{number:03}" for number in range(200))


@pytest.fixture
async def pushed(registry: Registry) -> Registry:
    """An image under two hundred tags."""
    for content in (LAYER, CONFIG):
        path = f"{APP}/blobs/uploads/?digest={digest(content)}"
        assert (await registry.ask("POST", path, body=content)).status == 201
    for some in (TAGS[start : start + TAGS_MAX] for start in range(0, len(TAGS), TAGS_MAX)):
        answer = await put(registry, f"{digest(IMAGE)}?" + "&".join(f"tag={tag}" for tag in some))
        assert answer.all("oci-tag") == some
    return registry


async def put(registry: Registry, reference: str) -> Answer:
    headers = {"Content-Type": OCI_MANIFEST}
    answer = await registry.ask("PUT", f"{APP}/manifests/{reference}", headers, IMAGE)
    assert answer.status == 201
    return answer


# --- codings


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("gzip", "gzip"),
        ("zstd", "zstd"),
        ("zstd, gzip, deflate", "zstd"),
        ("gzip;q=1.0, zstd;q=0.5", "gzip"),
        ("x-gzip", "gzip"),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_list_is_coded_for_those_who_ask(
    pushed: Registry, method: str, accepted: str, coding: str
) -> None:
    plain = await pushed.ask("GET", APP + "/tags/list")
    coded = await pushed.ask(method, APP + "/tags/list", {"Accept-Encoding": accepted})
    assert coded.headers["content-encoding"] == coding
    assert coded.headers["vary"] == plain.headers["vary"] == "Accept-Encoding"
    assert int(coded.headers["content-length"]) < len(plain.body) / 2
    if method == "GET":
        zstd = zstandard.ZstdDecompressor().decompress
        decoded = zstd(coded.body) if coding == "zstd" else gzip.decompress(coded.body)
        assert decoded == plain.body
        assert int(coded.headers["content-length"]) == len(coded.body)


@pytest.mark.parametrize(
    "accepted", ["", "*", "identity", "deflate, br", "gzip;q=0, zstd;q=0", "gzip;q=0.5, identity"]
)
async def test_a_list_is_not_coded_for_others(pushed: Registry, accepted: str) -> None:
    answer = await pushed.ask("GET", APP + "/tags/list", {"Accept-Encoding": accepted})
    assert "content-encoding" not in answer.headers
    assert json.loads(answer.body)["tags"] == TAGS


@pytest.mark.parametrize(
    "path", [f"blobs/{digest(LAYER)}", f"blobs/{digest(CONFIG)}", "manifests/tag-000"]
)
async def test_content_is_never_coded(pushed: Registry, path: str) -> None:
    answer = await pushed.ask("GET", f"{APP}/{path}", {"Accept-Encoding": "zstd, gzip"})
    assert answer.status == 200
    assert "content-encoding" not in answer.headers
    assert "vary" not in answer.headers


async def test_what_is_small_is_sent_as_it_is(pushed: Registry) -> None:
    answer = await pushed.ask("GET", "/v2/_catalog", {"Accept-Encoding": "zstd, gzip"})
    assert answer.json == {"repositories": ["library/app"]}
    assert "content-encoding" not in answer.headers


# --- namespaces


@pytest.mark.parametrize("path", ["/v2/", APP + "/tags/list", f"{APP}/blobs/{digest(LAYER)}"])
async def test_a_namespace_that_is_this_host_is_confirmed(pushed: Registry, path: str) -> None:
    here = await pushed.ask("GET", path + "?ns=registry.test:443", {"Host": "registry.test:443"})
    assert (here.status, here.headers["oci-namespace"]) == (200, "registry.test:443")
    there = await pushed.ask("GET", path + "?ns=docker.io", {"Host": "registry.test"})
    assert there.status == 200
    assert "oci-namespace" not in there.headers


# --- warnings


def rehash(registry: Registry, cost: int) -> None:
    name, password = BOB
    hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost))
    registry.htpasswd.write_bytes(b"%b:%b\n" % (name.encode(), hashed))


async def test_a_weak_hash_is_told_at_login_and_at_the_end_of_a_push(pushed: Registry) -> None:
    told = '299 - "the password of alice is kept as a weak hash, bcrypt at cost 4;'
    login = await pushed.ask("GET", "/v2/")
    assert login.headers["warning"].startswith(told)
    assert login.headers["warning"].endswith('set it anew: registry user passwd alice"')
    assert (await put(pushed, "again")).headers["warning"].startswith(told)
    for path in (f"{APP}/manifests/again", f"{APP}/blobs/{digest(LAYER)}", "/healthz"):
        assert "warning" not in (await pushed.ask("GET", path)).headers
    upload = await pushed.ask("POST", APP + "/blobs/uploads/")
    assert (upload.status, "warning" in upload.headers) == (202, False)


async def test_a_strong_hash_is_no_matter(registry: Registry) -> None:
    rehash(registry, 10)
    answer = await registry.ask("GET", "/v2/", login=BOB)
    assert (answer.status, "warning" in answer.headers) == (200, False)


async def test_nobody_is_warned_of_a_password_that_is_wrong(registry: Registry) -> None:
    answer = await registry.ask("GET", "/v2/", login=("alice", "wrong"))
    assert (answer.status, "warning" in answer.headers) == (401, False)


async def test_a_disk_that_is_nearly_full_is_told_at_the_end_of_a_push(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    rehash(registry, 10)
    free = 0.0

    def room() -> tuple[int, int]:
        return int(free * (100 << 30)), 100 << 30

    monkeypatch.setattr(registry.store, "room", room)
    index = b'{"schemaVersion":2,"manifests":[]}'

    async def push() -> Answer:
        registry.space.keep_free(0)  # and look again
        return await registry.ask("PUT", APP + "/manifests/a", {}, index, login=BOB)

    free = SHORT_BELOW
    assert "warning" not in (await push()).headers
    free = 0.0123
    assert (await push()).headers["warning"] == (
        "299 - \"the registry's disk is nearly full: 1.23 GiB of 100 GiB are free;"
        ' tell its operator"'
    )
    assert "warning" not in (await registry.ask("GET", "/v2/", login=BOB)).headers


def test_the_room_of_a_store_of_files_is_that_of_its_disk(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    store.prepare()
    found = store.room()
    assert found is not None
    free, total = found
    assert 0 < free < total
