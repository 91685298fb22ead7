"""Listening sockets that somebody else has opened: systemd, or the daemon before this one.

systemd's are served whatever the settings say (sd_listen_fds(3)): who enables `registry.socket`
says in it where to listen. Port 80, and what `server.plain` names, speak plain HTTP, all others TLS.
Those of the daemon before are taken where the settings still ask for their address.
"""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from appliance.settings import Address, SettingsError

_FIRST = 3  # SD_LISTEN_FDS_START
_PLAIN_PORT = 80


@dataclass
class Inherited:
    """Sockets that are open already."""

    systemd: list[socket.socket] = field(default_factory=list)
    before: list[socket.socket] = field(default_factory=list)
    """Those of the daemon before this one."""

    @classmethod
    def from_systemd(cls, environment: Mapping[str, str]) -> Self:
        """Take what systemd passes to this process, if it passes anything; raises SettingsError."""
        if environment.get("LISTEN_PID") != str(os.getpid()):
            return cls()
        count = environment.get("LISTEN_FDS", "")
        numbers = range(_FIRST, _FIRST + int(count)) if count.isdecimal() else ()
        found = [_adopted(number) for number in numbers]
        if any(sock.family not in {socket.AF_INET, socket.AF_INET6} for sock in found):
            raise SettingsError(
                ["registry.socket: ListenStream= must name ports, as in ListenStream=443."]
            )
        return cls(systemd=found)

    @classmethod
    def from_descriptors(cls, systemd: list[int], before: list[int]) -> Self:
        """Take what the daemon before this one has passed on."""
        return cls([_adopted(number) for number in systemd], [_adopted(one) for one in before])

    @property
    def systemd_descriptors(self) -> frozenset[int]:
        """The numbers of those that are systemd's."""
        return frozenset(sock.fileno() for sock in self.systemd)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where they listen."""
        return tuple(str(address_of(sock)) for sock in (*self.systemd, *self.before))

    def take(self, address: Address) -> list[socket.socket]:
        """Return the sockets of an address, which are the caller's then; none where there is none."""
        try:
            found = socket.getaddrinfo(
                address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        except (OSError, UnicodeError):
            return []
        wanted = {place[:2] for *_, place in found}
        if address.host == "::":  # where there is no IPv6
            wanted.add(("0.0.0.0", address.port))  # noqa: S104  it is not bound here
        taken = []
        for sockets in (self.systemd, self.before):
            for sock in tuple(sockets):
                if sock.getsockname()[:2] in wanted:
                    sockets.remove(sock)
                    taken.append(sock)
        return taken

    def take_rest(self, plain_ports: set[int]) -> tuple[list[socket.socket], list[socket.socket]]:
        """Return what is left of systemd's, for TLS and for plain HTTP; close what is left else."""
        plain = [
            sock
            for sock in self.systemd
            if address_of(sock).port == _PLAIN_PORT or address_of(sock).port in plain_ports
        ]
        tls = [sock for sock in self.systemd if sock not in plain]
        for sock in self.before:
            sock.close()
        self.systemd, self.before = [], []
        return tls, plain


def address_of(sock: socket.socket) -> Address:
    """Tell where a socket listens."""
    return Address.of(*sock.getsockname()[:2])


def _adopted(number: int) -> socket.socket:
    os.set_inheritable(number, False)
    sock = socket.socket(fileno=number)
    sock.setblocking(False)
    return sock
