"""How far long work has come, told to whoever wants to know."""

from collections.abc import Callable

import msgspec


class Progress(msgspec.Struct, frozen=True):
    """Where work stands."""

    doing: str
    """What is being done, as a person would be told: "verifying"."""
    done: int
    total: int = 0
    """How much there is to do; 0 where nobody knows."""
    unit: str = ""
    """What is counted: "bytes", or the plural of a thing."""


Report = Callable[[Progress], None]
"""Takes the latest progress; it is called often, returns at once and never fails."""


def unheard(progress: Progress) -> None:
    """Report to nobody."""
