"""How commands reach the registry: over a socket that only its user and root may open, or in process.

Commands that change what a registry holds ask a running daemon, since what it has in memory must
not change behind its back: rows it remembers, upload sessions. Where none runs, they lock the data
folder and ask the same application in this process. Both ways it is one request and one answer.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Self, TypeVar
from urllib.parse import urlencode

import msgspec

from appliance.lock import Note, holder
from appliance.operations import HOLDING, PREFIX
from appliance.reach import ControlError, DaemonConnection, RegistryHere, Request, Take
from appliance.registry.progress import Progress, Report, unheard
from appliance.settings import Settings
from appliance.wholeness import CATALOGUE, fault_of_folder

__all__ = ["Answer", "ControlError", "Operator", "ask", "operate"]

T = TypeVar("T")


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
        self._here: RegistryHere | None = None

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
            self._here = RegistryHere(self._settings, self._source, even_damaged=self._even_damaged)
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
        status, fields = self._send(Request(method, target, body, headers or {}), pieces.append)
        return Answer(status, b"".join(pieces), fields)

    def fetch(self, target: str, take: Callable[[bytes], object]) -> None:
        """Get something and have its pieces taken; raises ControlError unless it is there."""
        if self.ask("HEAD", target).status != 200:  # the error is in the answer to GET
            self.ask("GET", target).document()
        status, _ = self._send(Request("GET", target), take)
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
        status, _ = self._send(Request("POST", target), lines.take)
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

    def _send(self, request: Request, take: Take) -> tuple[int, Mapping[str, str]]:
        """Send a request, have the pieces of the answer's body taken; its status and headers."""
        if self._running is not None:
            return DaemonConnection(self._running).exchange(request, take)
        if self._here is None:
            raise RuntimeError("an Operator is used as a context")
        return self._here.exchange(request, take)


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
        self._report = report
        self._connection = DaemonConnection(running)
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
            self._connection.exchange(Request("POST", f"{PREFIX}hold"), lines.take)
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
