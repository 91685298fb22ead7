"""The authority that a registry hands out at /ca.crt, fetched unseen and then held against its certificate."""

import ssl
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import httpx2
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from appliance.trust import peer
from appliance.trust.exchange import NoAnswerError, exchange
from appliance.trust.place import Place

_SIZE_MAX = 64 << 10
_HEX = frozenset("0123456789ABCDEF")


class TrustError(Exception):
    """Why a registry's authority cannot be had, or kept: one sentence, without its final stop."""


@dataclass(frozen=True, slots=True)
class Offered:
    """The authority that a registry says it has; its certificate leads to it."""

    certificate: x509.Certificate

    @property
    def subject(self) -> str:
        """Whose it is, as RFC 4514 writes it, for a terminal to show."""
        told = self.certificate.subject.rfc4514_string()
        return "".join(letter if letter.isprintable() else "?" for letter in told)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate, the way `registry info` and openssl show it."""
        return self.certificate.fingerprint(hashes.SHA256()).hex(":").upper()

    @property
    def pem(self) -> bytes:
        """The certificate as clients read it."""
        return self.certificate.public_bytes(Encoding.PEM)


def parse_fingerprint(text: str) -> str:
    """Read a SHA-256 fingerprint, with colons or without; raises ValueError with a sentence."""
    digits = (
        text.upper()
        .removeprefix("SHA256")
        .removeprefix("SHA-256")
        .replace(":", "")
        .replace("=", "")
        .strip()
    )
    if len(digits) != 64 or not set(digits) <= _HEX:
        raise ValueError(
            f"{text!r} is no SHA-256 fingerprint; registry info shows it on the registry"
        )
    return ":".join(digits[index : index + 2] for index in range(0, 64, 2))


def is_trusted_already(place: Place, within: float) -> bool:
    """Tell whether this system believes a registry as it is; raises TrustError where none is reached."""
    try:
        return peer.fault_with(place, peer.context_for(None), within) is None
    except ssl.SSLError as error:
        raise TrustError(
            f"{place.name} does not speak TLS ({error.reason or error}); check the port, or see"
            f" registry doctor {place.name}"
        ) from error
    except OSError as error:
        raise TrustError(_unreachable(place, str(error.strerror or error))) from error


def fetch(place: Place, within: float) -> Offered:
    """Fetch a registry's authority and check that its certificate leads to it, for its name.

    Each wait ends after `within` seconds. Raises TrustError.
    """
    certificate = _parse(place, _download(place, within))
    offered = Offered(certificate)
    now = datetime.now(UTC)
    if now > certificate.not_valid_after_utc:
        raise TrustError(
            f"the authority of {place.name} expired on {certificate.not_valid_after_utc:%Y-%m-%d};"
            " the registry needs a new one, or this machine's clock is wrong"
        )
    try:
        fault = peer.fault_with(place, peer.context_for(offered.pem.decode()), within)
    except OSError as error:
        raise TrustError(_unreachable(place, str(error.strerror or error))) from error
    if fault is not None:
        raise TrustError(
            f"the certificate of {place.name} is not good with the authority it offers ({fault});"
            f" see registry doctor {place.name}"
        )
    return offered


def _download(place: Place, within: float) -> bytes:
    url = f"{place.url}/ca.crt"
    # What comes this way is believed by nobody yet: it is checked, shown and asked about first.
    context = peer.unchecked_context()
    with httpx2.Client(verify=context, trust_env=False, timeout=within) as client:
        try:
            answer = exchange(client, "GET", url, within, limit=_SIZE_MAX)
        except NoAnswerError as error:
            raise TrustError(_unreachable(place, str(error))) from error
    if answer.status == httpx2.codes.NOT_FOUND:
        raise TrustError(
            f"{place.name} has no authority of its own to hand out; install the one that issued its"
            " certificate, which its operator knows"
        )
    if answer.status != httpx2.codes.OK:
        raise TrustError(f"{url} answers {answer.status}; is there a registry?")
    return answer.body


def _parse(place: Place, content: bytes) -> x509.Certificate:
    is_authority = False
    try:
        [certificate] = x509.load_pem_x509_certificates(content)
    except (ValueError, x509.InvalidVersion):
        raise TrustError(
            f"{place.url}/ca.crt is not one certificate in PEM format; is there a registry?"
        ) from None
    with suppress(ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        is_authority = constraints.value.ca
    if not is_authority:
        raise TrustError(
            f"{place.url}/ca.crt is not the certificate of an authority; do not trust it"
        )
    return certificate


def _unreachable(place: Place, reason: str) -> str:
    return f"{place.name} cannot be reached ({reason}); see registry doctor {place.name}"
