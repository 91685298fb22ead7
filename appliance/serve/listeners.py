"""Sockets to listen on, and what is to be served on each."""

import errno
import socket
from dataclasses import dataclass

from OpenSSL import SSL

from appliance.serve.connection import ASGIApplication

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
