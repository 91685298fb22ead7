"""The operator's way in: `registry rm` over a running registry and over one that is stopped."""

import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from appliance.api.manifests import TAGS_MAX
from appliance.control import ControlError, Operator, ask
from appliance.lock import holder
from appliance.settings import load
from tests.system.daemon import Daemon, running
from tests.system.wire import digest_of
from tests.unprivileged import NOBODY, as_user

INDEX = b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}'
TAGS = ("1", "2", "latest")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(tmp_path) as found:
        client = found.client()
        for name in ("demo/app", "demo/other"):
            for tag in TAGS:
                assert client.put_manifest(name, tag, INDEX).status == 201
        yield found


def tags(daemon: Daemon, name: str) -> list[str] | None:
    answer = daemon.client().request("GET", f"/v2/{name}/tags/list")
    return list(answer.json()["tags"]) if answer.status == 200 else None


@pytest.mark.parametrize("alive", [True, False], ids=["running", "stopped"])
def test_a_tag_a_manifest_and_a_repository_are_removed(daemon: Daemon, alive: bool) -> None:
    digest = (
        daemon.client()
        .request("GET", "/v2/demo/other/manifests/1")
        .headers["docker-content-digest"]
    )
    if not alive:
        daemon.stop()
    for words in (["demo/app:2"], [f"demo/other@{digest}"]):
        ran = daemon.command("rm", *words)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, f"{words[0]} is removed.\n", "")
    if not alive:
        daemon.start()
    assert tags(daemon, "demo/app") == ["1", "latest"]
    assert tags(daemon, "demo/other") is None
    if not alive:
        daemon.stop()
    asked = daemon.command("rm", "demo/app", given="n\n")
    assert asked.returncode == 1
    assert "demo/app has the tags 1, latest. Remove all that is in it? [y/N]" in asked.stdout
    assert daemon.command("rm", "demo/app", given="y\n").returncode == 0
    if not alive:
        daemon.start()
    catalog = daemon.client().request("GET", "/v2/_catalog")
    assert catalog.json() == {"repositories": []}


@pytest.mark.parametrize("alive", [True, False], ids=["running", "stopped"])
def test_repositories_and_tags_are_listed(daemon: Daemon, alive: bool) -> None:
    many = sorted(f"t{number:04}" for number in range(2050))
    digest = digest_of(INDEX)
    for start in range(0, len(many), TAGS_MAX):
        tags_ = "&".join(f"tag={tag}" for tag in many[start : start + TAGS_MAX])
        daemon.client().put_manifest("demo/many", f"{digest}?{tags_}", INDEX).expect(201)
    if not alive:
        daemon.stop()
    assert daemon.command("ls").stdout.splitlines() == ["demo/app", "demo/many", "demo/other"]
    assert daemon.command("ls", "demo/app").stdout.splitlines() == list(TAGS)
    assert daemon.command("ls", "demo/many").stdout.splitlines() == many
    unknown = daemon.command("ls", "demo/none")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert unknown.stderr == "registry: repository name not known to registry.\n"


@pytest.mark.parametrize("alive", [True, False], ids=["running", "stopped"])
def test_what_is_not_there_is_one_sentence(daemon: Daemon, alive: bool) -> None:
    if not alive:
        daemon.stop()
    for word, reason in (
        ("demo/none", "repository name not known to registry"),
        ("demo/app:none", "manifest unknown to registry"),
        ("Demo", "Demo: repository names are lower case"),
        ("demo/app:-", "demo/app:-: a tag has 1 to 128"),
        ("demo/app@sha256:1", "demo/app@sha256:1: a sha256 digest has 64"),
    ):
        ran = daemon.command("rm", "--yes", word)
        assert (ran.returncode, ran.stdout) == (2, "")
        (line,) = ran.stderr.splitlines()
        assert line.startswith(f"registry: {reason}")


def test_the_socket_is_for_its_owner_and_goes_with_the_daemon(daemon: Daemon) -> None:
    path = daemon.storage / "control.sock"
    note = holder(daemon.storage)
    assert note is not None
    assert note.control == str(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    daemon.stop()
    assert not path.exists()


def test_registries_that_share_a_place_below_run_are_told_apart(tmp_path: Path) -> None:
    place = tmp_path / "run"
    place.mkdir()
    with_place = ("env", f"RUNTIME_DIRECTORY={place}")
    with (
        running(tmp_path / "one", prefix=with_place) as one,
        running(tmp_path / "two", prefix=with_place) as two,
    ):
        for registry in (one, two):
            registry.client().put_manifest("demo/app", "1", INDEX).expect(201)
        assert one.command("rm", "demo/app:1").returncode == 0
        assert (tags(one, "demo/app"), tags(two, "demo/app")) == ([], ["1"])
    assert not list(place.iterdir())


def test_a_name_that_reads_like_something_else_is_still_a_name(daemon: Daemon) -> None:
    client = daemon.client()
    for name in ("demo/app/manifests/1", "demo/app/blobs/uploads"):
        client.put_manifest(name, "tag", INDEX).expect(201)
        assert daemon.command("rm", "--yes", name).returncode == 0
        assert tags(daemon, name) is None
    assert tags(daemon, "demo/app") == list(TAGS)


def test_a_repository_of_blobs_alone_is_removed(daemon: Daemon) -> None:
    digest = daemon.client().push_blob("only/blobs", b"a blob")
    ran = daemon.command("rm", "only/blobs", given="y\n")
    assert ran.returncode == 0
    assert "only/blobs has no tags. Remove all that is in it?" in ran.stdout
    assert daemon.client().request("HEAD", f"/v2/only/blobs/blobs/{digest}").status == 404
    assert daemon.command("rm", "--yes", "only/blobs").returncode == 2


def test_a_crash_leaves_a_socket_that_is_in_nobodys_way(daemon: Daemon) -> None:
    daemon.kill()
    assert (daemon.storage / "control.sock").exists()
    assert daemon.command("rm", "demo/app:1").returncode == 0
    daemon.start()
    assert daemon.command("rm", "demo/app:2").returncode == 0
    assert tags(daemon, "demo/app") == ["latest"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be taken for somebody else")
def test_root_leaves_nothing_that_the_owner_cannot_open(tmp_path: Path) -> None:
    with TemporaryDirectory() as place:  # where others may enter, unlike the usual one
        os.chmod(place, 0o755)  # noqa: PTH101  it is text
        with running(tmp_path, storage=Path(place) / "data") as registry:
            registry.client().put_manifest("demo/app", "1", INDEX).expect(201)
            registry.stop()
            everything = [registry.storage, *registry.storage.rglob("*")]
            for path in everything:
                os.chown(path, NOBODY, NOBODY)
            (registry.storage / "catalogue.sqlite3-wal").unlink(missing_ok=True)
            ran = registry.command("rm", "demo/app:1")
            assert (ran.returncode, ran.stderr) == (0, "")
            owners = {path.stat().st_uid for path in registry.storage.rglob("*")}
            assert owners == {NOBODY}


def test_where_there_is_no_registry_none_is_made(tmp_path: Path) -> None:
    nowhere = Daemon(tmp_path)
    ran = nowhere.command("rm", "demo/app:1")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith(f"registry: there is no registry in {nowhere.storage};")
    assert not nowhere.storage.exists()


def test_the_operator_is_in_the_log(daemon: Daemon) -> None:
    assert daemon.command("rm", "demo/app:1").returncode == 0
    daemon.stop()
    (line,) = [line for line in daemon.log().splitlines() if '"(operator)"' in line]
    assert '"DELETE"' in line


def test_who_may_not_read_the_folder_is_told_so(daemon: Daemon) -> None:
    settings = load(daemon.settings, {})
    refused = pytest.raises(ControlError, match="run this as root or as the registry's own user")
    user = NOBODY if os.getuid() == 0 else os.getuid()
    daemon.storage.chmod(0o700 if os.getuid() == 0 else 0)
    with refused, as_user(user):
        ask(settings, daemon.settings, "GET", "/v2/")
    daemon.storage.chmod(0o700)


def test_a_hold_keeps_sweeps_waiting_and_ends_with_its_holder(daemon: Daemon) -> None:
    settings = load(daemon.settings, {})
    with ThreadPoolExecutor() as others, Operator(settings, daemon.settings) as operator:
        with operator.hold():
            swept = others.submit(daemon.command, "gc")
            with pytest.raises(TimeoutError):
                swept.result(2)
            assert operator.ask("GET", "/v2/_catalog").status == 200
        assert swept.result(10).returncode == 0
        with operator.hold():
            pass  # the one before is over


def test_a_hold_that_is_lost_is_told(daemon: Daemon) -> None:
    settings = load(daemon.settings, {})
    with (
        Operator(settings, daemon.settings) as operator,
        pytest.raises(ControlError, match="the registry is stopping"),
        operator.hold(),
    ):
        daemon.stop()
