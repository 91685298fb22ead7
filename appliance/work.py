"""Worker threads by purpose, so that a burst of one kind of work cannot starve another.

trio's own limiter would let forty logins stand before every disk read. Each kind has its own
bound here, and nothing else in the daemon starts threads for short work.
"""

import os
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

import trio

T = TypeVar("T")
Args = TypeVarTuple("Args")

# Disk work waits for the device more than for a core.
_DISK = trio.CapacityLimiter(32)
# Transfers burn cores; each turn is short, so that more of them than there are threads only take
# longer, all alike. Those on their way in also wait for the device, for which the others need not.
_SENDING = trio.CapacityLimiter(4 * (os.cpu_count() or 1))
_RECEIVING = trio.CapacityLimiter(4 * (os.cpu_count() or 1))
# bcrypt burns a core for its whole run; one is left for everything else.
_PASSWORD = trio.CapacityLimiter(max(1, (os.cpu_count() or 1) - 1))


async def disk(function: Callable[[*Args], T], *args: *Args) -> T:
    """Run a function that reads, writes or hashes files; cancellation waits for its end."""
    return await trio.to_thread.run_sync(function, *args, limiter=_DISK)  # noqa: TID251  this is the owner


async def sending(function: Callable[[*Args], T], *args: *Args) -> T:
    """Run one turn of a body on its way out; cancellation waits for its end."""
    return await trio.to_thread.run_sync(function, *args, limiter=_SENDING)  # noqa: TID251  likewise


async def receiving(function: Callable[[*Args], T], *args: *Args) -> T:
    """Run one turn of a body on its way in; cancellation waits for its end."""
    return await trio.to_thread.run_sync(function, *args, limiter=_RECEIVING)  # noqa: TID251  likewise


async def password(function: Callable[[*Args], T], *args: *Args) -> T:
    """Run a function that hashes a password; cancellation waits for its end."""
    return await trio.to_thread.run_sync(function, *args, limiter=_PASSWORD)  # noqa: TID251  likewise
