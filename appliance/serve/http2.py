"""HTTP/2 for one connection, by hypercorn."""

from math import inf
from typing import cast

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Event, Updated
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext

from appliance.serve.connection import ASGIApplication, Endpoints, Timeouts
from appliance.serve.sockets import SocketStream


class Http2Connection:
    """One connection, from its first request to its last."""

    def __init__(
        self,
        stream: SocketStream,
        application: ASGIApplication,
        endpoints: Endpoints,
        timeouts: Timeouts,
    ) -> None:
        config = Config()
        config.errorlog = None
        config.include_server_header = False
        config.keep_alive_timeout = timeouts.idle
        config.ssl_handshake_timeout = timeouts.handshake
        config.keep_alive_max_requests = cast("int", inf)
        self._context = WorkerContext(None)
        self._server = _Server(
            ASGIWrapper(application),
            config,
            self._context,
            {},
            cast("trio.SSLStream[trio.SocketStream]", stream),
        )

    async def serve(self) -> None:
        """Answer requests until either side has had enough."""
        await self._server.run()

    def stop(self) -> None:
        """End with the requests under way."""
        self._context.terminated._event.set()


class _Server(TCPServer):
    _peer_left = False

    async def protocol_send(self, event: Event) -> None:
        if not (self._peer_left and isinstance(event, Updated)):
            await super().protocol_send(event)

    async def _read_data(self) -> None:
        await super()._read_data()
        self._peer_left = True
        await self.idle_task.stop()
