"""What a daemon does by itself beside serving: once a data folder, and so by one daemon at a time.

Each chore runs again and again; that it fails is logged and ends nothing. They may all be ended at
any moment, and be begun again.
"""

import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import partial
from importlib import import_module

import structlog
import trio

from appliance import firststart, notify, work
from appliance.catalogue.snapshots import today
from appliance.oci.errors import RegistryError
from appliance.operations import sweep_rules
from appliance.parts import Parts, context_of
from appliance.registry.registry import Registry
from appliance.registry.round import ScrubRules
from appliance.serve.certificates import CertificateError
from appliance.settings import Settings
from appliance.wholeness import CATALOGUE, sentence_of_damage

_CERTIFICATES_EVERY = 60.0
_EXPIRE_AT_MOST_EVERY = 600.0
_SNAPSHOT_AFTER = 10.0  # the first clients are served first
_SNAPSHOTS_EVERY = 600.0  # looks whether a new day has begun
_ROTATION_LOOK_EVERY = 3600.0
_VERIFY_LOOK_EVERY = 300.0  # whether it is time to; by then a start is over
_STATUS_EVERY = 10.0
_LATE = (
    "appliance.accounts.issuers",
    "appliance.serve.http2",
    "passlib.handlers.md5_crypt",
    "passlib.handlers.sha2_crypt",
)

_log = structlog.get_logger()


class Chores:
    """The chores of one daemon; `settings` gives those of the moment."""

    def __init__(self, parts: Parts, registry: Registry, settings: Callable[[], Settings]) -> None:
        self._parts = parts
        self._registry = registry
        self._read_settings = settings
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self._ended.set()

    @property
    def ended(self) -> bool:
        """Whether they are not being done at the moment."""
        return self._ended.is_set()

    @property
    def _settings(self) -> Settings:
        return self._read_settings()

    async def run(self) -> None:
        """Do them until `end`."""
        self._scope, self._ended = trio.CancelScope(), trio.Event()
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(
                        attempt, "recovery of upload sessions", self._registry.uploads.recover
                    )
                    nursery.start_soon(self._expire_uploads)
                    nursery.start_soon(self._sweep_at_times)
                    nursery.start_soon(self._verify_at_times)
                    nursery.start_soon(self._follow_certificates)
                    nursery.start_soon(self._watch_catalogue)
                    nursery.start_soon(self._rotate_at_times)
                    nursery.start_soon(self._tell_status)
                    nursery.start_soon(attempt, "imports", _import_the_rest)
        finally:
            self._ended.set()

    async def end(self) -> None:
        """End them, and return when they have ended."""
        self._scope.cancel()
        await self._ended.wait()

    async def _expire_uploads(self) -> None:
        while True:
            expiry = self._settings.gc.uploads
            await attempt("expiry of upload sessions", partial(self._expire_once, expiry))
            await trio.sleep(min(max(expiry / 2, 0.1), _EXPIRE_AT_MOST_EVERY))

    async def _expire_once(self, expiry: float) -> None:
        ended = await self._registry.uploads.expire(expiry)
        if ended:
            _log.info("upload sessions expired", count=ended, untouched_seconds=expiry)

    async def _sweep_at_times(self) -> None:
        while True:
            await trio.sleep(self._settings.gc.every)
            await attempt("sweep", self._sweep_once)

    async def _sweep_once(self) -> None:
        found = await self._registry.sweep.run(sweep_rules(self._settings))
        _log.info("swept", **asdict(found))

    async def _watch_catalogue(self) -> None:
        if not self._parts.folder.database.is_small:  # which has been looked through already
            await attempt("check of the catalogue", self._check_catalogue)
        await trio.sleep(_SNAPSHOT_AFTER)
        while True:
            await attempt("daily snapshot of the catalogue", self._take_snapshot)
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
                await attempt("verify", self._verify_once)

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
            await attempt("rotation of the keys for tokens", self._rotate)

    async def _rotate(self) -> None:
        if await work.disk(self._parts.signing.rotate, time.time()):
            _log.info("tokens are signed with a new key")

    async def _follow_certificates(self) -> None:
        while self._parts.tls is not None:
            await trio.sleep(_CERTIFICATES_EVERY)
            await attempt("renewal of the certificate", self._renew_certificates)

    async def _renew_certificates(self) -> None:
        found = await work.disk(firststart.certificates, self._settings, self._parts.authority)
        if self._parts.tls is not None and found != self._parts.certificates:
            self._parts.tls.current = await work.disk(context_of, self._settings, found)
            self._parts.certificates = found
            _log.info("certificate changed", fingerprint=found[0].fingerprint)

    async def _tell_status(self) -> None:
        while True:
            await trio.sleep(_STATUS_EVERY)
            await attempt("a look at how things stand", self._tell_status_once)

    async def _tell_status_once(self) -> None:
        notify.status(await self._registry.summary())


async def _import_the_rest() -> None:
    """Import what is imported only once it is needed, before an upgrade brings another version of it."""
    await trio.sleep(_SNAPSHOT_AFTER)
    for module in _LATE:
        await work.disk(import_module, module)


async def attempt(what: str, chore: Callable[[], Awaitable[object]]) -> None:
    """Do a chore; that it fails is logged, and must not end the daemon."""
    try:
        await chore()
    except (CertificateError, RegistryError) as error:
        _log.error(f"{what} failed", reason=str(error))
    except Exception:  # noqa: BLE001  see above
        _log.exception(f"{what} failed")
