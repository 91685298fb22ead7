"""Where the clients of a machine look for the authorities of a registry, and what they find there.

docker                    /etc/docker/certs.d/HOST[:PORT]/*.crt
podman, buildah, skopeo   the same below /etc/containers; where that has no folder, docker's
containerd                what hosts.toml in /etc/containerd/certs.d/HOST[:PORT] names as `ca`; without that
                          file, the *.crt beside it
everybody, curl as well   the system's own
"""

import ssl
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from OpenSSL import crypto

from appliance.trust.place import Place

CLIENTS = ("docker", "podman", "containerd")
"""Those that have a place for each registry."""

_FOLDERS = {"docker": "docker", "podman": "containers", "containerd": "containerd"}
_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")


@dataclass(frozen=True, slots=True)
class Authorities:
    """What one client believes for one registry, beside the system's authorities."""

    files: tuple[Path, ...]
    certificates: tuple[x509.Certificate, ...]
    unreadable: tuple[str, ...] = ()
    """A sentence for each file that is there and cannot be used."""


def shelf(client: str, place: Place, root: Path = Path("/")) -> Path:
    """Return the folder in which a client looks for this registry's authority."""
    return root / "etc" / _FOLDERS[client] / "certs.d" / place.name


def believed(client: str, place: Place, root: Path = Path("/")) -> Authorities:
    """Read what a client believes for this registry."""
    return _read(_files(client, place, root))


def system_store() -> crypto.X509Store:
    """Make a store of the system's authorities."""
    store = crypto.X509Store()
    paths = ssl.get_default_verify_paths()
    bundle = next((one for one in (paths.cafile, *_BUNDLES) if one and Path(one).is_file()), None)
    if bundle is not None:
        with suppress(crypto.Error):
            store.load_locations(bundle)
    return store


def store_of(certificates: Iterable[x509.Certificate]) -> crypto.X509Store:
    """Make a store of the system's authorities and these."""
    store = system_store()
    for certificate in certificates:
        store.add_cert(crypto.X509.from_cryptography(certificate))
    return store


def hosts_are_read(root: Path = Path("/")) -> bool:
    """Tell whether containerd's settings say that it looks into its certs.d."""
    try:
        settings = tomllib.loads((root / "etc/containerd/config.toml").read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return False
    return any("certs.d" in path for path in _values(settings, "config_path"))


def lines_for_hosts() -> list[str]:
    """Write what has Kubernetes' part of containerd look there, for either generation of its settings."""
    return [
        '[plugins."io.containerd.cri.v1.images".registry]',
        '  config_path = "/etc/containerd/certs.d"',
        'where that file says version = 2, the first is: [plugins."io.containerd.grpc.v1.cri".registry]',
    ]


def _values(table: dict[str, Any], wanted: str) -> Iterator[str]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _values(value, wanted)
        elif key == wanted and isinstance(value, str):
            yield value


def _files(client: str, place: Place, root: Path) -> list[Path]:
    folder = shelf(client, place, root)
    if client == "podman" and not folder.is_dir():
        folder = shelf("docker", place, root)
    if client == "containerd":
        with suppress(OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
            return _named(folder, root, tomllib.loads((folder / "hosts.toml").read_text("utf-8")))
    return sorted(folder.glob("*.crt"))


def _named(folder: Path, root: Path, hosts: dict[str, Any]) -> list[Path]:
    named = [hosts.get("ca")]
    table = hosts.get("host")
    if isinstance(table, dict):
        named += [host.get("ca") for host in table.values() if isinstance(host, dict)]
    flat = [text for one in named for text in (one if isinstance(one, list) else [one])]
    texts = [text for text in dict.fromkeys(flat) if isinstance(text, str)]
    return [root / text.lstrip("/") if text.startswith("/") else folder / text for text in texts]


def _read(files: list[Path]) -> Authorities:
    certificates: list[x509.Certificate] = []
    unreadable = []
    for file in files:
        try:
            certificates += x509.load_pem_x509_certificates(file.read_bytes())
        except OSError as error:
            unreadable.append(f"{file} cannot be read ({error.strerror})")
        except (ValueError, x509.InvalidVersion):
            unreadable.append(f"{file} is not a certificate in PEM format")
    return Authorities(tuple(files), tuple(certificates), tuple(unreadable))
