"""`registry history` and `registry undelete`, over a registry that runs and one that is stopped."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system import images
from tests.system.daemon import Daemon, running
from tests.system.tools import eventually
from tests.system.wire import digest_of

# What is idle is garbage at once, and stays in quarantine.
_AT_ONCE = {"gc": {"grace": "1ms", "lease": "1ms", "quarantine": "1h"}}


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Daemon]:
    with running(tmp_path, settings=_AT_ONCE) as found:
        yield found


def told(registry: Daemon, *words: str) -> str:
    ran = registry.command(*words)
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


def push(registry: Daemon, folder: Path, what: str, tag: str) -> str:
    layout = images.layout_of(folder / what, [images.noise(1 << 16, what)])
    return registry.client().push_layout("app", tag, layout)


@pytest.mark.parametrize("alive", [True, False], ids=["running", "stopped"])
def test_a_removed_image_is_brought_back_from_quarantine(
    registry: Daemon, tmp_path: Path, alive: bool
) -> None:
    first, second = (push(registry, tmp_path, name, "latest") for name in ("1", "2"))
    for digest in (first, second):
        registry.client().request("DELETE", f"/v2/app/manifests/{digest}").expect(202)
    eventually(
        lambda: bool(told(registry, "gc")) and not registry.blobs(), within=30, what="all is swept"
    )
    if not alive:
        registry.stop()
    lines = told(registry, "history", "app:latest").splitlines()
    assert [line.split()[2:4] for line in lines] == [
        ["latest", "removed"],
        ["latest", second],
        ["latest", first],
    ]
    assert "can be brought back until" in lines[1]
    assert len(told(registry, "history", "app").splitlines()) == 5
    assert len(told(registry, "history", "app", "-n", "2").splitlines()) == 2
    restored = told(registry, "undelete", "app:latest").splitlines()
    assert restored[0] == f"app:latest points to {second}."
    assert restored[1].startswith("1 manifests and 2 blobs of ")
    told(registry, "undelete", f"app@{first}")
    told(registry, "undelete", f"app:old@{first}")
    again = told(registry, "undelete", "app:latest").splitlines()
    assert again[1].startswith("Its manifest was here. To have an earlier one: registry undelete")
    if not alive:
        registry.start()
    for tag, digest in (("latest", second), ("old", first)):
        answer = registry.client().request("HEAD", f"/v2/app/manifests/{tag}")
        assert answer.headers["docker-content-digest"] == digest
        registry.client().pull_image("app", tag)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["history", "none"], "nothing is known of none."),
        (["history", "app@sha256:" + 64 * "0"], "history is that of NAME or of NAME:TAG."),
        (["undelete", "app"], "name a tag or a digest; registry history app lists them."),
        (["undelete", "app:none"], "nothing is known of a tag none in app."),
        (["undelete", "app@sha256:" + 64 * "0"], "nothing is known of a removal"),
        (["undelete", "App:1"], "repository names are lower case"),
    ],
)
def test_what_cannot_be_is_told_in_a_sentence(
    registry: Daemon, words: list[str], sentence: str
) -> None:
    ran = registry.command(*words)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert sentence in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


def test_a_running_registry_takes_over_quotas_and_immutable_tags(
    registry: Daemon, tmp_path: Path
) -> None:
    push(registry, tmp_path, "1", "v1")
    with registry.settings.open("a") as file:
        file.write(
            '[push]\nimmutable = ["app:v*"]\n'
            '[[push.quota]]\nrepositories = "app"\nsize = "100KiB"\n'
        )
    os.kill(registry.pid, signal.SIGHUP)
    eventually(lambda: "reloaded" in registry.log(), within=10, what="it has taken them over")
    client = registry.client()
    refused = client.request("DELETE", "/v2/app/manifests/v1")
    assert (refused.status, refused.json()["errors"][0]["code"]) == (403, "DENIED")
    assert registry.command("rm", "app:v1").stderr == (
        "registry: the tag v1 is immutable (push.immutable): it neither moves nor goes.\n"
    )
    started = client.request("POST", "/v2/app/blobs/uploads/").expect(202)
    location = started.headers["location"]
    layer = images.noise(1 << 16, "2")
    full = client.request("PUT", f"{location}?digest={digest_of(layer)}", body=layer)
    assert (full.status, full.json()["errors"][0]["code"]) == (403, "DENIED")
    assert "the quota of app and below is 100 KiB" in full.json()["errors"][0]["message"]
