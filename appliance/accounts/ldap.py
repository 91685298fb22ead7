"""Asking an LDAP directory: a search as the account to search with, and a bind as an entry.

`libldap`, on which `bonsai` rests, resolves names, connects and shakes hands without letting other
tasks run: a directory that accepts a connection and then says nothing would hold up the daemon for
good. So it never gets to the network. This module dials, TLS included, and `libldap` speaks plain
LDAP over loopback with a task that carries the bytes. To give up is to close that connection: it
then fails of its own accord. `bonsai` itself is never cancelled, as it would leave behind a
descriptor, and a thread that writes to one that may be another's by then.
"""

import importlib
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import trio

_ENTRIES_MAX = 2  # enough to see that there are several

_REFUSALS = {19, 32, 48, 49, 50, 53}
"""Result codes of a bind (RFC 4511, A.2) with which a directory refuses this entry or password.

Beside invalidCredentials: what some say of entries that are locked, or can have no password.
"""

_START_TLS = bytes.fromhex("301d020101 7718 8016") + b"1.3.6.1.4.1.1466.20037"

T = TypeVar("T")


class DirectoryError(Exception):
    """A directory cannot be used as it is set up; the message is one sentence."""


class OutageError(Exception):
    """The directory did not say; the message tells why."""


class SeveralEntriesError(Exception):
    """A search found more entries than were asked for."""


@dataclass(frozen=True, slots=True)
class Terms:
    """Where the directory is, and how entries are found in it."""

    url: str
    """`ldaps://host` or `ldap://host:389`."""
    base: str
    """Where the search begins."""
    filter: str
    """What finds the entry of an account, such as `(uid={account})`."""
    start_tls: bool = False
    ca: Path | None = None
    """Whom to trust, in PEM; None for those that the system trusts."""
    bind_dn: str = ""
    """As whom to search; empty for nobody."""
    bind_password: bytes = field(default=b"", repr=False)
    timeout_seconds: float = 10.0
    """How long one answer may take, all connections included."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the directory, with those attributes that were asked for, in lower case."""

    dn: str
    values: Mapping[str, Sequence[bytes]]


class LdapWire:
    """Asks by LDAP, one connection a question."""

    def __init__(self, terms: Terms) -> None:
        try:
            self._bonsai: Any = importlib.import_module("bonsai")
            self._connection = importlib.import_module("bonsai.trio").TrioLDAPConnection
        except ImportError as error:
            raise DirectoryError(
                "accounts of a directory needs the extra: pip install 'registry-appliance[ldap]'"
            ) from error
        self._terms = terms
        try:
            url = urlsplit(terms.url)
            self._host, port = url.hostname or "", url.port
        except ValueError as error:
            raise DirectoryError(f"{terms.url} is no URL: {error}") from error
        if url.scheme not in {"ldap", "ldaps"} or not self._host:
            raise DirectoryError(f"{terms.url} is not of the form ldaps://host or ldap://host")
        self._port = port or (636 if url.scheme == "ldaps" else 389)
        self._start_tls = terms.start_tls and url.scheme == "ldap"
        self._context: ssl.SSLContext | None = None
        if self._start_tls or url.scheme == "ldaps":
            try:
                self._context = ssl.create_default_context(cafile=terms.ca)
            except OSError as error:
                raise DirectoryError(f"{terms.ca} holds no certificates: {error}") from error

    async def search(self, expression: str, attributes: Sequence[str]) -> Sequence[Entry]:
        """Search as the service account."""

        async def read(connection: Any) -> list[Entry]:  # noqa: ANN401
            scope = self._bonsai.LDAPSearchScope.SUBTREE
            found = await connection.search(
                self._terms.base, scope, expression, wanted, sizelimit=_ENTRIES_MAX
            )
            return [_entry(entry, wanted) for entry in found]

        wanted = [*attributes, "entrydn"]
        result = await self._session(self._terms.bind_dn, self._terms.bind_password, wanted, read)
        if not isinstance(result, _Failure):
            return result
        if result.code == self._bonsai.errors.SizeLimitError.code:
            raise SeveralEntriesError
        if result.code in _REFUSALS:
            raise OutageError(f"the account to search with is refused: {result.reason}")
        raise OutageError(result.reason)

    async def proves(self, dn: str, password: bytes) -> bool:
        """Bind as the entry."""

        async def nothing_more(_: Any) -> bool:  # noqa: ANN401
            return True

        result = await self._session(dn, password, [], nothing_more)
        if isinstance(result, _Failure) and result.code not in _REFUSALS:
            raise OutageError(result.reason)
        return result is True

    async def _session(
        self, dn: str, password: bytes, raw: list[str], use: Callable[[Any], Awaitable[T]]
    ) -> "T | _Failure":
        try:
            far = await self._dial()
            async with far:
                return await self._talk(far, dn, password, raw, use)
        except OutageError:
            raise
        except Exception as error:  # whatever it is, no password is wrong for it
            raise OutageError(str(error.__cause__ or error) or type(error).__name__) from error

    async def _talk(
        self,
        far: trio.abc.Stream,
        dn: str,
        password: bytes,
        raw: list[str],
        use: Callable[[Any], Awaitable[T]],
    ) -> "T | _Failure":
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        client = self._bonsai.LDAPClient(f"ldap://127.0.0.1:{listener.socket.getsockname()[1]}")
        client.set_async_connection_class(self._connection)
        client.set_raw_attributes(raw)  # or a name of digits would be read as a number
        if dn:
            client.set_credentials("SIMPLE", dn, password.decode())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_carry, listener, far)
            # Shielded for as long as the carrier lives, whom a cancellation ends.
            with trio.CancelScope(shield=True):
                result: T | _Failure
                try:
                    async with client.connect(is_async=True) as connection:
                        result = await use(connection)
                except self._bonsai.LDAPError as error:
                    # Its code is kept in the class, so it is read before another task runs.
                    result = _Failure(error.code, str(error))
            nursery.cancel_scope.cancel()
        await trio.lowlevel.checkpoint_if_cancelled()
        return result

    async def _dial(self) -> trio.abc.Stream:
        stream: trio.abc.Stream = await trio.open_tcp_stream(self._host, self._port)
        try:
            if self._start_tls:
                await _start_tls(stream)
            if self._context is not None:
                secured = trio.SSLStream(stream, self._context, server_hostname=self._host)
                stream = secured
                await secured.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return stream


@dataclass(frozen=True, slots=True)
class _Failure:
    code: int
    reason: str


def _entry(found: Any, wanted: Sequence[str]) -> Entry:  # noqa: ANN401
    values = {name.lower(): tuple(held) for name, held in found.items() if name.lower() in wanted}
    # bonsai undoes escapes in names one after the other, which makes others of some.
    (dn,) = values.pop("entrydn", ()) or (str(found.dn).encode(),)
    return Entry(dn.decode(), values)


async def _carry(listener: trio.SocketListener, far: trio.abc.Stream) -> None:
    """Carry bytes between the one connection that is made to a listener and the directory."""
    # The listener stays to the end: nobody else can have its port while libldap may still come to it.
    async with listener, await listener.accept() as near, trio.open_nursery() as nursery:

        async def copy(source: trio.abc.Stream, sink: trio.abc.Stream) -> None:
            try:
                async for piece in source:
                    await sink.send_all(piece)
            except trio.BrokenResourceError:
                pass
            nursery.cancel_scope.cancel()

        nursery.start_soon(copy, near, far)
        nursery.start_soon(copy, far, near)


async def _start_tls(stream: trio.abc.Stream) -> None:
    """Ask for TLS (RFC 4511, 4.14), and read not a byte beyond the answer."""
    await stream.send_all(_START_TLS)
    head = await _exactly(stream, 2)
    if head[1] & 0x80:
        head += await _exactly(stream, head[1] & 0x7F)
    length = int.from_bytes(head[2:]) if head[1] & 0x80 else head[1]
    message = await _exactly(stream, min(length, 4096))
    try:
        _, _, rest = _element(message)
        tag, response, _ = _element(rest)
        _, code, _ = _element(response)
    except IndexError:
        raise OutageError("what was sent is no answer to StartTLS") from None
    if tag != 0x78 or code != b"\0":
        raise OutageError(f"StartTLS is refused (result code {int.from_bytes(code)})")


def _element(data: bytes) -> tuple[int, bytes, bytes]:
    """Split the first element of BER off: tag, content, what follows."""
    length, start = data[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[2:start])
    return data[0], data[start : start + length], data[start + length :]


async def _exactly(stream: trio.abc.Stream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = await stream.receive_some(size - len(data))
        if not piece:
            raise OutageError("there is no answer to StartTLS")
        data += piece
    return data
