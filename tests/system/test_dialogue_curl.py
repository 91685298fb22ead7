"""curl's dialogue: before it sends much it asks for leave, and a refusal must come before the body."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system import daemon, images
from tests.system.daemon import USER, Daemon
from tests.system.dialogues import (
    BYTES,
    IMAGE,
    Speaker,
    challenge,
    only_json,
    refusal,
    upload_location,
    with_query,
)
from tests.system.tools import attempt, run
from tests.system.wire import digest_of

_AGENT = "curl/8.14.1"
_MUCH = 2 << 20  # beyond one mebibyte curl asks
_BLOB = images.noise(_MUCH, "curl")
_DIGEST = digest_of(_BLOB)


@pytest.fixture
def curl(registry: Daemon) -> Iterator[Speaker]:
    """curl with a password, which it sends unasked."""
    with Speaker(registry, _AGENT, keeps=True) as speaker:
        speaker.enter(registry.login)
        yield speaker


@pytest.mark.parametrize("login", [None, f"{USER}:wrong", "nobody:at-all"])
@pytest.mark.parametrize(
    ("method", "target"),
    [
        ("POST", f"/v2/dialogue/curl/blobs/uploads/?digest={_DIGEST}"),
        ("PATCH", "/v2/dialogue/curl/blobs/uploads/any"),
        ("PUT", f"/v2/dialogue/curl/blobs/uploads/any?digest={_DIGEST}"),
        ("PUT", "/v2/dialogue/curl/manifests/1"),
    ],
)
def test_who_may_not_push_is_told_so_before_the_body(
    curl: Speaker, login: str | None, method: str, target: str
) -> None:
    curl.enter(login)
    curl.ask_leave(method, target, _MUCH, {"Content-Type": BYTES})
    answer = curl.read(method)
    challenge(answer)
    refusal(answer, 401, "UNAUTHORIZED")
    assert not curl.was_given_leave


def test_a_push_that_cannot_succeed_is_refused_before_the_body(curl: Speaker) -> None:
    session = curl.ask("POST", "/v2/dialogue/curl/blobs/uploads/").expect(202)
    location = upload_location(curl, session)
    for method, target, headers, status in (
        ("PATCH", "/v2/dialogue/curl/blobs/uploads/none", {}, 404),
        ("PATCH", location, {"Content-Range": f"1-{_MUCH}"}, 416),
        ("PUT", with_query(location, "digest=sha256:short"), {}, 400),
        ("PUT", location, {}, 400),
        ("PUT", "/v2/dialogue/curl/manifests/1", {"Content-Type": IMAGE}, 413),
    ):
        size = 64 << 20 if "manifests" in target else _MUCH
        curl.ask_leave(method, target, size, headers)
        answer = curl.read(method).expect(status)
        assert not curl.was_given_leave
        assert only_json(answer)["errors"]
        curl.hang_up()  # as curl does, which owes the server a body now
    assert curl.ask("GET", location).expect(204).headers["Range"] == "0-0"
    curl.ask("DELETE", location).expect(204)


def test_a_body_that_is_too_large_is_refused_before_it_comes(tmp_path: Path) -> None:
    settings = {"limits": {"max_body": "1MiB"}}
    with (
        daemon.running(tmp_path / "registry", settings=settings) as registry,
        Speaker(registry, _AGENT, keeps=True) as curl,
    ):
        curl.enter(registry.login)
        target = f"/v2/dialogue/curl/blobs/uploads/?digest={_DIGEST}"
        curl.ask_leave("POST", target, _MUCH, {"Content-Type": BYTES})
        refusal(curl.read("POST"), 413, "SIZE_INVALID")
        assert not curl.was_given_leave


def test_who_may_push_gets_leave_and_then_an_answer(curl: Speaker) -> None:
    target = f"/v2/dialogue/curl/blobs/uploads/?digest={_DIGEST}"
    for _ in range(2):
        curl.ask_leave("POST", target, _MUCH, {"Content-Type": BYTES})
        curl.wait_for_leave()
        curl.pour(_BLOB)
        assert curl.read("POST").expect(201).headers["Docker-Content-Digest"] == _DIGEST
    # curl waits for a second at most, and then sends; that is no reason to fail.
    curl.ask_leave("POST", target, _MUCH, {"Content-Type": BYTES})
    curl.pour(_BLOB)
    curl.read("POST").expect(201)
    assert curl.connections == 1


def test_curl_itself_sends_nothing_in_vain(registry: Daemon, tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(_BLOB)
    target = f"https://{registry.address}/v2/dialogue/curl/blobs/uploads/?digest={_DIGEST}"
    told = ("--write-out", "%{http_code} %{size_upload}", "--output", tmp_path / "answer")
    # Waiting longer than it does by default, so that a slow machine proves nothing.
    argv = ("curl", "--silent", "--verbose", "--http1.1", "--expect100-timeout", "30", *told)
    whole = ("--header", f"Content-Type: {BYTES}", "--data-binary", f"@{tmp_path / 'blob'}")
    push = ("--cacert", registry.ca, *whole)
    for login in (f"{USER}:wrong", "nobody:at-all"):
        refused = attempt(*argv, *push, "--user", login, target)
        assert refused.stdout == "401 0", refused
        assert "100 Continue" not in refused.stderr
    assert run(*argv, *push, "--user", registry.login, target) == f"201 {_MUCH}"
