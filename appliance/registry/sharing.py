"""Two daemons over one data folder: while one that leaves finishes its transfers, its successor serves.

Blobs never change, and records are as both find them in the catalogue. What is left are upload
sessions, each of which has one writer at a time: whoever writes has a claim on its bytes, and who
wants it after them asks them to give it up, as a newer request does within one daemon. And what is
there once for a folder, sweeps above all, waits until there is one daemon again: leases that the
other one gives are not known here.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from appliance.oci.errors import SESSION_TAKEN_OVER
from appliance.registry.ports import Staged
from appliance.registry.progress import Progress, Report

_CLAIM_SECONDS = 10.0  # of which a request that is asked to give up a session needs a moment
_ASK_EVERY = 0.05


class Sharing:
    """Whether another daemon is at work in the same folder, and what follows from that."""

    def __init__(self) -> None:
        self._ask: Callable[[str], None] | None = None
        self._alone = trio.Event()
        self._alone.set()

    @property
    def is_shared(self) -> bool:
        """Whether there is another daemon now."""
        return self._ask is not None

    def begin(self, ask: Callable[[str], None]) -> None:
        """Know that there is another daemon; `ask` tells it to give up an upload session."""
        if self._ask is None:
            self._alone = trio.Event()
        self._ask = ask

    def end(self) -> None:
        """Know that there is none any more."""
        self._ask = None
        self._alone.set()

    async def be_alone(self, report: Report) -> None:
        """Wait until there is no other daemon, and say so."""
        if self.is_shared:
            report(Progress("waiting for transfers that began before an upgrade", 0))
        await self._alone.wait()

    @asynccontextmanager
    async def writing(self, session_id: str, staged: Staged) -> AsyncIterator[None]:
        """Keep the bytes of a session from the other daemon, if there is one.

        Raises SESSION_TAKEN_OVER where that one does not let go of them, and BLOB_UPLOAD_UNKNOWN
        where it has ended the session.
        """
        if self.is_shared:
            await self._claim(session_id, staged)
        try:
            yield
        finally:
            if staged.is_claimed:  # it may have come to be meanwhile
                with trio.CancelScope(shield=True):  # a descriptor is closed
                    await staged.release()

    async def _claim(self, session_id: str, staged: Staged) -> None:
        with trio.move_on_after(_CLAIM_SECONDS):
            while not await staged.claim():
                if self._ask is not None:
                    self._ask(session_id)
                await trio.sleep(_ASK_EVERY)
            return
        raise SESSION_TAKEN_OVER.error(
            "another request still writes to this upload session; try again in a moment"
        )
