"""Questions that cost something: asked once for all who wait for the answer, which is remembered."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import trio

from appliance.oci.errors import TOO_MANY_LOGINS, RegistryError

REMEMBERED_MAX = 10_000
"""Answers that a memory has room for."""

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


def too_many_logins() -> RegistryError:
    """Make the refusal of one more question, while so many are waited for."""
    return TOO_MANY_LOGINS.error(headers=(("Retry-After", "10"),))


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

    def __init__(self, most: int = 0) -> None:
        """Let so many be asked at a time; 0: any number."""
        self._most = most
        self._open: dict[K, _Question[T]] = {}

    async def answer(self, key: K, ask: Callable[[], Awaitable[T]]) -> T:
        """Return the answer, or raise the RegistryError that asking ended with; or TOO_MANY_LOGINS."""
        question = self._open.get(key)
        if question is None:
            if 0 < self._most <= len(self._open):
                raise too_many_logins()
            question = self._open[key] = _Question(ask)
        question.waiting += 1
        try:
            return await question.answer()
        finally:
            question.waiting -= 1
            if not question.waiting:
                del self._open[key]


class _Question(Generic[T]):
    """One question that any number of requests wait for."""

    def __init__(self, ask: Callable[[], Awaitable[T]]) -> None:
        self.waiting = 0
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
            told = self._failure
            raise told.row.error(told.message, headers=told.headers) from told
        return self._answer[0]
