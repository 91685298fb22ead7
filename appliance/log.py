"""Logs: one event a line on standard error, as text for a person and JSON for a machine.

Secrets stay out because nothing that holds one is ever given to a logger: credentials print
without their password, headers and query strings are not logged at all.

Whoever reads the lines may be slow, or not read at all, and the loop must not wait for it. So they
are collected and written by a thread, a few times a second, which is also much cheaper than a
system call for each request. What is left is written at the end of the process.
"""

import atexit
import io
import json
import logging
import os
import sys
import threading
import time
from typing import Literal, TextIO

import msgspec
import structlog

_COLLECT_SECONDS = 0.05
_FINISH_SECONDS = 2.0
_WAITING_MAX = 16 << 20
"""Bytes of lines that wait to be written; those beyond are lost, and counted."""


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
    try:
        factory = (
            structlog.PrintLoggerFactory(stream) if stream else _Writer(target.fileno()).logger
        )
    except io.UnsupportedOperation:  # it is no file
        factory = structlog.PrintLoggerFactory(target)
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
    try:
        line = _encoder.encode(event)
    except ValueError:  # half a character, such as a stranger's JSON can hold, is none in UTF-8
        return json.dumps(event, default=repr)
    # Beyond ASCII there are characters that some readers take for the end of a line.
    return line.decode() if line.isascii() else json.dumps(json.loads(line))


_encoder = msgspec.json.Encoder(enc_hook=repr)


class _Writer:
    """Collects lines and writes them from a thread of its own, past the stream's own buffer."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._turn = threading.Lock()
        self._lines: list[bytes] = []
        self._size = 0
        self._lost = 0
        self._some = threading.Event()
        self._none = threading.Event()
        self._thread: threading.Thread | None = None

    def logger(self, *_: object) -> "_Writer":
        return self

    def msg(self, line: str) -> None:
        """Take a line."""
        content = line.encode("utf-8", "backslashreplace") + b"\n"
        with self._turn:
            if self._size + len(content) > _WAITING_MAX:
                self._lost += 1
                return
            self._size += len(content)
            self._lines.append(content)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="log", daemon=True)
            self._thread.start()
            atexit.register(self._finish)
        if not self._some.is_set():
            self._none.clear()
            self._some.set()

    debug = info = warning = error = critical = msg

    def _run(self) -> None:
        while True:
            self._some.wait()
            time.sleep(_COLLECT_SECONDS)
            self._some.clear()
            self._write()
            if not self._some.is_set():
                self._none.set()

    def _finish(self) -> None:
        """Wait for the thread to write what is left, but not for a reader that does not read."""
        self._none.wait(_FINISH_SECONDS)

    def _write(self) -> None:
        with self._turn:
            lines, self._lines, self._size = self._lines, [], 0
            lost, self._lost = self._lost, 0
        if lost:
            lines.append(b"%d lines were lost: nobody took them in time\n" % lost)
        remaining = memoryview(b"".join(lines))
        try:
            while remaining:
                remaining = remaining[os.write(self._descriptor, remaining) :]
        except OSError:  # a full disk, or nobody there: later lines may fare better
            with self._turn:
                self._lost += lost + len(lines)
