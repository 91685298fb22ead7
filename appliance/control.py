"""The operator's way in: the registry's own API, on a socket that only its user and root may open.

Commands that change what a registry holds ask a running daemon, since what it has in memory must
not change behind its back: rows it remembers, upload sessions. Where none runs, they lock the data
folder and ask the same application in this process. Both ways it is one request and one answer.
"""

import http.client
import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import trio

from appliance import log
from appliance.api.answering import ASGIApplication, ClientGoneError, Receive, Scope, Send
from appliance.api.app import Application
from appliance.api.exchange import Exchange
from appliance.lock import Note, holder
from appliance.oci.errors import RegistryError
from appliance.parts import DataFolder
from appliance.registry.access import OperatorGate
from appliance.registry.registry import Registry
from appliance.registry.sweep import SweepRules
from appliance.serve.listeners import connect_path
from appliance.settings import Settings

_ANSWER_SECONDS = 600.0  # a large repository may take a while
_STALL_SECONDS = 60.0
_GC = b"/control/gc"


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


class OperatorApplication:
    """The registry's API for whoever needs no account, and what only the operator may ask."""

    def __init__(self, registry: Registry, rules: Callable[[], SweepRules]) -> None:
        self._registry = registry
        self._rules = rules
        self._application = Application(
            registry=registry, access=OperatorGate(), authority=None, stall_seconds=_STALL_SECONDS
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        asked = (scope.get("method"), scope.get("raw_path"))
        if asked not in {("POST", _GC), ("GET", _GC)}:
            await self._application(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send, stall_seconds=_STALL_SECONDS)
        with suppress(ClientGoneError):  # who asked need not wait for the end
            await self._sweep(exchange, preview=exchange.method == "GET")

    async def _sweep(self, exchange: Exchange, *, preview: bool) -> None:
        sweep, rules = self._registry.sweep, self._rules()
        try:
            found = await (sweep.preview if preview else sweep.run)(rules)
        except RegistryError as error:
            await exchange.answer_json(error.row.status, {"errors": [{"message": error.message}]})
        else:
            await exchange.answer_json(200, asdict(found))


def make_registry(folder: DataFolder, settings: Settings) -> Registry:
    """Make the use cases over a data folder."""
    return Registry(
        store=folder.store,
        records=folder.catalogue,
        garbage=folder.garbage,
        lease_seconds=settings.gc.lease,
    )


def sweep_rules(settings: Settings) -> SweepRules:
    """Read from the settings what counts as garbage."""
    gc = settings.gc
    untagged = None if math.isinf(gc.untagged) else float(gc.untagged)
    return SweepRules(grace=gc.grace, quarantine=gc.quarantine, untagged=untagged)


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
        registry = make_registry(folder, settings)
        if folder.lock.stopped_at:  # what clients were told last, they were told before that
            registry.leases.touch_all_before(time.time() - folder.lock.stopped_at)
        application = OperatorApplication(registry, partial(sweep_rules, settings))
        return await _call(application, method, target)
    finally:
        await folder.database.aclose()
        folder.release()


async def _call(application: ASGIApplication, method: str, target: str) -> Answer:
    path, _, query = target.partition("?")
    messages: list[Mapping[str, Any]] = []

    async def receive() -> Mapping[str, Any]:
        await trio.sleep_forever()

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
