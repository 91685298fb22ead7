"""Making requests whose answers are foreseen, and noting them before and after."""

import random
import time
from collections.abc import Callable, Iterator
from http.client import HTTPException

from tests.soak.line import Line
from tests.soak.model import Changes, Commons, Figures, Key, Ledger, Upload, Violation
from tests.system.images import noise
from tests.system.wire import Answer, Body, Client, digest_of, finished

SHARED = "soak/shared"


class Gone(Exception):  # noqa: N818 - not an error: the daemon was about to end
    """No answer came, as the daemon was being ended."""


class Asker:
    """One client: two repositories of its own, and one that it shares with the others."""

    def __init__(self, number: int, seed: str, figures: Figures, commons: Commons) -> None:
        self.name = f"client-{number}"
        self.ledger = Ledger(self.name)
        self.own = [f"soak/{self.name}/{word}" for word in ("one", "two")]
        self._seed = seed
        self._figures = figures
        self._commons = commons
        # Everything is asked for in an order that the seed decides; the answers' times are not.
        self._random = random.Random(f"{seed} {number}")  # noqa: S311 - repeatable on purpose
        self._made = 0
        self._line: Line | None = None
        self._ending: Callable[[], bool] = lambda: False
        self._round = 0

    def begin(self, client: Client, number: int, ending: Callable[[], bool]) -> Line:
        """Talk to a daemon that was started; the caller hangs up."""
        self._line, self._ending, self._round = Line(client), ending, number
        return self._line

    @property
    def repositories(self) -> list[str]:
        """All it pushes to."""
        return [*self.own, SHARED]

    def _ask(
        self,
        kind: str,
        method: str,
        target: str,
        body: Body | None = None,
        headers: dict[str, str] | None = None,
        *,
        changes: Changes | None = None,
        upload: Upload | None = None,
        status: int,
    ) -> Answer:
        """One request, whose status is foreseen; its changes hold once it is answered 2xx."""
        assert self._line is not None
        changes = changes or {}
        about = [upload.target] if upload else []
        size = f" with {len(body)} bytes" if isinstance(body, bytes) else ""
        sentence = f"round {self._round}: {method} {target}{size}"
        self.ledger.asking(sentence, changes, about)
        try:
            answer = self._line.request(method, target, body, headers)
        except (OSError, HTTPException) as error:
            self.ledger.note(f"round {self._round}: no answer: {error!r}", (*changes, *about))
            if isinstance(error, TimeoutError) or not self._ending():
                raise Violation(f"{self.name}: {sentence}: no answer: {error!r}") from error
            self._figures.count(self._figures.unanswered, kind)
            raise Gone from error
        if answer.status != status:
            text = f"{sentence}: {answer.status} instead of {status}: {answer.body[:500]!r}"
            keys: list[Key | str] = [*changes, *about]
            raise self.ledger.violation(keys[0] if keys else target, text)
        self.ledger.answered(
            f"round {self._round}: answered {status}", done=status < 300, about=about
        )
        self._figures.count(self._figures.answered, kind if status < 300 else f"{kind}, refused")
        return answer

    def _new_content(self, most: int = 8 << 10) -> bytes:
        self._made += 1
        size = self._random.randrange(1, most if self._random.random() < 0.9 else 64 * most)
        return self._keep(noise(size, f"{self._seed} {self.name} {self._made}"))

    def _keep(self, content: bytes) -> bytes:
        self.ledger.contents[digest_of(content)] = content
        return content

    def _push(self, repository: str, content: bytes, key: Key | None) -> None:
        digest = digest_of(content)
        changes = {} if key is None else {key: "here"}
        uploads = f"/v2/{repository}/blobs/uploads/"
        octets = {"Content-Type": "application/octet-stream"}
        manner = self._random.choice(["POST", "POST and PUT", "stream", "chunks"])
        if manner == "POST":
            self._ask(
                "blob by POST",
                "POST",
                f"{uploads}?digest={digest}",
                content,
                octets,
                changes=changes,
                status=201,
            )
            return
        target = self._ask("upload begun", "POST", uploads, status=202).location()
        last = content
        if manner == "stream":
            target = self._ask(
                "stream", "PATCH", target, self._trickle(content), octets, status=202
            ).location()
            last = b""
        if manner == "chunks":
            middle = self._random.randrange(len(content)) + 1
            target = self._ask(
                "chunk",
                "PATCH",
                target,
                content[:middle],
                octets | {"Content-Range": f"0-{middle - 1}"},
                status=202,
            ).location()
            last = content[middle:]
        self._ask(
            f"blob by {manner}",
            "PUT",
            finished(target, digest),
            last,
            octets,
            changes=changes,
            status=201,
        )

    def _trickle(self, content: bytes) -> Iterator[bytes]:
        step = len(content) // 5 + 1
        for offset in range(0, len(content), step):
            yield content[offset : offset + step]
            time.sleep(0.002)  # so that a kill finds it half way
