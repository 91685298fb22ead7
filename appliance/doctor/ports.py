"""Who has the ports of a registry on its own machine.

A listening socket may have several holders: systemd keeps those of `registry.socket` beside the registry, and
while one registry follows another, both have them.
"""

import ipaddress
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from appliance.doctor.findings import Report
from appliance.lock import Note
from appliance.settings import Address

PORT = "port"
_LISTEN = "0A"  # TCP_LISTEN of linux/tcp_states.h
_SYSTEMD = 1


@dataclass(frozen=True, slots=True)
class _Socket:
    """Somebody's socket that listens."""

    host: IPv4Address | IPv6Address
    port: int
    inode: str

    def meets(self, address: Address) -> bool:
        """Tell whether whoever connects to an address may come to this socket, or it is in the way of another."""
        if self.port != address.port:
            return False
        try:
            host = _plain(ipaddress.ip_address(address.host))
        except ValueError:
            return True  # a name, which may be any of this machine's addresses
        if IPv6Address("::") in (host, self.host):
            return True
        if host.version != self.host.version:
            return False
        return host == self.host or host.is_unspecified or self.host.is_unspecified


def examine_ports(
    addresses: Sequence[Address], running: Note | None, source: Path, start: str, report: Report
) -> None:
    """Look at who listens at these addresses; `start` is how one starts the registry."""
    listening = list(_listening())
    for address in addresses:
        inodes = {sock.inode for sock in listening if sock.meets(address)}
        holders = dict(_holders(inodes))
        others = {pid: name for pid, name in holders.items() if pid != _SYSTEMD}
        if not inodes:
            report.fault(
                PORT,
                address,
                "nothing listens there, as the registry does not run"
                if running is None
                else f"nothing listens there, though the registry runs (process {running.pid})",
                start if running is None else "systemctl restart registry",
            )
        elif running is not None and (not holders or running.pid in holders):
            beside = ", and systemd keeps the port for it" if _SYSTEMD in holders else ""
            report.ok(PORT, address, f"the registry listens (process {running.pid}){beside}")
        elif not holders:
            report.unseen(
                PORT,
                address,
                "somebody listens there, and only root may see who",
                "sudo registry doctor",
            )
        elif others:
            pid, name = next(iter(others.items()))
            report.fault(
                PORT,
                address,
                f"{name} (process {pid}) has this port",
                f"stop it: systemctl stop {name}",
                f"or choose another port: [server] listen in {source}",
            )
        else:
            _tell_systemd(address, running, start, report)


def _tell_systemd(address: Address, running: Note | None, start: str, report: Report) -> None:
    """Tell of a port that the first process alone has, which nobody may stop."""
    look = "see for which unit: systemctl list-sockets"
    if running is None:
        what = "systemd keeps this port for a socket unit, and the registry does not run"
        report.warn(PORT, address, what, look, f"if it is registry.socket: {start}")
        return
    report.fault(
        PORT,
        address,
        f"systemd keeps this port for a socket unit, and the registry (process {running.pid}) does not have it",
        look,
        "if it is registry.socket: systemctl restart registry; if not: systemctl disable --now that one",
    )


def _listening() -> Iterator[_Socket]:
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path("/proc/self/net", table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN:
                    host, _, port = fields[1].rpartition(":")
                    yield _Socket(_address(host), int(port, 16), fields[9])


def _address(digits: str) -> IPv4Address | IPv6Address:
    """Read an address as /proc writes it: as numbers of 32 bits, which are in this machine's order."""
    words = [int(digits[start : start + 8], 16) for start in range(0, len(digits), 8)]
    return _plain(ipaddress.ip_address(struct.pack(f"={len(words)}I", *words)))


def _plain(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _holders(inodes: set[str]) -> Iterator[tuple[int, str]]:
    """Yield each process that has one of these sockets, and its name, as far as one may see."""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                if any(_target(link) in wanted for link in (folder / "fd").iterdir()):
                    yield int(folder.name), (folder / "comm").read_text().strip()


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except FileNotFoundError:
        return ""  # closed meanwhile
