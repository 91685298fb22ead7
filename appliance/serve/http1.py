"""HTTP/1.1 for one connection, spoken to an ASGI application (RFC 9112, ASGI 3.0).

One task does it all: read a head, await the application, which pulls the body by `receive` and
answers by `send`, then read the next head. So requests that come together are answered in order,
nothing is read before somebody wants it, and a request costs no other task, queue or timer. A
response's head waits for the first of its body, and both leave in one write.

*Two extensions* let bodies move without passing through the application. `send` takes
`http.response.zerocopysend` with a file's descriptor. The scope's extension
`registry.request.drain` holds a function that hands the whole body to a sink in worker threads;
it raises ConnectionError when the client is gone and TimeoutError when it stalls.

*Expectations.* `100 Continue` is sent when the application first asks for the body, not before it
has had a look at the head: a client that is to be refused keeps its gigabytes.

*Early answers.* A client that is answered while it still sends would, were the connection closed
upon it, see that as an error and never read the answer. So our side is ended, and for a while what
still comes is read and dropped.
"""

from http import HTTPStatus
from math import inf

import structlog
import trio

from appliance.serve.connection import ASGIApplication, Endpoints, Timeouts
from appliance.serve.heads import (
    END,
    HEAD_MAX,
    RefusalError,
    RequestHead,
    check_partial,
    parse_head,
    refusal,
)
from appliance.serve.http1_request import Channel, Request
from appliance.serve.sockets import GONE, SocketStream

_log = structlog.get_logger()


class Http1Connection(Channel):
    """One connection, from its first request to its last."""

    def __init__(
        self,
        stream: SocketStream,
        application: ASGIApplication,
        endpoints: Endpoints,
        timeouts: Timeouts,
    ) -> None:
        super().__init__(stream, endpoints, timeouts)
        self._application = application
        self._idle_since = inf
        self._used = False

    async def serve(self) -> None:
        """Answer requests until either side has had enough; the stream is left open.

        Raises trio.BrokenResourceError and trio.ClosedResourceError when the client is gone.
        """
        try:
            while (head := await self._next_head()) is not None:
                if not await self._answer(head):
                    return
                if self.arrived:  # the next is here already, but others are waiting too
                    await trio.lowlevel.checkpoint()
        except RefusalError as error:
            await self._refuse(error)

    def stop(self) -> None:
        """End with the request under way, or now if there is none."""
        self.stopping = True
        if self._idle_since < inf and not self.stream.has_arrived():
            self.stream.close()

    def retire(self) -> None:
        """End with the next request that is answered, the one under way if there is one."""
        self.retiring = True

    def expire(self, now: float) -> None:
        """End if no request has come for too long; to be called now and then."""
        if now - self._idle_since >= self.timeouts.idle and not self.stream.has_arrived():
            self.stream.close()

    async def _refuse(self, error: RefusalError) -> None:
        await self.stream.send_all(refusal(error))
        await self.linger()

    async def _next_head(self) -> RequestHead | None:
        """Wait for a request; None when there will not be one."""
        arrived = self.arrived
        since = trio.current_time()
        while (end := self._end_of_head()) < 0:
            if self.stopping and not arrived:
                return None
            if not await (self._complete_head() if arrived else self._begin_head(since)):
                return None
        self._used = True
        end += len(END)
        if end > HEAD_MAX:
            check_partial(arrived)
        head = bytes(arrived[:end])
        del arrived[:end]
        return parse_head(head)

    def _end_of_head(self) -> int:
        """Find where a head ends among what has arrived; -1 when it does not yet."""
        arrived = self.arrived
        while arrived.startswith(b"\r\n"):  # left over from clients of long ago (RFC 9112, 2.2)
            del arrived[:2]
        end = arrived.find(END)
        if end < 0 and arrived != b"\r":
            check_partial(arrived)
        return end

    async def _begin_head(self, since: float) -> bool:
        """Receive the first of a request; False when the client leaves instead."""
        # A first request comes on the heels of the handshake, a later one when it comes.
        receive = self.stream.receive_next if self._used else self.stream.receive_some
        self._idle_since = since  # `expire` has the deadline, which so costs nothing here
        try:
            self.arrived += await receive()
        finally:
            self._idle_since = inf
        return bool(self.arrived)

    async def _complete_head(self) -> bool:
        """Receive the rest of a head; False when the client leaves before it is whole."""
        with trio.move_on_after(self.timeouts.head):
            while self._end_of_head() < 0:
                piece = await self.stream.receive_some()
                self.arrived += piece
                if not piece or not self.arrived.lstrip(b"\r\n"):
                    return bool(piece)
            return True
        sentence = f"the head did not arrive within {self.timeouts.head:g} seconds"
        raise RefusalError(HTTPStatus.REQUEST_TIMEOUT, sentence)

    async def _answer(self, head: RequestHead) -> bool:
        """Have the application answer; tell whether another request can follow."""
        request = Request(self, head)
        try:
            await self._application(request.scope(), request.receive, request.send)
        except GONE:
            raise
        except ConnectionError:
            pass
        except Exception:  # noqa: BLE001  one request must never end another
            _log.exception("application failed")
        return await request.end()
