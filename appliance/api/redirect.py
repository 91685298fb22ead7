"""What a plain HTTP listener answers beside TLS: the same address over TLS."""

from appliance.api.answering import Receive, Scope, Send
from appliance.api.exchange import Exchange
from appliance.oci.errors import REQUEST_INVALID
from appliance.protocol.addresses import HOST


class RedirectToTls:
    """An ASGI application that sends every request on, with method and body kept (308)."""

    def __init__(self, *, port: int, public_url: str, stall_seconds: float) -> None:
        self._port = port
        self._public_url = public_url
        self._stall_seconds = stall_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close"})
            return
        exchange = Exchange(scope, receive, send, stall_seconds=self._stall_seconds)
        base = self._base(exchange.header(b"host") or "")
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
