"""Jobs push with the token that their platform gives them, by the clients that jobs have."""

import json
import os
import signal
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.issuer import AUDIENCE, Platform, platform
from tests.system import dockerd, images
from tests.system.containers import Tool
from tests.system.daemon import Daemon, running
from tests.system.dockerd import Docker
from tests.system.tools import Network, eventually, run
from tests.system.trust import CONTAINERS, DOCKER, trusting
from tests.system.wire import Client

_SETTINGS = """
[[issuer]]
name = "github"
url = "{url}"
audiences = ["{audience}"]
ca = "{ca}"

[[workload]]
issuer = "github"
account = "ci"
claims = {{ repository = "acme/app", ref = ["refs/heads/main", "refs/tags/v*"] }}

[[rule]]
repositories = ["acme/*"]
accounts = ["ci"]
allow = ["pull", "push"]
"""
_SAID = {"repository": "acme/app", "ref": "refs/tags/v1"}


@pytest.fixture(scope="module")
def github(net: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with platform(tmp_path_factory.mktemp("issuer"), net.ours) as found:
        yield found


@pytest.fixture(scope="module")
def registry(
    net: Network, github: Platform, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    more = _SETTINGS.format(url=github.url, audience=AUDIENCE, ca=github.ca)
    folder = tmp_path_factory.mktemp("registry")
    with (
        running(folder, host=net.theirs, prefix=net.prefix, more=more) as found,
        trusting(found, DOCKER),
        trusting(found, CONTAINERS),
    ):
        yield found


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Docker]:
    with dockerd.engine(tmp_path_factory.mktemp("docker")) as docker:
        yield docker


def as_job(client: Client, token: str) -> dict[str, str]:
    return client.authorization() | {"Authorization": f"Bearer {token}"}


def pushing(client: Client, headers: dict[str, str], repository: str = "acme/app") -> int:
    return client.request("POST", f"/v2/{repository}/blobs/uploads/", headers=headers).status


def test_docker_pushes_with_the_token_of_its_job(
    registry: Daemon, github: Platform, docker: Docker, tmp_path: Path
) -> None:
    name = f"{registry.address}/acme/app:1"
    layers = [*images.small(), images.tree({"srv/file": b"by a job"})]
    docker("load", "--input", images.archive(tmp_path / "image.tar", layers, name))
    login = ("login", registry.address, "--username", "ci", "--password-stdin")
    token = github.token(**_SAID)
    docker(*login, given=token)
    docker("push", name)
    elsewhere = f"{registry.address}/other/app:1"
    docker("tag", name, elsewhere)
    assert "denied" in docker.refused("push", elsewhere)
    docker("logout", registry.address)
    kept = registry.storage / "audit.log"
    eventually(
        lambda: any(
            (entry["account"], entry.get("subject"), entry["action"], entry["outcome"])
            == ("ci", "repo:acme/app:ref:refs/heads/main", "push", "done")
            for entry in map(json.loads, kept.read_text().splitlines())
        ),
        within=5,
        what="the push is told, with the job",
    )
    assert token not in registry.log() + kept.read_text()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"exp": int(time.time()) - 3600}, "the token of github has expired"),
        ({"aud": "https://github.com/acme"}, "the token of github is not for this registry"),
        ({"ref": "refs/heads/feature"}, "stands for no account here that is called ci"),
    ],
    ids=["expired", "for another", "of another branch"],
)
def test_docker_says_what_is_wrong_with_a_token(
    registry: Daemon, github: Platform, docker: Docker, said: dict[str, object], told: str
) -> None:
    login = ("login", registry.address, "--username", "ci", "--password-stdin")
    assert told in docker.refused(*login, given=github.token(**(_SAID | said)))


def test_skopeo_and_podman_push_with_it_too(
    registry: Daemon, github: Platform, podman: Tool, tmp_path: Path
) -> None:
    layout = images.layout_of(tmp_path / "layout", images.small())
    image = podman("pull", "--quiet", f"oci:{layout.folder}:latest")
    podman("push", "--creds", f"ci:{github.token(**_SAID)}", image, f"{registry.address}/acme/p:1")
    name = f"docker://{registry.address}/acme/p:2"
    creds = f"ci:{github.token(**_SAID)}"
    run("skopeo", "copy", "--dest-creds", creds, f"oci:{layout.folder}:latest", name)


def test_a_push_outlives_the_token_it_began_with_and_the_issuer(
    registry: Daemon, github: Platform
) -> None:
    client = registry.client()
    short = github.token(**_SAID, exp=int(time.time()) - 58)  # which leaves two seconds
    answer = client.request(
        "GET", "/auth/token?scope=repository:acme/app:push", headers=as_job(client, short)
    )
    ours = as_job(client, answer.expect(200).json()["token"])
    eventually(
        lambda: pushing(client, as_job(client, short)) == 401, within=20, what="it has expired"
    )
    github.answers["/keys"] = 503, b""
    try:
        assert pushing(client, ours) == 202
        assert pushing(client, as_job(client, github.token(**_SAID))) == 202
    finally:
        github.answers.clear()
    offline = client.request(
        "GET", "/auth/token?offline_token=true", headers=as_job(client, github.token(**_SAID))
    )
    assert "refresh_token" not in offline.expect(200).json()


def test_another_mapping_counts_within_a_second_of_a_reload(
    registry: Daemon, github: Platform
) -> None:
    client = registry.client()
    before = registry.settings.read_text()
    direct = as_job(client, github.token(**_SAID))
    answer = client.request("GET", "/auth/token?scope=repository:acme/app:push", headers=direct)
    ours = as_job(client, answer.expect(200).json()["token"])
    asked = len(github.asked)
    for text, status in (
        (before.replace("refs/tags/v*", "refs/tags/w*"), 401),
        (before, 202),
        (before.replace('account = "ci"', 'account = "other"'), 401),
        (before, 202),
    ):
        registry.settings.write_text(text)
        os.kill(registry.pid, signal.SIGHUP)
        eventually(lambda: pushing(client, ours) == status, within=5, what=f"{status}")  # noqa: B023
    assert len(github.asked) == asked  # what was known of the issuer is known still


@pytest.mark.parametrize(
    "head",
    [{"alg": "\ud800"}, {"alg": "RS256", "kid": "\ud800"}, {"alg": ["RS256"]}, {}, "x" * 9000],
)
def test_what_strangers_send_as_a_token_ends_nothing(
    registry: Daemon, github: Platform, head: object
) -> None:
    said = {"iss": github.url, "aud": AUDIENCE, "sub": "\ud800"}
    parts = [json.dumps(part).encode() for part in (head, said)] + [b"signature"]
    token = ".".join(urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)
    client = registry.client()
    assert client.request("GET", "/v2/", headers=as_job(client, token)).status in {401, 503}
    assert client.request("GET", "/v2/", headers=client.authorization()).status == 200


@pytest.mark.parametrize("url", ["http://[x", "https://[x", "https://a:b", "https://a..b"])
def test_an_issuer_of_no_address_ends_nothing(registry: Daemon, github: Platform, url: str) -> None:
    client = registry.client()
    before = registry.settings.read_text()
    told = registry.log().count("reload")
    registry.settings.write_text(before.replace(github.url, url))
    os.kill(registry.pid, signal.SIGHUP)
    try:
        eventually(lambda: registry.log().count("reload") > told, within=20, what="it has read it")
        token = github.token(**_SAID, iss=url)
        assert client.request("GET", "/v2/", headers=as_job(client, token)).status in {401, 503}
        assert client.request("GET", "/v2/", headers=client.authorization()).status == 200
    finally:
        told = registry.log().count("reloaded")
        registry.settings.write_text(before)
        os.kill(registry.pid, signal.SIGHUP)
        eventually(lambda: registry.log().count("reloaded") > told, within=20, what="as before")
