"""What a client's certificate calls it."""

from collections.abc import Iterator

from cryptography import x509
from cryptography.x509.oid import NameOID


def names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """List the names in a certificate, each with its kind before it.

    `dns:`, `email:` and `uri:` are its alternative names (RFC 5280 4.2.1.6), `cn:` the common name
    and `subject:` the whole subject as RFC 4514 writes it.
    """
    return tuple(dict.fromkeys(_names(certificate)))


def _names(certificate: x509.Certificate) -> Iterator[str]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (
        x509.ExtensionNotFound,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
        ValueError,
    ):  # it has none, or none that makes sense
        found = x509.SubjectAlternativeName([])
    for kind, general in (
        ("dns", x509.DNSName),
        ("email", x509.RFC822Name),
        ("uri", x509.UniformResourceIdentifier),
    ):
        for value in found.get_values_for_type(general):
            yield f"{kind}:{value}"
    for attribute in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME):
        yield f"cn:{attribute.value!s}"
    yield f"subject:{certificate.subject.rfc4514_string()}"
