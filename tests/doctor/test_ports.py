"""Who has a port, as real processes hold it."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from os import getpid
from pathlib import Path

import pytest

from appliance.doctor.findings import Finding, Report, Status
from appliance.doctor.ports import examine_ports
from appliance.lock import Note
from appliance.settings import Address

ANYWHERE = "0.0.0.0"  # noqa: S104  nobody binds it here
_WAITS = "import sys; print('here', flush=True); sys.stdin.read()"


@contextmanager
def holding(sock: socket.socket) -> Iterator[int]:
    """Another process that has a socket as well; its number."""
    with subprocess.Popen(
        [sys.executable, "-c", _WAITS],
        pass_fds=[sock.fileno()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process.pid
        finally:
            process.stdin.close()


def told_of(address: str, pid: int | None) -> Finding:
    """What is said of an address, while the registry is this process."""
    report = Report()
    running = None if pid is None else Note(pid)
    examine_ports([Address.parse(address)], running, Path("registry.toml"), "start it", report)
    (found,) = report.findings
    return found


def test_a_port_that_two_registries_have_is_well_for_either() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock, holding(sock) as after:
        address = f"127.0.0.1:{sock.getsockname()[1]}"
        for pid in (getpid(), after):
            assert told_of(address, pid).status is Status.OK


def test_a_port_of_somebody_else_is_a_fault_that_names_him() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock, holding(sock) as other:
        address = f"127.0.0.1:{sock.getsockname()[1]}"
        found = told_of(address, None)
    assert found.status is Status.FAULT
    assert any(f"process {pid}) has this port" in found.sentence for pid in (getpid(), other))


@pytest.mark.parametrize("address", [ANYWHERE, "[::]", "127.0.0.1", "localhost", "[::ffff:7f00:1]"])
def test_another_address_of_the_machine_is_told_apart(address: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        assert told_of(f"{address}:{port}", getpid()).status is Status.OK
        assert "nothing listens there" in told_of(f"127.0.0.2:{port}", getpid()).sentence
        assert "nothing listens there" in told_of(f"[::1]:{port}", getpid()).sentence


def test_somebody_at_another_address_is_not_in_the_way() -> None:
    with socket.create_server(("127.0.0.2", 0)) as sock:
        port = sock.getsockname()[1]
        with (
            holding(sock) as registry,
            socket.create_server(("127.0.0.1", port)),  # ours, who are nobody's registry
        ):
            sock.close()
            assert told_of(f"127.0.0.2:{port}", registry).status is Status.OK
            found = told_of(f"127.0.0.1:{port}", registry)
    assert found.status is Status.FAULT
    assert f"(process {getpid()}) has this port" in found.sentence
