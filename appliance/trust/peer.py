"""What a TLS server shows to whoever asks, believed or not, and whether somebody believes it.

The handshake here checks nothing: a certificate that is wrong has to be seen to be told about. Each of its
faults is then looked for by itself, so that one does not hide the others: `trusted_with` sets the clock to a
moment at which the certificate is valid, and names are compared apart from that.
"""

import select
import socket
import ssl
import time
from dataclasses import dataclass
from datetime import timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from OpenSSL import SSL, crypto

from appliance.trust.place import Place, is_address

_NAMES_TOLD = 12


class HandshakeError(Exception):
    """No TLS connection came about; the message says why, without its final stop."""


@dataclass(frozen=True, slots=True)
class Shown:
    """What a server showed in a handshake."""

    version: str
    chain: tuple[x509.Certificate, ...]
    """Its certificate and the issuers it sent, in its order; never empty."""

    @property
    def leaf(self) -> x509.Certificate:
        """The server's own certificate."""
        return self.chain[0]


def shake_hands(sock: socket.socket, host: str, within: float) -> Shown:
    """Do a handshake that believes everything, on a connected socket, and end it.

    Raises HandshakeError, also after `within` seconds.
    """
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_verify(SSL.VERIFY_NONE)
    deadline = time.monotonic() + within
    sock.setblocking(False)
    connection = SSL.Connection(context, sock)
    if not is_address(host):
        connection.set_tlsext_host_name(host.encode())
    connection.set_connect_state()
    while True:
        try:
            connection.do_handshake()
            break
        except SSL.WantReadError:
            _wait(sock, deadline, within, reading=True)
        except SSL.WantWriteError:
            _wait(sock, deadline, within, reading=False)
        except SSL.SysCallError:
            raise HandshakeError(
                "it closes the connection in the middle of the handshake"
            ) from None
        except SSL.Error as error:
            raise HandshakeError(f"the handshake fails ({_reason(error)})") from None
    chain = connection.get_peer_cert_chain(as_cryptography=True)
    if not chain:
        raise HandshakeError("it shows no certificate")
    try:
        for one in chain:  # which is read piece by piece, and only when it is asked for
            _ = one.not_valid_before_utc, one.not_valid_after_utc, one.subject, one.issuer
    except ValueError as error:
        raise HandshakeError(f"its certificate cannot be read ({error})") from None
    return Shown(connection.get_protocol_version_name(), tuple(chain))


def _wait(sock: socket.socket, deadline: float, within: float, *, reading: bool) -> None:
    rest = deadline - time.monotonic()
    wanted = ([sock], []) if reading else ([], [sock])
    if rest <= 0 or not any(select.select(*wanted, [], rest)):
        raise HandshakeError(f"the handshake does not end within {within:g} seconds")


def _reason(error: SSL.Error) -> str:
    try:
        return str(error.args[0][-1][-1])
    except (IndexError, TypeError):
        return "OpenSSL does not say why"


def covers(leaf: x509.Certificate, host: str) -> bool:
    """Tell whether a certificate is for this host name or IP address."""
    names, addresses = _alternatives(leaf)
    if is_address(host):
        return host in addresses
    host = host.rstrip(".").lower()
    _, _, domain = host.partition(".")
    return host in names or bool(domain and f"*.{domain}" in names)


def _alternatives(leaf: x509.Certificate) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """List the names that a certificate is for, and its addresses."""
    try:
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (
        x509.ExtensionNotFound,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
        ValueError,
    ):
        return (), ()
    names = tuple(name.lower() for name in found.get_values_for_type(x509.DNSName))
    return names, tuple(map(str, found.get_values_for_type(x509.IPAddress)))


def told_names(leaf: x509.Certificate) -> str:
    """Write the names and addresses a certificate is for, the first ones where there are many."""
    names = [one for kind in _alternatives(leaf) for one in kind]
    more = f" and {len(names) - _NAMES_TOLD} more" if len(names) > _NAMES_TOLD else ""
    return ", ".join(names[:_NAMES_TOLD]) + more


def trusted_with(shown: Shown, store: crypto.X509Store) -> bool:
    """Tell whether the chain leads to somebody in a store, were it valid now."""
    leaf = shown.leaf
    middle = leaf.not_valid_before_utc + (leaf.not_valid_after_utc - leaf.not_valid_before_utc) / 2
    moments = [one.not_valid_before_utc for one in shown.chain if one != leaf]
    store.set_time(max([middle, *(moment + timedelta(seconds=1) for moment in moments)]))
    store.set_flags(
        crypto.X509StoreFlags.PARTIAL_CHAIN
    )  # as Go does, in which all these clients are written
    certificates = [crypto.X509.from_cryptography(one) for one in shown.chain]
    try:
        crypto.X509StoreContext(store, certificates[0], certificates[1:]).verify_certificate()
    except crypto.X509StoreContextError:
        return False
    return True


def missing_issuer(chain: tuple[x509.Certificate, ...]) -> x509.Certificate | None:
    """Return the certificate at which a chain breaks off: whoever issued it was not sent.

    None for a chain that reaches an authority that vouches for itself.
    """
    current, rest = chain[0], list(chain[1:])
    while not is_issued_by(current, current):
        issuer = next((one for one in rest if is_issued_by(current, one)), None)
        if issuer is None:
            return current
        rest.remove(issuer)
        current = issuer
    return None


def is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Tell whether a certificate bears the signature of another one's key, and its name."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, UnsupportedAlgorithm, TypeError, ValueError):
        return False
    return True


def context_for(authorities: str | None, *, beside_system: bool = False) -> ssl.SSLContext:
    """Make the context of a client that believes these authorities (PEM), or else the system's.

    With `beside_system` it believes both, as docker does for a registry whose authority it was given. It takes what clients written in Go take: an authority that is not at the top of its chain, too.
    """
    context = ssl.create_default_context(cadata=authorities)
    if authorities is not None and beside_system:
        context.load_default_certs()
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def unchecked_context() -> ssl.SSLContext:
    """Make the context of a client that believes everybody, for what is judged by other means."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def fault_with(place: Place, context: ssl.SSLContext, within: float) -> str | None:
    """Connect as a client does that checks everything: what it says against it; None for nothing.

    Raises OSError where no connection comes about for other reasons.
    """
    with socket.create_connection((place.host, place.port), timeout=within) as sock:
        try:
            with context.wrap_socket(sock, server_hostname=place.host):
                return None
        except ssl.SSLCertVerificationError as error:
            return error.verify_message
