"""HTTP/2, as curl speaks it where the registry prefers it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

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
    """Run curl; the version of HTTP that was spoken, and the status."""
    argv: list[str | Path] = ["curl", "--silent", "--show-error", "--http2"]
    argv += ["--cacert", registry.ca, "--user", login or registry.login]
    return run(*argv, "--write-out", "%{http_version} %{http_code}", *words).split()


def test_a_blob_comes_back_over_http2_as_it_went_in(modern: Daemon, tmp_path: Path) -> None:
    blob = images.noise(50 << 20, "http2")
    digest = digest_of(blob)
    (tmp_path / "in").write_bytes(blob)
    session = modern.client().start_upload("http2")
    target = f"https://{modern.address}{finished(session, digest)}"
    assert curl(modern, "--upload-file", tmp_path / "in", target) == ["2", "201"]
    target = f"https://{modern.address}/v2/http2/blobs/{digest}"
    assert curl(modern, "--output", tmp_path / "out", target) == ["2", "200"]
    assert (tmp_path / "out").read_bytes() == blob


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
    answers = curl(modern, "--parallel", *one * 200)
    assert "".join(answers) == "2" + "2002" * 199 + "200"
