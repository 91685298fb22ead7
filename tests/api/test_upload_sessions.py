"""Upload sessions against a model: chunks, wrong offsets, cancel, resume, restarts in between."""

import hashlib
import os
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import trio
from hypothesis import HealthCheck, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from tests.api.driver import ALICE, BOB, Answer, open_registry

UPLOADS = "/v2/some/app/blobs/uploads/"
PIECES = st.binary(max_size=40)


def digest(content: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


def range_of(size: int) -> str:
    return f"0-{max(size - 1, 0)}"


class UploadSessions(RuleBasedStateMachine):
    """The model: session id → the bytes it must hold, and the blobs that must be there."""

    sessions = Bundle("sessions")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.open: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.registry = open_registry(Path(self.folder.name))

    def ask(self, method: str, path: str, *args: object, **kwargs: object) -> Answer:
        async def asking() -> Answer:
            return await self.registry.ask(method, path, *args, **kwargs)  # type: ignore[arg-type]

        return trio.run(asking)

    @rule(target=sessions, algorithm=st.sampled_from(["", "?digest-algorithm=sha512"]))
    def begin(self, algorithm: str) -> str:
        answer = self.ask("POST", UPLOADS + algorithm)
        assert (answer.status, answer.headers["range"]) == (202, "0-0")
        session = answer.headers["location"].removeprefix(UPLOADS)
        assert session not in self.open
        self.open[session] = b""
        return session

    def expect_appended(self, session: str, content: bytes, answer: Answer) -> None:
        if session not in self.open:
            assert answer.status == 404
            return
        self.open[session] += content
        assert answer.status == 202, answer.body
        assert answer.headers["range"] == range_of(len(self.open[session]))
        assert answer.headers["location"] == UPLOADS + session

    @rule(session=sessions, pieces=st.lists(PIECES, max_size=4))
    def stream(self, session: str, pieces: list[bytes]) -> None:
        answer = self.ask("PATCH", UPLOADS + session, {}, pieces)
        self.expect_appended(session, b"".join(pieces), answer)

    @rule(session=sessions, piece=PIECES.filter(bool))
    def chunk(self, session: str, piece: bytes) -> None:
        start = len(self.open.get(session, b""))
        where = {"Content-Range": f"{start}-{start + len(piece) - 1}"}
        answer = self.ask("PATCH", UPLOADS + session, where, piece)
        self.expect_appended(session, piece, answer)

    @rule(session=sessions, piece=PIECES.filter(bool), shift=st.integers(-50, 50).filter(bool))
    def chunk_elsewhere(self, session: str, piece: bytes, shift: int) -> None:
        start = max(len(self.open.get(session, b"")) + shift, 0)
        if start == len(self.open.get(session, b"")):
            return
        where = {"Content-Range": f"{start}-{start + len(piece) - 1}"}
        answer = self.ask("PATCH", UPLOADS + session, where, piece)
        if session in self.open:
            assert answer.status == 416
            assert answer.headers["range"] == range_of(len(self.open[session]))
        else:
            assert answer.status == 404

    @rule(session=sessions, piece=PIECES.filter(bool), surplus=st.binary(min_size=1, max_size=9))
    def chunk_too_long(self, session: str, piece: bytes, surplus: bytes) -> None:
        start = len(self.open.get(session, b""))
        where = {"Content-Range": f"{start}-{start + len(piece) - 1}"}
        answer = self.ask("PATCH", UPLOADS + session, where, [piece, surplus])
        assert answer.status == (400 if session in self.open else 404)

    @rule(session=sessions, pieces=st.lists(PIECES.filter(bool), min_size=1, max_size=3))
    def break_off(self, session: str, pieces: list[bytes]) -> None:
        self.ask("PATCH", UPLOADS + session, {}, [*pieces, b"never sent"], leaves_after=len(pieces))
        if session in self.open:
            self.open[session] += b"".join(pieces)

    @rule(session=sessions)
    def status(self, session: str) -> None:
        answer = self.ask("GET", UPLOADS + session)
        if session in self.open:
            assert answer.status == 204
            assert answer.headers["range"] == range_of(len(self.open[session]))
        else:
            assert answer.status == 404

    @rule(session=sessions, method=st.sampled_from(["GET", "PATCH", "DELETE"]))
    def somebody_else(self, session: str, method: str) -> None:
        assert self.ask(method, UPLOADS + session, login=BOB).status == 404
        elsewhere = UPLOADS.replace("some", "other") + session
        assert self.ask(method, elsewhere, login=ALICE).status == 404

    @rule(session=consumes(sessions))
    def cancel(self, session: str) -> None:
        answer = self.ask("DELETE", UPLOADS + session)
        assert answer.status == (204 if session in self.open else 404)
        self.open.pop(session, None)

    @rule(session=sessions, last=PIECES, algorithm=st.sampled_from(["sha256", "sha512"]))
    def finish(self, session: str, last: bytes, algorithm: str) -> None:
        content = self.open.get(session, b"") + last
        name = digest(content, algorithm)
        answer = self.ask("PUT", f"{UPLOADS}{session}?digest={name}", {}, last)
        if session not in self.open:
            assert answer.status == 404
            return
        assert answer.status == 201, answer.body
        assert answer.headers["docker-content-digest"] == name
        del self.open[session]
        self.blobs[name] = content

    @rule(session=consumes(sessions), last=PIECES)
    def finish_wrongly(self, session: str, last: bytes) -> None:
        name = digest(self.open.get(session, b"") + last + b"?")
        answer = self.ask("PUT", f"{UPLOADS}{session}?digest={name}", {}, last)
        assert answer.status == (400 if session in self.open else 404)
        self.open.pop(session, None)

    @rule(recover=st.booleans())
    def restart(self, recover: bool) -> None:
        async def restarting() -> None:
            await self.registry.close()
            self.registry = open_registry(Path(self.folder.name))
            await self.registry.uploads.discard_strays()
            if recover:
                await self.registry.uploads.recover()

        trio.run(restarting)

    @invariant()
    def staged_files_are_the_open_sessions(self) -> None:
        staged = {
            path.name: path.read_bytes() for path in Path(self.folder.name, "uploads").iterdir()
        }
        assert staged == self.open

    @invariant()
    def blobs_are_whole(self) -> None:
        # Hundreds of folders, most of them empty, at every step.
        top = os.path.join(self.folder.name, "blobs")  # noqa: PTH118
        found = {
            f"{algorithm}:{name}": Path(top, algorithm, shelf, name).read_bytes()
            for algorithm in os.listdir(top)  # noqa: PTH208
            for shelf in os.listdir(f"{top}/{algorithm}")  # noqa: PTH208
            for name in os.listdir(f"{top}/{algorithm}/{shelf}")  # noqa: PTH208
        }
        assert found == self.blobs

    def teardown(self) -> None:
        for name, content in self.blobs.items():
            assert self.ask("GET", f"/v2/some/app/blobs/{name}").body == content
        trio.run(self.registry.close)
        self.folder.cleanup()


TestUploadSessions = UploadSessions.TestCase
TestUploadSessions.settings = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
