"""Firewall rules on a registry's own machine that may keep its clients away: hints, and no more.

Rules are read as they are listed, one by one. A rule that looks into tables of addresses, or jumps to a chain of
its own, is not followed.
"""

import re
from collections.abc import Sequence

from appliance.doctor.findings import Report
from appliance.doctor.programs import said_by

FIREWALL = "firewall"
_COMMANDS = (
    ("ufw", "status"),
    ("firewall-cmd", "--list-all"),
    ("iptables", "-S"),
    ("ip6tables", "-S"),
    ("nft", "list", "ruleset"),
)
_PORT_RULE = re.compile(r"dports? (\S+)")


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
    rules = [line for line in told.splitlines() if re.match(rf"{port}(/tcp)?\s", line)]
    if any("DENY" in rule or "REJECT" in rule for rule in rules):
        return rules[0].strip()
    return "" if rules else "it is active, and no rule allows the port"


def _judge_firewalld(told: str, port: int) -> str:
    if "ports:" not in told:
        return ""
    services = {443: "https", 80: "http"}
    words = set(re.findall(r"\S+", told))
    is_open = f"{port}/tcp" in words or services.get(port) in words or "ACCEPT" in words
    return "" if is_open else "its zone does not list the port"


def _judge_iptables(told: str, port: int) -> str:
    """Find the first rule of INPUT that decides over the port, as far as rules of one line tell."""
    for line in told.splitlines():
        if not line.startswith("-A INPUT ") or re.search(
            r" -i lo | -s | --ctstate | -p (?!tcp)", line
        ):
            continue
        named = _PORT_RULE.search(line)
        if named is not None and str(port) not in re.split(r"[,:]", named[1]):
            continue
        if re.search(r"-j (DROP|REJECT)", line):
            return line
        if "-j ACCEPT" in line:
            return ""
    return "its policy drops what no rule accepts" if "-P INPUT DROP" in told else ""


def _judge_nft(told: str, port: int) -> str:
    for line in told.splitlines():
        rule = line.strip()
        if re.search(rf"tcp dport (\{{[^}}]*\b{port}\b[^}}]*\}}|{port}\b)", rule):
            return rule if re.search(r"\b(drop|reject)\b", rule) else ""
    return ""


_JUDGES = {
    "ufw": _judge_ufw,
    "firewall-cmd": _judge_firewalld,
    "iptables": _judge_iptables,
    "ip6tables": _judge_iptables,
    "nft": _judge_nft,
}
