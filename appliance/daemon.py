"""The daemon: settings in, parts put together, one nursery until the end.

    examine → lock → make what is missing → open store and records → bind → serve → drain

It may be started by the daemon before it, whose sockets and lock it takes over while that one
finishes its transfers, and make room for the next one likewise, upon SIGUSR2 (see `handover`).

Everything up to binding may refuse to start, with one sentence for each thing that is wrong.
Afterwards nothing does: a reload that brings faulty settings or a bad certificate changes nothing
and says so. What a reload can change is put together anew from the new settings (`_assemble`) and
swapped in between two requests.
"""

import gc
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from pathlib import Path

import structlog
import trio

from appliance import firststart, identities, log, notify, preflight, work
from appliance.accounts import keys
from appliance.accounts.keys import Keys
from appliance.api.answering import ASGIApplication, Receive, Scope, Send
from appliance.api.app import Application
from appliance.api.audit import AuditLog
from appliance.api.limits import RequestLimits
from appliance.api.redirect import RedirectToTls
from appliance.api.tokens import TokenResource
from appliance.banner import describe
from appliance.chores import Chores
from appliance.handover import Predecessor
from appliance.inherited import Inherited, address_of
from appliance.lock import Note, is_of
from appliance.operations import OperatorApplication, limit_registry, make_registry
from appliance.parts import Parts, context_of, in_use
from appliance.registry.access import Access
from appliance.registry.throttle import Throttle
from appliance.registry.tokens import Tokens
from appliance.reloading import doors, terms, without_restart
from appliance.rulebook import policy
from appliance.serve.certificates import CertificateError
from appliance.serve.connections import Connections
from appliance.serve.listeners import Listening
from appliance.settings import DEFAULT_FILE, Settings, SettingsError, load
from appliance.succession import Succession

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
_DESCRIPTORS = 65536
_GARBAGE_EVERY = 20_000  # objects made and not dropped since the last look for garbage
_ABORT_SECONDS = 5.0
_log = structlog.get_logger()


def run(file: Path | None, environment: Mapping[str, str], announce: Callable[[str], None]) -> None:
    """Serve until told to stop; `announce` gets the text for whoever started this.

    Raises SettingsError before anything is served, or returns once the last transfer has ended.
    """
    predecessor = Predecessor.find(environment)
    try:
        parts = _prepare(file, environment, predecessor)
    except SettingsError as error:
        if predecessor is not None:
            predecessor.refuse(error.faults)
        raise
    # What is here now stays until the end; to look through it for garbage again and again would
    # cost each request a little.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE_EVERY)
    daemon = Daemon(parts, lambda: load(file, environment), announce, predecessor)
    try:
        trio.run(daemon.run)
    finally:
        if not daemon.is_followed:
            parts.close()
    if daemon.is_followed:
        # The catalogue is left open (see `Database.abandon`), so nothing is to be torn down.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _prepare(
    file: Path | None, environment: Mapping[str, str], predecessor: Predecessor | None
) -> Parts:
    settings = load(file, environment)
    log.configure(settings.log.format, settings.log.level)
    source = file or DEFAULT_FILE
    if predecessor is not None and not is_of(predecessor.lock, settings.data):
        raise SettingsError([f"{source}: storage.path has changed; a restart is needed."])
    inherited = predecessor.inherited if predecessor else Inherited.from_systemd(environment)
    findings = preflight.examine(settings, source, inherited=inherited)
    if findings.running is not None and predecessor is None:
        findings.faults.append(in_use(settings, findings.running))
    if findings.faults:
        raise SettingsError(findings.faults)
    for warning in findings.warnings:
        _log.warning("settings", warning=warning)
    os.umask(0o077)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(hard, _DESCRIPTORS)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if predecessor is None:
        return Parts(settings, source, inherited)
    return Parts(settings, source, inherited, lock=predecessor.lock, control=predecessor.control)


class _Swapped:
    """An application that a reload replaces; each request runs on the one it began with."""

    def __init__(self, application: ASGIApplication) -> None:
        self.application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.application(scope, receive, send)


class Daemon:
    """A running registry."""

    def __init__(
        self,
        parts: Parts,
        reread: Callable[[], Settings],
        announce: Callable[[str], None],
        predecessor: Predecessor | None = None,
    ) -> None:
        self._parts = parts
        self._reread = reread
        self._announce = announce
        self._settings = parts.settings
        self._registry = make_registry(parts.folder, parts.settings)
        self._basis = identities.basis(self._settings)
        self._accounts = identities.accounts(self._basis)
        self._keys = Keys(self._settings.data / keys.FILE)
        self._rates = RequestLimits()
        self._throttle = Throttle()
        self._limit_requests(self._settings)
        self._audit = AuditLog(audited) if (audited := self._settings.audit) else None
        self._key_sources = identities.key_sources(self._settings)
        self._application = _Swapped(self._assemble(self._settings))
        self._redirect = _Swapped(self._redirecting(self._settings))
        self._operator = OperatorApplication(
            self._registry, lambda: self._settings, parts.folder.snapshots, self._audit
        )
        self._connections = Connections(terms(self._settings))
        self._chores = Chores(parts, self._registry, lambda: self._settings)
        self._served = trio.Event()
        self._place = ""
        self._succession = Succession(
            parts, self._registry, self._chores, self._operator, predecessor
        )

    @property
    def is_followed(self) -> bool:
        """Whether another daemon has taken over."""
        return self._succession.is_followed

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain; a second such signal ends the draining."""
        with trio.open_signal_receiver(*_SIGNALS) as signals:
            await self._accounts.refresh()
            if not await self._succession.take_over():
                await self._registry.uploads.discard_strays()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._serve)
                nursery.start_soon(self._succession.hear_before)
                nursery.start_soon(self._chores.run)
                if self._audit is not None:
                    nursery.start_soon(self._audit.run)
                await self._succession.say_serving()
                self._started()
                nursery.start_soon(self._say_alive)
                await self._obey(signals, nursery)
                nursery.cancel_scope.cancel()
            if self._audit is not None:
                await self._audit.write()
            database = self._parts.folder.database
            await (database.abandon() if self.is_followed else database.aclose())

    def _started(self) -> None:
        self._parts.is_passed_on = False
        listen = [address_of(sock) for sock in self._parts.sockets.tls]
        plain = [address_of(sock) for sock in self._parts.sockets.plain]
        self._parts.folder.lock.write(
            Note(
                os.getpid(),
                [*map(str, listen)],
                [*map(str, plain)],
                str(self._parts.control_path),
            )
        )
        with suppress(OSError):  # whoever started this may have stopped listening
            self._announce(describe(self._settings, listen or plain, self._parts.authority))
            if self._parts.sockets.remark:
                self._announce(self._parts.sockets.remark)
        _log.info(
            "serving",
            listen=[*map(str, listen)],
            plain=[*map(str, plain)],
            data=str(self._settings.data),
        )
        self._place = f"serving on {', '.join((*listen, *plain))}"

    async def _serve(self) -> None:
        sockets, tls = self._parts.sockets, self._parts.tls
        beside = self._application if tls is None else self._redirect
        await self._connections.serve(
            [
                *(Listening(sock, self._application, tls) for sock in sockets.tls),
                *(Listening(sock, beside, None) for sock in sockets.plain),
                Listening(self._parts.control, self._operator, None),
            ]
        )
        self._served.set()

    async def _obey(self, signals: AsyncIterator[int], nursery: trio.Nursery) -> None:
        async for number in signals:
            if number == signal.SIGHUP:
                await self._reload()
            elif number != signal.SIGUSR2 or await self._hand_over(signals, nursery):
                break
        drain_seconds = self._settings.server.drain_seconds
        _log.info("stopping", drain_seconds=drain_seconds, followed=self.is_followed)
        if self.is_followed:
            self._connections.retire()
        else:
            notify.stopping("finishing transfers")
            await self._operator.stop()
            self._connections.close()
        with trio.move_on_after(drain_seconds):
            async with trio.open_nursery() as draining:
                draining.start_soon(self._hurry, signals, draining.cancel_scope)
                await self._served.wait()
                await self._succession.alone.wait()
                draining.cancel_scope.cancel()
        cut = self._connections.abort()
        with trio.move_on_after(_ABORT_SECONDS):
            await self._served.wait()
        await self._succession.leave()
        _log.info("stopped", cut_connections=cut)

    async def _hand_over(self, signals: AsyncIterator[int], nursery: trio.Nursery) -> bool:
        """Have another daemon follow; tell whether this one is to end, for that reason or another."""
        is_over = False

        async def listen(scope: trio.CancelScope) -> None:
            nonlocal is_over
            async for number in signals:
                if number in {signal.SIGTERM, signal.SIGINT}:
                    is_over = True
                    scope.cancel()

        async with trio.open_nursery() as handing:
            handing.start_soon(listen, handing.cancel_scope)
            if await self._succession.hand_over(nursery):
                is_over = True
            handing.cancel_scope.cancel()
        return is_over

    async def _hurry(self, signals: AsyncIterator[int], draining: trio.CancelScope) -> None:
        async for number in signals:
            if number not in {signal.SIGHUP, signal.SIGUSR2}:
                draining.cancel()

    async def _say_alive(self) -> None:
        """Have systemd see that this serves, and that the loop turns, where it wants to."""
        await self._succession.is_main.wait()
        notify.ready(self._place)
        seconds = notify.alive_seconds(os.environ)
        while seconds is not None:
            if not self.is_followed:
                notify.alive()
            await trio.sleep(seconds)

    async def _reload(self) -> None:
        """Take over what a changed settings file and changed certificates allow to take over."""
        notify.reloading()
        try:
            wanted = self._reread()
            settings, fixed = without_restart(self._settings, wanted)
            certificates = await work.disk(firststart.certificates, settings, self._parts.authority)
            accounts, basis = self._accounts, await work.disk(identities.basis, settings)
            if basis != self._basis:
                accounts = await work.disk(identities.accounts, basis)
            key_sources = await work.disk(identities.key_sources, settings, self._key_sources)
            if self._parts.tls is not None:
                self._parts.tls.current = await work.disk(context_of, settings, certificates)
        except (SettingsError, CertificateError) as error:
            _log.error("reload refused, nothing changed", faults=str(error).splitlines())
        except Exception:  # noqa: BLE001  whatever it is, those who are served are served on
            _log.exception("reload failed, nothing changed")
        else:
            self._parts.certificates = certificates
            self._accounts, self._basis, self._key_sources = accounts, basis, key_sources
            self._connections.change(terms(settings))
            self._limit_requests(settings)
            self._settings = settings
            self._application.application = self._assemble(settings)
            self._redirect.application = self._redirecting(settings)
            _log.info("reloaded", needs_restart=fixed)
        notify.ready("serving")

    def _limit_requests(self, settings: Settings) -> None:
        limits = settings.limits
        self._rates.limit(
            per_address=limits.requests_per_second,
            per_account=limits.requests_per_second_per_account,
        )

    def _assemble(self, settings: Settings) -> Application:
        limit_registry(self._registry, settings)
        tokens = Tokens(self._parts.signing)
        access = Access(
            accounts=self._accounts,
            keys=self._keys,
            policy=policy(settings),
            tokens=tokens,
            throttle=self._throttle,
            realm=settings.auth.realm,
            workloads=identities.issued_accounts(settings, self._key_sources),
            public_url=settings.server.public_url,
            certificates={one.name: one.account for one in settings.certificate},
        )
        return Application(
            registry=self._registry,
            access=access,
            authority=self._parts.authority.pem if self._parts.authority else None,
            stall_seconds=settings.limits.stall,
            body_max=settings.limits.max_body,
            chunk_min=settings.limits.chunk_min,
            rates=self._rates,
            tokens=TokenResource(access, tokens),
            doors=doors(settings),
            audit=self._audit,
        )

    def _redirecting(self, settings: Settings) -> RedirectToTls:
        sockets = self._parts.sockets.tls
        return RedirectToTls(
            port=address_of(sockets[0]).port if sockets else 443,
            public_url=settings.server.public_url,
            stall_seconds=settings.limits.stall,
            doors=doors(settings),
        )
