"""What is asked about the registry itself: is it here, does it work, whom does it trust."""

from appliance import __version__
from appliance.api.exchange import Exchange
from appliance.oci.errors import PATH_UNKNOWN
from appliance.registry.access import Grant
from appliance.registry.readiness import Readiness

_TEXT = (("Content-Type", "text/plain; charset=utf-8"),)


class ServiceResource:
    """`/`, `/v2/`, `/healthz`, `/readyz` and `/ca.crt`."""

    def __init__(self, readiness: Readiness, authority: bytes | None) -> None:
        self._readiness = readiness
        self._authority = authority

    async def home(self, exchange: Exchange, grant: Grant) -> None:
        """Tell a person who opens the address what this is."""
        host = exchange.header(b"host") or "HOST"
        text = (
            f"This is a container registry ({__version__}).\n\n"
            f"    docker login {host}\n"
            f"    docker push {host}/NAME:TAG\n"
        )
        await exchange.answer(200, _TEXT, text.encode("latin-1"))

    async def base(self, exchange: Exchange, grant: Grant) -> None:
        """Tell a client that it speaks to a registry and that its credentials are right."""
        await exchange.answer_json(200, {})

    async def health(self, exchange: Exchange, grant: Grant) -> None:
        """Answer 200: the process is alive."""
        await exchange.answer(200, _TEXT, b"alive\n")

    async def ready(self, exchange: Exchange, grant: Grant) -> None:
        """Answer 200 when blobs can be written and records read, else 503 with the reason."""
        fault = await self._readiness.fault()
        if fault is None:
            await exchange.answer(200, _TEXT, b"ready\n")
        else:
            await exchange.answer(503, _TEXT, f"{fault}\n".encode())

    async def authority(self, exchange: Exchange, grant: Grant) -> None:
        """Hand out the certificate authority that clients are to trust, if it is ours."""
        if self._authority is None:
            raise PATH_UNKNOWN.error("the certificate does not come from an authority of its own")
        headers = (("Content-Type", "application/x-x509-ca-cert"),)
        await exchange.answer(200, headers, self._authority)

    async def missing(self, exchange: Exchange, grant: Grant) -> None:
        """Refuse, where nobody needs a token."""
        raise PATH_UNKNOWN.error()
