"""Who is believed about who asks."""

from collections.abc import Sequence
from ipaddress import ip_address, ip_network

import hypothesis.strategies as st
import pytest
from hypothesis import given

from appliance.serve.proxies import Asker, TrustedProxies

PROXY, INNER, CLIENT, STRANGER = "10.0.0.1", "10.1.2.3", "192.0.2.7", "198.51.100.9"
PROXIES = TrustedProxies([ip_network("10.0.0.0/8"), ip_network("2001:db8:a::/48")])


def client(peer: str, *chain: bytes) -> str:
    return PROXIES.forwarded(peer, [(b"x-forwarded-for", value) for value in chain]).client


@pytest.mark.parametrize(
    ("address", "trusted"),
    [
        (PROXY, True),
        ("::ffff:10.0.0.1", True),
        ("2001:db8:a::1", True),
        ("2001:db8:a::1%eth0", True),
        (CLIENT, False),
        ("2001:db8:b::1", False),
        ("::a00:1", False),
        ("", False),
        ("proxy", False),
    ],
)
def test_a_proxy_is_trusted_by_its_network(address: str, *, trusted: bool) -> None:
    assert PROXIES.trusts(address) is trusted
    assert PROXIES.trusts(address) is trusted
    assert not TrustedProxies([]).trusts(address)


def test_what_a_stranger_says_counts_for_nothing() -> None:
    headers = [
        (b"x-forwarded-for", CLIENT.encode()),
        (b"x-forwarded-proto", b"https"),
        (b"x-forwarded-host", b"registry.example"),
    ]
    assert PROXIES.forwarded(STRANGER, headers) == Asker(STRANGER, None, None)
    assert TrustedProxies([]).forwarded(PROXY, headers) == Asker(PROXY, None, None)


def test_what_a_trusted_proxy_says_is_believed() -> None:
    headers = [
        (b"host", b"inside:5000"),
        (b"x-forwarded-for", CLIENT.encode()),
        (b"x-forwarded-proto", b"https"),
        (b"x-forwarded-host", b"registry.example:8443"),
    ]
    assert PROXIES.forwarded(PROXY, headers) == Asker(CLIENT, "https", "registry.example:8443")


def test_a_trusted_proxy_that_says_nothing_asks_itself() -> None:
    assert PROXIES.forwarded(PROXY, [(b"host", b"a")]) == Asker(PROXY, None, None)


@pytest.mark.parametrize(
    ("chain", "expected"),
    [
        ([b"192.0.2.7"], CLIENT),
        ([b"198.51.100.9, 192.0.2.7"], CLIENT),
        ([b"192.0.2.7, 10.1.2.3"], CLIENT),
        ([b"198.51.100.9,192.0.2.7 ,\t10.1.2.3 , 10.9.9.9"], CLIENT),
        ([b"198.51.100.9", b"192.0.2.7", b"10.1.2.3"], CLIENT),
        ([b"192.0.2.7", b"198.51.100.9, 10.1.2.3"], STRANGER),
        ([b"10.1.2.3"], INNER),
        ([b"10.1.2.3, 10.9.9.9"], INNER),
        ([b"192.0.2.7:4711"], CLIENT),
        ([b"[2001:db8:c::1]:4711"], "2001:db8:c::1"),
        ([b"[2001:DB8:C:0::1]"], "2001:db8:c::1"),
        ([b"2001:db8:c::1, 2001:db8:a::1"], "2001:db8:c::1"),
        ([b"::ffff:192.0.2.7"], CLIENT),
        ([b"192.0.2.7, ::ffff:10.1.2.3"], CLIENT),
    ],
)
def test_the_client_is_the_last_address_that_is_no_trusted_proxy(
    chain: Sequence[bytes], expected: str
) -> None:
    assert client(PROXY, *chain) == expected


@pytest.mark.parametrize(
    "entry",
    [
        b"",
        b" ",
        b"unknown",
        b"_hidden",
        b"192.0.2",
        b"192.0.2.300",
        b"192.0.2.07",
        b"192.0.2.7:port",
        b"192.0.2.7 10.1.2.3",
        b"[192.0.2.7",
        b"[]",
        b"2001:db8:c::1%eth0",
        b"2001:db8:c::1%\x1b[31m",
        b'"192.0.2.7"',
        b"for=192.0.2.7",
        b"192.0.2.7\n",
        b"\xff",
    ],
)
def test_the_walk_ends_at_an_entry_that_is_no_address(entry: bytes) -> None:
    assert client(PROXY, entry) == PROXY
    assert client(PROXY, b"192.0.2.7," + entry) == PROXY
    assert client(PROXY, b"192.0.2.7", entry, b"10.1.2.3") == INNER


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([b"https"], "https"),
        ([b"HTTP"], "http"),
        ([b"http", b"https"], "https"),
        ([b"http, https "], "https"),
        ([b"https, ftp"], None),
        ([b"https", b""], None),
        ([b"javascript"], None),
        ([], None),
    ],
)
def test_the_scheme_is_what_the_nearest_proxy_says(
    values: Sequence[bytes], expected: str | None
) -> None:
    headers = [(b"x-forwarded-proto", value) for value in values]
    assert PROXIES.forwarded(PROXY, headers).scheme == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([b"registry.example"], "registry.example"),
        ([b"registry.example:443"], "registry.example:443"),
        ([b"[2001:db8::1]:443"], "[2001:db8::1]:443"),
        ([b"192.0.2.1"], "192.0.2.1"),
        ([b"a.example, b.example"], "b.example"),
        ([b"a.example", b"b.example"], "b.example"),
        ([b"a.example/path"], None),
        ([b"user@a.example"], None),
        ([b"a.example:port"], None),
        ([b"a example"], None),
        ([b"a.example\r\nx: y"], None),
        ([b"\xe4.example"], None),
        ([b""], None),
        ([], None),
    ],
)
def test_the_host_is_what_the_nearest_proxy_says_if_it_is_one(
    values: Sequence[bytes], expected: str | None
) -> None:
    headers = [(b"x-forwarded-host", value) for value in values]
    assert PROXIES.forwarded(PROXY, headers).host == expected


def test_the_standard_header_is_ignored() -> None:
    headers = [(b"forwarded", b"for=192.0.2.7;proto=https;host=registry.example")]
    assert PROXIES.forwarded(PROXY, headers) == Asker(PROXY, None, None)


NAMES = [b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"forwarded", b"host"]


@given(
    st.sampled_from([PROXY, CLIENT, "", "2001:db8:a::1"]),
    st.lists(st.tuples(st.sampled_from(NAMES), st.binary(max_size=40)), max_size=6),
)
def test_any_headers_give_an_address_of_somebody(
    peer: str, headers: Sequence[tuple[bytes, bytes]]
) -> None:
    asker = PROXIES.forwarded(peer, headers)
    assert asker.client == peer or str(ip_address(asker.client)) == asker.client
    assert asker.scheme in {None, "http", "https"}


@given(st.lists(st.ip_addresses().map(str), max_size=5), st.ip_addresses(v=6).map(str))
def test_what_stands_left_of_the_client_makes_no_difference(
    invented: Sequence[str], real: str
) -> None:
    chain = b",".join(text.encode() for text in (*invented, real, INNER))
    if not PROXIES.trusts(real):
        assert client(PROXY, chain) == client(PROXY, real.encode())
