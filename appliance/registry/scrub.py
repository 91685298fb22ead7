"""The scrub: everything that is kept is read over, so that damage is known before it is needed.

Each time is a round (see `round`). It may end anywhere, and the next one goes on from its place,
which is noted now and then. One runs at a time; one that an operator asks for goes before the one
that runs by itself.
"""

import time

import msgspec
import trio

from appliance.oci.damage import Verified
from appliance.registry.damage import Damage
from appliance.registry.locks import DigestLocks
from appliance.registry.ports import BlobStore
from appliance.registry.progress import Progress, Report, unheard
from appliance.registry.records import InspectionRecords
from appliance.registry.round import Place, Round, ScrubRules
from appliance.registry.sharing import Sharing
from appliance.registry.strays import Strays
from appliance.registry.sweep import Sweep

_AT_ONCE = 4


class Scrub:
    """The scrub of a registry; one runs at a time."""

    def __init__(
        self,
        *,
        store: BlobStore,
        records: InspectionRecords,
        locks: DigestLocks,
        sweep: Sweep,
        damage: Damage,
        sharing: Sharing,
    ) -> None:
        self._store = store
        self._records = records
        self._damage = damage
        self._sharing = sharing
        self._strays = Strays(store=store, records=records, locks=locks, sweep=sweep)
        self._turn = trio.Lock()
        self._background: trio.CancelScope | None = None
        self._last = 0.0  # when a round by itself ended, also one that could not note its place
        self.found: dict[str, int] = {}
        """How many findings of each state there have been since the start."""

    async def run(self, rules: ScrubRules, report: Report = unheard) -> Verified:
        """Scrub once because somebody asks for it.

        Raises NAME_UNKNOWN, and STORE_UNAVAILABLE and its like where it cannot be done at all.
        """
        await self._sharing.be_alone(report)
        if self._background is not None:
            self._background.cancel()
        if self._turn.locked():
            report(Progress("waiting for another verify to end", 0))
        async with self._turn:
            chore = "verify" if rules.repository is None else ""
            return await self._run(rules, report, chore, at_once=_AT_ONCE)

    async def run_by_itself(self, rules: ScrubRules) -> Verified | None:
        """Go on with the round that runs by itself; None where an operator's goes before it."""
        await self._sharing.be_alone(unheard)
        with trio.CancelScope() as scope:
            self._background = scope  # also while it waits, lest an operator's waits behind it
            try:
                async with self._turn:
                    verified = await self._run(rules, unheard, "scrub", at_once=1)
                    self._last = time.time()
                    return verified
            finally:
                self._background = None
        return None

    async def due(self, every: float) -> float:
        """Return in how many seconds the round that runs by itself is to begin or to go on."""
        place = await self._place("scrub")
        began = place.began if place is not None and place.ended else 0.0
        return max(0.0, max(began, self._last) + every - time.time())

    async def _run(
        self, rules: ScrubRules, report: Report, chore: str, *, at_once: int
    ) -> Verified:
        place = await self._place(chore) if chore else None
        if place is None or place.ended or rules.anew:
            place = Place(time.time())
        going = Round(
            self._store, self._records, self._damage, self._strays, rules, report, place, chore
        )
        going.at_once = at_once
        if not place.is_first:
            going.verified.remarks.append(
                "It goes on where an earlier verify was interrupted; --anew begins from the start"
            )
        try:
            await going.run()
        finally:
            for state, count in going.verified.counts.items():
                self.found[state] = self.found.get(state, 0) + count
        return going.verified

    async def _place(self, chore: str) -> Place | None:
        text = await self._records.place(chore)
        if text is None:
            return None
        try:
            return msgspec.json.decode(text, type=Place)
        except msgspec.DecodeError:  # damage, or a later version's
            return None
