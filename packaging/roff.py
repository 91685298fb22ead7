"""Text as the macros of manual pages, man(7), take it: plain ASCII, nothing in it taken for a macro."""

import os
import re
import time
from collections.abc import Iterable, Sequence

_ESCAPED = str.maketrans(
    {"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "^": "\\(ha", "~": "\\(ti"}
)


def escaped(text: str) -> str:
    """Return text that is shown as it is, whatever it begins with."""
    ascii_only = "".join(
        letter if letter.isascii() else f"\\[u{ord(letter):04X}]"
        for letter in text.translate(_ESCAPED)
    )
    return f"\\&{ascii_only}" if ascii_only.startswith(".") else ascii_only


def title(name: str, section: int, version: str) -> str:
    """Begin a page; its date is that of the sources where the environment tells it, else today."""
    seconds = int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
    date = time.strftime("%Y-%m-%d", time.gmtime(seconds))
    return f'.TH "{_quoted(name)}" {section} {date} "registry {_quoted(version)}" "Registry"'


def heading(text: str) -> str:
    """Begin a section."""
    return f'.SH "{_quoted(text)}"'


def subheading(text: str) -> str:
    """Begin a section within a section."""
    return f'.SS "{_quoted(text)}"'


def paragraph(lines: Iterable[str]) -> list[str]:
    """Return a paragraph; its lines are filled anew."""
    return [".PP", *(escaped(line) for line in lines)]


def entry(terms: Sequence[str], lines: Iterable[str]) -> list[str]:
    """Return terms, one below the other, and what is said about them."""
    first, *others = (f"\\fB{escaped(term)}\\fR" for term in terms)
    told = [".TP", first]
    for other in others:
        told += [".TQ", other]
    return [*told, *(escaped(line) for line in lines)]


def indented(lines: Iterable[str]) -> list[str]:
    """Move what follows a paragraph to the right."""
    return [".RS", *lines, ".RE"]


def example(lines: Iterable[str]) -> list[str]:
    """Return lines that stay as they are."""
    return [".PP", ".RS 4", ".EX", *(escaped(line) for line in lines), ".EE", ".RE"]


def page(lines: Iterable[str]) -> str:
    """Put a page together; what begins with a heading is a paragraph by itself."""
    text = "\n".join((*lines, ""))
    return re.sub(r"^(\.S[HS] .*\n)\.PP\n", r"\1", text, flags=re.MULTILINE)


def _quoted(text: str) -> str:
    return re.sub('"', '""', escaped(text))
