"""The two ways in which a request of the operator reaches a registry, and its answer comes back.

One that runs is asked over its control socket; one that does not is opened in this process.
"""

import http.client
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import trio

from appliance import log, work
from appliance.api.answering import ASGIApplication
from appliance.lock import Note
from appliance.operations import SILENCE_MAX, OperatorApplication, make_registry
from appliance.owner import acting_as
from appliance.parts import DataFolder
from appliance.serve.listeners import connect_path
from appliance.settings import Settings

_ANSWER_SECONDS = 60.0 + SILENCE_MAX
_PIECE = 256 << 10

Take = Callable[[bytes], object]
"""Takes the pieces of an answer's body in their order."""


class ControlError(Exception):
    """A command that could not be done: one sentence, without its final stop."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked; a body is sent from where it stands."""

    method: str
    target: str
    body: BinaryIO | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class DaemonConnection(http.client.HTTPConnection):
    """HTTP over the control socket of a registry that runs, for one request."""

    def __init__(self, running: Note) -> None:
        super().__init__("localhost", timeout=_ANSWER_SECONDS)
        self._running = running
        self._socket: socket.socket | None = None

    def connect(self) -> None:
        """Connect to the socket; raises OSError."""
        self.sock = self._socket = connect_path(Path(self._running.control), _ANSWER_SECONDS)

    def exchange(self, request: Request, take: Take) -> tuple[int, Mapping[str, str]]:
        """Send a request and have the answer's body taken; return its status and headers.

        Raises ControlError where no whole answer comes.
        """
        headers = dict(request.headers)
        if request.body is not None:
            headers["Content-Length"] = str(_rest(request.body))
        try:
            with self._explained():
                self.request(request.method, request.target, request.body, headers)
                response = self.getresponse()
                piece = response.read1(_PIECE)
            while piece:
                take(piece)
                with self._explained():
                    piece = response.read1(_PIECE)
            return response.status, {name.lower(): value for name, value in response.getheaders()}
        finally:
            self.close()

    def cut(self) -> None:
        """End it from another thread, whose answer ends with it."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Raise ControlError for what stands between this process and the daemon."""
        running = self._running
        try:
            yield
        except (OSError, http.client.HTTPException) as error:
            raise ControlError(
                f"the registry (process {running.pid}) does not answer at {running.control},"
                f" perhaps because it is stopping: {error}"
            ) from error


class RegistryHere:
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

    def exchange(self, request: Request, take: Take) -> tuple[int, Mapping[str, str]]:
        """Send a request and have the answer's body taken; return its status and headers."""
        with acting_as(self._owner):
            return trio.run(_call, self._application, request, take)

    def close(self) -> None:
        """Let others have the registry."""
        with acting_as(self._owner):
            self._folder.database.close()
            self._folder.release()


async def _call(
    application: ASGIApplication, request: Request, take: Take
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


def _rest(body: BinaryIO) -> int:
    return os.fstat(body.fileno()).st_size - body.tell()
