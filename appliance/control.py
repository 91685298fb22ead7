"""How commands reach the registry: over a socket that only its user and root may open, or in process.

Commands that change what a registry holds ask a running daemon, since what it has in memory must
not change behind its back: rows it remembers, upload sessions. Where none runs, they lock the data
folder and ask the same application in this process. Both ways it is one request and one answer.
"""

import http.client
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

import msgspec
import trio

from appliance import log
from appliance.api.answering import ASGIApplication
from appliance.lock import Note, holder
from appliance.operations import PREFIX, SILENCE_MAX, OperatorApplication, make_registry
from appliance.parts import DataFolder
from appliance.registry.progress import Progress, Report, unheard
from appliance.serve.listeners import connect_path
from appliance.settings import Settings

T = TypeVar("T")

_ANSWER_SECONDS = 60.0 + SILENCE_MAX
_PIECE = 64 << 10

_Take = Callable[[bytes], None]


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


def ask(settings: Settings, source: Path, method: str, target: str) -> Answer:
    """Send a request to the registry of these settings, whether it runs or not.

    Raises ControlError, or SettingsError where the data folder cannot be opened.
    """
    pieces: list[bytes] = []
    status = _send(settings, source, method, target, pieces.append)
    return Answer(status, b"".join(pieces))


def operate(
    settings: Settings,
    source: Path,
    name: str,
    arguments: Mapping[str, str],
    kind: type[T],
    *,
    report: Report = unheard,
) -> T:
    """Have the registry of these settings do an operation, and return its result.

    Raises ControlError with the registry's own words where it could not be done, or SettingsError
    where the data folder cannot be opened.
    """
    lines = _Lines(report)
    target = f"{PREFIX}{name}?{urlencode(arguments)}"
    status = _send(settings, source, "POST", target, lines.take)
    if status >= 400:
        Answer(status, lines.rest).document()
    if lines.last.error is not None:
        raise ControlError(lines.last.error)
    if not lines.last.result:
        raise ControlError("the registry stopped before it had finished")
    return msgspec.json.decode(lines.last.result, type=kind)


class _Line(msgspec.Struct):
    progress: Progress | None = None
    result: msgspec.Raw = msgspec.Raw()
    error: str | None = None


class _Lines:
    """Takes an answer in pieces, and reads its lines."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self.rest = b""
        self.last = _Line()

    def take(self, piece: bytes) -> None:
        *lines, self.rest = (self.rest + piece).split(b"\n")
        for text in lines:
            self.last = msgspec.json.decode(text, type=_Line)
            if self.last.progress is not None:
                self._report(self.last.progress)


def _send(settings: Settings, source: Path, method: str, target: str, take: _Take) -> int:
    """Send a request, have the pieces of the answer's body taken, and return its status."""
    try:
        running = holder(settings.data)
    except PermissionError as error:
        raise ControlError(f"{error}; run this as root or as the registry's own user") from error
    except OSError as error:
        raise ControlError(str(error)) from error
    if running is None:
        _become_owner(settings.data)
        return trio.run(_ask_here, settings, source, method, target, take)
    if not running.control:
        raise ControlError(
            f"process {running.pid} has {settings.data} and cannot be asked yet; try again"
        )
    return _ask_daemon(running, method, target, take)


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


def _ask_daemon(running: Note, method: str, target: str, take: _Take) -> int:
    connection = _LocalConnection(Path(running.control))
    try:
        connection.request(method, target)
        response = connection.getresponse()
        while piece := response.read1(_PIECE):
            take(piece)
        return response.status
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


async def _ask_here(settings: Settings, source: Path, method: str, target: str, take: _Take) -> int:
    log.configure(settings.log.format, "warning")
    folder = DataFolder(settings, source)
    try:
        registry = make_registry(folder, settings)
        if folder.lock.stopped_at:  # what clients were told last, they were told before that
            registry.leases.touch_all_before(time.time() - folder.lock.stopped_at)
        application = OperatorApplication(registry, lambda: settings)
        return await _call(application, method, target, take)
    finally:
        await folder.database.aclose()
        folder.release()


async def _call(application: ASGIApplication, method: str, target: str, take: _Take) -> int:
    path, _, query = target.partition("?")
    status = 0

    async def receive() -> Mapping[str, Any]:
        await trio.sleep_forever()

    async def send(message: Mapping[str, Any]) -> None:
        nonlocal status
        status = message.get("status", status)
        take(message.get("body", b""))

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(b"host", b"localhost")],
    }
    await application(scope, receive, send)
    return status
