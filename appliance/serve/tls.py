"""TLS for one connection, on pyOpenSSL, as a trio stream.

*The strategy.* There are two ways to run OpenSSL without blocking. One puts memory between it and
the network: ciphertext is carried in and out by hand, with locks so that two tasks do not shuffle
records (`trio.SSLStream`). The other, used here, hands the non-blocking socket to OpenSSL, calls
the operation, and when it answers "want read" or "want write" waits for just that and calls again.
It copies less, takes half the processor time, and is short. Between a call and its return nothing
else runs, so the SSL object is never entered twice.

*What may surprise.* A write may want a read, and the reverse: `SSL_write` reads while a handshake
is under way, `SSL_read` writes handshake messages, alerts, answers to a KeyUpdate. So a direction
of the stream is not a direction of the socket, and two tasks may come to wait for the same one;
`sockets.SocketStream` lets them. Renegotiation, with which a peer could bring this about at any
time, is refused. Reading while a record is half written is allowed, with one exception that shows
as "bad length": a peer that asks twice for new keys before it has read the rest of that record
loses the connection. No client we know does; those that ask at all wait for the answer.

*Reading.* One `SSL_read` gives one record, 16 KiB at most. Giving each to the caller would cost a
task switch per record, so records that have arrived are gathered. Data may also wait inside
OpenSSL while the socket has nothing to read: always try first and wait after.

*Writing.* Left to itself pyOpenSSL enables partial writes, and then `SSL_write` returns after each
record; we clear that mode, so that one call carries a whole slice. A write that wants to wait has
already encrypted its record, and may have sent half of it: it must be called again with the same
bytes before anything else is written.

*Cancellation.* If the waiting is cancelled, that call never comes. What the peer has is half a
record, after which nothing can be said on the connection, not even good-bye: the stream is then
broken for good, for the task that receives as well. Cancelling before the first byte, or between
slices, leaves TLS intact, though what the peer has received is a piece of a message. A cancelled
receive loses nothing.

*Closing.* `aclose` sends a close_notify if there is room for it in the send buffer and waits for
nothing. The peer's close_notify and a bare end of the connection both read as b"": the protocols
above know by themselves where a message ends, and a client that disappears is no event. An end
during the handshake is an error.

*Threads.* An SSL object has no lock: a thread may use it only while the stream is lent to it, see
`sockets`.
"""

import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import ParamSpec, TypeVar

import trio
from cryptography import x509
from cryptography.hazmat.bindings.openssl.binding import Binding
from OpenSSL import SSL
from OpenSSL.crypto import X509

from appliance.serve.certificates import Certificate, CertificateError
from appliance.serve.clients import names_of
from appliance.serve.sockets import SocketStream, Want

_RECORD_SIZE = 16 * 1024

_GATHER_FROM = 1024
"""A record shorter than this ends the gathering: it is most likely a request's head, alone, and
asking for more would cost a system call and an exception. Go's clients begin their uploads with
records of 1.4 KB, which should be gathered."""

_ENABLE_PARTIAL_WRITE = 1  # pyOpenSSL sets SSL_MODE_ENABLE_PARTIAL_WRITE, but does not name it

# AES-128 first: the cheapest on anything with AES instructions. All are forward secret and AEAD.
_TLS13_SUITES = b"TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"
_TLS12_SUITES = (
    b"ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
    b"ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
    b"ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)

_ANSWER_TO_PLAIN_HTTP = (
    b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\n\r\n"
    b"This port speaks HTTPS; use https:// in place of http://\n"
)

# pyOpenSSL leaves what a system call failed with in OpenSSL's queue of errors, which belongs to the
# thread and not to the connection: the next connection would be blamed for it.
_library = Binding().lib

_P = ParamSpec("_P")
_R = TypeVar("_R")


def server_context(
    certificates: Sequence[Certificate],
    *,
    alpn: Sequence[str],
    client_authorities: Sequence[x509.Certificate] = (),
) -> SSL.Context:
    """Make what a listener's connections share; raises CertificateError if OpenSSL objects.

    A client that names its server gets the first certificate with just that name, then the first
    with a wildcard for it; every other client gets the first certificate. Of the protocols in
    `alpn` the first that the client offers is chosen; if it offers others only, or none, the
    connection proceeds without, which means HTTP/1.1 to every client there is. With
    `client_authorities`, clients may show a certificate; one that none of these has issued ends the
    handshake.

    A Context is frozen from its first connection on: when a certificate changes, call this again
    and use the result for new connections.
    """
    if not certificates:
        raise ValueError("a TLS server needs at least one certificate")
    first, *others = certificates
    context = _context_for(first, alpn, client_authorities)
    if not others:
        return context  # there is nothing to choose from, and asking costs each handshake
    # `None` stands for the context that is asking, which must not hold itself alive.
    by_name: dict[str, SSL.Context | None] = dict.fromkeys(first.names)
    for certificate in others:
        other = _context_for(certificate, alpn, client_authorities)
        for name in certificate.names:
            by_name.setdefault(name, other)

    def choose(connection: SSL.Connection) -> None:
        name = (connection.get_servername() or b"").decode("ascii", "replace").lower().rstrip(".")
        wildcard = "*." + name.partition(".")[2]
        chosen = by_name[name] if name in by_name else by_name.get(wildcard)
        if chosen is not None:
            connection.set_context(chosen)

    context.set_tlsext_servername_callback(choose)
    return context


def _context_for(
    certificate: Certificate, alpn: Sequence[str], client_authorities: Sequence[x509.Certificate]
) -> SSL.Context:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(
        SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION | SSL.OP_CIPHER_SERVER_PREFERENCE
    )
    context.clear_mode(_ENABLE_PARTIAL_WRITE)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)  # an idle connection keeps no 16 KiB buffers
    context.set_cipher_list(_TLS12_SUITES)
    context.set_tls13_ciphersuites(_TLS13_SUITES)
    # Sessions are resumed by tickets, which the clients keep, good with every certificate of the
    # listener. OpenSSL's own memory would hold thousands of sessions that nobody asks for.
    context.set_session_id(b"registry")
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    try:
        context.use_certificate(certificate.leaf)
        for issuer in certificate.chain:
            context.add_extra_chain_cert(issuer)
        context.use_privatekey(certificate.key)
        context.check_privatekey()
    except SSL.Error as error:
        raise CertificateError(
            f"{certificate.path} cannot be used for TLS ({_reason(error)})",
            "replace it and its key by a pair with an RSA key of 2048 bits or an ECDSA key",
        ) from error

    if client_authorities:
        known = context.get_cert_store()
        for authority in client_authorities:
            if known is not None:
                known.add_cert(X509.from_cryptography(authority))
        # Whether a chain is right is OpenSSL's to say; nothing here says otherwise.
        context.set_verify(SSL.VERIFY_PEER, lambda *found: bool(found[-1]))

    protocols = [name.encode("ascii") for name in alpn]
    context.set_alpn_select_callback(
        lambda _, offered: next(
            (name for name in protocols if name in offered), SSL.NO_OVERLAPPING_PROTOCOLS
        )
    )
    return context


class TLSStream(SocketStream):
    """TLS over a connected socket; see the top of this file.

    Call `do_handshake` first; nothing can be sent or received before.
    """

    def __init__(
        self,
        sock: socket.socket,
        context: SSL.Context,
        *,
        stall_seconds: float,
        server_side: bool = True,
    ) -> None:
        super().__init__(sock, stall_seconds=stall_seconds)
        self._tls = SSL.Connection(context, sock)
        if server_side:
            self._tls.set_accept_state()
        else:
            self._tls.set_connect_state()
        self._server_side = server_side
        self._ready = False
        self._ended = False

    async def do_handshake(self) -> None:
        """Agree on keys with the peer; raises trio.BrokenResourceError if that fails.

        There is no deadline here: put one round the call. After a failure, or a cancellation,
        only closing is left.
        """
        with self._sending, self._receiving:
            if self._ready:
                await trio.lowlevel.checkpoint()
                return
            if self._server_side:
                await self._wait(Want.READ)  # it is the client who begins
            await self._drive(self._shake_hands, self._wait)
            self._ready = True

    def selected_alpn_protocol(self) -> str | None:
        """Say which protocol was agreed on, if any."""
        self._require_handshake()
        return self._tls.get_alpn_proto_negotiated().decode("ascii") or None

    def client_names(self) -> tuple[str, ...]:
        """List the names in the certificate that the client has shown; see `clients`."""
        self._require_handshake()
        shown = self._tls.get_peer_certificate(as_cryptography=True)
        return names_of(shown) if shown is not None else ()

    def _shake_hands(self) -> Want | None:
        try:
            return self._call(self._tls.do_handshake)
        except EOFError:
            raise self._broken("the peer hung up during the TLS handshake") from None
        except trio.BrokenResourceError as error:
            if "http request" in str(error):
                self._answer_plain_http()
            raise

    def _answer_plain_http(self) -> None:
        with suppress(OSError):
            self.socket.send(_ANSWER_TO_PLAIN_HTTP)
            # With the request still unread, closing would reset the connection under the answer.
            self.socket.recv(_RECORD_SIZE)

    def _read(self, max_bytes: int) -> bytes | Want:
        self._require_handshake()
        record = self._read_record(max_bytes)
        if isinstance(record, Want):
            return record
        records = [record]
        room = max_bytes - len(record)
        # HTTP/2 makes a short record after each full one: only where it comes first is it alone.
        while room and record and (len(record) >= _GATHER_FROM or len(records) > 1):
            try:
                another = self._read_record(room)
            except trio.BrokenResourceError:
                break  # first what has arrived; the next call raises again
            if isinstance(another, Want):
                break
            record = another
            records.append(record)
            room -= len(record)
        return b"".join(records)

    def _holds_data(self) -> bool:
        return self._ended or bool(self._tls.pending())

    def _read_record(self, max_bytes: int) -> bytes | Want:
        if self._ended:
            return b""
        try:
            return self._call(self._tls.recv, min(max_bytes, _RECORD_SIZE))
        except EOFError:
            self._ended = True
            return b""

    def try_read_into(self, buffer: memoryview) -> int | Want:
        """Receive one record, or what of it fits; see SocketStream."""
        if self._ended:
            return 0
        try:
            return self._call(self._tls.recv_into, buffer, min(len(buffer), _RECORD_SIZE))
        except EOFError:
            self._ended = True
            return 0

    def try_write(self, data: memoryview) -> int | Want:
        """Send once; see SocketStream."""
        self._require_handshake()
        try:
            return self._call(self._tls.send, data)
        except EOFError:
            raise self._broken("the peer closed the connection") from None

    def _end(self) -> Want | None:
        self._require_handshake()
        try:
            outcome = self._call(self._tls.shutdown)
        except EOFError:
            raise self._broken("the peer closed the connection") from None
        if isinstance(outcome, Want):
            return outcome
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)
        return None

    def _farewell(self) -> None:
        if self._ready:
            with suppress(SSL.Error):
                self._tls.shutdown()

    def cut_short(self) -> None:
        """See SocketStream."""
        if self._fault is None and not self._closed:
            self._fault = "an earlier send was cancelled in the middle of a TLS record"
            # Wakes the task that receives, and lets the peer know; no good-bye, but nothing that
            # was sent before is lost either.
            with suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)

    def _require_handshake(self) -> None:
        if not self._ready:
            raise trio.NeedHandshakeError("call do_handshake() first")

    def _call(self, operation: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R | Want:
        """Translate pyOpenSSL's answers; EOFError when the peer has ended."""
        try:
            return operation(*args, **kwargs)
        except SSL.WantReadError:
            return Want.READ
        except SSL.WantWriteError:
            return Want.WRITE
        except SSL.ZeroReturnError as error:
            raise EOFError from error
        except SSL.SysCallError as error:
            _library.ERR_clear_error()
            if error.args[0] == -1:
                raise EOFError from error
            raise self._broken(f"the connection failed: {_reason(error)}") from error
        except SSL.Error as error:
            raise self._broken(f"TLS failed: {_reason(error)}") from error


def _reason(error: SSL.Error) -> str:
    """OpenSSL's words: the oldest entry of its error queue is where the trouble began."""
    match error.args:
        case ([(_, _, str(reason)), *_],):
            return reason
        case (int(), str(name)):
            return name
        case _:
            return "no reason given"
