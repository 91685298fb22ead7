"""Asking a registry over HTTP as its clients do, with a deadline and a limit to what is read."""

import ssl
from collections.abc import Mapping
from typing import Self

import httpx2

from appliance.doctor.presented import Believed
from appliance.doctor.wire import connect
from appliance.trust.exchange import Answer, exchange
from appliance.trust.peer import context_for, unchecked_context
from appliance.trust.place import Place

_BODY_MAX = 1 << 20


class Asker:
    """Somebody who asks one registry, past every proxy."""

    def __init__(self, place: Place, believed: Believed | None, within: float) -> None:
        """Ask there; whom nobody believes is asked all the same, and gets no password (`is_safe`)."""
        self._place = place
        self._believed = believed
        self._within = within
        self.is_safe = believed is None or believed.wholly
        self._client = httpx2.Client(
            verify=self._context(),
            trust_env=False,
            timeout=within,
            headers={"User-Agent": "registry-doctor"},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def ask(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """Send a request to a path, or to a whole URL; raises NoAnswerError."""
        url = target if "://" in target else f"{self._place.url}{target}"
        return exchange(
            self._client, method, url, self._within, headers=headers, body=body, limit=_BODY_MAX
        )

    def announce(self, size: int) -> int:
        """Say that a body of that size is to come, and read the status that answers; raises OSError.

        The body stays away: whoever minds its size says so at once, and so does whoever wants a password first.
        """
        head = (
            f"POST /v2/registry-doctor/size/blobs/uploads/ HTTP/1.1\r\nHost: {self._place.name}\r\n"
            f"Content-Type: application/octet-stream\r\nContent-Length: {size}\r\n"
            "Expect: 100-continue\r\nUser-Agent: registry-doctor\r\n\r\n"
        )
        with connect(self._place, self._within) as sock:
            channel = (
                sock
                if self._believed is None
                else self._context().wrap_socket(sock, server_hostname=self._place.host)
            )
            with channel:
                channel.sendall(head.encode())
                line = channel.recv(64).split()
        if len(line) < 2 or not line[1].isdigit():
            raise OSError("the connection was closed")
        return int(line[1])

    def _context(self) -> ssl.SSLContext:
        if self._believed is None or not self._believed.wholly:
            return unchecked_context()
        return context_for(self._believed.authorities, beside_system=True)
