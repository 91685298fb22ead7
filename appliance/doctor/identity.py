"""The certificates that a registry has on its own machine, before anybody is shown one."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from appliance.doctor.findings import Report
from appliance.serve.certificates import Certificate, CertificateError, load
from appliance.settings import Settings
from appliance.trust.peer import Shown, covers, missing_issuer, told_names, trusted_with
from appliance.trust.shelves import system_store

CERTIFICATE = "certificate"


def examine_certificates(settings: Settings, source: Path, host: str, report: Report) -> None:
    """Look at every certificate of the settings; `host` is the name that clients are told."""
    for number, (certificate, key) in enumerate(_pairs(settings)):
        if settings.tls.mode == "auto":
            try:
                is_made = certificate.exists()
            except OSError:
                report.unseen(CERTIFICATE, certificate, "is closed to you", "sudo registry doctor")
                continue
            if not is_made:
                what = "is made when the registry starts for the first time"
                report.unseen(CERTIFICATE, certificate, what)
                continue
        try:
            found = load(certificate, key)
        except CertificateError as error:
            report.fault(CERTIFICATE, certificate, error.fault, error.remedy)
            continue
        _examine(found, settings, source, host if number == 0 else "", report)


def authorities(settings: Settings) -> Sequence[x509.Certificate]:
    """Give the authority of the registry's own, where it has one that can be read."""
    if settings.tls.mode != "auto":
        return ()
    try:
        content = (settings.data / "tls" / "ca.crt").read_bytes()
        return x509.load_pem_x509_certificates(content)
    except (OSError, ValueError):
        return ()


def _pairs(settings: Settings) -> list[tuple[Path, Path]]:
    if settings.tls.mode == "auto":
        folder = settings.data / "tls"
        return [(folder / "server.crt", folder / "server.key")]
    if settings.tls.mode == "off":
        return []
    tls = settings.tls
    pairs = [(tls.certificate, tls.key), *((pair.certificate, pair.key) for pair in tls.additional)]
    return [(Path(certificate), Path(key)) for certificate, key in pairs]


def _examine(
    found: Certificate, settings: Settings, source: Path, host: str, report: Report
) -> None:
    now = datetime.now(UTC)
    is_well = True
    for sentence in found.warnings(now):
        is_well = False
        refused = not found.not_before <= now <= found.not_after
        kind = report.fault if refused else report.warn
        what, _, remedy = sentence.removeprefix(f"{found.path} ").rpartition("; ")
        kind(CERTIFICATE, found.path, what, remedy)
    if host and not covers(found.leaf, host):
        is_well = False
        names = told_names(found.leaf) or "none"
        report.fault(
            CERTIFICATE,
            found.path,
            f"is not for {host}, by which clients are told to come; its names are {names}",
            f"have it issued for {host}, or set [server] public_url in {source} to one of its names",
        )
    if settings.tls.mode == "files":
        is_well &= _examine_chain(found, report)
    if is_well:
        report.ok(CERTIFICATE, found.path, f"is valid until {found.not_after:%Y-%m-%d}")


def _examine_chain(found: Certificate, report: Report) -> bool:
    chain = (found.leaf, *found.chain)
    broken = missing_issuer(chain)
    if broken is None or trusted_with(Shown("", chain), system_store()):
        return True
    issuer = broken.issuer.rfc4514_string()
    report.warn(
        CERTIFICATE,
        found.path,
        f"the chain breaks off: {issuer}, who issued {broken.subject.rfc4514_string()}, is neither in the"
        " file nor known to this system",
        f"append the issuer's certificate: cat issuer.crt >> {found.path}",
        "then: systemctl reload registry; an authority that clients have at hand themselves may be left out",
    )
    return False
