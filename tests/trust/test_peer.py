import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.trust.peer import covers, told_names


def test_an_address_is_compared_with_addresses_alone() -> None:
    """As clients do, which take an address that is written as a name for none."""
    real = trustme.CA().issue_cert("10.1.2.3", "one.example").cert_chain_pems[0].bytes()
    leaf = x509.load_pem_x509_certificate(real)
    assert covers(leaf, "10.1.2.3")
    assert covers(leaf, "one.example")
    names = x509.SubjectAlternativeName([x509.DNSName("10.1.2.3"), x509.DNSName("*.example")])
    wrong = _reissued(leaf, names)
    assert not covers(wrong, "10.1.2.3")
    assert covers(wrong, "one.example")
    assert told_names(wrong) == "10.1.2.3, *.example"


def _reissued(leaf: x509.Certificate, names: x509.SubjectAlternativeName) -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(leaf.subject)
        .issuer_name(leaf.issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(leaf.not_valid_before_utc)
        .not_valid_after(leaf.not_valid_after_utc)
        .add_extension(names, critical=False)
    )
    return builder.sign(key, hashes.SHA256())
