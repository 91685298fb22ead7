"""One row of the table: a sentence that binds a registry, and the texts that have it."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["MUST", "MUST NOT", "SHOULD", "SHOULD NOT", "MAY"]
Version = Literal["1.1", "dev"]
Said = Literal["1.1", "1.1 only", "dev"]

VERSIONS: tuple[Version, ...] = ("1.1", "dev")
"""The released text, and the text under development, which contains most of it."""

_SAYS: dict[Version, set[Said]] = {"1.1": {"1.1", "1.1 only"}, "dev": {"1.1", "dev"}}


@dataclass(frozen=True, slots=True)
class Clause:
    """One obligation, or one permission."""

    id: str
    section: str
    level: Level
    said: Said
    """Since when: `1.1 only` is what the later text has dropped, or has said again more strictly."""
    sentence: str

    def applies(self, version: Version) -> bool:
        """Tell whether the text of that version says so."""
        return self.said in _SAYS[version]


def section(title: str, *rows: tuple[str, Level, Said, str]) -> tuple[Clause, ...]:
    """Make the rows of a section."""
    return tuple(Clause(id_, title, level, said, text) for id_, level, said, text in rows)
