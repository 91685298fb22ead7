"""Bodies on their way in: how large they may be, and how the server's own draining is used."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio

from appliance import work
from appliance.oci.digest import Digest
from tests.api.driver import ALICE, Answer, Registry, basic, open_registry

BODY_MAX = 1000
UPLOADS = "/v2/some/app/blobs/uploads/"
CONTENT = bytes(range(250)) * 4
TOO_MUCH = CONTENT + b"!"
PIECES = 37

Sink = Callable[[Sequence[bytes | memoryview]], None]
Drain = Callable[[Sink], Awaitable[None]]


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[Registry]:
    found = open_registry(tmp_path, body_max=BODY_MAX)
    yield found
    await found.close()


def pieces(content: bytes) -> list[bytes]:
    return [content[at : at + PIECES] for at in range(0, len(content), PIECES)]


def assert_too_large(answer: Answer) -> None:
    assert (answer.status, answer.code) == (413, "SIZE_INVALID")
    assert answer.headers["content-type"] == "application/json"
    assert str(BODY_MAX) in answer.json["errors"][0]["message"]


async def begin(registry: Registry) -> str:
    return (await registry.ask("POST", UPLOADS)).headers["location"]


async def standing(registry: Registry, session: str) -> str:
    return (await registry.ask("GET", session)).headers["range"]


# --- how large


@pytest.mark.parametrize("cut", [lambda content: content, pieces])
async def test_a_body_of_the_largest_size_is_accepted(
    registry: Registry, cut: Callable[[bytes], bytes | list[bytes]]
) -> None:
    digest = Digest.of(CONTENT)
    session = await begin(registry)
    assert (await registry.ask("PATCH", session, body=cut(CONTENT))).status == 202
    assert (await registry.ask("PUT", f"{session}?digest={digest}")).status == 201
    whole = await registry.ask("POST", f"{UPLOADS}?digest={digest}", body=cut(CONTENT))
    assert whole.status == 201


async def test_a_session_may_hold_more_than_one_body_may(registry: Registry) -> None:
    session = await begin(registry)
    for size in (1000, 2000, 3000):
        assert (await registry.ask("PATCH", session, body=CONTENT)).status == 202
        assert await standing(registry, session) == f"0-{size - 1}"


async def test_a_body_that_is_announced_as_too_large_is_not_read(registry: Registry) -> None:
    session = await begin(registry)
    digest = Digest.of(TOO_MUCH)
    for method, path in (
        ("PATCH", session),
        ("PUT", f"{session}?digest={digest}"),
        ("POST", f"{UPLOADS}?digest={digest}"),
    ):
        # Had it been asked for, the client would have left instead of sending it.
        answer = await registry.ask(
            method, path, {"Content-Length": str(len(TOO_MUCH))}, leaves_after=0
        )
        assert_too_large(answer)
    assert await standing(registry, session) == "0-0"


async def test_a_body_that_turns_out_to_be_too_large_is_given_up(registry: Registry) -> None:
    session = await begin(registry)
    digest = Digest.of(TOO_MUCH)
    for method, path in (
        ("PUT", f"{session}?digest={digest}"),
        ("PATCH", session),
        ("POST", f"{UPLOADS}?digest={digest}"),
    ):
        assert_too_large(await registry.ask(method, path, body=pieces(TOO_MUCH)))
    assert (await registry.ask("HEAD", f"/v2/some/app/blobs/{digest}")).status == 404


async def test_a_manifest_is_a_body_too(registry: Registry) -> None:
    for body in (TOO_MUCH, pieces(TOO_MUCH)):
        answer = await registry.ask("PUT", "/v2/some/app/manifests/latest", body=body)
        assert answer.status == 413


async def test_without_a_limit_any_size_will_do(tmp_path: Path) -> None:
    registry = open_registry(tmp_path / "unlimited")
    content = CONTENT * 1000
    for body in (content, [content[:600_000], content[600_000:]]):
        answer = await registry.ask("POST", f"{UPLOADS}?digest={Digest.of(content)}", body=body)
        assert answer.status == 201
    await registry.close()


async def test_what_is_logged_is_what_was_received(registry: Registry) -> None:
    session = await begin(registry)
    for body in (CONTENT, pieces(CONTENT)):
        with structlog.testing.capture_logs() as lines:
            assert (await registry.ask("PATCH", session, body=body)).status == 202
        assert [line["received"] for line in lines] == [len(CONTENT)]


# --- drained by the server


class DrainingServer:
    """Has a body drained as it was told to; `receive` is never to be needed."""

    def __init__(self, registry: Registry, drain: Drain) -> None:
        self._registry = registry
        self._drain = drain
        self.lines: list[Any] = []

    async def ask(self, method: str, path: str, *fields: tuple[bytes, bytes]) -> Answer:
        messages: list[Mapping[str, Any]] = []
        raw_path, _, query = path.encode().partition(b"?")

        async def receive() -> Mapping[str, Any]:
            raise AssertionError("the body is drained")

        async def send(message: Mapping[str, Any]) -> None:
            messages.append(message)

        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "raw_path": raw_path,
            "query_string": query,
            "headers": [(b"authorization", basic(*ALICE).encode()), *fields],
            "client": ("192.0.2.1", 4711),
            "extensions": {"registry.request.drain": {"drain": self._drain}},
        }
        with structlog.testing.capture_logs() as self.lines:
            await self._registry.application(scope, receive, send)
        if not messages:
            return Answer(0, {}, b"")
        start, *bodies = messages
        headers = {name.decode(): value.decode("latin-1") for name, value in start["headers"]}
        return Answer(start["status"], headers, b"".join(piece["body"] for piece in bodies))


def bringing(content: bytes, failure: Exception | None = None) -> Drain:
    """Drain some content, as views that are good during the call only, and then perhaps fail."""

    async def drain(sink: Sink) -> None:
        for piece in pieces(content):
            with memoryview(bytearray(piece)) as view:
                await work.receiving(sink, [view[:1], view[1:]])
        if failure is not None:
            raise failure

    return drain


CHUNKED = (b"transfer-encoding", b"chunked")


def announcing(content: bytes) -> tuple[bytes, bytes]:
    return b"content-length", b"%d" % len(content)


@pytest.mark.parametrize("field", [CHUNKED, announcing(CONTENT)])
async def test_a_body_is_drained_where_the_server_can(
    registry: Registry, field: tuple[bytes, bytes]
) -> None:
    digest = Digest.of(CONTENT)
    server = DrainingServer(registry, bringing(CONTENT))
    assert (await server.ask("POST", f"{UPLOADS}?digest={digest}", field)).status == 201
    assert [line["received"] for line in server.lines] == [len(CONTENT)]
    assert (await registry.ask("GET", f"/v2/some/app/blobs/{digest}")).body == CONTENT


async def test_without_a_body_nothing_is_drained(registry: Registry) -> None:
    async def drain(sink: Sink) -> None:
        raise AssertionError("there is none")

    session = await begin(registry)
    empty = Digest.of(b"")
    server = DrainingServer(registry, drain)
    assert (await server.ask("PATCH", session)).status == 202
    answer = await server.ask("PUT", f"{session}?digest={empty}", (b"content-length", b"0"))
    assert answer.status == 201


async def test_a_drained_body_may_not_be_larger_either(registry: Registry) -> None:
    session = await begin(registry)
    server = DrainingServer(registry, bringing(TOO_MUCH))
    assert_too_large(await server.ask("PATCH", session, CHUNKED))

    async def drain(sink: Sink) -> None:
        raise AssertionError("it need not be read")

    server = DrainingServer(registry, drain)
    assert_too_large(await server.ask("PATCH", session, announcing(TOO_MUCH)))


async def test_of_a_client_that_leaves_what_came_is_kept(registry: Registry) -> None:
    for number, failure in enumerate((ConnectionAbortedError("left"), ConnectionResetError())):
        session = await begin(registry)
        server = DrainingServer(registry, bringing(CONTENT[:500], failure))
        answer = await server.ask("PATCH", session, announcing(CONTENT))
        assert answer.status == 0, number
        assert [(line["event"], line["status"], line["received"]) for line in server.lines] == [
            ("request", 499, 500)
        ]
        assert await standing(registry, session) == "0-499"


async def test_of_a_client_that_stalls_what_came_is_kept(registry: Registry) -> None:
    session = await begin(registry)
    server = DrainingServer(registry, bringing(CONTENT[:500], TimeoutError()))
    answer = await server.ask("PATCH", session, announcing(CONTENT))
    assert (answer.status, answer.code) == (408, "BLOB_UPLOAD_INVALID")
    assert await standing(registry, session) == "0-499"


async def test_more_than_was_announced_leaves_no_trace(registry: Registry) -> None:
    session = await begin(registry)
    server = DrainingServer(registry, bringing(CONTENT))
    answer = await server.ask("PATCH", session, CHUNKED, (b"content-range", b"0-899"))
    assert (answer.status, answer.code) == (400, "SIZE_INVALID")
    assert await standing(registry, session) == "0-0"


# --- drained without the server's help


async def test_long_bodies_are_handed_over_whole_without_the_server_s_help(
    tmp_path: Path,
) -> None:
    registry = open_registry(tmp_path / "unlimited")
    content = bytes(range(256)) * (9 << 10)
    body = [content[at : at + 50_000] for at in range(0, len(content), 50_000)]
    digest = Digest.of(content)
    assert (await registry.ask("POST", f"{UPLOADS}?digest={digest}", body=body)).status == 201
    assert (await registry.ask("GET", f"/v2/some/app/blobs/{digest}")).body == content
    await registry.close()


async def test_a_body_that_breaks_off_is_kept_without_the_server_s_help(
    registry: Registry,
) -> None:
    session = await begin(registry)
    with structlog.testing.capture_logs() as lines:
        answer = await registry.ask("PATCH", session, body=pieces(CONTENT), leaves_after=10)
    assert answer.status == 0
    assert [(line["status"], line["received"]) for line in lines] == [(499, 10 * PIECES)]
    assert await standing(registry, session) == f"0-{10 * PIECES - 1}"


async def test_a_body_that_stalls_is_kept_without_the_server_s_help(
    registry: Registry, mock_clock: trio.testing.MockClock
) -> None:
    session = await begin(registry)
    sent = list(pieces(CONTENT)[:10])
    messages: list[Mapping[str, Any]] = []

    async def receive() -> Mapping[str, Any]:
        if not sent:
            mock_clock.jump(10)
            await trio.sleep_forever()
        return {"type": "http.request", "body": sent.pop(0), "more_body": True}

    async def send(message: Mapping[str, Any]) -> None:
        messages.append(message)

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "PATCH",
        "raw_path": session.encode(),
        "query_string": b"",
        "headers": [(b"authorization", basic(*ALICE).encode()), CHUNKED],
        "client": None,
    }
    await registry.application(scope, receive, send)
    assert messages[0]["status"] == 408
    assert await standing(registry, session) == f"0-{10 * PIECES - 1}"
