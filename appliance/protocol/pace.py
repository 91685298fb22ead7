"""How long a sender may take: so many bytes in each period, or it is not sending at all."""

BYTES_MIN = 16 << 10
"""What must arrive within each period: any line that works brings it, a trickle kept up only to
hold a connection does not."""


class Pace:
    """Watches over one body; the clock is whichever the caller gives the times of, in seconds."""

    __slots__ = ("_arrived", "_period", "deadline")

    def __init__(self, period: float, now: float) -> None:
        self._period = period
        self._arrived = 0
        self.deadline = now + period
        """When to give up, unless more arrives before."""

    def count(self, size: int, now: float) -> None:
        """Take note of bytes that have arrived."""
        self._arrived += size
        if self._arrived >= BYTES_MIN:
            self._arrived = 0
            self.deadline = now + self._period
