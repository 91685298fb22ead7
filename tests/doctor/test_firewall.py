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
UFW_OF_TWO = """Status: active
Logging: on (low)
Default: deny (incoming), allow (outgoing), disabled (routed)

To                         Action      From
--                         ------      ----
22/tcp (OpenSSH)           ALLOW IN    Anywhere
OpenSSH                    ALLOW IN    Anywhere
80,443/tcp                 ALLOW IN    Anywhere
6000:6010/tcp              ALLOW IN    Anywhere
5000/udp                   ALLOW IN    Anywhere
9000/tcp                   DENY IN     10.0.0.9
9000/tcp                   ALLOW IN    Anywhere
25                         DENY OUT    Anywhere
"""
STATES = """-P INPUT DROP
-A INPUT -m state --state RELATED,ESTABLISHED -j ACCEPT
-A INPUT -m state --state INVALID -j DROP
-A INPUT -p tcp -m tcp --dport 443 -m state --state NEW -j ACCEPT
-A INPUT -p tcp -m multiport --dports 5000:5010 -m comment --comment "two words" -j ACCEPT
"""
CHAINS = """-P INPUT DROP
-A INPUT -j ufw-before-input
-A INPUT -p tcp -m tcp --dport 8443 -j DROP
-A INPUT -j DROP
"""
CONDITIONS = """-P INPUT DROP
-A INPUT -p tcp -m limit --limit 3/min -j LOG --log-prefix "new "
-A INPUT -p tcp -m tcp --dport 443 -m recent --update --seconds 9 -j DROP
-A INPUT -i eth1 -j ACCEPT
"""
NFT_OF_MANY = """table inet filter {
	chain output {
		type filter hook output priority filter; policy accept;
		tcp dport 443 drop
	}
	chain input {
		type filter hook input priority filter; policy drop;
		ip saddr 10.0.0.9 tcp dport 443 drop
		tcp dport 6000-6010 counter packets 3 bytes 180 drop comment "none of these"
	}
}
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
        ("firewall-cmd", FIREWALLD.replace("5000/tcp", "5000-5010/tcp"), 5005, ""),
        ("firewall-cmd", FIREWALLD.replace("ssh", "ssh kube-api"), 8443, ""),
        ("firewall-cmd", "a listing of another kind\n", 8443, ""),
        ("ufw", UFW_OF_TWO, 80, ""),
        ("ufw", UFW_OF_TWO, 443, ""),
        ("ufw", UFW_OF_TWO, 6005, ""),
        ("ufw", UFW_OF_TWO, 9000, ""),
        ("ufw", UFW_OF_TWO.replace("deny (incoming)", "allow (incoming)"), 5000, ""),
        ("ufw", UFW_OF_TWO.replace("OpenSSH  ", "Nginx Full"), 5000, ""),
        ("ufw", UFW_OF_TWO.replace("22/tcp (OpenSSH)", "22/tcp"), 5000, "it is active, and no"),
        ("iptables", STATES, 443, ""),
        ("iptables", STATES, 5005, ""),
        ("iptables", STATES, 8443, "its policy drops what no rule accepts"),
        ("iptables", CHAINS, 443, ""),
        ("iptables", CHAINS, 8443, "--dport 8443 -j DROP"),
        ("iptables", CONDITIONS, 443, ""),
        ("nft", NFT_OF_MANY, 443, ""),
        ("nft", NFT_OF_MANY, 6005, "tcp dport 6000-6010 counter"),
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
