"""What a client's certificate calls it."""

from ipaddress import ip_network

import trustme
from cryptography import x509

from appliance.serve.clients import names_of
from appliance.serve.connection import Endpoints
from appliance.serve.proxies import TrustedProxies


def issued(*names: str, common: str | None = None) -> x509.Certificate:
    made = trustme.CA().issue_cert(*names, common_name=common)
    return x509.load_pem_x509_certificate(made.cert_chain_pems[0].bytes())


def test_all_its_names_have_their_kind_before_them() -> None:
    found = names_of(issued("ci.example.com", "ci@example.com", common="a builder"))
    assert {"dns:ci.example.com", "email:ci@example.com", "cn:a builder"} <= set(found)
    [subject] = [name for name in found if name.startswith("subject:")]
    assert "CN=a builder" in subject


def test_a_name_of_one_kind_is_not_taken_for_another() -> None:
    found = names_of(issued("example.com", common="dns:admin"))
    assert "dns:admin" not in found
    assert "cn:dns:admin" in found


def test_the_certificate_of_a_proxy_is_not_that_of_its_clients() -> None:
    asking = {"client": ("192.0.2.1", 9), "server": ("192.0.2.2", 443), "secure": True}
    direct = Endpoints(**asking, proxies=None, client_names=("cn:one",))  # type: ignore[arg-type]
    assert direct.describe([])["registry.client_names"] == ("cn:one",)
    trusted = TrustedProxies([ip_network("192.0.2.0/24")])
    behind = Endpoints(**asking, proxies=trusted, client_names=("cn:one",))  # type: ignore[arg-type]
    assert behind.describe([])["registry.client_names"] == ()
