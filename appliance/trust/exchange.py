"""One request and its answer, with an end to it: in bytes, and in seconds however slowly these come."""

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx2

SECONDS_IN_ALL = 4
"""Deadlines of one wait that a whole answer may take."""


# TLS takes the socket over from the connection beneath, which is then none any more.
_CONNECTED = ("connection.connect_tcp.complete", "connection.start_tls.complete")


class NoAnswerError(Exception):
    """No whole answer came; the message says why, without its final stop."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: httpx2.Headers
    body: bytes


@contextmanager
def cut_after(seconds: float) -> Iterator[Callable[[socket.socket], None]]:
    """Shut down the sockets that are handed over, once so much time has gone by.

    A timeout of a socket is one for each wait, which a peer that sends a byte now and then never reaches.
    """
    handed: list[socket.socket] = []
    is_late = threading.Event()

    def hand_over(sock: socket.socket) -> None:
        handed.append(sock)
        if is_late.is_set():
            _shut(sock)

    def cut() -> None:
        is_late.set()
        for sock in handed:
            _shut(sock)

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield hand_over
    finally:
        timer.cancel()
        timer.join()


def exchange(
    client: httpx2.Client,
    method: str,
    url: str,
    within: float,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    limit: int,
) -> Answer:
    """Send a request and read its answer; `within` is for each wait.

    Raises NoAnswerError, also for a body of more than `limit` bytes.
    """
    started = time.monotonic()
    with cut_after(SECONDS_IN_ALL * within) as hand_over:

        def trace(event: str, info: Mapping[str, Any]) -> None:
            if event in _CONNECTED:
                hand_over(info["return_value"].get_extra_info("socket"))

        try:
            with client.stream(
                method,
                url,
                headers={"Accept-Encoding": "identity", **(headers or {})},
                content=body,
                extensions={"trace": trace},
            ) as response:
                content = b""
                for piece in response.iter_raw():
                    content += piece
                    if len(content) > limit:
                        raise NoAnswerError("the answer is too large")
        except httpx2.TimeoutException:
            raise NoAnswerError(f"no answer within {within:g} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            if time.monotonic() - started > SECONDS_IN_ALL * within:
                raise NoAnswerError("the answer comes too slowly") from None
            raise NoAnswerError(str(error) or "the connection was closed") from None
        except ValueError:  # what an answer told to send on cannot be sent
            raise NoAnswerError("what it answered before makes no request") from None
    return Answer(response.status_code, response.headers, content)


def _shut(sock: socket.socket) -> None:
    descriptor = sock.fileno()
    if descriptor < 0:
        return  # closed, or taken over by TLS
    # Beneath TLS, whose own methods another thread is in.
    with suppress(OSError), socket.socket(fileno=descriptor) as beneath:
        try:
            beneath.shutdown(socket.SHUT_RDWR)
        finally:
            beneath.detach()
