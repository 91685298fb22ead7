"""`registry verify`, over a registry that runs and one that is stopped, and the one by itself."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system import images
from tests.system.daemon import Daemon, running
from tests.system.tools import environment, eventually
from tests.system.wire import digest_of

CHANCE = random.Random("verify")  # noqa: S311  repeatable on purpose
_PAGE = 4096


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Daemon]:
    with running(tmp_path / "registry") as found:
        yield found


def verified(registry: Daemon, *words: str, status: int = 0) -> list[str]:
    ran = registry.command("verify", *words)
    assert (ran.returncode, ran.stderr) == (status, ""), ran
    return ran.stdout.splitlines()


def push(registry: Daemon, folder: Path, tag: str, *, size: int = 1 << 16) -> images.Layout:
    layout = images.layout_of(folder / tag, [images.noise(size, tag)])
    registry.client().push_layout("app", tag, layout)
    return layout


def parts(layout: images.Layout) -> tuple[str, str, str]:
    """The digests of manifest, config and layer."""
    manifest = layout.manifest(layout.top())
    return layout.top(), manifest["config"]["digest"], manifest["layers"][0]["digest"]


def flip(path: Path, offset: int | None = None) -> None:
    path.chmod(0o644)
    with path.open("r+b") as file:
        at = CHANCE.randrange(path.stat().st_size) if offset is None else offset
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ (1 << CHANCE.randrange(8))]))


def tree(registry: Daemon) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_size)
        for folder in ("blobs", "quarantine", "uploads")
        for path in (registry.storage / folder).rglob("*")
    }


each_way = pytest.mark.parametrize("alive", [True, False], ids=["running", "stopped"])


@each_way
def test_where_all_is_well_nothing_changes(registry: Daemon, tmp_path: Path, alive: bool) -> None:
    push(registry, tmp_path, "one")
    if not alive:
        registry.stop()
    before = tree(registry)
    assert [line.split(" of ")[0] for line in verified(registry)] == ["3 blobs"]
    assert verified(registry)[0].endswith("KiB verified: all is well.")
    assert verified(registry, "app", "--rate", "100MiB")[0].startswith("3 blobs of ")
    assert tree(registry) == before


@each_way
def test_damage_is_listed_with_the_images_and_a_push_heals(
    registry: Daemon, tmp_path: Path, alive: bool
) -> None:
    layouts = {tag: push(registry, tmp_path, tag) for tag in ("one", "two", "three", "four")}
    layers = {tag: parts(layout)[2] for tag, layout in layouts.items()}
    if not alive:
        registry.stop()
    flip(registry.blob_path(layers["one"]))
    registry.blob_path(layers["two"]).unlink()
    os.truncate(registry.blob_path(layers["three"]), 100)
    flip(registry.blob_path(parts(layouts["four"])[0]))  # of which the catalogue has a copy
    told = verified(registry, status=1)
    text = "\n".join(told)
    for tag, fault in (
        ("one", "its bytes are others: they have the digest sha256:"),
        ("two", "its bytes are missing"),
        ("three", "it has 100 bytes instead of "),
    ):
        assert f"damaged   {layers[tag]}: {fault}" in text
        assert f"          in app:{tag}" in told
    assert f"mended    {parts(layouts['four'])[0]}: its bytes are others" in text
    assert told[-1].endswith("verified: 3 damaged, 1 mended.")
    again = verified(registry, status=1)
    assert again[-1].endswith("verified: 3 damaged.")
    if not alive:
        registry.start()
    client = registry.client()
    for tag in ("one", "two", "three"):
        assert client.get_blob("app", layers[tag]).status == 404
        assert client.request("HEAD", f"/v2/app/blobs/{layers[tag]}").status == 404
        assert client.get_manifest("app", tag).status == 200
    client.pull_image("app", "four")
    for tag, layout in layouts.items():
        client.push_layout("app", tag, layout)
        client.pull_image("app", tag)
    assert verified(registry)[-1].endswith("all is well.")
    if alive:
        errors = [json.loads(line) for line in registry.log().splitlines() if '"error"' in line]
        assert {error["digest"] for error in errors} >= {layers["one"], layers["two"]}
        assert all(len(error["images"]) == 1 for error in errors if "images" in error)


def test_a_blob_of_another_size_is_answered_as_unknown_at_once(
    registry: Daemon, tmp_path: Path
) -> None:
    layout = push(registry, tmp_path, "one")
    _, config, layer = parts(layout)
    os.truncate(registry.blob_path(layer), 100)
    registry.blob_path(config).unlink()
    client = registry.client()
    ranged = client.request("GET", f"/v2/app/blobs/{layer}", headers={"Range": "bytes=0-9"})
    for answer in (ranged, client.get_blob("app", layer), client.get_blob("app", config)):
        assert (answer.status, answer.json()["errors"][0]["code"]) == (404, "BLOB_UNKNOWN")
    assert client.request("HEAD", f"/v2/app/blobs/{layer}").status == 404
    assert verified(registry, status=1)[-1].endswith("verified: 2 damaged.")
    client.push_layout("app", "one", layout)
    client.pull_image("app", "one")
    verified(registry)


@each_way
def test_what_is_damaged_is_repaired_from_a_backup(
    registry: Daemon, tmp_path: Path, alive: bool
) -> None:
    layout = push(registry, tmp_path, "one")
    other = push(registry, tmp_path, "two")
    backup = tmp_path / "backup"
    shutil.copytree(registry.storage / "blobs", backup / "blobs")
    flip(registry.blob_path(parts(layout)[2]))
    registry.blob_path(parts(other)[2]).unlink()
    without = verified(registry, "--repair", status=1)
    assert "as verify.sources is not set" in without[-2]
    sources = [str(tmp_path / "none"), str(backup), str(other.folder)]
    with registry.settings.open("a") as file:
        file.write(f"[verify]\nsources = {json.dumps(sources)}\n")
    if alive:
        os.kill(registry.pid, signal.SIGHUP)
        eventually(lambda: "reloaded" in registry.log(), within=10, what="it has taken them over")
    else:
        registry.stop()
    verified(registry, status=1)
    told = verified(registry, "--repair")
    assert told[-1].endswith("verified: 2 repaired.")
    assert f"{tmp_path / 'none' / 'blobs'} cannot be read (No such file or directory)." in told[-2]
    verified(registry)
    if not alive:
        registry.start()
    for tag in ("one", "two"):
        registry.client().pull_image("app", tag)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["none"], "there is no repository none."),
        (["App"], "repository names are lower case"),
        (["--rate", "20"], 'a size has a unit, as in "20MiB"'),
    ],
)
def test_what_cannot_be_is_told_in_a_sentence(
    registry: Daemon, words: list[str], sentence: str
) -> None:
    ran = registry.command("verify", *words)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert sentence in ran.stderr


@each_way
def test_blobs_that_are_all_away_are_not_damaged(
    registry: Daemon, tmp_path: Path, alive: bool
) -> None:
    layout = push(registry, tmp_path, "one")
    if not alive:
        registry.stop()
    blobs = registry.storage / "blobs"
    blobs.rename(tmp_path / "blobs")
    ran = registry.command("verify")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "mounted?" in ran.stderr
    if alive:
        answer = registry.client().get_blob("app", parts(layout)[2])
        assert answer.status == 503
    shutil.rmtree(blobs, ignore_errors=True)
    (tmp_path / "blobs").rename(blobs)
    verified(registry)
    if not alive:
        registry.start()
    registry.client().pull_image("app", "one")


_NAMING = {"blob", "edge", "link", "manifest", "repository", "tag"}


def test_every_page_of_the_catalogue(tmp_path: Path) -> None:
    with running(tmp_path / "registry") as registry:
        for number in range(12):
            push(registry, tmp_path, f"t{number}", size=1000)
        registry.restart()  # whatever is in the journal comes into the file
        path = registry.storage / "catalogue.sqlite3"
        pages = path.stat().st_size // _PAGE
        assert pages > 20
        named = 0
        for page in range(pages):
            at = page * _PAGE + CHANCE.randrange(_PAGE)
            before = path.read_bytes()[at]
            flip(path, at)
            told = verified(registry, "app" if page % 4 else "--anew", status=1)
            damage = [line for line in told if line.startswith("damaged   catalogue")]
            assert any(f"changed on the disk: {page + 1};" in line for line in damage), told
            assert all("registry restore" in line for line in damage)
            if any(f"catalogue, table {table}:" in told[0] for table in _NAMING):
                assert any(line.startswith("          in app:t") for line in told), told
                named += 1
            with path.open("r+b") as file:
                file.seek(at)
                file.write(bytes([before]))
        assert named >= len(_NAMING) - 1
        assert verified(registry)[-1].endswith("all is well.")
        registry.stop()
        content = path.read_bytes()
        listed = 0
        for page in range(pages):
            flip(path, page * _PAGE + CHANCE.randrange(_PAGE))
            ran = registry.command("verify")
            assert ran.returncode in {1, 2}  # one that cannot even be opened is damaged
            assert "registry restore" in ran.stdout + ran.stderr
            listed += f"changed on the disk: {page + 1};" in ran.stdout
            path.write_bytes(content)
        assert listed > pages // 2
        registry.start()
        assert verified(registry)[-1].endswith("all is well.")


def test_an_interrupted_verify_goes_on(registry: Daemon, tmp_path: Path) -> None:
    for number in range(3):
        push(registry, tmp_path, f"t{number}", size=1 << 20)
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "appliance",
            "verify",
            "--rate=100KB",
            "--settings",
            registry.settings,
        ],
        env=environment(HOME=str(registry.folder)),
        cwd=registry.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    time.sleep(2)
    process.terminate()
    assert process.wait(20) != 0
    registry.restart()
    told = verified(registry)
    assert "goes on where an earlier verify was interrupted" in told[0]
    assert len(verified(registry)) == 1


def test_it_verifies_by_itself_and_keeps_its_place(tmp_path: Path) -> None:
    settings = {"verify": {"every": "1s", "rate": "2MiB"}}
    with running(tmp_path / "registry", settings=settings) as registry:
        layer = parts(push(registry, tmp_path, "one"))[2]
        eventually(lambda: '"verified"' in registry.log(), within=20, what="a round has ended")
        flip(registry.blob_path(layer))
        eventually(lambda: layer in registry.log(), within=20, what="it is found")
        assert registry.client().get_blob("app", layer).status == 404
        push(registry, tmp_path, "large", size=30 << 20)
        time.sleep(2)  # it is in the middle of that
        registry.restart()
        eventually(
            lambda: '"verified"' in registry.log().rpartition('"serving"')[2],
            within=40,
            what="the round has ended",
        )
        verified(registry, status=1)


def test_clients_push_and_pull_while_it_goes_on(registry: Daemon, tmp_path: Path) -> None:
    ended = threading.Event()
    faults: list[str] = []

    def verify() -> None:
        while not ended.is_set():
            ran = registry.command("verify")
            if ran.returncode or "all is well" not in ran.stdout:
                faults.append(ran.stdout + ran.stderr)

    thread = threading.Thread(target=verify)
    thread.start()
    try:
        for number in range(15):
            layout = push(registry, tmp_path, f"t{number}")
            registry.client().pull_image("app", f"t{number}")
            if number % 3 == 0:
                registry.client().request("DELETE", f"/v2/app/manifests/{layout.top()}").expect(202)
                registry.command("gc")
    finally:
        ended.set()
        thread.join()
    assert faults == []
    assert digest_of(b"") not in registry.log()
