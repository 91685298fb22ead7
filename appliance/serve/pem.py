"""A private key and its certificates as two PEM files: reading an operator's, writing our own.

Reading tells every fault apart, in one sentence with its remedy: these files are the ones that
people get wrong.

Writing replaces both files, though no system call replaces two. The certificates wait under another
name until the key is in place, so that a crash at any point leaves the old pair or the new one:

1. the new certificates, durable, as NAME.crt.new
2. the new key, durable, in the place of the old one; no one else could read it at any moment
3. the certificates take their name, durably

`finish_writing`, called before a pair is looked at, finds certificates that still wait: if the key
is theirs, the crash came after step 2, and step 3 is made good; if not, it came before, and they go.
"""

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from appliance.durable import replace_file, sync_folder

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)


class CertificateError(Exception):
    """An operator's mistake: one sentence with what is at fault, and after it the remedy."""

    def __init__(self, fault: str, remedy: str) -> None:
        super().__init__(fault, remedy)
        self.fault = fault
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.fault}; {self.remedy}"


def read_certificates(path: Path) -> list[x509.Certificate]:
    """Read the certificates in a file, one at least; raises CertificateError."""
    content = _read(path, "certificate")
    try:
        return x509.load_pem_x509_certificates(content)
    except (ValueError, x509.InvalidVersion) as error:
        if b"-----BEGIN CERTIFICATE-----" in content:
            raise CertificateError(
                f"{path} is damaged ({error})", "copy the certificate there again"
            ) from error
        if b"PRIVATE KEY-----" in content:
            raise CertificateError(
                f"{path} holds a private key and no certificate",
                "check that the certificate and its key have not been exchanged",
            ) from error
        raise CertificateError(
            f"{path} is not a certificate in PEM format",
            f"convert it, for example with: openssl x509 -inform DER -in {path} -out server.crt",
        ) from error


def read_key(path: Path) -> PrivateKey:
    """Read a private key that a TLS server can use; raises CertificateError."""
    content = _read(path, "private key")
    try:
        key = load_pem_private_key(content, password=None)
    except TypeError as error:
        raise CertificateError(
            f"{path} is protected by a passphrase",
            f"store the key without one, for example with: openssl pkey -in {path} -out server.key",
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CertificateError(
            f"{path} is not a private key in PEM format", "copy the certificate's key there again"
        ) from error
    match key:
        case rsa.RSAPrivateKey(key_size=size) if size >= 2048:
            return key
        case ec.EllipticCurvePrivateKey(curve=curve) if isinstance(curve, _CURVES):
            return key
        case ed25519.Ed25519PrivateKey():
            return key
        case _:
            raise CertificateError(
                f"{path} holds a private key that TLS clients do not accept",
                "request a certificate for an ECDSA P-256 key or an RSA key of 2048 bits or more",
            )


def _read(path: Path, content: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise CertificateError(
            f"{path} does not exist", f"put the {content} there or correct the path"
        ) from error
    except OSError as error:
        raise CertificateError(
            f"{path} cannot be read ({error.strerror})",
            f"make it a file that holds the {content} and that the registry's account may read",
        ) from error


def belong_together(key: PrivateKey, certificate: x509.Certificate) -> bool:
    """Whether the certificate is for this key."""
    try:
        return key.public_key() == certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):  # a certificate for something exotic
        return False


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from writing in a folder of pairs, for as long as one takes to write.

    What goes wrong with the files meanwhile is raised as CertificateError.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
    except OSError as error:
        raise CertificateError(
            f"{error.filename or folder} cannot be used ({error.strerror})",
            f"let the registry's account read and write {folder}",
        ) from error


def write_pair(
    folder: Path, name: str, key: PrivateKey, certificates: Iterable[x509.Certificate]
) -> None:
    """Replace NAME.key and NAME.crt in a locked folder, together and durably; raises OSError."""
    public = b"".join(c.public_bytes(Encoding.PEM) for c in certificates)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    replace_file(_waiting(folder, name), public, mode=0o644)  # 1
    replace_file(folder / f"{name}.key", private, mode=0o600)  # 2
    _take_name(folder, name)  # 3


def finish_writing(folder: Path, name: str) -> None:
    """Complete or undo what a crash interrupted; in a locked folder, raises OSError."""
    waiting = _waiting(folder, name)
    if waiting.exists():
        with suppress(CertificateError):  # no key yet, or nothing that anyone could use
            if belong_together(read_key(folder / f"{name}.key"), read_certificates(waiting)[0]):
                _take_name(folder, name)
        waiting.unlink(missing_ok=True)
    for draft in folder.glob(f".{name}.*"):
        draft.unlink()


def _waiting(folder: Path, name: str) -> Path:
    return folder / f"{name}.crt.new"


def _take_name(folder: Path, name: str) -> None:
    _waiting(folder, name).replace(folder / f"{name}.crt")
    sync_folder(folder)
