"""What a plain HTTP listener answers beside TLS: the same address over TLS."""

from appliance.api.answering import Receive, Scope, Send
from appliance.api.doors import Doors
from appliance.api.exchange import Exchange
from appliance.oci.errors import REQUEST_INVALID, RegistryError
from appliance.protocol.addresses import HOST


class RedirectToTls:
    """An ASGI application that sends every request on, with method and body kept (308)."""

    def __init__(
        self, *, port: int, public_url: str, stall_seconds: float, doors: Doors | None = None
    ) -> None:
        self._port = port
        self._public_url = public_url
        self._stall_seconds = stall_seconds
        self._doors = doors or Doors()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close"})
            return
        exchange = Exchange(scope, receive, send, stall_seconds=self._stall_seconds)
        host = exchange.header(b"host") or ""
        try:
            self._doors.check_address(exchange.client)
            self._doors.check_host(host)
        except RegistryError as refusal:
            refused = {"code": refusal.row.code, "message": refusal.message}
            await exchange.answer_json(refusal.row.status, {"errors": [refused]})
            return
        base = self._base(host)
        if base is None:
            error = {"code": REQUEST_INVALID.code, "message": "the Host header is malformed"}
            await exchange.answer_json(REQUEST_INVALID.status, {"errors": [error]})
            return
        query = scope["query_string"]
        target = exchange.raw_path + (b"?" + query if query else b"")
        await exchange.answer(308, (("Location", base + target.decode("latin-1")),))

    def _base(self, host: str) -> str | None:
        if self._public_url:
            return self._public_url
        named = HOST.fullmatch(host)
        if named is None:
            return None
        return f"https://{named[1]}" + (f":{self._port}" if self._port != 443 else "")
