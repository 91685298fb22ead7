"""The daemon: settings in, parts put together, one nursery until the end.

    examine → lock → make what is missing → open store and records → bind → serve → drain

Everything up to binding may refuse to start, with one sentence for each thing that is wrong.
Afterwards nothing does: a reload that brings faulty settings or a bad certificate changes nothing
and says so. What a reload can change is put together anew from the new settings (`_assemble`) and
swapped in between two requests.
"""

import gc
import math
import os
import resource
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import partial
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
from appliance.catalogue.snapshots import today
from appliance.lock import Note
from appliance.oci.errors import RegistryError
from appliance.operations import OperatorApplication, limit_registry, make_registry, sweep_rules
from appliance.parts import Parts, context_of, in_use
from appliance.registry.access import Access
from appliance.registry.round import ScrubRules
from appliance.registry.throttle import Throttle
from appliance.registry.tokens import Tokens
from appliance.reloading import doors, terms, without_restart
from appliance.rulebook import policy
from appliance.serve.certificates import CertificateError
from appliance.serve.connections import Connections
from appliance.serve.listeners import Listening
from appliance.settings import DEFAULT_FILE, Address, Settings, SettingsError, load
from appliance.wholeness import CATALOGUE, sentence_of_damage

_CERTIFICATES_EVERY = 60.0
_DESCRIPTORS = 65536
_GARBAGE_EVERY = 20_000  # objects made and not dropped since the last look for garbage
_ABORT_SECONDS = 5.0
_EXPIRE_AT_MOST_EVERY = 600.0
_SNAPSHOT_AFTER = 10.0  # the first clients are served first
_SNAPSHOTS_EVERY = 600.0  # looks whether a new day has begun
_ROTATION_LOOK_EVERY = 3600.0
_VERIFY_LOOK_EVERY = 300.0  # whether it is time to; by then a start is over
_log = structlog.get_logger()


def run(file: Path | None, environment: Mapping[str, str], announce: Callable[[str], None]) -> None:
    """Serve until told to stop; `announce` gets the text for whoever started this.

    Raises SettingsError before anything is served, or returns once the last transfer has ended.
    """
    settings = load(file, environment)
    log.configure(settings.log.format, settings.log.level)
    findings = preflight.examine(settings, file or DEFAULT_FILE)
    if findings.running is not None:
        findings.faults.append(in_use(settings, findings.running))
    if findings.faults:
        raise SettingsError(findings.faults)
    for warning in findings.warnings:
        _log.warning("settings", warning=warning)
    os.umask(0o077)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, _DESCRIPTORS)), hard))
    parts = Parts(settings, file or DEFAULT_FILE)
    # What is here now stays until the end; to look through it for garbage again and again would
    # cost each request a little.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE_EVERY)
    try:
        trio.run(Daemon(parts, lambda: load(file, environment), announce).run)
    finally:
        parts.close()


class _Swapped:
    """An application that a reload replaces; each request runs on the one it began with."""

    def __init__(self, application: ASGIApplication) -> None:
        self.application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.application(scope, receive, send)


class Daemon:
    """A running registry."""

    def __init__(
        self, parts: Parts, reread: Callable[[], Settings], announce: Callable[[str], None]
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
        self._served = trio.Event()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain; a second such signal ends the draining."""
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            await self._accounts.refresh()
            await self._registry.uploads.discard_strays()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._serve)
                nursery.start_soon(
                    _attempt, "recovery of upload sessions", self._registry.uploads.recover
                )
                nursery.start_soon(self._expire_uploads)
                nursery.start_soon(self._sweep_at_times)
                nursery.start_soon(self._verify_at_times)
                nursery.start_soon(self._follow_certificates)
                nursery.start_soon(self._watch_catalogue)
                nursery.start_soon(self._rotate_at_times)
                if self._audit is not None:
                    nursery.start_soon(self._audit.run)
                self._started()
                await self._obey(signals)
                nursery.cancel_scope.cancel()
            if self._audit is not None:
                await self._audit.write()
            await self._parts.folder.database.aclose()

    def _started(self) -> None:
        listen = [_address(sock) for sock in self._parts.sockets.tls]
        plain = [_address(sock) for sock in self._parts.sockets.plain]
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
        _log.info("serving", listen=listen, plain=plain, data=str(self._settings.data))
        notify.ready(f"serving on {', '.join((*listen, *plain))}")

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

    async def _obey(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            if number == signal.SIGHUP:
                await self._reload()
            else:
                break
        drain_seconds = self._settings.server.drain_seconds
        _log.info("stopping", drain_seconds=drain_seconds)
        notify.stopping("finishing transfers")
        self._operator.stop()
        self._connections.close()
        with trio.move_on_after(drain_seconds):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._hurry, signals, nursery.cancel_scope)
                await self._served.wait()
                nursery.cancel_scope.cancel()
        cut = self._connections.abort()
        with trio.move_on_after(_ABORT_SECONDS):
            await self._served.wait()
        _log.info("stopped", cut_connections=cut)

    async def _hurry(self, signals: AsyncIterator[int], draining: trio.CancelScope) -> None:
        async for number in signals:
            if number != signal.SIGHUP:
                draining.cancel()

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

    async def _expire_uploads(self) -> None:
        while True:
            expiry = self._settings.gc.uploads
            await _attempt("expiry of upload sessions", partial(self._expire_once, expiry))
            await trio.sleep(min(max(expiry / 2, 0.1), _EXPIRE_AT_MOST_EVERY))

    async def _expire_once(self, expiry: float) -> None:
        ended = await self._registry.uploads.expire(expiry)
        if ended:
            _log.info("upload sessions expired", count=ended, untouched_seconds=expiry)

    async def _sweep_at_times(self) -> None:
        while True:
            await trio.sleep(self._settings.gc.every)
            await _attempt("sweep", self._sweep_once)

    async def _sweep_once(self) -> None:
        found = await self._registry.sweep.run(sweep_rules(self._settings))
        _log.info("swept", **asdict(found))

    async def _watch_catalogue(self) -> None:
        if not self._parts.folder.database.is_small:  # which has been looked through already
            await _attempt("check of the catalogue", self._check_catalogue)
        await trio.sleep(_SNAPSHOT_AFTER)
        while True:
            await _attempt("daily snapshot of the catalogue", self._take_snapshot)
            await trio.sleep(_SNAPSHOTS_EVERY)

    async def _check_catalogue(self) -> bool:
        """Tell whether the catalogue is whole, and everybody if it is not."""
        damage = await self._parts.folder.database.damage()
        if damage is None:
            return True
        _log.error("catalogue damaged", reason=damage)
        path = self._settings.data / CATALOGUE
        self._registry.readiness.tell_damage(sentence_of_damage(path, damage))
        return False

    async def _take_snapshot(self) -> None:
        """Take today's snapshot if it is not there; a damaged catalogue is no reason to lose one."""
        folder, keep = self._parts.folder, self._settings.storage.snapshots
        if not keep or not folder.snapshots.lacks(today()) or not await self._check_catalogue():
            return
        await self._registry.space.claim(folder.database.size)
        taken = await folder.snapshots.take_daily(today(), keep)
        _log.info("snapshot of the catalogue taken", file=str(taken))

    async def _verify_at_times(self) -> None:
        while True:
            await trio.sleep(min(_VERIFY_LOOK_EVERY, self._settings.verify.every))
            if not math.isinf(self._settings.verify.every):
                await _attempt("verify", self._verify_once)

    async def _verify_once(self) -> None:
        verify = self._settings.verify
        if await self._registry.scrub.due(verify.every):
            return
        found = await self._registry.scrub.run_by_itself(ScrubRules(rate=verify.rate))
        if found is not None:
            _log.info("verified", blobs=found.blobs, size=found.size, **found.counts)

    async def _rotate_at_times(self) -> None:
        while True:
            await trio.sleep(_ROTATION_LOOK_EVERY)
            await _attempt("rotation of the keys for tokens", self._rotate)

    async def _rotate(self) -> None:
        if await work.disk(self._parts.signing.rotate, time.time()):
            _log.info("tokens are signed with a new key")

    async def _follow_certificates(self) -> None:
        while self._parts.tls is not None:
            await trio.sleep(_CERTIFICATES_EVERY)
            await _attempt("renewal of the certificate", self._renew_certificates)

    async def _renew_certificates(self) -> None:
        found = await work.disk(firststart.certificates, self._settings, self._parts.authority)
        if self._parts.tls is not None and found != self._parts.certificates:
            self._parts.tls.current = await work.disk(context_of, self._settings, found)
            self._parts.certificates = found
            _log.info("certificate changed", fingerprint=found[0].fingerprint)

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
            port=_address(sockets[0]).port if sockets else 443,
            public_url=settings.server.public_url,
            stall_seconds=settings.limits.stall,
            doors=doors(settings),
        )


async def _attempt(what: str, chore: Callable[[], Awaitable[object]]) -> None:
    """Do a chore; that it fails is logged, and must not end the daemon."""
    try:
        await chore()
    except (CertificateError, RegistryError) as error:
        _log.error(f"{what} failed", reason=str(error))
    except Exception:  # noqa: BLE001  see above
        _log.exception(f"{what} failed")


def _address(sock: socket.socket) -> Address:
    return Address.of(*sock.getsockname()[:2])
