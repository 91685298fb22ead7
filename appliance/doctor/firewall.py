"""Firewall rules on a registry's own machine that may keep its clients away: hints, and no more.

Rules are read as they are listed, one by one, up to the first that decides. What looks into tables of addresses,
jumps to a chain of its own or has conditions that are not known here may decide as well: nothing is said of what
comes after it, unless a rule names the port.
"""

import re
from collections.abc import Sequence

from appliance.doctor.findings import Report
from appliance.doctor.programs import said_by

FIREWALL = "firewall"
_COMMANDS = (
    ("ufw", "status", "verbose"),
    ("firewall-cmd", "--list-all"),
    ("iptables", "-S"),
    ("ip6tables", "-S"),
    ("nft", "list", "ruleset"),
)
_PORT_RULE = re.compile(r"--dports? (\S+)")
_STATES = re.compile(r"--(?:ct)?state (\S+)")
_PLAIN_RULE = re.compile(
    r"-A INPUT(?: -p tcp| -m (?:tcp|multiport|conntrack|state|comment)| --(?:ct)?state \S+"
    r"| --dports? \S+| --comment (?:\"[^\"]*\"|\S+))*"
    r" -j (?:ACCEPT|DROP|REJECT)(?: --reject-with \S+)?"
)
_PASSING = re.compile(r" -j (?:LOG|NFLOG|MARK|CONNMARK)\b")
_UFW_PORTS = re.compile(r"([\d,:]+)(?:/(tcp|udp))?")
_UFW_OTHERS = ("OpenSSH",)  # named services that are on other ports
_SERVICES = {"https": 443, "http": 80}
_OTHER_SERVICES = {"ssh", "dhcpv6-client", "mdns", "cockpit", "samba-client"}
_NFT_RULE = re.compile(
    r"(?:meta l4proto tcp )?tcp dport (?P<ports>\{[^}]*\}|[\d-]+)(?: ct state new)?"
    r"(?: counter(?: packets \d+ bytes \d+)?)?(?: log(?: prefix \"[^\"]*\")?)?"
    r" (?P<verdict>accept|drop|reject)(?: with .*)?(?: comment \".*\")?"
)


def examine_firewall(ports: Sequence[int], within: float, report: Report) -> None:
    """Look for rules that drop what comes to these ports; no more than a hint."""
    looked = False
    for command in _COMMANDS:
        told = said_by(command, within)
        looked |= told is not None
        for port in ports:
            rule = rule_against(command[0], told or "", port)
            if rule:
                report.warn(
                    FIREWALL,
                    f"port {port}",
                    f"{command[0]} seems to keep clients from it: {rule}",
                    _REMEDIES[command[0]].format(port=port),
                )
    if report.has_trouble(FIREWALL):
        return
    if looked:
        report.ok(FIREWALL, "rules", "none was found that keeps clients from the registry's ports")
    else:
        report.unseen(FIREWALL, "rules", "there is no firewall here that may be looked at")


def rule_against(program: str, listed: str, port: int) -> str:
    """Find what keeps clients from a port in what a firewall's program lists; nothing where nothing does."""
    return _JUDGES[program](listed, port)


_REMEDIES = {
    "ufw": "sudo ufw allow {port}/tcp",
    "firewall-cmd": (
        "sudo firewall-cmd --permanent --add-port={port}/tcp && sudo firewall-cmd --reload"
    ),
    "iptables": "sudo iptables -I INPUT -p tcp --dport {port} -j ACCEPT",
    "ip6tables": "sudo ip6tables -I INPUT -p tcp --dport {port} -j ACCEPT",
    "nft": "sudo nft list ruleset, then insert before that rule: tcp dport {port} accept",
}


def _judge_ufw(told: str, port: int) -> str:
    if "Status: active" not in told:
        return ""
    is_open = "Default: allow (incoming)" in told
    for line in told.splitlines():
        columns = re.split(r"\s{2,}", line.strip())
        if len(columns) < 3:
            continue
        to, action, source = columns[:3]
        to = to.removesuffix(" (v6)")
        verb, _, direction = action.partition(" ")
        if direction not in ("", "IN") or verb not in ("ALLOW", "LIMIT", "DENY", "REJECT"):
            continue
        found = _UFW_PORTS.fullmatch(to)
        if found is not None and (found[2] == "udp" or not _is_listed(found[1], port, ":")):
            continue
        if verb in ("DENY", "REJECT"):
            if (found is not None or to == "Anywhere") and source.startswith("Anywhere"):
                return line.strip()
        elif found is not None:
            return ""
        elif to not in _UFW_OTHERS:
            is_open = True  # it may be
    return "" if is_open else "it is active, and no rule allows the port"


def _judge_firewalld(told: str, port: int) -> str:
    ports = re.search(r"^\s*ports:(.*)$", told, re.MULTILINE)
    services = re.search(r"^\s*services:(.*)$", told, re.MULTILINE)
    if (
        ports is None
        or services is None
        or re.search(r"target: ACCEPT|^\s*rule ", told, re.MULTILINE)
    ):
        return ""
    listed = [one.removesuffix("/tcp") for one in ports[1].split() if one.endswith("/tcp")]
    if _is_listed(",".join(listed), port, "-"):
        return ""
    others = [name for name in services[1].split() if name not in _OTHER_SERVICES]
    if any(_SERVICES.get(name, port) == port for name in others):
        return ""
    return "its zone does not list the port"


def _judge_iptables(told: str, port: int) -> str:
    """Find the first rule of INPUT that decides over new connections to the port."""
    is_decided = False
    for line in told.splitlines():
        if not line.startswith("-A INPUT ") or re.search(r" -i lo | -p (?!tcp)", line):
            continue
        states = _STATES.search(line)
        if _PASSING.search(line) or (states is not None and "NEW" not in states[1].split(",")):
            continue
        named = _PORT_RULE.search(line)
        if named is not None and not _is_listed(named[1], port, ":"):
            continue
        is_refusal = re.search(r" -j (DROP|REJECT)", line) is not None
        if _PLAIN_RULE.fullmatch(line) is None:
            # Who is refused under a condition is somebody; who is let in, or sent elsewhere, may be everybody.
            is_decided |= not is_refusal
        elif not is_refusal:
            return ""
        elif named is not None or not is_decided:
            return line
    if "-P INPUT DROP" in told and not is_decided:
        return "its policy drops what no rule accepts"
    return ""


def _judge_nft(told: str, port: int) -> str:
    is_incoming = True
    for line in told.splitlines():
        rule = line.strip()
        if rule.startswith("chain "):
            is_incoming = True  # another one may jump to it
        hook = re.search(r"\bhook (\w+)", rule)
        if hook is not None:
            is_incoming = hook[1] in ("input", "prerouting", "ingress")
        found = _NFT_RULE.fullmatch(rule)
        if is_incoming and found is not None:
            ports = found["ports"].strip("{ }").replace(" ", "")
            if _is_listed(ports, port, "-"):
                return "" if found["verdict"] == "accept" else rule
    return ""


def _is_listed(listed: str, port: int, dash: str) -> bool:
    """Tell whether a port is in a list of ports and ranges."""
    for one in listed.split(","):
        first, _, last = one.partition(dash)
        if first.isdecimal() and int(first) <= port <= int(last if last.isdecimal() else first):
            return True
    return False


_JUDGES = {
    "ufw": _judge_ufw,
    "firewall-cmd": _judge_firewalld,
    "iptables": _judge_iptables,
    "ip6tables": _judge_iptables,
    "nft": _judge_nft,
}
