"""Questions that cost something: asked once for all who wait for the answer, which is remembered."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import trio

from appliance.oci.errors import RegistryError

REMEMBERED_MAX = 10_000
"""Answers that a memory has room for."""

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


class Memory(Generic[K, T]):
    """What was found out lately, as far as there is room: what was kept first goes first."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._kept: OrderedDict[K, tuple[T, float]] = OrderedDict()

    def find(self, key: K) -> T | None:
        """Return what was kept, unless it is too old by now."""
        value, since = self._kept.get(key, (None, 0.0))
        return value if trio.current_time() < since + self._seconds else None

    def keep(self, key: K, value: T, *, since: float | None = None) -> None:
        """Keep an answer, to a question of that moment; None: of now."""
        self._kept[key] = value, trio.current_time() if since is None else since
        self._kept.move_to_end(key)
        while len(self._kept) > REMEMBERED_MAX:
            self._kept.popitem(last=False)


class Questions(Generic[K, T]):
    """Questions that are being asked, each by one for all who want to know."""

    def __init__(self) -> None:
        self._open: dict[K, _Question[T]] = {}

    def __len__(self) -> int:
        """Count those that are being asked."""
        return len(self._open)

    def __contains__(self, key: K) -> bool:
        """Tell whether one is being asked."""
        return key in self._open

    async def answer(self, key: K, ask: Callable[[], Awaitable[T]]) -> T:
        """Return the answer, or raise the RegistryError that asking ended with."""
        question = self._open.get(key)
        if question is None:
            question = self._open[key] = _Question(ask)
        try:
            return await question.answer()
        finally:
            if self._open.get(key) is question:
                del self._open[key]


class _Question(Generic[T]):
    """One question that any number of requests wait for."""

    def __init__(self, ask: Callable[[], Awaitable[T]]) -> None:
        self._ask = ask
        self._turn = trio.Lock()
        self._answer: list[T] = []
        self._failure: RegistryError | None = None

    async def answer(self) -> T:
        """Return the answer; whoever comes first asks, and if it leaves, the next."""
        async with self._turn:
            if not self._answer and self._failure is None:
                try:
                    self._answer.append(await self._ask())
                except RegistryError as error:  # or each of them would wait for it anew
                    self._failure = error
            if self._failure is not None:
                row, message, headers = (
                    self._failure.row,
                    self._failure.message,
                    self._failure.headers,
                )
                raise row.error(message, headers=headers) from self._failure
            return self._answer[0]
