"""Logs: one event a line on standard error, as text for a person and JSON for a machine.

Secrets stay out because nothing that holds one is ever given to a logger: credentials print
without their password, headers and query strings are not logged at all.

Whoever reads the lines may be slow, or not read at all, and the loop must not wait for it. So they
are collected and written by a thread, a few times a second, which is also much cheaper than a
system call for each request. What is left is written at the end of the process.
"""

import atexit
import json
import logging
import sys
import threading
import time
from collections import deque
from typing import Literal, TextIO

import msgspec
import structlog

_COLLECT_SECONDS = 0.05
_LINES_MAX = 100_000


def configure(
    form: Literal["auto", "text", "json"], level: str, stream: TextIO | None = None
) -> None:
    """Set up logging for the process; `auto` means text on a terminal and JSON otherwise.

    Lines go to standard error by a thread, or straight to a stream that is given.
    """
    target = stream or sys.stderr
    as_text = form == "text" or (form == "auto" and target.isatty())
    render: list[structlog.typing.Processor] = (
        # A traceback of the richer kind would show local variables, and passwords among them.
        [
            structlog.dev.ConsoleRenderer(
                colors=target.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
        if as_text
        else [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=_json),
        ]
    )
    factory = structlog.PrintLoggerFactory(target) if stream else _Writer(target).logger
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )


def _json(event: dict[str, object], **_: object) -> str:
    line = _encoder.encode(event)
    # Beyond ASCII there are characters that some readers take for the end of a line.
    return line.decode() if line.isascii() else json.dumps(json.loads(line))


_encoder = msgspec.json.Encoder(enc_hook=repr)


class _Writer:
    """Collects lines and writes them from a thread of its own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lines: deque[str] = deque()
        self._lost = 0
        self._some = threading.Event()
        self._turn = threading.Lock()
        self._thread: threading.Thread | None = None

    def logger(self, *_: object) -> "_Writer":
        return self

    def msg(self, line: str) -> None:
        """Take a line."""
        if len(self._lines) >= _LINES_MAX:
            self._lost += 1
            return
        self._lines.append(line)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="log", daemon=True)
            self._thread.start()
            atexit.register(self._write)
        if not self._some.is_set():
            self._some.set()

    debug = info = warning = error = critical = msg

    def _run(self) -> None:
        while True:
            self._some.wait()
            time.sleep(_COLLECT_SECONDS)
            self._some.clear()
            self._write()

    def _write(self) -> None:
        with self._turn:
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
            if self._lost:
                lines.append(f"{self._lost} lines were lost: nobody read them in time")
                self._lost = 0
            if lines:
                self._stream.write("\n".join(lines) + "\n")
                self._stream.flush()
