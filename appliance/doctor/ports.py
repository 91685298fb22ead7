"""Who has the ports of a registry on its own machine."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from appliance.doctor.findings import Report
from appliance.lock import Note
from appliance.settings import Address

PORT = "port"
_LISTEN = "0A"  # TCP_LISTEN of linux/tcp_states.h


def examine_ports(
    addresses: Sequence[Address], running: Note | None, source: Path, start: str, report: Report
) -> None:
    """Look at who listens on the ports of these addresses; `start` is how one starts the registry."""
    listening = dict(_listening())
    for address in addresses:
        inodes = listening.get(address.port, frozenset())
        holder = _holder(inodes)
        if not inodes:
            report.fault(
                PORT,
                address,
                "nothing listens there, as the registry does not run"
                if running is None
                else f"nothing listens there, though the registry runs (process {running.pid})",
                start if running is None else "systemctl restart registry",
            )
        elif running is not None and (holder is None or holder[0] == running.pid):
            report.ok(PORT, address, f"the registry listens (process {running.pid})")
        elif holder is None:
            report.unseen(
                PORT,
                address,
                "somebody listens there, and only root may see who",
                "sudo registry doctor",
            )
        else:
            pid, name = holder
            report.fault(
                PORT,
                address,
                f"{name} (process {pid}) has this port",
                f"stop it: systemctl stop {name}",
                f"or choose another port: [server] listen in {source}",
            )


def _listening() -> Iterator[tuple[int, frozenset[str]]]:
    """Yield each port on which somebody listens, with the inodes of its sockets."""
    found: dict[int, set[str]] = {}
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for line in Path("/proc/self/net", table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN:
                    found.setdefault(int(fields[1].rpartition(":")[2], 16), set()).add(fields[9])
    yield from ((port, frozenset(inodes)) for port, inodes in found.items())


def _holder(inodes: frozenset[str]) -> tuple[int, str] | None:
    """Find the process that has one of these sockets, and its name; None where nobody may see it."""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                for link in (folder / "fd").iterdir():
                    if str(link.readlink()) in wanted:
                        return int(folder.name), (folder / "comm").read_text().strip()
    return None
