"""Who may knock at all, and at which name."""

from ipaddress import ip_network
from pathlib import Path

import pytest

from appliance.api.doors import Doors
from appliance.oci.errors import ADDRESS_REFUSED, MISDIRECTED
from tests.api.driver import open_registry
from tests.refused import refused

LAN = (ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"))
ONE = (ip_network("10.1.1.1/32"),)


@pytest.mark.parametrize(
    ("address", "is_let_in"),
    [
        ("10.2.3.4", True),
        ("::ffff:10.2.3.4", True),
        ("2001:db8::1", True),
        ("10.1.1.1", False),
        ("192.0.2.1", False),
        ("2001:db9::1", False),
        ("", False),
        ("nonsense", False),
    ],
)
def test_what_is_denied_is_not_allowed_and_nothing_else_is(address: str, is_let_in: bool) -> None:
    doors = Doors(allow=LAN, deny=ONE)
    if is_let_in:
        doors.check_address(address)
        return
    with refused(ADDRESS_REFUSED):
        doors.check_address(address)


def test_without_a_list_of_those_allowed_all_others_are_let_in() -> None:
    doors = Doors(deny=ONE)
    for address in ("192.0.2.1", "2001:db9::1", ""):
        doors.check_address(address)
    with refused(ADDRESS_REFUSED):
        doors.check_address("10.1.1.1")
    Doors().check_address("10.1.1.1")


@pytest.mark.parametrize(
    "host", ["registry.lan", "REGISTRY.lan:5000", "a.example.com:443", "[2001:db8::1]:443"]
)
def test_our_names_are_answered_to(host: str) -> None:
    Doors(hosts=["Registry.LAN", "*.example.com", "[[]2001:db8::1]"]).check_host(host)


@pytest.mark.parametrize(
    "host", ["", "example.com", "registry.lan.evil", "127.0.0.1:5000", "[::1]"]
)
def test_other_names_are_not(host: str) -> None:
    with refused(MISDIRECTED):
        Doors(hosts=["registry.lan", "*.example.com"]).check_host(host)


async def test_health_is_told_at_every_name_and_nothing_else(tmp_path: Path) -> None:
    doors = Doors(hosts=["registry.lan"], deny=ONE)
    registry = open_registry(tmp_path, doors=doors)
    for path, status in (("/healthz", 200), ("/readyz", 200), ("/v2/", 421), ("/", 421)):
        answer = await registry.ask("GET", path, {"Host": "other.lan"})
        assert answer.status == status
    answer = await registry.ask("GET", "/v2/", {"Host": "registry.lan:443"})
    assert answer.status == 200
    answer = await registry.ask("GET", "/healthz", {"Host": "registry.lan"}, client="10.1.1.1")
    assert (answer.status, answer.code) == (403, "DENIED")
    await registry.close()
