"""The way to a registry: its name, its port, and what stands between."""

import errno
import ipaddress
import os
import queue
import socket
import threading
from collections.abc import Mapping
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from appliance.doctor.findings import Report
from appliance.trust.place import Place, is_address

NAME, TCP, PROXY = "name", "tcp", "proxy"
_NO_FAMILY = (errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


def examine_way(place: Place, within: float, report: Report) -> bool:
    """Look up a name and connect to its addresses; tell whether one of them answers."""
    _examine_proxies(place, os.environ, report)
    addresses = _look_up(place, within, report)
    answers = {}
    for address in addresses:
        answers[address] = _connect(address, place.port, within)
    if not addresses:
        return False
    well = [address for address in addresses if answers[address] is None]
    if not well:
        for address, error in answers.items():
            _tell_dead(place, address, error, within, report)
        return False
    for address in well:
        report.ok(TCP, _spelt(address, place.port), "accepts connections")
    for address, error in answers.items():
        if error is None:
            continue
        if ":" in address and error.errno in _NO_FAMILY:
            what = "this machine has no IPv6 by which to try it"
            report.unseen(TCP, _spelt(address, place.port), what)
        else:
            reason = _reason(error, within)
            _tell_half_dead(place, address, reason, well[0], report)
    return True


def connect(place: Place, within: float) -> socket.socket:
    """Connect to a registry at the first of its addresses that answers; raises OSError."""
    return socket.create_connection((place.host, place.port), timeout=within)


def _look_up(place: Place, within: float, report: Report) -> list[str]:
    found: queue.Queue[list[str] | OSError | UnicodeError] = queue.Queue()

    def ask() -> None:
        try:
            rows = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
            found.put(list(dict.fromkeys(str(row[4][0]) for row in rows)))
        except (OSError, UnicodeError) as error:
            found.put(error)

    # The resolver knows no deadline of ours, so it is left behind in a thread that nobody waits for.
    threading.Thread(target=ask, daemon=True).start()
    remedy = (
        f"name the registry's address on this machine: echo 'ADDRESS {place.host}' | sudo tee -a /etc/hosts",
        "or have it in the DNS that /etc/resolv.conf names",
    )
    try:
        answer = found.get(timeout=within)
    except queue.Empty:
        report.fault(NAME, place.host, f"the resolver does not answer within {within:g} s", *remedy)
        return []
    if isinstance(answer, socket.gaierror) and answer.errno == socket.EAI_AGAIN:
        report.fault(NAME, place.host, "the resolver cannot answer for now", *remedy)
        return []
    if isinstance(answer, Exception):
        report.fault(NAME, place.host, "there is no such name", *remedy)
        return []
    if not is_address(place.host):
        report.ok(NAME, place.host, f"is {', '.join(answer)}")
    return answer


def _connect(address: str, port: int, within: float) -> OSError | None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.settimeout(within)
            sock.connect((address, port))
    except OSError as error:
        return error
    return None


def _tell_dead(
    place: Place, address: str, error: OSError | None, within: float, report: Report
) -> None:
    spelt = _spelt(address, place.port)
    match error:
        case ConnectionRefusedError():
            report.fault(
                TCP,
                spelt,
                "the connection is refused: nothing listens there",
                "on the registry's machine: systemctl start registry, then: registry info",
                "which shows the port; a firewall that rejects looks the same",
            )
        case TimeoutError():
            report.fault(
                TCP,
                spelt,
                f"nothing answers within {within:g} s: the machine is away, or a firewall drops it",
                f"on the registry's machine: sudo ufw allow {place.port}/tcp",
                f"or: sudo firewall-cmd --permanent --add-port={place.port}/tcp && sudo firewall-cmd --reload",
            )
        case _:
            reason = "no reason is told" if error is None else _reason(error, within)
            report.fault(
                TCP,
                spelt,
                f"it cannot be reached ({reason})",
                f"see whether there is a way there: ip route get {address}",
            )


def _tell_half_dead(place: Place, address: str, reason: str, well: str, report: Report) -> None:
    kind = "IPv6" if ":" in address else "IPv4"
    report.warn(
        TCP,
        _spelt(address, place.port),
        f"this {kind} address of {place.host} does not answer ({reason}), while {well} does, so that clients"
        " wait for it or fail at random",
        f"take {address} out of the DNS (or /etc/hosts) for {place.host},",
        f'or have the registry listen there too: [server] listen = ["[::]:{place.port}"]',
    )


def _examine_proxies(place: Place, environment: Mapping[str, str], report: Report) -> None:
    proxies = getproxies_environment()
    proxy = proxies.get(place.scheme)
    if not proxy:
        return
    if proxy_bypass(place.host) or _is_in_networks(place.host, environment):
        report.ok(PROXY, place.host, "NO_PROXY spares it, so that no proxy is in the way")
        return
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    shown = f"{parts.hostname or 'a proxy'}:{parts.port or 80}"  # without the password it may have
    report.warn(
        PROXY,
        place.host,
        f"{place.scheme.upper()}_PROXY has clients ask {shown} for it; what follows here goes without",
        f"export NO_PROXY={place.host},$NO_PROXY",
        "for docker: the same in the environment of docker.service (systemctl edit docker)",
    )


def _is_in_networks(host: str, environment: Mapping[str, str]) -> bool:
    """Tell whether NO_PROXY has a network with this address, which clients written in Go look for."""
    if not is_address(host):
        return False
    for part in environment.get("no_proxy", environment.get("NO_PROXY", "")).split(","):
        try:
            if ipaddress.ip_address(host) in ipaddress.ip_network(part.strip(), strict=False):
                return True
        except ValueError:
            continue
    return False


def _reason(error: OSError, within: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {within:g} s"
    return (error.strerror or str(error)).lower()


def _spelt(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
