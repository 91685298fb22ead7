"""No password that is kept here travels readable, wherever it would have to go."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from appliance.doctor.credentials import Login
from appliance.doctor.findings import Finding, Report, Status
from appliance.doctor.there import examine_from_outside
from appliance.trust.place import Place

BASIC = "Basic realm=x"
NOTED = Login("admin", "open sesame", "/var/lib/registry/admin-password")
TYPED = Login("alice", "open sesame", "--user", is_asked_for=True)
# Every address of this machine, and none that is loopback: here it stands for another machine.
ELSEWHERE = "0.0.0.0"  # noqa: S104  listened on for the length of a test


@contextmanager
def listening(challenge: str, host: str) -> Iterator[tuple[str, list[str]]]:
    """A server without TLS that wants a password; its address, and the headers it was given."""
    given: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            given.extend(self.headers.get_all("Authorization", []))
            self.send_response(401)
            self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
            self.send_header("WWW-Authenticate", challenge)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    for method in ("GET", "POST"):
        setattr(Handler, f"do_{method}", Handler.answer)
    with HTTPServer((host, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"{host}:{server.server_address[1]}", given
        finally:
            server.shutdown()
            thread.join()


def told_of_login(address: str, login: Login | None = None) -> Finding:
    """What is said of the login to a registry without TLS."""
    report = Report()
    examine_from_outside(Place.parse(f"http://{address}"), 2, report, login=login)
    (found,) = [one for one in report.findings if one.check == "login"]
    return found


def keep(folder: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have docker keep a password, for a registry that had TLS at that time."""
    auth = base64.b64encode(b"alice:open sesame").decode()
    (folder / "config.json").write_text(json.dumps({"auths": {address: {"auth": auth}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(folder))


def test_what_docker_keeps_stays_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(BASIC, ELSEWHERE) as (address, given):
        keep(tmp_path, address, monkeypatch)
        found = told_of_login(address)
    assert (found.status, given) == (Status.UNSEEN, [])
    assert f"as {address} is not encrypted" in found.sentence
    assert f"registry doctor http://{address} --user NAME" in found.remedy[0]


def test_what_the_first_start_noted_stays_here() -> None:
    with listening(BASIC, ELSEWHERE) as (address, given):
        assert told_of_login(address, NOTED).status is Status.UNSEEN
    assert not given


def test_what_somebody_types_for_it_is_sent() -> None:
    with listening(BASIC, ELSEWHERE) as (address, given):
        assert told_of_login(address, TYPED).status is Status.FAULT
    assert given == [TYPED.basic]


def test_what_does_not_leave_this_machine_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening(BASIC, "127.0.0.1") as (address, given):
        keep(tmp_path, address, monkeypatch)
        assert told_of_login(address).status is Status.FAULT
    assert given == [TYPED.basic]


def test_tokens_are_not_asked_for_readably_elsewhere() -> None:
    with listening(BASIC, ELSEWHERE) as (tokens, given):
        realm = f'Bearer realm="http://{tokens}/token",service="x"'
        with listening(realm, "127.0.0.1") as (address, given_here):
            found = told_of_login(address, NOTED)
    assert (found.status, given, given_here) == (Status.UNSEEN, [], [])
    assert f"as {tokens} is not encrypted" in found.sentence
