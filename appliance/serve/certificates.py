"""Certificates: those an operator brings, and those that this machine issues to itself.

`load` is for operators who have a certificate. `Authority` is for everyone else: at first start it
makes a certificate authority of this machine's own, whose certificate the clients are told to
trust once; from then on it issues server certificates whenever names change or time runs out.

A server pair of ours that is damaged, or does not fit, is simply issued anew. An authority that is
damaged is refused, with a sentence: to every client that trusts the old one, a new one would look
like an attack.

Nothing here needs the loop: call it before the loop starts, or from a worker thread.
"""

import ipaddress
import re
import secrets
import socket
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from appliance.durable import sync_folder
from appliance.serve.pem import (
    CertificateError,
    PrivateKey,
    belong_together,
    finish_writing,
    locked,
    read_certificates,
    read_key,
    write_pair,
)

__all__ = ["Authority", "Certificate", "CertificateError", "host_names", "load"]

_AUTHORITY_LIFE = timedelta(days=3652)
_SERVER_LIFE = timedelta(days=90)
_CLOCK_SKEW = timedelta(days=1)  # certificates start in the past, for clients whose clock is slow
_EXPIRY_NOTICE = timedelta(days=14)

_COMMON_NAME_SIZE = 64  # X.520, upper bound

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}\Z)(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")

_TEMPORARY, _DUPLICATE = 0x01, 0x08  # IFA_F_TEMPORARY, IFA_F_DADFAILED of linux/if_addr.h


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate with its key, and what there is to know about it."""

    path: Path
    """The file that it was read from."""
    leaf: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    """The issuers that are sent along, in the order of the file."""
    key: PrivateKey = field(repr=False, compare=False)
    names: frozenset[str]
    """The DNS names it is for, in lower case; one may start with `*.`."""
    addresses: frozenset[str]
    """The IP addresses it is for, in their shortest form."""

    @property
    def not_before(self) -> datetime:
        """The moment from which it is valid."""
        return self.leaf.not_valid_before_utc

    @property
    def not_after(self) -> datetime:
        """The last moment at which it is."""
        return self.leaf.not_valid_after_utc

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate, the way browsers and openssl show it."""
        return self.leaf.fingerprint(hashes.SHA256()).hex(":").upper()

    def warnings(self, now: datetime) -> tuple[str, ...]:
        """Sentences on what makes clients refuse it now or soon; `load` lets all these pass."""
        found = []
        day = f"{self.not_after:%Y-%m-%d}"
        if now < self.not_before:
            start = f"{self.not_before:%Y-%m-%d %H:%M} UTC"
            found.append(f"{self.path} is not valid before {start}; check this machine's clock")
        if now > self.not_after:
            found.append(f"{self.path} expired on {day} and clients refuse it; renew it")
        elif self.not_after - now < min(_EXPIRY_NOTICE, (self.not_after - self.not_before) / 6):
            found.append(f"{self.path} expires on {day}; renew it")
        if not self.names and not self.addresses:
            found.append(
                f"{self.path} has no subject alternative names and clients refuse it;"
                " have it issued again with the names of this server"
            )
        return tuple(found)


def load(certificate: Path, key: Path) -> Certificate:
    """Read a PEM certificate, with the issuers that follow it, and its PEM key.

    Raises CertificateError. A certificate that has expired is loaded all the same: serving it
    tells the clients more than serving nothing.
    """
    leaf, *chain = read_certificates(certificate)
    private = read_key(key)
    if not belong_together(private, leaf):
        if any(belong_together(private, issuer) for issuer in chain):
            raise CertificateError(
                f"{certificate} does not begin with the certificate that {key} belongs to",
                "put the server's own certificate first and its issuers after it",
            )
        raise CertificateError(
            f"{key} does not belong to {certificate}",
            "give the key with which this certificate was requested",
        )
    try:
        alternatives = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        alternatives = x509.SubjectAlternativeName([])
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise CertificateError(
            f"{certificate} has extensions that cannot be read ({error})", "have it issued again"
        ) from error
    return Certificate(
        path=certificate,
        leaf=leaf,
        chain=tuple(chain),
        key=private,
        names=frozenset(n.lower() for n in alternatives.get_values_for_type(x509.DNSName)),
        addresses=frozenset(str(a) for a in alternatives.get_values_for_type(x509.IPAddress)),
    )


class Authority:
    """A certificate authority of this machine's own, and the server certificate it issues.

    In its folder are ca.crt, ca.key, server.crt and server.key; the keys are their owner's alone.
    """

    def __init__(self, folder: Path, pair: Certificate) -> None:
        self._folder = folder
        self._pair = pair

    @classmethod
    def open(cls, folder: Path, *, now: datetime) -> Self:
        """Read the authority in `folder`, or make one if there is none; raises CertificateError."""
        certificate, key = folder / "ca.crt", folder / "ca.key"
        with suppress(OSError):  # whatever stands in the way, `locked` words it
            folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            finish_writing(folder, "ca")
            present = [path for path in (certificate, key) if path.exists()]
            if not present:
                sync_folder(folder.parent)  # whose folder may be a new one
                write_pair(folder, "ca", *_new_authority(now))
        if len(present) == 1:
            raise CertificateError(
                f"{present[0]} is there without its other half",
                "restore the missing file, or remove this one for a new certificate authority,"
                " which every client will have to trust anew",
            )
        try:
            pair = load(certificate, key)
            _check_authority(pair, now)
        except CertificateError as error:
            raise CertificateError(
                error.fault,
                f"restore {certificate} and {key} from a backup, or remove both for a new"
                " certificate authority, which every client will have to trust anew",
            ) from error
        return cls(folder, pair)

    @property
    def certificate_path(self) -> Path:
        """The file with the certificate that clients are to trust."""
        return self._pair.path

    @property
    def fingerprint(self) -> str:
        """SHA-256 of that certificate, for people to compare."""
        return self._pair.fingerprint

    @property
    def pem(self) -> bytes:
        """That certificate, to hand out."""
        return self._pair.leaf.public_bytes(serialization.Encoding.PEM)

    def server_certificate(self, names: Sequence[str], *, now: datetime) -> Certificate:
        """Give a certificate for these names and addresses: the one on disk, or a new one.

        The one on disk will do as long as it is ours, covers them all, and has more than a third
        of its life before it. Raises CertificateError.
        """
        wanted = subject_names(names)
        if self._pair.not_after <= now:
            raise CertificateError(
                f"{self.certificate_path} expired on {self._pair.not_after:%Y-%m-%d}",
                "remove it and its key for a new certificate authority, which every client will"
                " have to trust anew, or mend this machine's clock",
            )
        certificate, key = self._folder / "server.crt", self._folder / "server.key"
        with locked(self._folder):
            finish_writing(self._folder, "server")
            with suppress(CertificateError):
                current = load(certificate, key)
                if self._still_good(current, wanted, now):
                    return current
            write_pair(self._folder, "server", *self._issue(wanted, now))
            return load(certificate, key)

    def _still_good(
        self, current: Certificate, wanted: Iterable[x509.GeneralName], now: datetime
    ) -> bool:
        try:
            current.leaf.verify_directly_issued_by(self._pair.leaf)
        except (InvalidSignature, TypeError, ValueError):
            return False
        covered = current.names | current.addresses
        life = current.not_after - current.not_before
        return (
            all(str(name.value) in covered for name in wanted)
            and current.not_before <= now
            and current.not_after - now > life / 3
        )

    def _issue(
        self, names: Sequence[x509.GeneralName], now: datetime
    ) -> tuple[PrivateKey, list[x509.Certificate]]:
        authority, signer = self._pair.leaf, self._pair.key
        key = ec.generate_private_key(ec.SECP256R1())
        title = str(names[0].value)
        builder = (
            _builder(_common_name(title if len(title) <= _COMMON_NAME_SIZE else "registry"), key)
            .issuer_name(authority.subject)
            .not_valid_before(now - _CLOCK_SKEW)
            .not_valid_after(min(now + _SERVER_LIFE, self._pair.not_after))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
                critical=False,
            )
        )
        # The authority is sent along, so that a client can be shown whom it is about to trust.
        return key, [_sign(builder, signer), authority]


def host_names(*, root: Path = Path("/")) -> tuple[str, ...]:
    """List this machine's names and addresses, for its certificate, in a stable order.

    The full name comes from /etc/hosts alone: to ask the resolver, as `socket.getfqdn` does, may
    take many seconds on a machine that starts without a network. No call of the standard library
    lists a machine's addresses, but two tables of the kernel do. Left out are link-local
    addresses, which no URL can hold, temporary IPv6 addresses, for which there would have to be a
    new certificate every day, and names that cannot stand in a certificate.
    """
    host = socket.gethostname().lower()
    names = [host, *_aliases(_read_table(root / "etc/hosts"), host), "localhost"]
    # Under /proc/self: a unit with ProcSubset=pid sees no other part of /proc.
    four = _addresses_of_fib_trie(_read_table(root / "proc/self/net/fib_trie"))
    six = _addresses_of_if_inet6(_read_table(root / "proc/self/net/if_inet6"))
    usable = [*(name for name in names if _HOST_NAME.fullmatch(name)), "127.0.0.1", "::1"]
    usable += [str(address) for address in sorted(four) if not address.is_link_local]
    usable += [str(address) for address in sorted(six) if not address.is_link_local]
    return tuple(dict.fromkeys(usable))


def _read_table(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _aliases(hosts: Iterable[str], host: str) -> Iterator[str]:
    """Yield all names on those lines of a hosts file that name this host."""
    for line in hosts:
        _, *names = line.partition("#")[0].lower().split() or [""]
        if host in names:
            yield from names


def _addresses_of_fib_trie(table: Iterable[str]) -> Iterator[ipaddress.IPv4Address]:
    """Yield the leaves of the routing trie that have a local /32 route."""
    leaf = ""
    for line in table:
        if "|-- " in line:
            leaf = line.rpartition(" ")[2]
        elif line.strip() == "/32 host LOCAL":
            yield ipaddress.IPv4Address(leaf)


def _addresses_of_if_inet6(table: Iterable[str]) -> Iterator[ipaddress.IPv6Address]:
    for line in table:
        digits, _, _, _, flags, _ = line.split()
        if not int(flags, 16) & (_TEMPORARY | _DUPLICATE):
            yield ipaddress.IPv6Address(bytes.fromhex(digits))


def subject_names(names: Iterable[str]) -> list[x509.GeneralName]:
    """Names and addresses as a certificate has them; raises CertificateError for other text."""
    found: dict[x509.GeneralName, None] = {}
    for text in names:
        try:
            found[x509.IPAddress(ipaddress.ip_address(text.strip("[]")))] = None
        except ValueError:
            try:
                name = text if text.isascii() else text.encode("idna").decode("ascii")
            except UnicodeError:
                name = ""
            name = name.lower().rstrip(".")
            if _HOST_NAME.fullmatch(name) is None:
                raise CertificateError(
                    f"no certificate can be issued for {text!r}",
                    "give host names and IP addresses as the names of this server",
                ) from None
            found[x509.DNSName(name)] = None
    if not found:
        raise CertificateError(
            "no certificate can be issued without a name",
            "give a host name or an IP address as the name of this server",
        )
    return list(found)


def _check_authority(pair: Certificate, now: datetime) -> None:
    try:
        is_authority = pair.leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        is_authority = False
    if not is_authority:
        raise CertificateError(f"{pair.path} is not the certificate of an authority", "")
    if now > pair.not_after:
        raise CertificateError(f"{pair.path} expired on {pair.not_after:%Y-%m-%d}", "")


def _new_authority(now: datetime) -> tuple[PrivateKey, list[x509.Certificate]]:
    host = socket.gethostname().lower()
    host = host[:40] if _HOST_NAME.fullmatch(host) else "host"
    # The digits tell two authorities of equally named machines apart in a list of trusted ones.
    name = _common_name(f"Registry CA {host} {secrets.token_hex(4)}")
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        _builder(name, key)
        .issuer_name(name)
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + _AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
    )
    return key, [_sign(builder, key)]


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(subject: x509.Name, key: PrivateKey) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _key_usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _sign(builder: x509.CertificateBuilder, key: PrivateKey) -> x509.Certificate:
    return builder.sign(
        key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    )
