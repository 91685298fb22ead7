"""What an address counts as."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network

import hypothesis.strategies as st
import pytest
from hypothesis import given

from appliance.protocol.addresses import network_key, parse_address


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::1", "::1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::ffff:c000:201", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::1"),
    ],
)
def test_an_address_is_read_as_the_kernel_shows_it(text: str, shown: str) -> None:
    assert str(parse_address(text)) == shown


@pytest.mark.parametrize("text", ["", "192.0.2", "192.0.2.01", "192.0.2.1:80", "[::1]", "a", "%"])
def test_any_other_text_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="does not appear to be"):
        parse_address(text)


@pytest.mark.parametrize(
    ("address", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("::1", "::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("a:b", "a:b"),
    ],
)
def test_an_address_counts_as_what_one_client_has(address: str, key: str) -> None:
    assert network_key(address) == key


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_counts_as_itself_on_any_socket(address: IPv4Address) -> None:
    assert network_key(str(address)) == network_key(f"::ffff:{address}") == str(address)


@given(st.ip_addresses(v=6), st.ip_addresses(v=6))
def test_two_ipv6_addresses_count_as_one_if_they_share_a_network(
    one: IPv6Address, other: IPv6Address
) -> None:
    if one.ipv4_mapped is None and other.ipv4_mapped is None:
        network = IPv6Network((one, 64), strict=False)
        assert (network_key(str(one)) == network_key(str(other))) == (other in network)
        assert network_key(str(one)) == str(network)


@given(st.text())
def test_any_text_counts_as_something(text: str) -> None:
    assert isinstance(network_key(text), str)
