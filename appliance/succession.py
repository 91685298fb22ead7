"""The line of daemons over one data folder, as one of them sees it: who was before, and who follows.

The steps of a handover are those of `handover`; here is what each of them means for this daemon.
A daemon may make room while the one before it still has transfers; it ends after that one then, and
asks in both directions for an upload session that it does not have.
"""

import socket
from contextlib import suppress

import structlog
import trio

from appliance import notify
from appliance.chores import Chores
from appliance.handover import (
    Channel,
    HandoverError,
    Message,
    Passed,
    Predecessor,
    killed_unless_done,
    start_successor,
)
from appliance.oci.errors import RegistryError
from appliance.operations import OperatorApplication
from appliance.parts import Parts
from appliance.registry.registry import Registry

_log = structlog.get_logger()


class Succession:
    """The daemons before and after this one, if there are any."""

    def __init__(
        self,
        parts: Parts,
        registry: Registry,
        chores: Chores,
        operator: OperatorApplication,
        predecessor: Predecessor | None,
    ) -> None:
        self._parts = parts
        self._registry = registry
        self._chores = chores
        self._operator = operator
        self._predecessor = predecessor
        self._before: Channel | None = None  # until that one has ended
        self._after: Channel | None = None
        self.alone = trio.Event()
        """Set once the daemon before has ended, or there was none."""
        self.is_main = trio.Event()
        """Set once this is the process that systemd listens to."""

    @property
    def is_followed(self) -> bool:
        """Whether another daemon has taken over."""
        return self._after is not None

    async def take_over(self) -> bool:
        """Have the daemon before let go, if there is one; tell whether there is.

        Raises SettingsError where it does not let go.
        """
        if self._predecessor is None:
            self.alone.set()
            self.is_main.set()
            return False
        self._share()
        self._before = await self._predecessor.take_over()
        return True

    async def say_serving(self) -> None:
        """Let the daemon before know that this one accepts connections, if there is one."""
        if self._before is not None:
            with suppress(HandoverError):  # it has ended, which `hear_before` notices
                await self._before.say(Message("serving"))

    async def hear_before(self) -> None:
        """Follow the daemon before to its end; without a word about its leases, all count anew."""
        channel = self._before
        if channel is None:
            return
        leases = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(channel.pass_on_asking)
            async for message in channel.hear():
                self._give_up(message, self._after)
                leases = message.leases or leases
                if message.says == "main":
                    self.is_main.set()
            nursery.cancel_scope.cancel()
        if leases is None:
            self._registry.leases.touch_all_before(0)
        else:
            self._registry.leases.adopt(leases)
        await self._registry.uploads.look_again()
        self._before = None
        self._end_sharing()
        self.alone.set()
        self.is_main.set()
        _log.info("the daemon before has ended", leases_adopted=leases is not None)

    async def hand_over(self, nursery: trio.Nursery) -> bool:
        """Have the next daemon started and let it take over; tell whether it has.

        The steps are those of `handover`.
        """
        _log.info("starting the next daemon")
        try:
            await self._parts.folder.database.leave_checkpoints()
            channel, pid = await self._let_take_over()
        except (HandoverError, RegistryError, OSError) as error:
            await self._resume(nursery)
            _log.error("not followed by another daemon, serving on", reason=str(error))
            notify.status(f"not followed by another registry: {error}")
            return False
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await self._resume(nursery)
            raise
        notify.succeeded_by(pid)
        with suppress(HandoverError):
            await channel.say(Message("main"))
        nursery.start_soon(channel.pass_on_asking)
        nursery.start_soon(self._hear_after, channel)
        return True

    async def leave(self) -> None:
        """Tell the daemon that follows what is leased, if one does."""
        if self._after is not None:
            with suppress(HandoverError):
                await self._after.say(Message("leases", leases=self._registry.leases.export()))

    async def _let_take_over(self) -> tuple[Channel, int]:
        """Return the line to the daemon that serves now, and its process; raises HandoverError."""
        ours, theirs = socket.socketpair()
        channel = Channel(ours)
        try:
            with theirs:
                await start_successor(self._passed(theirs))
            successor = await channel.expect("ready")
            async with killed_unless_done(successor.pid):
                await self._chores.end()
                await self._operator.stop()
                self._after = channel
                self._share()
                await self._registry.uploads.share()
                await channel.say(Message("yours"))
                await channel.expect("serving")
        except BaseException:
            with trio.CancelScope(shield=True):
                await channel.close()
            raise
        return channel, successor.pid

    async def _resume(self, nursery: trio.Nursery) -> None:
        """Go on as if no other daemon had been started."""
        self._after = None
        await self._registry.uploads.look_again()
        self._end_sharing()
        self._parts.folder.lock.renew()
        self._operator.resume()
        if self._chores.ended:
            nursery.start_soon(self._chores.run)

    def _passed(self, theirs: socket.socket) -> Passed:
        sockets, systemd = self._parts.sockets, self._parts.systemd
        listening = [sock.fileno() for sock in (*sockets.tls, *sockets.plain)]
        return Passed(
            channel=theirs.fileno(),
            lock=self._parts.folder.lock.descriptor,
            control=self._parts.control.fileno(),
            systemd=[number for number in listening if number in systemd],
            before=[number for number in listening if number not in systemd],
        )

    def _share(self) -> None:
        """Know that another daemon is at work in the folder."""
        self._parts.folder.database.share(shared=True)
        self._registry.sharing.begin(self._ask_for)

    def _end_sharing(self) -> None:
        """Know that it is not any more, unless there is yet another one."""
        if self._before is None and self._after is None:
            self._parts.folder.database.share(shared=False)
            self._parts.folder.database.take_checkpoints()
            self._registry.sharing.end()

    def _ask_for(self, session: str) -> None:
        for channel in (self._before, self._after):
            if channel is not None:
                channel.ask(session)

    async def _hear_after(self, channel: Channel) -> None:
        async for message in channel.hear():
            self._give_up(message, self._before)

    def _give_up(self, message: Message, elsewhere: Channel | None) -> None:
        if message.session:
            self._registry.uploads.give_up(message.session)
            if elsewhere is not None:
                elsewhere.ask(message.session)
