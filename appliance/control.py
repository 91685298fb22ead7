"""How commands reach the registry: over a socket that only its user and root may open, or in process.

Commands that change what a registry holds ask a running daemon, since what it has in memory must
not change behind its back: rows it remembers, upload sessions. Where none runs, they lock the data
folder and ask the same application in this process. Both ways it is one request and one answer.
"""

import http.client
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Self, TypeVar
from urllib.parse import urlencode

import msgspec
import trio

from appliance import log, work
from appliance.api.answering import ASGIApplication
from appliance.lock import Note, holder
from appliance.operations import HOLDING, PREFIX, SILENCE_MAX, OperatorApplication, make_registry
from appliance.owner import acting_as
from appliance.parts import DataFolder
from appliance.registry.progress import Progress, Report, unheard
from appliance.serve.listeners import connect_path
from appliance.settings import Settings
from appliance.wholeness import CATALOGUE, fault_of_folder

T = TypeVar("T")

_ANSWER_SECONDS = 60.0 + SILENCE_MAX
_PIECE = 256 << 10

_Take = Callable[[bytes], object]


class ControlError(Exception):
    """A command that could not be done: one sentence, without its final stop."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the registry said."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    """Their names are lower-case."""

    def document(self) -> dict[str, Any]:
        """Read the body as JSON; raises ControlError with the registry's own words for an error."""
        document = msgspec.json.decode(self.body or b"{}", type=dict[str, Any])
        if self.status >= 400:
            raise ControlError("; ".join(error["message"] for error in document["errors"]))
        return document


class Operator:
    """The registry of some settings, as its operator may ask it; whether it runs or not.

    Used as a context, which keeps a registry that does not run open, and closed to others. Raises
    ControlError, or SettingsError where the data folder cannot be opened; a catalogue that is
    damaged is opened only for those who are to find out how.
    """

    def __init__(self, settings: Settings, source: Path, *, even_damaged: bool = False) -> None:
        self._settings = settings
        self._source = source
        self._even_damaged = even_damaged
        self._running: Note | None = None
        self._here: _Here | None = None

    def __enter__(self) -> Self:
        try:
            self._running = holder(self._settings.data)
        except PermissionError as error:
            raise ControlError(
                f"{error}; run this as root or as the registry's own user"
            ) from error
        except OSError as error:
            raise ControlError(str(error)) from error
        if self._running is None:
            _check_there(self._settings.data)
            self._here = _Here(self._settings, self._source, even_damaged=self._even_damaged)
        elif not self._running.control:
            raise ControlError(
                f"process {self._running.pid} has {self._settings.data} and cannot be asked yet;"
                " try again"
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._here is not None:
            self._here.close()

    @property
    def is_running(self) -> bool:
        """Whether a daemon is asked."""
        return self._running is not None

    def ask(
        self,
        method: str,
        target: str,
        body: BinaryIO | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request, and return its answer; a body is sent from where it stands."""
        pieces: list[bytes] = []
        status, fields = self._send(_Request(method, target, body, headers or {}), pieces.append)
        return Answer(status, b"".join(pieces), fields)

    def fetch(self, target: str, take: Callable[[bytes], object]) -> None:
        """Get something and have its pieces taken; raises ControlError unless it is there."""
        if self.ask("HEAD", target).status != 200:  # the error is in the answer to GET
            self.ask("GET", target).document()
        status, _ = self._send(_Request("GET", target), take)
        if status != 200:
            raise ControlError(f"{target} went while it was being read; try again")

    def operate(
        self,
        name: str,
        arguments: Mapping[str, str],
        kind: type[T],
        *,
        report: Report = unheard,
    ) -> T:
        """Have an operation done, and return its result.

        Raises ControlError with the registry's own words where it could not be done.
        """
        lines = _Lines(report)
        target = f"{PREFIX}{name}?{urlencode(arguments)}"
        status, _ = self._send(_Request("POST", target), lines.take)
        if status >= 400:
            Answer(status, lines.rest).document()
        if lines.last.error is not None:
            raise ControlError(lines.last.error)
        if not lines.last.result:
            raise ControlError("the registry stopped before it had finished")
        return msgspec.json.decode(lines.last.result, type=kind)

    @contextmanager
    def hold(self, report: Report = unheard) -> Iterator[None]:
        """Have nothing removed from the data folder meanwhile.

        Raises ControlError where that was not so to the end.
        """
        if self._running is None:  # nobody else is there
            yield
            return
        hold = _Hold(self._running, report)
        try:
            yield
        finally:
            hold.end()
        hold.check()

    def _send(self, request: "_Request", take: _Take) -> tuple[int, Mapping[str, str]]:
        """Send a request, have the pieces of the answer's body taken; its status and headers."""
        if self._running is not None:
            return _ask_daemon(self._running, request, take)
        if self._here is None:
            raise RuntimeError("an Operator is used as a context")
        return self._here.ask(request, take)


def ask(settings: Settings, source: Path, method: str, target: str) -> Answer:
    """Send one request to the registry of these settings; raises what Operator raises."""
    with Operator(settings, source) as operator:
        return operator.ask(method, target)


def operate(
    settings: Settings,
    source: Path,
    name: str,
    arguments: Mapping[str, str],
    kind: type[T],
    *,
    report: Report = unheard,
) -> T:
    """Have one operation done by the registry of these settings; raises what Operator raises."""
    with Operator(settings, source) as operator:
        return operator.operate(name, arguments, kind, report=report)


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    target: str
    body: BinaryIO | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


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


class _Hold:
    """An operation that lasts until it is ended from here."""

    def __init__(self, running: Note, report: Report) -> None:
        self._running = running
        self._report = report
        self._connection = _LocalConnection(Path(running.control))
        self._answered = threading.Event()
        self._held = False
        self._ended = False
        self._lost: ControlError | None = None
        self._thread = threading.Thread(target=self._follow, name="hold", daemon=True)
        self._thread.start()
        self._answered.wait()
        if not self._held:
            self.end()
            self.check()

    def end(self) -> None:
        self._ended = True
        self._connection.cut()
        self._thread.join()

    def check(self) -> None:
        if self._lost is not None:
            raise self._lost

    def _follow(self) -> None:
        lines = _Lines(self._hear)
        try:
            _exchange(
                self._connection, self._running, _Request("POST", f"{PREFIX}hold"), lines.take
            )
        except ControlError as error:
            self._lost = error
        else:
            self._lost = ControlError(lines.last.error or "the registry stopped meanwhile")
        if self._ended:
            self._lost = None
        self._answered.set()

    def _hear(self, progress: Progress) -> None:
        self._report(progress)
        if progress.doing == HOLDING:
            self._held = True
            self._answered.set()


def _check_there(folder: Path) -> None:
    """Raise ControlError where there is no registry."""
    if not (folder / CATALOGUE).exists():
        fault = fault_of_folder(folder)
        if fault is not None:
            raise ControlError(fault.removesuffix("."))
        raise ControlError(f"there is no registry in {folder}; --settings names another one's file")


def _ask_daemon(running: Note, request: _Request, take: _Take) -> tuple[int, Mapping[str, str]]:
    return _exchange(_LocalConnection(Path(running.control)), running, request, take)


def _exchange(
    connection: "_LocalConnection", running: Note, request: _Request, take: _Take
) -> tuple[int, Mapping[str, str]]:
    headers = dict(request.headers)
    if request.body is not None:
        headers["Content-Length"] = str(_rest(request.body))
    try:
        with _explained(running):
            connection.request(request.method, request.target, request.body, headers)
            response = connection.getresponse()
            piece = response.read1(_PIECE)
        while piece:
            take(piece)
            with _explained(running):
                piece = response.read1(_PIECE)
        return response.status, {name.lower(): value for name, value in response.getheaders()}
    finally:
        connection.close()


@contextmanager
def _explained(running: Note) -> Iterator[None]:
    """Raise ControlError for what stands between this process and a daemon."""
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        raise ControlError(
            f"the registry (process {running.pid}) does not answer at {running.control}, perhaps"
            f" because it is stopping: {error}"
        ) from error


def _rest(body: BinaryIO) -> int:
    return os.fstat(body.fileno()).st_size - body.tell()


class _LocalConnection(http.client.HTTPConnection):
    """HTTP over a socket in the file system."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_ANSWER_SECONDS)
        self._path = path
        self._socket: socket.socket | None = None

    def connect(self) -> None:
        self.sock = self._socket = connect_path(self._path, _ANSWER_SECONDS)

    def cut(self) -> None:
        """End it from another thread, whose answer ends with it."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)


class _Here:
    """A registry that does not run, opened in this process as the user whose it is.

    That user could not open what root has made; and root, for whom this is done, may have to write
    elsewhere in between.
    """

    def __init__(self, settings: Settings, source: Path, *, even_damaged: bool) -> None:
        log.configure(settings.log.format, "warning")
        self._owner = settings.data.stat()
        with acting_as(self._owner):
            self._folder = DataFolder(settings, source, even_damaged=even_damaged)
            registry = make_registry(self._folder, settings)
            stopped_at = self._folder.lock.stopped_at
            if stopped_at:  # what clients were told last, they were told before that
                registry.leases.touch_all_before(time.time() - stopped_at)
            self._application = OperatorApplication(
                registry, lambda: settings, self._folder.snapshots
            )

    def ask(self, request: _Request, take: _Take) -> tuple[int, Mapping[str, str]]:
        with acting_as(self._owner):
            return trio.run(_call, self._application, request, take)

    def close(self) -> None:
        with acting_as(self._owner):
            self._folder.database.close()
            self._folder.release()


async def _call(
    application: ASGIApplication, request: _Request, take: _Take
) -> tuple[int, Mapping[str, str]]:
    path, _, query = request.target.partition("?")
    headers = {"host": "localhost", **request.headers}
    body = request.body
    if body is not None:
        headers["content-length"] = str(_rest(body))
    status = 0
    answered: dict[str, str] = {}
    arrived = body is None

    async def receive() -> Mapping[str, Any]:
        nonlocal arrived
        if body is None or arrived:
            await trio.sleep_forever()
        piece = await work.disk(body.read, _PIECE)
        arrived = not piece
        return {"type": "http.request", "body": piece, "more_body": not arrived}

    async def send(message: Mapping[str, Any]) -> None:
        nonlocal status
        status = message.get("status", status)
        for name, value in message.get("headers", ()):
            answered[name.decode("latin-1")] = value.decode("latin-1")
        take(message.get("body", b""))

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": request.method,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
    }
    await application(scope, receive, send)
    return status, answered
