from pathlib import Path

import pytest
import trustme

from appliance.trust.authority import (
    TrustError,
    fetch,
    is_trusted_already,
    parse_fingerprint,
)
from appliance.trust.place import Place
from tests.certificates import server_pem
from tests.pretenders import Said, pretending


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def offer(body: bytes, pem: Path | None) -> str:
    """The sentence with which an authority that is offered is refused."""
    with (
        pretending({"/ca.crt": Said(200, body)}, pem=pem) as address,
        pytest.raises(TrustError) as refused,
    ):
        fetch(Place.parse(address), 5)
    return str(refused.value)


def test_the_authority_that_issued_the_certificate_is_fetched(
    authority: trustme.CA, tmp_path: Path
) -> None:
    pem = server_pem(tmp_path, authority, "127.0.0.1")
    with pretending({"/ca.crt": Said(200, authority.cert_pem.bytes())}, pem=pem) as address:
        offered = fetch(Place.parse(address), 5)
    assert offered.pem == authority.cert_pem.bytes()
    assert parse_fingerprint(offered.fingerprint) == offered.fingerprint


def test_an_authority_that_did_not_issue_it_is_refused(
    authority: trustme.CA, tmp_path: Path
) -> None:
    pem = server_pem(tmp_path, authority, "127.0.0.1")
    other = trustme.CA().cert_pem.bytes()
    assert "is not good with the authority it offers" in offer(other, pem)


def test_a_certificate_for_another_name_is_refused(authority: trustme.CA, tmp_path: Path) -> None:
    pem = server_pem(tmp_path, authority, "registry.example")
    said = offer(authority.cert_pem.bytes(), pem)
    assert "is not good with the authority it offers" in said
    assert "127.0.0.1" in said


def test_a_certificate_that_has_expired_is_refused(authority: trustme.CA, tmp_path: Path) -> None:
    pem = server_pem(tmp_path, authority, "127.0.0.1", starts_in_days=-9, days=5)
    assert "has expired" in offer(authority.cert_pem.bytes(), pem)


def test_what_is_no_authority_is_refused(authority: trustme.CA, tmp_path: Path) -> None:
    pem = server_pem(tmp_path, authority, "127.0.0.1")
    leaf = authority.issue_cert("127.0.0.1").cert_chain_pems[0].bytes()
    two = authority.cert_pem.bytes() + trustme.CA().cert_pem.bytes()
    assert "is not the certificate of an authority; do not trust it" in offer(leaf, pem)
    assert "is not one certificate in PEM format" in offer(b"<html>", pem)
    assert "is not one certificate in PEM format" in offer(two, pem)
    assert "the answer is too large" in offer(b" " * 70_000, pem)


def test_a_registry_without_one_is_told_of(authority: trustme.CA, tmp_path: Path) -> None:
    pem = server_pem(tmp_path, authority, "127.0.0.1")
    with pretending({}, pem=pem) as address, pytest.raises(TrustError, match="no authority of its"):
        fetch(Place.parse(address), 5)
    with (
        pretending({"/ca.crt": Said(502)}, pem=pem) as address,
        pytest.raises(TrustError, match="answers 502; is there a registry"),
    ):
        fetch(Place.parse(address), 5)


def test_a_server_without_tls_is_told_of() -> None:
    assert "cannot be reached" in offer(b"", None)
    with pretending({}, pem=None) as address, pytest.raises(TrustError, match="not speak TLS"):
        is_trusted_already(Place.parse(address), 5)


@pytest.mark.parametrize("text", ["AB" * 32, "sha256:" + "ab" * 32, ":".join(["aB"] * 32)])
def test_a_fingerprint_may_be_spelt_in_several_ways(text: str) -> None:
    assert parse_fingerprint(text) == ":".join(["AB"] * 32)


@pytest.mark.parametrize("text", ["", "AB:CD", "XY" * 32, "AB" * 33])
def test_what_is_no_fingerprint_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no SHA-256 fingerprint"):
        parse_fingerprint(text)
