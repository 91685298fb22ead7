"""The daemon's life as a process: it starts, reloads, drains, and refuses what it cannot do."""

import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography import x509

from tests.system.daemon import Daemon, account, running
from tests.system.tools import eventually

PART = b"x" * (2 << 20)  # enough for its beginning to be seen in the data folder


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with running(tmp_path) as found:
        yield found


def reload(daemon: Daemon, event: str) -> dict[str, object]:
    """Send SIGHUP and return the log line that ends the reload."""
    before = daemon.log().count(f'"{event}')
    os.kill(daemon.pid, signal.SIGHUP)
    eventually(lambda: daemon.log().count(f'"{event}') > before, within=10, what=event)
    lines = [json.loads(line) for line in daemon.log().splitlines()]
    return next(line for line in reversed(lines) if str(line["event"]).startswith(event))


def edit(daemon: Daemon, pattern: str, replacement: str) -> None:
    text, count = re.subn(pattern, replacement, daemon.settings.read_text())
    assert count == 1
    daemon.settings.write_text(text)


def realm(daemon: Daemon) -> str:
    return daemon.client(login=None).request("GET", "/v2/").headers["www-authenticate"]


def test_a_reload_takes_over_what_can_change(daemon: Daemon) -> None:
    other = daemon.folder / "other.htpasswd"
    other.write_text(account("carol", "pass word"))
    edit(daemon, r"htpasswd = .*", f'htpasswd = "{other}"\nrealm = "Another"')
    edit(daemon, r"listen = .*", 'listen = ["127.0.0.1:1"]\nnames = ["new.example"]')
    line = reload(daemon, "reloaded")
    assert line["needs_restart"] == ["server.listen"]
    assert realm(daemon) == 'Basic realm="Another"'
    assert daemon.client().request("GET", "/v2/").status == 401
    assert daemon.client(login="carol:pass word").request("GET", "/v2/").status == 200
    assert "new.example" in names_shown(daemon)


def test_a_faulty_reload_changes_nothing(daemon: Daemon) -> None:
    edit(daemon, r"\[auth\]\n", '[auth]\nrealm = "Another"\nrelm = "x"\n')
    line = reload(daemon, "reload refused")
    assert "auth.relm" in str(line["faults"])
    assert realm(daemon) == 'Basic realm="Registry Realm"'


def names_shown(daemon: Daemon) -> list[str]:
    context = ssl.create_default_context(cafile=str(daemon.ca))
    with (
        socket.create_connection(split(daemon.address), timeout=10) as sock,
        context.wrap_socket(sock, server_hostname="localhost") as tls,
    ):
        shown = tls.getpeercert(binary_form=True)
    assert shown is not None
    alternatives = x509.load_der_x509_certificate(shown).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    return alternatives.value.get_values_for_type(x509.DNSName)


def test_stopping_lets_a_running_transfer_end(daemon: Daemon) -> None:
    transfer = half_sent(daemon)
    daemon.terminate()
    eventually(lambda: refuses(daemon.address), within=10, what="no more connections")
    transfer.send(PART)
    answer = transfer.getresponse()
    assert answer.status == 202
    assert answer.headers["range"] == f"0-{2 * len(PART) - 1}"
    answer.close()
    transfer.close()
    assert daemon.wait() == 0


def test_a_second_signal_ends_the_waiting(daemon: Daemon) -> None:
    transfer = half_sent(daemon)
    daemon.terminate()
    eventually(lambda: refuses(daemon.address), within=10, what="no more connections")
    daemon.terminate()
    assert daemon.wait() == 0
    transfer.close()


def test_draining_has_an_end(tmp_path: Path) -> None:
    with running(tmp_path, settings={"server": {"drain_seconds": 0}}) as daemon:
        transfer = half_sent(daemon)
        daemon.terminate()
        assert daemon.wait() == 0
        transfer.close()


def half_sent(daemon: Daemon) -> http.client.HTTPConnection:
    """Send the first of two parts of an upload, and see it arrive."""
    client = daemon.client()
    location = client.request("POST", "/v2/some/app/blobs/uploads/").headers["location"]
    connection = client.connection()
    connection.putrequest("PATCH", location)
    for name, value in client.authorization().items():
        connection.putheader(name, value)
    connection.putheader("Content-Length", str(2 * len(PART)))
    connection.endheaders()
    connection.send(PART)
    eventually(
        lambda: any(path.stat().st_size for path in daemon.uploads()), within=10, what="the part"
    )
    return connection


def split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def refuses(address: str) -> bool:
    try:
        socket.create_connection(split(address), timeout=1).close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_second_daemon_on_the_same_data_says_who_has_it(daemon: Daemon) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "appliance", "serve", "--settings", daemon.settings],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert second.returncode == 2
    assert f"{daemon.storage} is in use by another registry (process {daemon.pid})" in second.stderr
    assert "Traceback" not in second.stderr


def test_plain_listeners_send_on_to_tls(tmp_path: Path) -> None:
    with running(tmp_path, settings={"server": {"plain": ["127.0.0.1:0"]}}) as daemon:
        note = json.loads((daemon.storage / "lock").read_text())
        host, port = split(note["plain"][0])
        connection = http.client.HTTPConnection(host, port, timeout=10)
        connection.request("GET", "/v2/some/app/tags/list?n=1", headers={"Host": "registry.test"})
        answer = connection.getresponse()
        assert answer.status == 308
        tls_port = daemon.address.rpartition(":")[2]
        wanted = f"https://registry.test:{tls_port}/v2/some/app/tags/list?n=1"
        assert answer.headers["location"] == wanted
        answer.read()
        connection.request("GET", "/", headers={"Host": "evil.test/@other"})
        answer = connection.getresponse()
        assert answer.status == 400
        answer.close()
        connection.close()


def test_check_does_not_mind_the_running_daemon(daemon: Daemon) -> None:
    checked = daemon.command("check")
    assert (checked.returncode, checked.stderr) == (0, "")
    assert f"running (process {daemon.pid})" in checked.stdout


def test_info_tells_where_it_listens(daemon: Daemon) -> None:
    told = daemon.command("info")
    assert told.returncode == 0
    assert f"https://{daemon.address}" in told.stdout
    assert f"/etc/docker/certs.d/{daemon.address}/ca.crt" in told.stdout
    assert f"docker login {daemon.address}" in told.stdout
    assert "not running" not in told.stdout


def test_a_chore_that_fails_does_not_end_the_daemon(tmp_path: Path) -> None:
    with running(tmp_path, settings={"gc": {"uploads": "200ms"}}) as daemon:
        folder = daemon.storage / "uploads"
        away = folder.rename(daemon.storage / "away")
        failed = '"expiry of upload sessions failed"'
        eventually(lambda: failed in daemon.log(), within=10, what=failed)
        assert daemon.client().request("GET", "/v2/").status == 200
        away.rename(folder)


def test_who_does_not_shake_hands_is_let_go(tmp_path: Path) -> None:
    with (
        running(tmp_path, settings={"limits": {"handshake": "300ms"}}) as daemon,
        socket.create_connection(split(daemon.address), timeout=10) as silent,
    ):
        with suppress(ConnectionResetError):
            assert silent.recv(1) == b""
        assert daemon.client().request("GET", "/v2/").status == 200
