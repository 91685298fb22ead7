"""An ASGI server of a few lines, and a registry to put behind it: real files, real SQLite."""

import json
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import bcrypt
import trio

from appliance.accounts.htpasswd import PasswordAccounts
from appliance.accounts.keys import Keys
from appliance.accounts.signing import SigningKeys
from appliance.api.app import Application
from appliance.api.audit import AuditLog
from appliance.api.doors import Doors
from appliance.api.limits import RequestLimits
from appliance.api.tokens import TokenResource
from appliance.catalogue.database import Database
from appliance.catalogue.garbage import Garbage
from appliance.catalogue.inspection import Inspection
from appliance.catalogue.past import Past
from appliance.catalogue.records import Catalogue
from appliance.registry.access import Access
from appliance.registry.ports import Workloads
from appliance.registry.registry import Registry as UseCases
from appliance.registry.space import Space
from appliance.registry.throttle import Throttle
from appliance.registry.tokens import Tokens
from appliance.registry.uploads import Uploads
from appliance.rulebook import policy
from appliance.settings import Auth, Rule, Settings
from appliance.storage.files import FileStore

ALICE = ("alice", "open sesame")
BOB = ("bob", "correct horse")
AUTHORITY = b"-----BEGIN CERTIFICATE-----\n"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes
    fields: Sequence[tuple[str, str]] = ()

    def all(self, name: str) -> list[str]:
        """Every header of that name."""
        return [value for key, value in self.fields if key == name]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of the first error."""
        return str(self.json["errors"][0]["code"])


@dataclass(frozen=True)
class Registry:
    """A registry with the accounts alice and bob; requests come from alice unless said otherwise."""

    application: Application
    uploads: Uploads
    store: FileStore
    database: Database
    htpasswd: Path
    accounts: PasswordAccounts
    space: Space

    async def close(self) -> None:
        await self.database.aclose()

    async def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | Sequence[bytes] = b"",
        *,
        login: tuple[str, str] | None = ALICE,
        leaves_after: int | None = None,
        client: str = "192.0.2.1",
    ) -> Answer:
        """Send a request; `leaves_after` pieces of the body the client is gone."""
        pieces = [body] if isinstance(body, bytes) else list(body)
        raw_path, _, query = path.partition("?")
        sent = {name.lower(): value for name, value in (headers or {}).items()}
        if login is not None:
            sent.setdefault("authorization", basic(*login))
        if isinstance(body, bytes) and body:
            sent.setdefault("content-length", str(len(body)))
        elif body:
            sent.setdefault("transfer-encoding", "chunked")
        return await call(
            self.application,
            {
                "type": "http",
                "http_version": "1.1",
                "method": method,
                "scheme": "https",
                "raw_path": raw_path.encode(),
                "query_string": query.encode(),
                "headers": [(k.encode(), v.encode("latin-1")) for k, v in sent.items() if v],
                "client": (client, 4711),
            },
            pieces,
            leaves_after,
        )


async def call(
    application: Callable[..., Awaitable[None]],
    scope: Mapping[str, Any],
    pieces: Sequence[bytes] = (),
    leaves_after: int | None = None,
) -> Answer:
    messages: list[Mapping[str, Any]] = []
    arriving = list(pieces if leaves_after is None else pieces[:leaves_after])
    ended = False

    async def receive() -> Mapping[str, Any]:
        nonlocal ended
        if arriving:
            more = len(arriving) > 1 or leaves_after is not None
            ended = not more
            return {"type": "http.request", "body": arriving.pop(0), "more_body": more}
        if leaves_after is not None:
            return {"type": "http.disconnect"}
        if ended:
            await trio.sleep_forever()
        ended = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Mapping[str, Any]) -> None:
        messages.append(message)

    await application(scope, receive, send)
    if not messages:
        return Answer(0, {}, b"")
    start, *bodies = messages
    fields = [(name.decode(), value.decode("latin-1")) for name, value in start["headers"]]
    body = b"".join(piece["body"] for piece in bodies)
    return Answer(start["status"], dict(fields), body, fields)


def basic(name: str, password: str) -> str:
    return "Basic " + b64encode(f"{name}:{password}".encode()).decode()


def open_registry(
    folder: Path,
    *,
    anonymous: Sequence[Literal["pull"]] = (),
    rules: Sequence[Rule] = (),
    stall_seconds: float = 5,
    body_max: int = 0,
    rates: RequestLimits | None = None,
    doors: Doors | None = None,
    audit: AuditLog | None = None,
    workloads: Workloads | None = None,
) -> Registry:
    """Open the registry in a folder; `close` it before the folder is opened again."""
    folder.mkdir(parents=True, exist_ok=True)
    htpasswd = folder / "htpasswd"
    if not htpasswd.exists():
        htpasswd.write_bytes(
            b"".join(
                b"%b:%b\n" % (name.encode(), bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)))
                for name, password in (ALICE, BOB)
            )
        )
    store = FileStore(folder)
    store.prepare()
    database = Database.open(folder / "catalogue.sqlite3")
    catalogue = Catalogue(database)
    registry = UseCases(
        store=store,
        records=catalogue,
        garbage=Garbage(database),
        past=Past(database),
        inspection=Inspection(database),
    )
    settings = Settings(auth=Auth(anonymous=tuple(anonymous), admins=("alice",)), rule=tuple(rules))
    tokens = Tokens(SigningKeys.open(folder / "token-keys.json", time.time()))
    accounts = PasswordAccounts(htpasswd)
    access = Access(
        accounts=accounts,
        keys=Keys(folder / "keys.json"),
        policy=policy(settings),
        tokens=tokens,
        throttle=Throttle(),
        realm="Registry Realm",
        workloads=workloads,
    )
    application = Application(
        registry=registry,
        access=access,
        tokens=TokenResource(access, tokens),
        authority=AUTHORITY,
        stall_seconds=stall_seconds,
        body_max=body_max,
        rates=rates,
        doors=doors,
        audit=audit,
    )
    return Registry(
        application, registry.uploads, store, database, htpasswd, accounts, registry.space
    )
