"""Pulling without an account, where the settings allow it, and nothing else without one."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appliance.oci.digest import Digest
from tests.api.driver import BOB, Registry, open_registry

BLOB = b"for everybody"
PATH = f"/v2/open/app/blobs/{Digest.of(BLOB)}"
NOBODY = {"Authorization": "Basic Og=="}


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    found = open_registry(tmp_path, anonymous=["pull"])
    pushed = f"/v2/open/app/blobs/uploads/?digest={Digest.of(BLOB)}"
    assert (await found.ask("POST", pushed, body=BLOB)).status == 201
    yield found
    await found.close()


@pytest.mark.parametrize("headers", [{}, NOBODY], ids=["no header", "empty pair"])
async def test_anybody_pulls(registry: Registry, headers: dict[str, str]) -> None:
    assert (await registry.ask("GET", PATH, headers, login=None)).body == BLOB


@pytest.mark.parametrize("headers", [{}, NOBODY], ids=["no header", "empty pair"])
async def test_nobody_does_anything_else(registry: Registry, headers: dict[str, str]) -> None:
    for method, path in [
        ("GET", "/v2/_catalog"),
        ("POST", "/v2/open/app/blobs/uploads/"),
        ("PUT", "/v2/open/app/manifests/latest"),
        ("DELETE", PATH),
        ("DELETE", "/v2/open/app/manifests/latest"),
    ]:
        answer = await registry.ask(method, path, headers, login=None)
        assert answer.status == 401, (method, path)
        assert answer.headers["www-authenticate"] == 'Basic realm="Registry Realm"'


async def test_docker_is_asked_who_it_is(registry: Registry) -> None:
    # Docker sends its password only if this is refused, and then to every request, pushes included.
    assert (await registry.ask("GET", "/v2/", login=None)).status == 401
    assert (await registry.ask("GET", "/v2/", login=BOB)).status == 200


async def test_podman_says_that_it_is_nobody(registry: Registry) -> None:
    assert (await registry.ask("GET", "/v2/", NOBODY, login=None)).status == 200


async def test_a_wrong_password_is_not_taken_for_none(registry: Registry) -> None:
    assert (await registry.ask("GET", PATH, login=("alice", "wrong"))).status == 401
    assert (await registry.ask("GET", PATH, login=("nobody", "wrong"))).status == 401
