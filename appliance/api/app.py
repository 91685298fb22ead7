"""The application: each request is routed, let through the gate, handled and logged, here alone.

There is no other way to a handler than `_admit`, which asks `registry.access` once: a handler wants the
proof that only a gate can make. What is wrong
under `/v2/` is told only to those who may ask there at all, so an unknown path needs an account
like a known one. Whatever a handler raises becomes an answer here: a `RegistryError` its row as
JSON, anything else a 500 without detail and a traceback in the log.
"""

import re
import time
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import quote_from_bytes

import structlog

from appliance.api.answering import ClientGoneError, Receive, Scope, Send
from appliance.api.audit import AuditLog
from appliance.api.blobs import BlobResource
from appliance.api.doors import Doors
from appliance.api.exchange import Exchange
from appliance.api.limits import RequestLimits
from appliance.api.manifests import ListResource, ManifestResource, RepositoryResource
from appliance.api.service import ServiceResource
from appliance.api.tokens import TokenResource
from appliance.api.uploads import UploadResource, UploadsResource
from appliance.oci.errors import RegistryError
from appliance.protocol.routes import Action, Resource, Route, is_private, resolve
from appliance.registry.access import NOBODY, Account, Gate, Grant, WrongPasswordError
from appliance.registry.registry import Registry
from appliance.registry.space import ReserveReachedError

Handler = Callable[[Exchange, Grant], Awaitable[None]]

CLIENT_GONE = 499
"""The status in the log of a request whose client left before the answer."""

_log = structlog.get_logger()
# Asked for all the time by whoever watches the daemon: never refused, and logged only when not well.
_QUIET_PATHS = {resource.value.encode() for resource in (Resource.HEALTH, Resource.READY)}
_LOGGED_MAX = 1024  # bytes of a path in the log
_PLAIN = re.compile(rb"[A-Za-z0-9._/:-]*")


class Application:
    """The registry as an ASGI application; without `rates`, requests are not limited."""

    def __init__(
        self,
        *,
        registry: Registry,
        access: Gate,
        authority: bytes | None,
        stall_seconds: float,
        body_max: int = 0,
        chunk_min: int = 0,
        rates: RequestLimits | None = None,
        tokens: TokenResource | None = None,
        doors: Doors | None = None,
        audit: AuditLog | None = None,
    ) -> None:
        self._access = access
        self._space = registry.space
        self._rates = rates or RequestLimits()
        self._doors = doors or Doors()
        self._audit = audit
        self._stall_seconds = stall_seconds
        self._body_max = body_max
        service = ServiceResource(registry.readiness, authority)
        blob = BlobResource(registry.blobs)
        manifest = ManifestResource(registry.manifests, access)
        repository = RepositoryResource(registry.manifests)
        lists = ListResource(registry.manifests, access)
        uploading = UploadsResource(registry.uploads, access, chunk_min)
        upload = UploadResource(registry.uploads)
        self.handlers: Mapping[tuple[Resource, str], Handler] = {
            (Resource.HOME, "GET"): service.home,
            (Resource.HEALTH, "GET"): service.health,
            (Resource.READY, "GET"): service.ready,
            (Resource.CA, "GET"): service.authority,
            (Resource.TOKEN, "GET"): tokens.get if tokens else service.missing,
            (Resource.TOKEN, "POST"): tokens.post if tokens else service.missing,
            (Resource.BASE, "GET"): service.base,
            (Resource.CATALOG, "GET"): lists.repositories,
            (Resource.TAGS, "GET"): lists.tags,
            (Resource.REFERRERS, "GET"): lists.referrers,
            (Resource.MANIFEST, "GET"): manifest.get,
            (Resource.MANIFEST, "PUT"): manifest.put,
            (Resource.MANIFEST, "DELETE"): manifest.delete,
            (Resource.REPOSITORY, "DELETE"): repository.delete,
            (Resource.BLOB, "GET"): blob.get,
            (Resource.BLOB, "DELETE"): blob.delete,
            (Resource.UPLOADS, "POST"): uploading.post,
            (Resource.UPLOAD, "GET"): upload.get,
            (Resource.UPLOAD, "PATCH"): upload.patch,
            (Resource.UPLOAD, "PUT"): upload.put,
            (Resource.UPLOAD, "DELETE"): upload.delete,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close"})
            return
        exchange = Exchange(
            scope, receive, send, stall_seconds=self._stall_seconds, body_max=self._body_max
        )
        started = time.perf_counter()
        try:
            await self._answer(exchange)
        finally:
            self._record(exchange, time.perf_counter() - started)

    async def _answer(self, exchange: Exchange) -> None:
        try:
            await self._handle(exchange)
        except ClientGoneError:
            exchange.status = CLIENT_GONE

    async def _handle(self, exchange: Exchange) -> None:
        try:
            self._doors.check_address(exchange.client)
            if exchange.raw_path not in _QUIET_PATHS:
                self._doors.check_host(exchange.header(b"host") or "")
                self._rates.check_address(exchange.client)
            exchange.check_framing()
            grant = await self._admit(exchange)
            exchange.account = grant.account
            _note_namespace(exchange)
            await self._warn(exchange, grant.route, grant.account)
            await self.handlers[grant.route.resource, grant.route.method](exchange, grant)
        except RegistryError as error:
            if isinstance(error, WrongPasswordError):
                exchange.alleged = error.name
            if error.row.status >= 500 and not isinstance(error, ReserveReachedError):
                _log.error("request failed", reason=error.message, cause=repr(error.__cause__))
            if exchange.status is None:
                await exchange.answer_json(error.row.status, _document(error), error.headers)
        except ClientGoneError:
            raise
        except Exception:  # noqa: BLE001  one request must never end another
            _log.exception("request failed unexpectedly", path=_printable(exchange.raw_path))
            if exchange.status is None:
                document = {"errors": [{"code": "UNKNOWN", "message": "internal error"}]}
                await exchange.answer_json(500, document)

    async def _admit(self, exchange: Exchange) -> Grant:
        try:
            exchange.route = route = resolve(exchange.method, exchange.raw_path)
        except RegistryError:
            if is_private(exchange.raw_path):
                account = await self._authenticate(exchange)
                self._access.check(account, Action.LOGIN, "", exchange.claim)
            raise
        account = NOBODY if route.action is None else await self._authenticate(exchange)
        return self._access.admit(account, route, exchange.claim)

    async def _authenticate(self, exchange: Exchange) -> Account:
        account = await self._access.authenticate(exchange.claim)
        exchange.account = account
        self._rates.check_account(account)
        return account

    async def _warn(self, exchange: Exchange, route: Route, account: Account) -> None:
        """Tell what a person should know, where one looks: at a login, and where a push ends."""
        ending = route.resource is Resource.MANIFEST and route.action is Action.PUSH
        if account.weakness and (ending or route.action is Action.LOGIN):
            exchange.warn(account.weakness)
        if ending and (shortage := await self._space.shortage()):
            exchange.warn(shortage)

    def _record(self, exchange: Exchange, seconds: float) -> None:
        if self._audit is not None and exchange.status is not None:
            self._audit.note(
                exchange.route,
                exchange.account,
                method=exchange.method,
                client=exchange.client,
                status=exchange.status,
                alleged=exchange.alleged,
            )
        quiet = exchange.status == 200 and exchange.raw_path in _QUIET_PATHS
        (_log.debug if quiet else _log.info)(
            "request",
            client=exchange.client,
            account=exchange.account.name or "-",
            method=exchange.method[:20] if exchange.method.isalpha() else "-",
            path=_printable(exchange.raw_path[:_LOGGED_MAX]),
            status=exchange.status,
            received=exchange.received,
            sent=exchange.sent,
            seconds=round(seconds, 4),
        )


def _note_namespace(exchange: Exchange) -> None:
    """Confirm a `ns` that names this very host; any other is ignored ("Registry Proxying")."""
    for namespace in exchange.parameters("ns") if exchange.may_have(b"ns=") else ():
        if namespace == exchange.header(b"host"):
            exchange.add_header("OCI-Namespace", namespace)
            return


def _printable(text: bytes) -> str:
    """Encode what would steer a terminal, or anything but ASCII."""
    if _PLAIN.fullmatch(text):
        return text.decode("ascii")
    return quote_from_bytes(text, safe="/%:@!$&'()*+,;=~[]")


def _document(error: RegistryError) -> dict[str, object]:
    entry: dict[str, object] = {"code": error.row.code, "message": error.message}
    if not error.details:
        return {"errors": [entry]}
    return {"errors": [{**entry, "detail": detail} for detail in error.details]}
