"""The manual page registry.toml(5), from the comments of the settings file that is shipped."""

import re
from collections.abc import Iterator
from itertools import groupby

import roff

_TABLE = re.compile(r"^\[(\w+)\]$")
_KEY = re.compile(r"^\w+ = ")
_ROW = re.compile(r"^ *(\S+(?: \S+)*) {2,}(\S.*)$")
_CONTINUED = re.compile(r"^ {5,}(\S.*)$")


def page(text: str, version: str) -> str:
    """Write the page for the text of a settings file in which every line but tables is a comment."""
    lines = [
        roff.title("registry.toml", 5, version),
        roff.heading("NAME"),
        "registry.toml \\- the settings of the registry",
        roff.heading("DESCRIPTION"),
    ]
    for block in text.strip().split("\n\n"):
        table = _TABLE.match(block)
        lines += [roff.heading(f"[{table[1]}]")] if table else _block(block.splitlines())
    lines += [roff.heading("SEE ALSO"), "\\fBregistry\\fR(1)"]
    return roff.page(lines)


def _block(lines: list[str]) -> Iterator[str]:
    """Turn comments, and the keys or the example that they are about, into macros."""
    told: list[str] = []
    for is_prose, group in groupby(lines, key=lambda line: line == "#" or line.startswith("# ")):
        content = [line[1:].removeprefix(" ") for line in group]
        if is_prose:
            yield from _prose(told)
            told = content
        elif all(_KEY.match(line) for line in content):
            yield from _keys(content, told)
            told = []
        else:
            yield from _prose(told)
            yield from roff.example(content)
            told = []
    yield from _prose(told)


def _keys(keys: list[str], told: list[str]) -> Iterator[str]:
    if any(map(_ROW.match, told)):
        yield from roff.paragraph(keys)
        yield from roff.indented(_prose(told))
    else:
        yield from roff.entry(keys, filter(None, told))


def _prose(lines: list[str]) -> Iterator[str]:
    """Turn sentences into paragraphs, and rows of two columns into terms."""
    within = ""
    for line in lines:
        row, continued = _ROW.match(line), _CONTINUED.match(line)
        if row:
            yield from roff.entry([row[1]], [row[2]])
            within = "row"
        elif continued and within == "row":
            yield roff.escaped(continued[1])
        elif not line:
            within = ""
        else:
            if within != "paragraph":
                yield ".PP"
            within = "paragraph"
            yield roff.escaped(line)
