"""Sockets to listen on, and what is to be served on each."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from OpenSSL import SSL

from appliance.serve.connection import ASGIApplication

_PATH_MAX = 107
_BACKLOG = 1024  # docker opens a connection for every request, many at once


def bind(host: str, port: int) -> list[socket.socket]:
    """Open the sockets for an address, `::` meaning every address; raises OSError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except UnicodeError:
        raise OSError(errno.EINVAL, "it is no host name") from None
    sockets: list[socket.socket] = []
    try:
        for family, _, _, _, address in found:
            sockets.append(_listen(family, address))
    except OSError as error:
        for sock in sockets:
            sock.close()
        if host == "::" and error.errno in {errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL}:
            return [_listen(socket.AF_INET, ("0.0.0.0", port))]  # noqa: S104  the kernel has no IPv6
        raise
    return sockets


def bind_path(path: Path) -> socket.socket:
    """Open a listening socket in the file system that its owner alone may connect to.

    One left over by a crash is replaced: the caller sees to it that nobody else listens there.
    Raises OSError.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        with _short(path) as address:
            sock.bind(address)
        path.chmod(0o600)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


def connect_path(path: Path, timeout: float) -> socket.socket:
    """Connect to such a socket; raises OSError. Its operations end after `timeout` seconds."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(timeout)
    try:
        with _short(path) as address:
            sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """Name a file in the 107 bytes that an address has (unix(7)), through its folder if need be."""
    if len(os.fsencode(path)) <= _PATH_MAX:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _listen(family: int, address: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address[0] != "::")
        sock.bind(address)
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


class TlsContext:
    """The context that new connections get; `current` is replaced when a certificate changes."""

    def __init__(self, current: SSL.Context) -> None:
        self.current = current


@dataclass(frozen=True, slots=True)
class Listening:
    """A listening socket, what answers on it, and whether through TLS."""

    sock: socket.socket
    application: ASGIApplication
    tls: TlsContext | None
