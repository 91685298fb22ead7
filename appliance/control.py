"""The operator's way in: the registry's own API, on a socket that only its user and root may open.

Commands that change what a registry holds ask a running daemon, since what it has in memory must
not change behind its back: rows it remembers, upload sessions. Where none runs, they lock the data
folder and ask the same application in this process. Both ways it is one request and one answer.
"""

import http.client
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import trio

from appliance import log
from appliance.api.answering import ASGIApplication
from appliance.api.app import Application
from appliance.lock import Note, holder
from appliance.parts import DataFolder
from appliance.registry.access import OperatorGate
from appliance.registry.registry import Registry
from appliance.serve.listeners import connect_path
from appliance.settings import Settings

_ANSWER_SECONDS = 600.0  # a large repository may take a while
_STALL_SECONDS = 60.0


class ControlError(Exception):
    """A command that could not be done: one sentence, without its final stop."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the registry said."""

    status: int
    body: bytes

    def document(self) -> dict[str, Any]:
        """Read the body as JSON; raises ControlError with the registry's own words for an error."""
        document = msgspec.json.decode(self.body or b"{}", type=dict[str, Any])
        if self.status >= 400:
            raise ControlError("; ".join(error["message"] for error in document["errors"]))
        return document


def operator_application(registry: Registry) -> Application:
    """Make the registry's API for whoever needs no account."""
    return Application(
        registry=registry, access=OperatorGate(), authority=None, stall_seconds=_STALL_SECONDS
    )


def ask(settings: Settings, source: Path, method: str, target: str) -> Answer:
    """Send a request to the registry of these settings, whether it runs or not.

    Raises ControlError, or SettingsError where the data folder cannot be opened.
    """
    try:
        running = holder(settings.data)
    except PermissionError as error:
        raise ControlError(f"{error}; run this as root or as the registry's own user") from error
    except OSError as error:
        raise ControlError(str(error)) from error
    if running is None:
        _become_owner(settings.data)
        return trio.run(_ask_here, settings, source, method, target)
    if not running.control:
        raise ControlError(
            f"process {running.pid} has {settings.data} and cannot be asked yet; try again"
        )
    return _ask_daemon(running, method, target)


def _become_owner(folder: Path) -> None:
    """Go on as the user whose registry it is, who could not open what root has made.

    Raises ControlError where there is no registry.
    """
    if not (folder / "catalogue.sqlite3").exists():
        raise ControlError(f"there is no registry in {folder}; --settings names another one's file")
    owner = folder.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.setgroups([])
        os.setegid(owner.st_gid)
        os.seteuid(owner.st_uid)


def _ask_daemon(running: Note, method: str, target: str) -> Answer:
    connection = _LocalConnection(Path(running.control))
    try:
        connection.request(method, target)
        response = connection.getresponse()
        return Answer(response.status, response.read())
    except (OSError, http.client.HTTPException) as error:
        raise ControlError(
            f"the registry (process {running.pid}) does not answer at {running.control}, perhaps"
            f" because it is stopping: {error}"
        ) from error
    finally:
        connection.close()


class _LocalConnection(http.client.HTTPConnection):
    """HTTP over a socket in the file system."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_ANSWER_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = connect_path(self._path, _ANSWER_SECONDS)


async def _ask_here(settings: Settings, source: Path, method: str, target: str) -> Answer:
    log.configure(settings.log.format, "warning")
    folder = DataFolder(settings, source)
    try:
        registry = Registry(store=folder.store, records=folder.catalogue)
        return await _call(operator_application(registry), method, target)
    finally:
        await folder.database.aclose()
        folder.release()


async def _call(application: ASGIApplication, method: str, target: str) -> Answer:
    path, _, query = target.partition("?")
    messages: list[Mapping[str, Any]] = []

    async def receive() -> Mapping[str, Any]:
        await trio.sleep_forever()
        raise AssertionError

    async def send(message: Mapping[str, Any]) -> None:
        messages.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(b"host", b"localhost")],
    }
    await application(scope, receive, send)
    start, *rest = messages
    return Answer(start["status"], b"".join(message["body"] for message in rest))
