"""Servers that answer anything at all: each ends with findings, and with nothing a terminal obeys."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import trustme
from cryptography import x509

from appliance.doctor.credentials import Login
from appliance.doctor.findings import Report, Status
from appliance.doctor.there import examine_from_outside
from appliance.trust.place import Place
from tests.certificates import server_pem
from tests.pretenders import Said, pretending

VERSION = {"Docker-Distribution-Api-Version": "registry/2.0"}
LOGIN = Login("alice", "open sesame", "--user")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA(organization_name="Evil \x1b[2J\nOrganization")


def bearer(realm: str) -> Mapping[str, str]:
    return VERSION | {"WWW-Authenticate": f'Bearer realm="{realm}",service="x"'}


BASIC = VERSION | {"WWW-Authenticate": "Basic realm=x"}


@pytest.mark.parametrize(
    "answers",
    [
        {"/v2/": Said(401, b"", BASIC, date="never")},
        {"/v2/": Said(401, b"", BASIC, date="Mon, 01 Jan 0001 00:00:00 GMT")},
        {"/v2/": Said(302, b"", {"Location": "http://[::"})},
        {"/v2/": Said(302, b"", {"Location": "https://alice:hidden@\x1b[2J/x"})},
        {"/v2/": Said(401, b"", bearer("https://[::"))},
        {"/v2/": Said(401, b"", bearer("gopher://x"))},
        {"/v2/": Said(401, b"", bearer("https://"))},
        {"/v2/": Said(401, b"", VERSION | {"WWW-Authenticate": "\x1b[2J"})},
        {"/v2/": Said(500, b"\xff" * 3_000_000, VERSION)},
        {"/v2/": Said(200, b"{", VERSION)},
    ],
)
def test_whatever_is_answered_ends_with_findings(
    authority: trustme.CA, tmp_path: Path, answers: Mapping[str, Said]
) -> None:
    pem = server_pem(tmp_path, authority, "127.0.0.1")
    report = Report()
    with pretending(answers, pem=pem, otherwise=Said(200, b"[]", VERSION)) as address:
        examine_from_outside(Place.parse(address), 2, report, own=root(authority), login=LOGIN)
    assert report.worst is Status.FAULT
    said = "\n".join(report.lines())
    assert all(line.isprintable() for line in said.splitlines())
    assert not {"hidden", "sesame"} & set(said.split())


@pytest.mark.parametrize(
    "location", ["", "http://[::", "https://elsewhere.invalid/v2/x", "/v2/\x1b", "//x/y"]
)
def test_an_upload_that_leads_elsewhere_is_not_followed(
    authority: trustme.CA, tmp_path: Path, location: str
) -> None:
    pem = server_pem(tmp_path, authority, "127.0.0.1")
    started = Said(202, b"", {"Location": location})
    report = Report()
    with pretending({"/v2/": Said(200, b"{}", VERSION)}, pem=pem, otherwise=started) as address:
        examine_from_outside(Place.parse(address), 2, report, own=root(authority), login=LOGIN)
    (found,) = [one for one in report.findings if one.check == "push"]
    assert found.status is Status.FAULT


@pytest.mark.parametrize("body", [b"", b"[]", b'{"token": "\\u0000\\n\xc3\xa4"}', b"\xff"])
def test_a_token_that_is_none_is_told(authority: trustme.CA, tmp_path: Path, body: bytes) -> None:
    pem = server_pem(tmp_path, authority, "127.0.0.1")
    report = Report()
    with pretending({"/token": Said(200, body)}, pem=pem) as tokens:
        challenge = Said(401, b"", bearer(f"https://{tokens}/token"))
        with pretending({"/v2/": challenge}, pem=pem) as address:
            examine_from_outside(Place.parse(address), 2, report, own=root(authority), login=LOGIN)
    (found,) = [one for one in report.findings if one.check == "login"]
    assert found.status is Status.FAULT


def test_a_name_that_a_terminal_would_obey_is_shown(authority: trustme.CA, tmp_path: Path) -> None:
    pem = server_pem(tmp_path, authority, "127.0.0.1")
    report = Report()
    with pretending({"/v2/": Said(401, b"", BASIC)}, pem=pem) as address:
        examine_from_outside(Place.parse(address), 2, report)
    (found,) = [one for one in report.findings if one.check == "trust"]
    assert "Evil ?[2J?Organization" in found.sentence


def root(authority: trustme.CA) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(authority.cert_pem.bytes())
