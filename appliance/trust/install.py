"""Putting a registry's authority where the clients of a machine look for it, and taking it away again.

Each file written here says so in its first line, which every reader of PEM and TOML passes over. What does not
say so is somebody else's and stays as it is.
"""

import shutil
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509

from appliance.durable import make_folder, replace_file
from appliance.trust.authority import Offered, TrustError
from appliance.trust.place import Place
from appliance.trust.shelves import hosts_are_read, lines_for_hosts, shelf

_MARK = "# Written by registry trust"
_UPDATE_SECONDS = 120


@dataclass(frozen=True, slots=True)
class _System:
    """How a family of systems takes in an authority."""

    folder: str
    command: tuple[str, ...]
    """Run where the root is this machine's own."""
    elsewhere: str
    """What to run inside of another root."""


_SYSTEMS = (
    _System(
        "usr/local/share/ca-certificates", ("update-ca-certificates",), "update-ca-certificates"
    ),
    _System("etc/pki/ca-trust/source/anchors", ("update-ca-trust", "extract"), "update-ca-trust"),
)


@dataclass
class Done:
    """What was done, a sentence each, and what is left to do."""

    done: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def install(
    place: Place, offered: Offered, clients: Iterable[str], *, system: bool, root: Path
) -> Done:
    """Have these clients, and the system where wanted, believe a registry; raises TrustError."""
    told = Done()
    content = f"{_MARK} for {place.name}\n".encode() + offered.pem
    try:
        for client in clients:
            folder = shelf(client, place, root)
            _write(root, folder / "ca.crt", content, told, offered)
            if client == "containerd":
                _point(place, folder, root, told)
        if system:
            found = _system(root)
            _write(root, root / found.folder / _system_name(place), content, told, offered)
            _update(found, root, told)
    except OSError as error:
        raise TrustError(
            f"{error.filename or root} cannot be written ({error.strerror})"
        ) from error
    return told


def remove(place: Place, clients: Iterable[str], *, system: bool, root: Path) -> Done:
    """Take away what `install` wrote; raises TrustError."""
    told = Done()
    try:
        for client in clients:
            folder = shelf(client, place, root)
            for file in (folder / "hosts.toml", folder / "ca.crt"):
                _unlink(root, file, told)
            with suppress(OSError):  # somebody has other files there, or there is no folder
                folder.rmdir()
        if system:
            found = _system(root)
            if _unlink(root, root / found.folder / _system_name(place), told):
                _update(found, root, told)
    except OSError as error:
        raise TrustError(
            f"{error.filename or root} cannot be removed ({error.strerror})"
        ) from error
    return told


def _write(root: Path, path: Path, content: bytes, told: Done, offered: Offered) -> None:
    _check_inside(root, path)
    if path.exists() and not _is_ours(path):
        with suppress(ValueError):
            if offered.certificate in x509.load_pem_x509_certificates(path.read_bytes()):
                told.done.append(f"{path} has it already")
                return
        raise TrustError(
            f"{path} has another certificate, which registry trust did not write; move it away first"
        )
    make_folder(path.parent, mode=0o755)
    replace_file(path, content, mode=0o644)
    told.done.append(f"{path} written")


def _point(place: Place, folder: Path, root: Path, told: Done) -> None:
    """Tell containerd, whose path of a certificate is one of the machine it runs on."""
    seen = Path("/") / (folder / "ca.crt").relative_to(root)
    wanted = f'[host."{place.url}"]\n  ca = "{seen}"\n'
    path = folder / "hosts.toml"
    _check_inside(root, path)
    if path.exists() and not _is_ours(path):
        if f'"{seen}"' not in path.read_text("utf-8", errors="replace"):
            told.left.append(f"{path} is not of registry trust; add to it:\n{wanted}")
    else:
        text = f'{_MARK} for {place.name}\nserver = "{place.url}"\n\n{wanted}'
        replace_file(path, text.encode(), mode=0o644)
        told.done.append(f"{path} written")
    if not hosts_are_read(root):
        told.left.append(
            f"For Kubernetes, {root / 'etc/containerd/config.toml'} needs these lines, and containerd a"
            " restart:\n" + "\n".join(lines_for_hosts()) + "\n"
        )


def _check_inside(root: Path, path: Path) -> None:
    """Refuse what a symbolic link leads out of the root, where its target is another machine's."""
    if root != Path("/") and not path.resolve().is_relative_to(root.resolve()):
        raise TrustError(
            f"{path} leads out of {root}, to {path.resolve()}; make a symbolic link on its way relative"
        )


def _system(root: Path) -> _System:
    if root != Path("/"):
        return _system_below(root)
    for found in _SYSTEMS:
        if (root / found.folder).is_dir() and shutil.which(found.command[0]):
            return found
    for found in _SYSTEMS:
        if shutil.which(found.command[0]):
            return found
    raise TrustError(
        "--system needs update-ca-certificates or update-ca-trust, and neither is here; install the"
        " package ca-certificates"
    )


def _system_below(root: Path) -> _System:
    """Choose by what another machine has, whatever this one runs."""
    for found in _SYSTEMS:
        if (root / found.folder).is_dir():
            return found
    folders = " nor ".join(found.folder for found in _SYSTEMS)
    raise TrustError(
        f"--system finds neither {folders} in {root}; install the package ca-certificates there"
    )


def _system_name(place: Place) -> str:
    host = place.name.replace(":", "-").strip("[]")
    return f"registry-{host}.crt"


def _update(found: _System, root: Path, told: Done) -> None:
    if root != Path("/"):
        told.left.append(f"Inside of {root}, run: {found.elsewhere}")
        return
    try:
        subprocess.run(  # noqa: S603  a fixed command
            found.command,
            check=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=_UPDATE_SECONDS,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise TrustError(f"{found.command[0]} failed ({error})") from error
    told.done.append(f"{found.command[0]} run")


def _unlink(root: Path, path: Path, told: Done) -> bool:
    _check_inside(root, path)
    if not path.exists():
        return False
    if not _is_ours(path):
        told.left.append(f"{path} is not of registry trust and stays.")
        return False
    path.unlink()
    told.done.append(f"{path} removed")
    return True


def _is_ours(path: Path) -> bool:
    with path.open("rb") as file:
        return file.readline(256).startswith(_MARK.encode())
