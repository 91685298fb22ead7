"""Whoever sweeps: asks a running daemon as `registry gc` does, without a process for each time."""

import time
from pathlib import Path

from appliance.control import operate
from appliance.lock import holder
from appliance.oci.garbage import Totals
from appliance.serve.listeners import connect_path
from appliance.settings import load

_WITHIN = 10.0
_REQUEST = b"POST /control/gc HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"


def sweep(settings: Path) -> Totals:
    """Sweep once; what was removed. Raises ControlError."""
    return operate(load(settings, {}), settings, "gc", {}, Totals)


def preview(settings: Path) -> Totals:
    """What a sweep would remove. Raises ControlError."""
    return operate(load(settings, {}), settings, "gc-preview", {}, Totals)


def hang_up(settings: Path, after: float) -> None:
    """Begin a sweep, and leave before it has ended."""
    running = holder(load(settings, {}).data)
    assert running is not None, "the daemon is not running"
    with connect_path(Path(running.control), _WITHIN) as connection:
        connection.sendall(_REQUEST)
        time.sleep(after)
