"""What a registry shows in the TLS handshake: for whom, until when, and who believes it."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from appliance.doctor.findings import Report
from appliance.doctor.wire import connect
from appliance.trust.peer import (
    HandshakeError,
    Shown,
    covers,
    missing_issuer,
    shake_hands,
    told_names,
    trusted_with,
)
from appliance.trust.place import Place
from appliance.trust.shelves import CLIENTS, believed, shelf, store_of, system_store

TLS, NAMES, VALIDITY, TRUST = "tls", "names", "validity", "trust"
_SOON = timedelta(days=14)
_PROGRAMS = {
    "docker": ("docker", "dockerd"),
    "podman": ("podman", "buildah", "skopeo"),
    "containerd": ("containerd",),
}


@dataclass(frozen=True, slots=True)
class Believed:
    """Whether somebody here believes what a registry shows, and with which authorities."""

    wholly: bool
    """Its name fits, it is valid now and leads to an authority that is believed."""
    authorities: str | None = None
    """Those authorities beside the system's, as PEM; None for the system's alone."""


def examine_tls(
    place: Place, own: Sequence[x509.Certificate], within: float, report: Report
) -> Believed | None:
    """Look at what a registry shows; None where there is no TLS.

    `own` are authorities that are known on the registry's machine itself, beside those of its clients.
    """
    try:
        with connect(place, within) as sock:
            shown = shake_hands(sock, place.host, within)
    except (HandshakeError, OSError) as error:
        _tell_no_tls(place, str(error), within, report)
        return None
    report.ok(TLS, place.name, f"speaks {shown.version}")
    fits = _examine_names(place, shown, report)
    is_valid = _examine_validity(place, shown, report)
    authorities = _examine_trust(place, shown, own, report)
    if authorities is None:
        return Believed(wholly=False)
    pem = "".join(one.public_bytes(Encoding.PEM).decode() for one in authorities) or None
    return Believed(fits and is_valid, pem)


def _tell_no_tls(place: Place, reason: str, within: float, report: Report) -> None:
    if _speaks_plainly(place, within):
        report.fault(
            TLS,
            place.name,
            "it speaks plain HTTP on this port, and clients expect TLS",
            'on the registry: [tls] mode = "auto" in /etc/registry.toml, or name its port for TLS here',
            f'or let docker do without: "insecure-registries": ["{place.name}"] in /etc/docker/daemon.json',
        )
        return
    report.fault(
        TLS,
        place.name,
        f"no TLS connection comes about: {reason}",
        f"openssl s_client -connect {place.host}:{place.port} -servername {place.host}",
    )


def _speaks_plainly(place: Place, within: float) -> bool:
    try:
        with connect(place, within) as sock:
            sock.sendall(f"GET /v2/ HTTP/1.1\r\nHost: {place.name}\r\n\r\n".encode())
            return sock.recv(5) == b"HTTP/"
    except OSError:
        return False


def _examine_names(place: Place, shown: Shown, report: Report) -> bool:
    if covers(shown.leaf, place.host):
        report.ok(NAMES, place.host, "is among the names of the certificate")
        return True
    names = told_names(shown.leaf) or "no name at all"
    report.fault(
        NAMES,
        place.host,
        f"the certificate is not for this name; it is for {names}",
        f'on the registry: [server] names = ["{place.host}"] in /etc/registry.toml, then: systemctl reload registry',
        "or, with certificates of your own, have it issued for this name as well;"
        " or use one of the names that it has",
    )
    return False


def _examine_validity(place: Place, shown: Shown, report: Report) -> bool:
    now = datetime.now(UTC)
    for certificate in shown.chain:
        title = "the certificate" if certificate == shown.leaf else _title(certificate)
        start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if now < start:
            report.fault(
                VALIDITY,
                place.name,
                f"{title} is not valid before {start:%Y-%m-%d %H:%M} UTC, and here it is"
                f" {now:%Y-%m-%d %H:%M}: one of the clocks is wrong",
                "set this machine's clock, and the registry's: sudo timedatectl set-ntp true",
            )
            return False
        if now > end:
            report.fault(
                VALIDITY,
                place.name,
                f"{title} expired on {end:%Y-%m-%d}",
                "renew it, or set this machine's clock: sudo timedatectl set-ntp true",
                "the registry's own certificate is renewed by itself: systemctl restart registry",
            )
            return False
    end = shown.leaf.not_valid_after_utc
    if end - now < min(_SOON, (end - shown.leaf.not_valid_before_utc) / 6):
        report.warn(VALIDITY, place.name, f"the certificate expires on {end:%Y-%m-%d}", "renew it")
    else:
        report.ok(VALIDITY, place.name, f"the certificate is valid until {end:%Y-%m-%d}")
    return True


def _examine_trust(
    place: Place, shown: Shown, own: Sequence[x509.Certificate], report: Report
) -> tuple[x509.Certificate, ...] | None:
    """Say who believes it; the authorities that somebody here does, None if nobody."""
    if trusted_with(shown, system_store()):
        report.ok(TRUST, place.name, "this system trusts the certificate, and so do all clients")
        return ()
    shelves = {client: believed(client, place) for client in CLIENTS}
    for sentence in dict.fromkeys(one for found in shelves.values() for one in found.unreadable):
        report.warn(TRUST, place.name, sentence, f"sudo registry trust {place.name}")
    trusting = [
        client
        for client, found in shelves.items()
        if found.certificates and trusted_with(shown, store_of(found.certificates))
    ]
    if own and trusted_with(shown, store_of(own)):
        report.ok(TRUST, place.name, "the certificate leads to the registry's own authority")
        return tuple(own)
    if not trusting:
        _tell_untrusted(place, shown, report)
        return None
    others = [client for client in CLIENTS if client not in trusting]
    verb = "trusts" if len(trusting) == 1 else "trust"
    sentence = (
        f"{_listed(trusting)} {verb} the certificate;"
        f" {_listed([*others, 'curl', 'the rest of the system'])} do not"
    )
    wanting = [client for client in others if _is_here(client)]
    if "docker" in trusting and "containerd" in wanting:
        wanting.remove("containerd")  # it came with docker, which does not ask it to pull
    if wanting:
        command = f"sudo registry trust {place.name} --for {','.join(wanting)}"
        report.warn(TRUST, place.name, sentence, command)
    else:
        report.ok(TRUST, place.name, sentence)
    return tuple(dict.fromkeys(one for name in trusting for one in shelves[name].certificates))


def _tell_untrusted(place: Place, shown: Shown, report: Report) -> None:
    remedy = [
        f"sudo registry trust {place.name}",
        "or, where that program is not: fetch it, compare it with what registry info shows there, then install it",
        f"  curl -fsSk {place.url}/ca.crt -o ca.crt",
        "  openssl x509 -in ca.crt -noout -fingerprint -sha256",
        f"  sudo install -D -m 644 ca.crt {shelf('docker', place)}/ca.crt",
    ]
    broken = missing_issuer(shown.chain)
    if broken is not None:
        issuer = broken.issuer.rfc4514_string()
        report.fault(
            TRUST,
            place.name,
            f"the chain is incomplete: {_title(broken)} was issued by {issuer}, whose certificate is not sent,"
            " and nobody here knows it",
            "on the registry: have the file of [tls] certificate hold the server's certificate and after it"
            " those of its issuers",
            *remedy,
        )
    elif len(shown.chain) == 1:
        report.fault(
            TRUST,
            place.name,
            "the certificate is self-signed, and neither docker, podman, containerd nor this system trust it",
            *remedy,
        )
    else:
        report.fault(
            TRUST,
            place.name,
            f"neither docker, podman, containerd nor this system trust its authority, {_title(shown.chain[-1])}",
            *remedy,
        )


def _is_here(client: str) -> bool:
    return any(shutil.which(program) for program in _PROGRAMS[client])


def _listed(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]


def _title(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string() or "the certificate"
