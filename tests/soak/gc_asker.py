"""A client in the storm: one connection, and answers of which each must be among those permitted."""

import random
from collections.abc import Callable, Container, Mapping
from http.client import HTTPException

from tests.soak.gc_board import Scene
from tests.soak.line import Line
from tests.soak.model import Violation
from tests.system.wire import Answer, Body, Client

ACCEPT = {
    "Accept": "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json"
}


class Asker:
    """Asks, counts and keeps the history; what it does is up to those that derive from it."""

    def __init__(self, name: str, scene: Scene, client: Client) -> None:
        self.name = name
        self._scene = scene
        self._line = Line(client)
        self._random = random.Random(f"{scene.seed} {name}")  # noqa: S311 - repeatable on purpose

    def work(self) -> None:
        """Act until the storm is over; raises Violation."""
        try:
            while not self._scene.stopping.is_set():
                self.act()
        except BaseException:
            self._scene.stopping.set()
            raise
        finally:
            self.close()

    def close(self) -> None:
        """Hang up."""
        self._line.close()

    def act(self) -> None:
        """Do something, in one request or a few."""
        raise NotImplementedError

    def _ask(
        self,
        kind: str,
        method: str,
        target: str,
        body: Body | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        permitted: Container[int],
    ) -> Answer:
        """One request, whose answer must be one of those permitted."""
        sentence, about = f"{method} {target}", target.rstrip("/").rpartition("/")[2]
        self._scene.history.note(self.name, sentence)
        try:
            answer = self._line.request(method, target, body, headers)
        except (OSError, HTTPException) as error:
            raise self._violation(f"{sentence}: no answer: {error!r}", about) from error
        self._scene.history.note(self.name, f"{answer.status} {sentence}")
        if answer.status not in permitted:
            raise self._violation(f"{sentence}: {answer.status} {answer.body[:500]!r}", about)
        refused = f", {answer.status}" if answer.status >= 400 else ""
        self._count(kind + refused)
        return answer

    def _count(self, kind: str) -> None:
        self._scene.tally.count(self._scene.tally.answered, kind)

    def _notice(self, what: str, number: int = 1) -> None:
        self._scene.tally.count(self._scene.tally.noticed, what, number)

    def _violation(self, sentence: str, *about: str) -> Violation:
        return self._scene.history.violation(self.name, sentence, about)

    def _weighted(self, deeds: list[tuple[Callable[[], None], float]]) -> Callable[[], None]:
        [deed] = self._random.choices(*zip(*deeds, strict=True))
        chosen: Callable[[], None] = deed
        return chosen
