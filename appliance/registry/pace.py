"""Work at no more than so many bytes a second, and how far it has come."""

import trio

from appliance.registry.progress import Progress, Report

_LAG_MAX = 2.0  # seconds of work that may be made up for after a wait


class Pacer:
    """Holds back whoever tells it of bytes; `rate` is in bytes a second, 0 as fast as may be."""

    def __init__(self, rate: int, report: Report) -> None:
        self.done = 0
        self.total = 0
        self._rate = rate
        self._report = report
        self._due = trio.current_time()

    async def __call__(self, size: int) -> None:
        """Take note of bytes that were read, and wait until the next ones may be."""
        self.done += size
        self._report(Progress("verifying", self.done, max(self.total, self.done), "bytes"))
        if self._rate:
            now = trio.current_time()
            self._due = max(self._due, now - _LAG_MAX) + size / self._rate
            await trio.sleep(max(0.0, self._due - now))
        else:
            await trio.lowlevel.checkpoint()
