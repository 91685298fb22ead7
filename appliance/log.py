"""Logs: one event a line on standard error, as text for a person and JSON for a machine.

Secrets stay out because nothing that holds one is ever given to a logger: credentials print
without their password, headers and query strings are not logged at all.
"""

import logging
import sys
from typing import Literal, TextIO

import structlog


def configure(
    form: Literal["auto", "text", "json"], level: str, stream: TextIO = sys.stderr
) -> None:
    """Set up logging for the process; `auto` means text on a terminal and JSON otherwise."""
    as_text = form == "text" or (form == "auto" and stream.isatty())
    render: list[structlog.typing.Processor] = (
        # A traceback of the richer kind would show local variables, and passwords among them.
        [
            structlog.dev.ConsoleRenderer(
                colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
        if as_text
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
