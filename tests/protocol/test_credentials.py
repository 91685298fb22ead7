"""Credentials out of Authorization headers."""

from base64 import b64encode

import hypothesis.strategies as st
import pytest
from hypothesis import given

from appliance.oci.errors import UNAUTHORIZED
from appliance.protocol.credentials import Bearer, Credentials, parse_credentials
from tests.refused import attempt, refused


def basic(pair: bytes) -> bytes:
    return b"Basic " + b64encode(pair)


@pytest.mark.parametrize(
    ("pair", "account", "password"),
    [
        (b"alice:secret", "alice", b"secret"),
        (b"alice:", "alice", b""),
        (b":secret", "", b"secret"),
        (b"alice:with:colons:", "alice", b"with:colons:"),
        ("älice:gehëim".encode(), "älice", "gehëim".encode()),
        (b"alice:\xff\x00\xfe", "alice", b"\xff\x00\xfe"),
        (b"a b:c d", "a b", b"c d"),
        (b"a" * 4000 + b":b", "a" * 4000, b"b"),
    ],
)
def test_a_pair_is_a_name_and_a_password(pair: bytes, account: str, password: bytes) -> None:
    assert parse_credentials([basic(pair)]) == Credentials(account, password)


@pytest.mark.parametrize("scheme", [b"Basic", b"basic", b"BASIC", b"bAsIc"])
@pytest.mark.parametrize("gap", [b" ", b"   ", b" \t"])
def test_the_scheme_is_found_in_any_spelling(scheme: bytes, gap: bytes) -> None:
    header = b" " + scheme + gap + b64encode(b"alice:secret") + b"\t"
    assert parse_credentials([header]) == Credentials("alice", b"secret")


@pytest.mark.parametrize("headers", [[], [b"Basic Og=="]])
def test_nobody_is_no_credentials(headers: list[bytes]) -> None:
    assert parse_credentials(headers) is None


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"", "understands Basic"),
        (b"Digest abc", "understands Basic"),
        (b"Digest username=alice", "understands Basic"),
        (b"BasicYWxpY2U6c2VjcmV0", "understands Basic"),
        (b"\xff\xfe", "understands Basic"),
        (b"Basic", "not base64"),
        (b"Basic ", "not base64"),
        (b"Basic =", "not base64"),
        (b"Basic %%%", "not base64"),
        (b"Basic YWxpY2U6c2VjcmV", "not base64"),
        (b"Basic YWxp Y2U6c2VjcmV0", "not base64"),
        (b"Basic YWxpY2U6c2VjcmV0, Basic YWxpY2U6c2VjcmV0", "not base64"),
        (b"Basic \xc3\xa4", "not base64"),
        (b"Basic -_-_", "not base64"),
        (basic(b""), "not base64"),
        (basic(b"alice"), "not base64"),
        (basic(b"\xff:secret"), "not base64"),
    ],
)
def test_what_cannot_be_read_is_refused_rather_than_nobody(header: bytes, reason: str) -> None:
    with refused(UNAUTHORIZED, reason):
        parse_credentials([header])


def test_two_headers_are_refused_even_if_they_agree() -> None:
    with refused(UNAUTHORIZED, "not several"):
        parse_credentials([basic(b"alice:secret"), basic(b"alice:secret")])
    with refused(UNAUTHORIZED, "not several"):
        parse_credentials([b"", b""])


def test_a_password_is_not_printed() -> None:
    assert "secret" not in repr(Credentials("alice", b"secret"))


@given(st.text().filter(lambda name: ":" not in name), st.binary())
def test_any_pair_comes_back(name: str, password: bytes) -> None:
    found = parse_credentials([basic(name.encode() + b":" + password)])
    assert found == (Credentials(name, password) if name or password else None)


@given(st.lists(st.binary() | st.binary().map(basic), max_size=2))
def test_any_headers_are_credentials_or_refused(headers: list[bytes]) -> None:
    found = attempt(lambda: parse_credentials(headers))
    assert found is None or found is UNAUTHORIZED or isinstance(found, Credentials)
    if isinstance(found, Credentials):
        assert found.account or found.password


@pytest.mark.parametrize("header", [b"Bearer abc", b"bearer  abc ", b"BEARER abc"])
def test_a_token_says_itself_whose_it_is(header: bytes) -> None:
    found = parse_credentials([header])
    assert found == Bearer(b"abc")
    assert "abc" not in repr(found)
