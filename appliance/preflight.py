"""What would keep a registry with these settings from starting: all of it, and nothing is changed.

Each finding is one sentence with the file, the key and the remedy. `registry check` may be run at
any time, beside a running daemon too: what that daemon holds itself is no finding.
"""

import errno
import os
import pwd
import shutil
import socket
import sqlite3
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from appliance import identities, lock
from appliance.accounts import editing, jwks, keys
from appliance.accounts.files import AccountError
from appliance.accounts.htpasswd import RESERVED
from appliance.accounts.signing import SIGNING_KEYS, SigningKeyError, SigningKeys
from appliance.catalogue.database import Database
from appliance.catalogue.integrity import SMALL
from appliance.catalogue.schema import SchemaTooNewError
from appliance.firststart import certificates, names
from appliance.inherited import Inherited, address_of
from appliance.registry.space import amount, reserve_of
from appliance.serve.certificates import CertificateError, load, subject_names
from appliance.serve.listeners import bind
from appliance.serve.pem import read_certificates
from appliance.settings import DEFAULT_LISTEN, Address, Settings, SettingsError
from appliance.wholeness import CATALOGUE, fault_of_folder, sentence_of_damage

FALLBACK_PORT = 8443
"""Where the default listener goes when this user may not bind 443."""


@dataclass
class Findings:
    """What `examine` found."""

    faults: list[str] = field(default_factory=list)
    """What keeps the registry from starting."""
    warnings: list[str] = field(default_factory=list)
    """What will trouble somebody soon."""
    running: lock.Note | None = None
    """The daemon that has the data folder now."""


@dataclass
class Sockets:
    """Open listening sockets, and why others are not open."""

    tls: list[socket.socket] = field(default_factory=list)
    plain: list[socket.socket] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    remark: str = ""
    """What a person should know of the choice of ports."""

    def close(self) -> None:
        """Close them all."""
        for sock in (*self.tls, *self.plain):
            sock.close()


def examine(
    settings: Settings,
    source: Path,
    *,
    thorough: bool = False,
    inherited: Inherited | None = None,
) -> Findings:
    """Look at everything that settings point to; thoroughly, also at what a start looks at later."""
    findings = Findings()
    _examine_data(settings, source, findings)
    _examine_accounts(settings, source, findings)
    _examine_directory(settings, source, findings)
    _examine_issuers(settings, source, findings)
    _examine_certificates(settings, source, findings)
    _examine_catalogue(settings, findings, thorough=thorough)
    running = findings.running
    held = (*running.listen, *running.plain) if running else ()
    if inherited is not None:
        held += inherited.addresses
    sockets = open_sockets(settings, source, held=held)
    findings.faults += sockets.faults
    sockets.close()
    return findings


def open_sockets(
    settings: Settings,
    source: Path,
    held: tuple[str, ...] = (),
    inherited: Inherited | None = None,
) -> Sockets:
    """Bind every address of the settings, leaving out those that are `held` on purpose.

    What is inherited is taken instead of bound.
    """
    sockets = Sockets()
    if inherited is not None:
        _take_inherited(settings, inherited, sockets)
        held += tuple(str(address_of(sock)) for sock in (*sockets.tls, *sockets.plain))
    ports = {Address.parse(text).port for text in held}
    for key, addresses, opened in (
        ("server.listen", settings.server.listen, sockets.tls),
        ("server.plain", settings.server.plain, sockets.plain),
    ):
        for address in addresses:
            taken = held if inherited is None else sockets.tls
            if address in held or (taken and addresses is DEFAULT_LISTEN):
                continue
            try:
                opened.extend(bind(address.host, address.port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE and address.port in ports:
                    continue  # the running registry has it, by another name
                if addresses is DEFAULT_LISTEN and error.errno == errno.EACCES:
                    _fall_back(address, source, sockets)
                else:
                    sockets.faults.append(_bind_fault(source, key, address, error))
    return sockets


def _take_inherited(settings: Settings, inherited: Inherited, sockets: Sockets) -> None:
    server = settings.server
    wanted: tuple[Address, ...] = server.listen
    if server.listen is DEFAULT_LISTEN:
        wanted += tuple(Address.of(one.host, FALLBACK_PORT) for one in DEFAULT_LISTEN)
    for address in server.plain:
        sockets.plain += inherited.take(address)
    for address in wanted:
        sockets.tls += inherited.take(address)
    tls, plain = inherited.take_rest({address.port for address in server.plain})
    sockets.tls += tls
    sockets.plain += plain


def _fall_back(address: Address, source: Path, sockets: Sockets) -> None:
    other = Address.of(address.host, FALLBACK_PORT)
    try:
        sockets.tls += bind(other.host, other.port)
    except OSError as error:
        sockets.faults.append(_bind_fault(source, "server.listen", other, error))
        return
    sockets.remark = (
        f"Port {address.port} is for root or CAP_NET_BIND_SERVICE, so this registry is on port"
        f" {FALLBACK_PORT}; to choose, set server.listen in {source}."
    )


def _bind_fault(source: Path, key: str, address: Address, error: OSError) -> str:
    place = f"{source}: {key}: {address}"
    if error.errno == errno.EADDRINUSE:
        return (
            f"{place} is in use by another process; stop it (ss -ltnp shows it),"
            " or choose another port."
        )
    if error.errno == errno.EACCES:
        return (
            f"{place} may not be bound by this user; start as root or with CAP_NET_BIND_SERVICE,"
            " or choose a port above 1023."
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{place} is not an address of this machine; use one that is, or [::] for all."
    return f"{place} cannot be bound ({error.strerror}); choose another address."


def _examine_data(settings: Settings, source: Path, findings: Findings) -> None:
    data = settings.data
    standing = next(folder for folder in (data, *data.parents) if _exists(folder))
    place = f"{source}: storage.path: {data}"
    if not standing.is_dir():
        findings.faults.append(f"{place}: {standing} is not a folder; choose another path.")
    elif not os.access(standing, os.R_OK | os.W_OK | os.X_OK):
        findings.faults.append(f"{place} cannot be written: {_reason(standing)}.")
    else:
        with suppress(OSError):
            findings.running = lock.holder(data)
        with suppress(OSError):
            _examine_room(settings, source, standing, findings)


def _examine_room(settings: Settings, source: Path, folder: Path, findings: Findings) -> None:
    state = os.statvfs(folder)
    free, total = state.f_bavail * state.f_frsize, state.f_blocks * state.f_frsize
    reserve = reserve_of(settings.storage.reserve, total)
    if free < reserve:
        findings.warnings.append(
            f"{source}: storage.reserve keeps {amount(reserve)} free, and of the {amount(total)}"
            f" of {settings.data} only {amount(free)} are, so nothing can be pushed;"
            " make room, or lower it."
        )


def _reason(folder: Path) -> str:
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        return f"{folder} is on a read-only file system; mount it writable, or choose another path"
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        user = f"user {os.geteuid()}"
    return f"{folder} does not let {user} write; chown it to {user}, or choose another path"


def _exists(path: Path) -> bool:
    """Tell whether a path is there; one in a closed folder is not, for this user."""
    return os.access(path, os.F_OK)


def _examine_accounts(settings: Settings, source: Path, findings: Findings) -> None:
    file = settings.htpasswd
    _examine_others(settings, source, findings)
    place = f"{source}: auth.htpasswd: {file}"
    if not _exists(file):
        folder = next(folder for folder in file.parents if _exists(folder))
        if file.parent not in (settings.data, folder):
            findings.faults.append(f"{place}: there is no folder {file.parent}; make it.")
        elif not os.access(folder, os.W_OK | os.X_OK):
            findings.faults.append(f"{place} is not there and cannot be made: {_reason(folder)}.")
        return
    try:
        found = editing.accounts(file)
    except AccountError as error:
        findings.faults.append(f"{source}: auth.htpasswd: {error}; mend its permissions.")
        return
    findings.warnings += [
        f"{file}, line {fault.line}, is ignored: {fault.reason}." for fault in found.faults
    ]
    findings.warnings += [f"{file}: {sentence}." for sentence in found.weaknesses.values()]
    if settings.ldap.url:
        findings.warnings += [
            f"{source}: auth.admins names {name}, who has no line in {file}, so that whoever has this"
            " name in the directory is an administrator."
            for name in settings.auth.admins
            if not name.startswith(RESERVED) and name not in found.names
        ]
    if not found.hashes:
        findings.warnings.append(
            f"{file} has no usable account, so nobody can log in; add one: registry user add NAME."
        )


def _examine_others(settings: Settings, source: Path, findings: Findings) -> None:
    """Look at the other files about access: those that are there, and where one will be."""
    if not _exists(settings.data) or not settings.data.is_dir():
        return
    try:
        keys.read(settings.data / keys.FILE)
        SigningKeys.check(settings.data / SIGNING_KEYS)
    except (AccountError, SigningKeyError, OSError) as error:
        findings.faults.append(f"{source}: {error}.")
    folder = settings.audit.parent if settings.audit else settings.data
    if folder != settings.data and not os.access(folder, os.W_OK | os.X_OK):
        findings.faults.append(f"{source}: log.audit: {folder} is no folder to write in.")


def _examine_directory(settings: Settings, source: Path, findings: Findings) -> None:
    try:
        identities.accounts(identities.basis(settings))
    except SettingsError as error:
        findings.faults += [f"{source}: {fault}" for fault in error.faults]


def _examine_issuers(settings: Settings, source: Path, findings: Findings) -> None:
    for number, issuer in enumerate(settings.issuer, start=1):
        try:
            if issuer.keys:
                jwks.read_keys(Path(issuer.keys))
            elif issuer.ca:
                read_certificates(Path(issuer.ca))
        except (OSError, ValueError, CertificateError) as error:
            key = "keys" if issuer.keys else "ca"
            findings.faults.append(f"{source}: issuer {number}, {key}: {error}.")


def _examine_certificates(settings: Settings, source: Path, findings: Findings) -> None:
    folder = settings.data / "tls"
    try:
        if settings.tls.mode == "files":
            now = datetime.now(UTC)
            findings.warnings += [
                f"{sentence}."
                for certificate in certificates(settings, None)
                for sentence in certificate.warnings(now)
            ]
        elif settings.tls.mode == "auto":
            subject_names(names(settings))
            if _exists(folder / "ca.crt"):
                load(folder / "ca.crt", folder / "ca.key")
    except CertificateError as error:
        findings.faults.append(f"{source}: tls: {error}.")
    try:
        if settings.auth.client_ca:
            read_certificates(Path(settings.auth.client_ca))
    except CertificateError as error:
        findings.faults.append(f"{source}: auth.client_ca: {error}.")


def _examine_catalogue(settings: Settings, findings: Findings, *, thorough: bool) -> None:
    path = settings.data / CATALOGUE
    try:
        fault = fault_of_folder(settings.data)
        if fault is not None:
            findings.faults.append(fault)
        elif thorough and findings.running is None and _exists(path):
            damage = _damage_of_copy(path)
            if damage is not None:
                findings.faults.append(sentence_of_damage(path, damage))
    except SchemaTooNewError as error:
        findings.faults.append(f"{path} {error}.")
    except (OSError, sqlite3.OperationalError) as error:
        findings.faults.append(f"{path} cannot be read: {error}.")
    except sqlite3.Error as error:
        findings.faults.append(sentence_of_damage(path, str(error)))


def _damage_of_copy(path: Path) -> str | None:
    """Say what is damaged in a small catalogue, as its start would; it is left untouched itself.

    Raises SchemaTooNewError, sqlite3.Error and OSError.
    """
    if path.stat().st_size > SMALL:
        return None
    with tempfile.TemporaryDirectory() as folder:
        for beside in (path, path.with_name(f"{path.name}-wal"), path.with_suffix(".sums")):
            with suppress(FileNotFoundError):
                shutil.copyfile(beside, Path(folder) / beside.name)
        database = Database.open(Path(folder) / path.name)
        try:
            return database.small_damage()
        finally:
            database.close()
