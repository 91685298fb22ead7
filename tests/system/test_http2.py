"""HTTP/2, as curl speaks it where the registry prefers it."""

import hashlib
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from tests.serve.http2_client import Client
from tests.system import daemon, images
from tests.system.daemon import Daemon
from tests.system.tools import run
from tests.system.wire import digest_of, finished


@pytest.fixture(scope="module")
def modern(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A registry that prefers HTTP/2."""
    alpn = {"tls": {"alpn": ["h2", "http/1.1"]}}
    with daemon.running(tmp_path_factory.mktemp("modern"), settings=alpn) as running:
        yield running


def curl(registry: Daemon, *words: str | Path, login: str | None = None) -> list[str]:
    """Run curl; the version of HTTP that was spoken, the status, and where to go on, if anywhere."""
    argv: list[str | Path] = ["curl", "--silent", "--show-error", "--http2"]
    argv += ["--cacert", registry.ca, "--user", login or registry.login]
    argv += ["--write-out", "%{http_version} %{http_code} %header{location}\n"]
    return run(*argv, *words, within=300).split()


def large(path: Path, mebibytes: int) -> str:
    """Make a file of that size; its digest."""
    block = images.noise(1 << 20, "large")
    hashed = hashlib.sha256()
    with path.open("wb") as file:
        for _ in range(mebibytes):
            file.write(block)
            hashed.update(block)
    return f"sha256:{hashed.hexdigest()}"


def test_a_gibibyte_comes_back_over_http2_as_it_went_in(modern: Daemon, tmp_path: Path) -> None:
    base = f"https://{modern.address}"
    source, copy = tmp_path / "in", tmp_path / "out"
    digest = large(source, 1024)
    started = curl(modern, "--request", "POST", f"{base}/v2/http2/blobs/uploads/")
    assert started[:2] == ["2", "202"]
    patch = ("--request", "PATCH", "--upload-file", source)
    sent = curl(modern, *patch, f"{base}{started[2].removeprefix(base)}")
    assert sent[:2] == ["2", "202"]
    put = ("--request", "PUT", "--data", "")
    target = f"{base}{finished(sent[2].removeprefix(base), digest)}"
    assert curl(modern, *put, target)[:2] == ["2", "201"]
    source.unlink()
    pull = ("--output", copy, f"{base}/v2/http2/blobs/{digest}")
    assert curl(modern, *pull) == ["2", "200"]
    with copy.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == digest.removeprefix("sha256:")


def test_a_blob_is_pushed_in_one_request(modern: Daemon, tmp_path: Path) -> None:
    digest = large(tmp_path / "in", 50)
    session = modern.client().start_upload("http2")
    target = f"https://{modern.address}{finished(session, digest)}"
    assert curl(modern, "--upload-file", tmp_path / "in", target)[:2] == ["2", "201"]
    assert digest_of(modern.client().get_blob("http2", digest).body) == digest


def test_a_refusal_over_http2_reaches_a_client_that_is_still_sending(
    modern: Daemon, tmp_path: Path
) -> None:
    (tmp_path / "in").write_bytes(images.noise(50 << 20, "http2"))
    before = modern.pid
    target = f"https://{modern.address}/v2/http2/blobs/uploads/no-such-session"
    upload = ("--request", "PATCH", "--upload-file", tmp_path / "in", "--output", tmp_path / "out")
    assert curl(modern, *upload, target) == ["2", "404"]
    assert curl(modern, *upload, target, login="tester:wrong") == ["2", "401"]
    there = f"https://{modern.address}/v2/"
    assert curl(modern, "--output", "/dev/null", there) == ["2", "200"]
    assert modern.pid == before


def test_many_requests_share_one_connection(modern: Daemon) -> None:
    one = ("--output", "/dev/null", f"https://{modern.address}/v2/")
    assert curl(modern, "--parallel", *one * 200) == ["2", "200"] * 200


async def test_of_eight_pulls_on_one_connection_one_that_stalls_holds_up_no_other(
    modern: Daemon, tmp_path: Path
) -> None:
    digest = large(tmp_path / "in", 64)
    blob = (tmp_path / "in").read_bytes()
    registry = modern.client()
    await trio.to_thread.run_sync(registry.push_blob, "http2", blob)  # noqa: TID251
    context = ssl.create_default_context(cafile=modern.ca)
    context.set_alpn_protocols(["h2"])
    host, _, port = modern.address.rpartition(":")
    async with await trio.open_ssl_over_tcp_stream(host, int(port), ssl_context=context) as stream:
        client = Client(stream, window=1 << 20)
        await client.start()
        login = registry.authorization()["Authorization"]
        path = f"/v2/http2/blobs/{digest}"
        ids = [await client.request(path, authorization=login) for _ in range(8)]
        client.hashes = {stream_id: hashlib.sha256() for stream_id in ids}
        client.stalled.add(ids[0])
        await client.until(lambda: client.ended == set(ids[1:]), within=120)
        for stream_id in ids[1:]:
            assert f"sha256:{client.hashes[stream_id].hexdigest()}" == digest
        client.stalled.clear()
        client.h2.increment_flow_control_window(64 << 20, ids[0])
        await client.flush()
        await client.until(lambda: ids[0] in client.ended, within=120)
        assert f"sha256:{client.hashes[ids[0]].hexdigest()}" == digest
