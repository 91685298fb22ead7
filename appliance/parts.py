"""What is opened once and kept: the data folder, and what a daemon needs beside it.

Whatever cannot be opened is one sentence for the operator; nothing is left open behind it.
"""

import hashlib
import os
import socket
import sqlite3
import time
from contextlib import suppress
from pathlib import Path

from OpenSSL import SSL

from appliance import firststart, preflight
from appliance.accounts.files import AccountError
from appliance.accounts.signing import SIGNING_KEYS, SigningKeyError, SigningKeys
from appliance.catalogue.database import Database
from appliance.catalogue.garbage import Garbage
from appliance.catalogue.inspection import Inspection
from appliance.catalogue.past import Past
from appliance.catalogue.records import Catalogue
from appliance.catalogue.schema import SchemaTooNewError, SchemaTooOldError
from appliance.catalogue.snapshots import FOLDER, Snapshots
from appliance.durable import make_folder
from appliance.inherited import Inherited
from appliance.lock import FolderLock, HeldError, Note
from appliance.preflight import Sockets
from appliance.serve.certificates import Authority, Certificate, CertificateError
from appliance.serve.listeners import TlsContext, bind_path
from appliance.serve.pem import read_certificates
from appliance.serve.tls import server_context
from appliance.settings import Settings, SettingsError
from appliance.storage.files import FileStore
from appliance.wholeness import CATALOGUE, fault_of_folder, sentence_of_damage


def in_use(settings: Settings, note: Note | None) -> str:
    """Say that another registry has the data folder."""
    by = f" (process {note.pid})" if note and note.pid else ""
    return (
        f"storage.path: {settings.data} is in use by another registry{by}; stop that one first,"
        " or choose another path."
    )


class DataFolder:
    """The data folder, locked: its blobs and its records.

    Raises SettingsError, also for a small catalogue that is damaged unless that is to be looked
    through. The database is closed before `release`, except where all ends anyway. A lock that is
    passed on comes from a daemon that is still at work in the folder.
    """

    def __init__(
        self,
        settings: Settings,
        source: Path,
        *,
        even_damaged: bool = False,
        passed_on: int | None = None,
    ) -> None:
        try:
            make_folder(settings.data, mode=0o700)
            self.lock = FolderLock(settings.data, passed_on)
        except HeldError as error:
            raise SettingsError([in_use(settings, error.note)]) from None
        except OSError as error:
            raise SettingsError([f"{source}: storage.path: {error}."]) from error
        path = settings.data / CATALOGUE
        try:
            refused = fault_of_folder(settings.data)
            if refused is not None:
                self.lock.release()
                raise SettingsError([refused])
            self.store = FileStore(settings.data)
            self.store.prepare()
            self.database = Database.open(path, as_it_is=passed_on is not None)
            damage = None if even_damaged else self.database.small_damage()
            if damage is not None:
                self.database.close()
                self.lock.release()
                raise SettingsError([sentence_of_damage(path, damage)])
            self.snapshots = Snapshots(self.database, settings.data / FOLDER)
            self.catalogue = Catalogue(self.database)
            self.garbage = Garbage(self.database)
            self.past = Past(self.database)
            self.inspection = Inspection(self.database)
        except OSError as error:
            self.lock.release()
            raise SettingsError([f"{source}: {error}."]) from error
        except (SchemaTooNewError, SchemaTooOldError) as error:
            self.lock.release()
            raise SettingsError([f"{path} {error}."]) from None
        except sqlite3.OperationalError as error:
            self.lock.release()
            raise SettingsError([f"{path} cannot be opened: {error}."]) from error
        except sqlite3.Error as error:
            self.lock.release()
            raise SettingsError([sentence_of_damage(path, str(error))]) from error

    def release(self, *, stopped: bool = False) -> None:
        """Let others have the folder; see FolderLock."""
        self.lock.release(stopped=stopped)


class Parts:
    """What a daemon opens before it serves; raises SettingsError.

    What the daemon before has passed on, its lock and its control socket among it, is that one's
    as well.
    """

    def __init__(
        self,
        settings: Settings,
        source: Path,
        inherited: Inherited | None = None,
        *,
        lock: int | None = None,
        control: socket.socket | None = None,
    ) -> None:
        self.settings = settings
        self._inherited = inherited
        self.is_passed_on = lock is not None
        self.folder = DataFolder(settings, source, passed_on=lock)
        self.sockets = Sockets()
        try:
            self._open(settings, source, control)
        except BaseException:
            self.sockets.close()
            self.folder.database.close()
            self.folder.release()
            raise

    def _open(self, settings: Settings, source: Path, control: socket.socket | None) -> None:
        try:
            self.authority: Authority | None = firststart.authority(settings)
            self.certificates = firststart.certificates(settings, self.authority)
            firststart.administrator(settings)
            self.tls = tls_context(settings, self.certificates)
            self.signing = SigningKeys.open(settings.data / SIGNING_KEYS, time.time())
        except (CertificateError, AccountError, SigningKeyError, OSError) as error:
            raise SettingsError([f"{source}: {error}."]) from error
        self.systemd = self._inherited.systemd_descriptors if self._inherited else frozenset()
        self.sockets = preflight.open_sockets(settings, source, inherited=self._inherited)
        if self.sockets.faults:
            raise SettingsError(self.sockets.faults)
        self.control_path = control_path(settings)
        try:
            self.control = control or bind_path(self.control_path)
        except OSError as error:
            raise SettingsError(
                [f"the control socket {self.control_path} cannot be made: {error.strerror}."]
            ) from error

    def close(self) -> None:
        """Let others have the folder."""
        if not self.is_passed_on:
            with suppress(OSError):
                self.control_path.unlink(missing_ok=True)
        self.folder.release(stopped=True)


def control_path(settings: Settings) -> Path:
    """Where commands find a running daemon: below /run where systemd made a place for it there.

    Other registries may have the same place, so the name there tells which data folder is meant.
    """
    place = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if not place:
        return settings.data / "control.sock"
    mark = hashlib.sha256(os.fsencode(settings.data.resolve())).hexdigest()[:16]
    return Path(place) / f"control-{mark}.sock"


def tls_context(settings: Settings, certificates: list[Certificate]) -> TlsContext | None:
    """Make the context of new connections; None without certificates."""
    if not certificates:
        return None
    return TlsContext(context_of(settings, certificates))


def context_of(settings: Settings, certificates: list[Certificate]) -> SSL.Context:
    """Make what new connections share; raises CertificateError."""
    path = settings.auth.client_ca
    return server_context(
        certificates,
        alpn=settings.tls.alpn,
        client_authorities=read_certificates(Path(path)) if path else (),
    )
