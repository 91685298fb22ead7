"""Telling systemd how the service stands (sd_notify(3)); without systemd, nothing happens."""

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress


def ready(text: str) -> None:
    """Say that the service is up, and what a person should see in `systemctl status`."""
    _send(f"READY=1\nSTATUS={text}")


def status(text: str) -> None:
    """Say what a person should see in `systemctl status` now."""
    _send(f"STATUS={text}")


def reloading() -> None:
    """Say that the settings are being read again; `ready` ends it."""
    _send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")


def stopping(text: str) -> None:
    """Say that the service is on its way out."""
    _send(f"STOPPING=1\nSTATUS={text}")


def succeeded_by(pid: int) -> None:
    """Say that another process is the service from now on; only that one is listened to then."""
    _send(f"MAINPID={pid}")


def alive() -> None:
    """Say that the loop still turns."""
    _send("WATCHDOG=1")


def alive_seconds(environment: Mapping[str, str]) -> float | None:
    """Return how often `alive` is to be said, half of what is waited for; None for never.

    WATCHDOG_PID is not looked at: a daemon that follows another one has inherited that one's.
    """
    microseconds = environment.get("WATCHDOG_USEC", "")
    if not microseconds.isdecimal() or not int(microseconds):
        return None
    return int(microseconds) / 2e6


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
