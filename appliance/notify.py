"""Telling systemd how the service stands (sd_notify(3)); without systemd, nothing happens."""

import os
import socket
import time
from contextlib import suppress


def ready(status: str) -> None:
    """Say that the service is up, and what a person should see in `systemctl status`."""
    _send(f"READY=1\nSTATUS={status}")


def reloading() -> None:
    """Say that the settings are being read again; `ready` ends it."""
    _send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")


def stopping(status: str) -> None:
    """Say that the service is on its way out."""
    _send(f"STOPPING=1\nSTATUS={status}")


def _send(state: str) -> None:
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    # A name that starts with @ lies in the abstract namespace.
    address = "\0" + path[1:] if path.startswith("@") else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        with suppress(OSError):  # serving matters more than being seen to
            sock.sendto(state.encode(), address)
