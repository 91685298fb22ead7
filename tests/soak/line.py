"""A connection that is kept for many requests."""

from collections.abc import Mapping

from tests.system.wire import Answer, Body, Client


class Line:
    """One client's connection, made at the first request and again whenever it has ended."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._connection = client.connection(within=60)

    def request(
        self,
        method: str,
        target: str,
        body: Body | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Ask, and wait for the whole answer; raises OSError or HTTPException when none comes."""
        try:
            self._connection.request(
                method,
                target,
                body,
                self._client.authorization() | dict(headers or {}),
                encode_chunked=body is not None and not isinstance(body, bytes),
            )
            response = self._connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Hang up."""
        self._connection.close()
