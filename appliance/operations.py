"""What only the operator may ask: the API without an account, and long work that tells how it goes.

An operation is asked for by `POST /control/NAME?KEY=VALUE…`. Its answer is lines of JSON: a
`progress` as often as there is something new, and from time to time all the same so that who waits
knows that we live; then one `result`, or one `error`, a sentence. Whoever hangs up ends the
operation: each of them may end between any two of its steps, and the next one goes on from there.
"""

import math
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path

import structlog
import trio

from appliance.api.answering import ClientGoneError, Receive, Scope, Send
from appliance.api.app import Application
from appliance.api.audit import AuditLog
from appliance.api.exchange import Exchange
from appliance.catalogue.snapshots import BACKUP, Snapshots
from appliance.oci.damage import Verified
from appliance.oci.digest import Digest
from appliance.oci.errors import RegistryError
from appliance.oci.garbage import Totals
from appliance.oci.history import Change, Restored
from appliance.parts import DataFolder
from appliance.registry.access import OperatorGate
from appliance.registry.progress import Progress, Report
from appliance.registry.quotas import Quota
from appliance.registry.registry import Registry
from appliance.registry.round import ScrubRules
from appliance.registry.sweep import SweepRules
from appliance.settings import Settings
from appliance.storage.sources import SourceFolder

PREFIX = "/control/"
"""Where operations are asked for."""

HOLDING = "holding"
"""What `hold` says once nothing is removed any more."""

SILENCE_MAX = 10.0
"""Seconds after which a line follows, even where nothing has changed."""

_NO_SOURCES = (
    "there is no other place to have copies from, as verify.sources is not set; what could be mended"
    " was mended with what is here"
)
_STALL_SECONDS = 60.0
_REPORT_EVERY = 0.2

_log = structlog.get_logger()

Arguments = Mapping[str, str]
Operation = Callable[[Arguments, Report], Awaitable[object]]


class OperatorApplication:
    """The registry's API for whoever needs no account, and the operations."""

    def __init__(
        self,
        registry: Registry,
        settings: Callable[[], Settings],
        snapshots: Snapshots,
        audit: AuditLog | None = None,
    ) -> None:
        self._registry = registry
        self._snapshots = snapshots
        self._settings = settings
        self._application = Application(
            registry=registry,
            access=OperatorGate(),
            authority=None,
            stall_seconds=_STALL_SECONDS,
            audit=audit,
        )
        self._operations: dict[str, Operation] = {
            "gc": self._gc,
            "gc-preview": self._gc_preview,
            "hold": self._hold,
            "history": self._history,
            "undelete": self._undelete,
            "verify": self._verify,
            "snapshot": self._snapshot,
        }
        self._running: set[trio.CancelScope] = set()
        self._idle = trio.Event()
        self._idle.set()
        self._stopping = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        raw_path: bytes = scope.get("raw_path", b"")
        operation = self._operations.get(raw_path.decode("latin-1").removeprefix(PREFIX))
        if scope.get("method") != "POST" or operation is None:
            await self._application(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send, stall_seconds=_STALL_SECONDS)
        with suppress(ClientGoneError):
            await self._operate(exchange, operation)

    async def stop(self) -> None:
        """End what runs, and let nothing begin any more, unless `resume` is called."""
        self._stopping = True
        for scope in self._running:
            scope.cancel()
        await self._idle.wait()

    def resume(self) -> None:
        """Let operations begin again."""
        self._stopping = False

    async def _operate(self, exchange: Exchange, operation: Operation) -> None:
        telling = _Telling(exchange)
        outcome: dict[str, object] = {"error": "the registry is stopping"}
        await exchange.begin_lines()
        with trio.CancelScope() as scope:
            self._running.add(scope)
            self._idle = trio.Event() if self._idle.is_set() else self._idle
            if self._stopping:
                scope.cancel()
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(telling.tell, nursery.cancel_scope)
                    nursery.start_soon(_until_gone, exchange, nursery.cancel_scope)
                    outcome = await _outcome(operation, exchange.query, telling.report)
                    nursery.cancel_scope.cancel()
            finally:
                self._running.discard(scope)
                if not self._running:
                    self._idle.set()
        await exchange.end_lines(outcome)

    async def _gc(self, arguments: Arguments, report: Report) -> Totals:
        return await self._registry.sweep.run(sweep_rules(self._settings()), report)

    async def _gc_preview(self, arguments: Arguments, report: Report) -> Totals:
        return await self._registry.sweep.preview(sweep_rules(self._settings()))

    async def _hold(self, arguments: Arguments, report: Report) -> None:
        report(Progress("waiting for a sweep to end", 0))
        async with self._registry.sweep.hold():
            report(Progress(HOLDING, 0))
            await trio.sleep_forever()

    async def _history(self, arguments: Arguments, report: Report) -> list[Change]:
        name, tag = arguments["name"], arguments.get("tag")
        return await self._registry.undo.changes(name, tag, int(arguments["limit"]))

    async def _undelete(self, arguments: Arguments, report: Report) -> Restored:
        digest = Digest.parse(arguments["digest"]) if "digest" in arguments else None
        tag = arguments.get("tag", "")
        return await self._registry.undo.restore(arguments["name"], tag, digest, report)

    async def _snapshot(self, arguments: Arguments, report: Report) -> str:
        report(Progress("copying the catalogue", 0))
        return (await self._snapshots.take(BACKUP)).name

    async def _verify(self, arguments: Arguments, report: Report) -> Verified:
        folders = self._settings().verify.sources if "repair" in arguments else ()
        sources = [SourceFolder(Path(folder)) for folder in folders]
        faults = [fault for source in sources if (fault := await source.fault())]
        rules = ScrubRules(
            repository=arguments.get("name"),
            sources=sources,
            rate=int(arguments.get("rate", 0)),
            anew="anew" in arguments,
        )
        found = await self._registry.scrub.run(rules, report)
        if "repair" in arguments and not sources:
            faults = [_NO_SOURCES]
        found.remarks += faults
        return found


class _Telling:
    """Sends the latest progress, neither more often than anybody reads nor too seldom."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._latest: Progress | None = None

    def report(self, progress: Progress) -> None:
        self._latest = progress

    async def tell(self, work: trio.CancelScope) -> None:
        with suppress(ClientGoneError):
            await self._tell()
        work.cancel()

    async def _tell(self) -> None:
        told: Progress | None = None
        silent = 0.0
        while True:
            await trio.sleep(_REPORT_EVERY)
            silent += _REPORT_EVERY
            if self._latest != told or silent >= SILENCE_MAX:
                told, silent = self._latest, 0.0
                with trio.CancelScope(shield=True):  # half a line would spoil those after it
                    await self._exchange.send_line({"progress": told})


async def _outcome(operation: Operation, arguments: Arguments, report: Report) -> dict[str, object]:
    try:
        return {"result": await operation(arguments, report)}
    except RegistryError as error:
        return {"error": error.message}
    except Exception:  # noqa: BLE001  told in one sentence, logged in full
        _log.exception("operation failed")
        return {"error": "the registry could not do it; its log tells why"}


async def _until_gone(exchange: Exchange, scope: trio.CancelScope) -> None:
    await exchange.until_gone()
    scope.cancel()


def make_registry(folder: DataFolder, settings: Settings) -> Registry:
    """Make the use cases over a data folder."""
    registry = Registry(
        store=folder.store,
        records=folder.catalogue,
        garbage=folder.garbage,
        past=folder.past,
        inspection=folder.inspection,
        lease_seconds=settings.gc.lease,
    )
    limit_registry(registry, settings)
    return registry


def limit_registry(registry: Registry, settings: Settings) -> None:
    """Have a registry keep to what the settings say of pushes; they may have changed."""
    push = settings.push
    registry.leases.seconds = settings.gc.lease
    registry.manifests.require(push.require_platforms)
    registry.manifests.fix(push.immutable)
    registry.quotas.set([Quota(one.repositories, one.size) for one in push.quota])
    registry.space.keep_free(settings.storage.reserve)


def sweep_rules(settings: Settings) -> SweepRules:
    """Read from the settings what counts as garbage."""
    gc = settings.gc
    untagged = None if math.isinf(gc.untagged) else float(gc.untagged)
    return SweepRules(
        grace=gc.grace, quarantine=gc.quarantine, untagged=untagged, history=gc.history
    )
