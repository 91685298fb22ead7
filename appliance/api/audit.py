"""Who did what, to which repository, from where: one line of JSON each, only ever added to.

It tells of what changes something, of logins and of whatever was refused; what is only read stands
in the log of requests. The lines are written a moment later by a thread, so that no request waits
for the disk, and the file is opened anew each time, so that it may be moved away meanwhile. Whoever
has no account cannot fill the disk with refusals: beyond some they are only counted.
"""

import json
import math
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import structlog
import trio

from appliance import work
from appliance.protocol.addresses import network_key
from appliance.protocol.rates import Rates
from appliance.protocol.routes import Action, Resource, Route
from appliance.registry.access import Account

_EVERY = 0.2  # seconds
_WAITING_MAX = 10_000
_EACH = (60, 1 / 2)  # refusals of strangers from one network, at once and a second
_ALL = (1000, 5.0)  # and from all, which is 100 MB a day
_LEFT_OUT_EVERY = 60.0  # seconds
_TAIL_MAX = 255  # characters of a path that strangers write

_CHANGING = {Action.PUSH, Action.OVERWRITE, Action.DELETE, Action.ADMIN}
_REFUSED = {401, 403, 421, 429}
_WORDS = {Resource.TOKEN: "token", Resource.BASE: "login"}

_log = structlog.get_logger()


class AuditLog:
    """The audit log of one file."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._waiting: list[dict[str, object]] = []
        self._lost = 0
        self._strangers, self._stranger = (
            Rates(per_second=rate, burst=burst, clock=clock) for burst, rate in (_ALL, _EACH)
        )
        self._left_out = 0
        self._left_out_told = -math.inf

    def note(
        self,
        route: Route | None,
        account: Account,
        *,
        method: str,
        client: str,
        status: int,
        alleged: str = "",
    ) -> None:
        """Take note of a request that was answered, if it is one to be told of.

        `alleged` is whose password was tried, where it was wrong.
        """
        if not _is_told(route, account, status):
            return
        if account.is_anonymous and not self._has_room(client):
            self._left_out += 1
            return
        if len(self._waiting) >= _WAITING_MAX:
            self._lost += 1
            return
        entry: dict[str, object] = {
            "at": _now(),
            "account": account.name,
            "from": client,
            "action": _word(route),
            "outcome": "refused" if status in _REFUSED else "failed" if status >= 400 else "done",
            "status": status,
        }
        if alleged:
            entry["alleged"] = alleged
        if account.key:
            entry["key"] = account.key
        if account.subject:
            entry["subject"] = account.subject
        if route is not None and route.name:
            entry |= {"repository": route.name, "method": method, "target": _target(route)}
        self._waiting.append(entry)

    async def run(self) -> None:
        """Write what was noted, again and again."""
        while True:
            await trio.sleep(_EVERY)
            await self.write()

    async def write(self) -> None:
        """Write what was noted until now; what cannot be written is told in the log."""
        waiting, self._waiting = self._waiting, []
        if self._lost:
            _log.error("audit entries lost, as there were too many at once", count=self._lost)
            self._lost = 0
        if self._left_out and self._clock() - self._left_out_told > _LEFT_OUT_EVERY:
            waiting.append(
                {"at": _now(), "account": "", "outcome": "refused", "left_out": self._left_out}
            )
            self._left_out, self._left_out_told = 0, self._clock()
        if not waiting:
            return
        lines = "".join(json.dumps(entry) + "\n" for entry in waiting).encode()
        try:
            with trio.CancelScope(shield=True):  # one short append
                await work.disk(self._append, lines)
        except OSError as error:
            _log.error("audit entries lost", count=len(waiting), reason=str(error))

    def _has_room(self, client: str) -> bool:
        """Tell whether a stranger may fill the disk by another line."""
        return not (self._stranger.wait(network_key(client)) or self._strangers.wait(""))

    def _append(self, lines: bytes) -> None:
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            while lines:
                lines = lines[os.write(file, lines) :]
        finally:
            os.close(file)


def _is_told(route: Route | None, account: Account, status: int) -> bool:
    if status in _REFUSED:
        # Clients ask without a password first, to learn whether they need one.
        return account.claimed or status != 401
    if route is None:
        return False
    if route.resource in _WORDS:
        return not account.is_anonymous
    return route.action in _CHANGING


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _word(route: Route | None) -> str:
    if route is None:
        return "-"
    return _WORDS.get(route.resource) or (str(route.action) if route.action else "-")


def _target(route: Route) -> str:
    """Name what a request is about, as its path does."""
    return route.resource.value.partition("<name>/")[2].partition("<")[0] + route.tail[:_TAIL_MAX]
