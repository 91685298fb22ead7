"""What firewalls list, as their commands print it."""

import pytest

from appliance.doctor.firewall import rule_against

UFW = """Status: active

To                         Action      From
--                         ------      ----
22/tcp                     ALLOW       Anywhere
443/tcp                    ALLOW       Anywhere
8443/tcp                   DENY        Anywhere
22/tcp (v6)                ALLOW       Anywhere (v6)
"""
FIREWALLD = """public (active)
  target: default
  interfaces: eth0
  services: dhcpv6-client https ssh
  ports: 5000/tcp
  rich rules:
"""
IPTABLES = """-P INPUT DROP
-P FORWARD ACCEPT
-A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -s 10.0.0.0/8 -p tcp -m tcp --dport 9000 -j DROP
-A INPUT -p udp -m udp --dport 443 -j DROP
-A INPUT -p tcp -m multiport --dports 22,443 -j ACCEPT
-A INPUT -p tcp -m tcp --dport 8443 -j REJECT --reject-with tcp-reset
"""
NFT = """table inet filter {
	chain input {
		type filter hook input priority filter; policy accept;
		tcp dport { 22, 443 } accept
		tcp dport 8443 drop
		tcp dport { 5000, 5001 } reject
	}
}
"""


@pytest.mark.parametrize(
    ("program", "listed", "port", "rule"),
    [
        ("ufw", UFW, 443, ""),
        ("ufw", UFW, 8443, "8443/tcp                   DENY        Anywhere"),
        ("ufw", UFW, 5000, "it is active, and no rule allows the port"),
        ("ufw", "Status: inactive\n", 5000, ""),
        ("firewall-cmd", FIREWALLD, 443, ""),
        ("firewall-cmd", FIREWALLD, 5000, ""),
        ("firewall-cmd", FIREWALLD, 8443, "its zone does not list the port"),
        ("iptables", IPTABLES, 443, ""),
        ("iptables", IPTABLES, 8443, "--dport 8443 -j REJECT"),
        ("iptables", IPTABLES, 9000, "its policy drops what no rule accepts"),
        ("iptables", "-P INPUT ACCEPT\n", 443, ""),
        ("iptables", "-P INPUT ACCEPT\n-A INPUT -j DROP\n", 443, "-A INPUT -j DROP"),
        ("nft", NFT, 443, ""),
        ("nft", NFT, 8443, "tcp dport 8443 drop"),
        ("nft", NFT, 5001, "tcp dport { 5000, 5001 } reject"),
        ("nft", NFT, 500, ""),
    ],
)
def test_a_rule_that_keeps_clients_away_is_told(
    program: str, listed: str, port: int, rule: str
) -> None:
    found = rule_against(program, listed, port)
    assert rule in found if rule else not found
