"""Uploads that end badly: clients that vanish, a daemon that is stopped or killed under them."""

import json
import random
import socket
import sqlite3
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from tests.system import daemon, images
from tests.system.daemon import Daemon
from tests.system.tools import eventually
from tests.system.wire import Client, break_off, digest_of, finished, read_answer

_ABORTED = 1000
_AT_ONCE = 16

# How many more files than at the start may be open: what a connection just closed leaves for a moment.
_FILES_TOLERATED = 2

_BLOB = images.noise(6 << 20, "upload")
_DIGEST = digest_of(_BLOB)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Daemon]:
    """A registry of the test's own, to be stopped and killed."""
    with daemon.running(tmp_path / "registry") as running:
        yield running


def after_post(client: Client, chance: random.Random) -> None:
    """The session was opened; its first chunk never comes."""
    client.start_upload(f"aborted/{chance.randrange(10)}")


def in_the_head_of_patch(client: Client, chance: random.Random) -> None:
    """The request stops before its head is complete."""
    session = client.start_upload("aborted/head")
    head = client.head("PATCH", session, {"Content-Length": "100000"})
    leave(client, head[: chance.randrange(1, len(head) - 1)], chance)


def in_the_body_of_patch(client: Client, chance: random.Random) -> None:
    """Less arrives than was announced."""
    session = client.start_upload("aborted/body")
    size = chance.randrange(1, 300_000)
    head = client.head("PATCH", session, {"Content-Length": str(size)})
    leave(client, head + bytes(chance.randrange(size)), chance)


def in_a_chunked_body(client: Client, chance: random.Random) -> None:
    """A chunked body without its end, the way docker vanishes."""
    session = client.start_upload("aborted/chunked")
    head = client.head("PATCH", session, {"Transfer-Encoding": "chunked"})
    sent = head + b"8000\r\n" + bytes(0x8000) + b"\r\n8000\r\n" + bytes(0x8000)
    leave(client, sent[: chance.randrange(len(head), len(sent))], chance)


def between_patch_and_put(client: Client, chance: random.Random) -> None:
    """A chunk is in; the upload is never finished."""
    session = client.start_upload("aborted/unfinished")
    client.send_chunk(session, 0, bytes(chance.randrange(1, 100_000)))


def in_the_body_of_put(client: Client, chance: random.Random) -> None:
    """The final request brings the whole blob in one go, and breaks off in it."""
    data = chance.randbytes(chance.randrange(2, 200_000))
    session = client.start_upload("aborted/put")
    target = finished(session, digest_of(data))
    head = client.head("PUT", target, {"Content-Length": str(len(data))})
    leave(client, head + data[: chance.randrange(len(data))], chance)


def leave(client: Client, sent: bytes, chance: random.Random) -> None:
    """Send something and vanish, politely or not."""
    connection = client.connect()
    try:
        connection.sendall(sent)
    finally:
        break_off(connection, reset=chance.random() < 0.5)


_WAYS: list[Callable[[Client, random.Random], None]] = [
    after_post,
    in_the_head_of_patch,
    in_the_body_of_patch,
    in_a_chunked_body,
    between_patch_and_put,
    in_the_body_of_put,
]


def test_a_thousand_aborted_uploads_leave_nothing_behind(tmp_path: Path) -> None:
    with daemon.running(tmp_path / "registry", settings={"gc": {"uploads": "2s"}}) as registry:
        client = registry.client()
        client.push_blob("whole", b"one upload that succeeds, so that everything is open")
        for way in _WAYS:
            way(client, random.Random(0))  # noqa: S311 - repeatable, not secret
        eventually(lambda: not registry.uploads(), within=30, what="the first uploads expire")
        kept, files = registry.blobs(), registry.open_files()

        def abort(number: int) -> None:
            chance = random.Random(number)  # noqa: S311 - repeatable, not secret
            chance.choice(_WAYS)(client, chance)

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(abort, range(_ABORTED)))

        eventually(
            lambda: not registry.uploads() and not sessions(registry),
            within=60,
            what=lambda: f"{len(registry.uploads())} files, {sessions(registry)} rows are gone",
        )
        eventually(
            lambda: registry.open_files() <= files + _FILES_TOLERATED,
            within=30,
            what=lambda: f"{registry.open_files()} open files are {files} again",
        )
        assert registry.blobs() == kept
        digest = client.push_blob("whole", _BLOB)
        assert client.get_blob("whole", digest).body == _BLOB


def sessions(registry: Daemon) -> int:
    """How many upload sessions the catalogue knows of."""
    address = f"file:{registry.storage / 'catalogue.sqlite3'}?mode=ro"
    with closing(sqlite3.connect(address, uri=True)) as database:
        [count] = database.execute("SELECT count(*) FROM session").fetchone()
    assert isinstance(count, int)
    return count


def offset_of(client: Client, session: str) -> int:
    """How much of an upload has arrived, as the registry tells it."""
    answer = client.request("GET", session).expect(204)
    assert answer.headers["Docker-Upload-UUID"]
    first, _, last = answer.headers["Range"].partition("-")
    assert first == "0"
    return int(last) + 1


def go_on(client: Client, session: str) -> None:
    """Send what is missing from where the registry says it stopped, and finish."""
    offset = offset_of(client, session)
    assert 0 < offset <= len(_BLOB)
    if offset < len(_BLOB):
        session = client.send_chunk(session, offset, _BLOB[offset:])
    client.finish_upload(session, _DIGEST).expect(201)
    assert client.get_blob("resumed", _DIGEST).body == _BLOB


@contextmanager
def begun_chunk(client: Client, session: str, registry: Daemon) -> Iterator[socket.socket]:
    """Send the better part of the blob in one unfinished chunk, until the daemon has most of that."""
    head = client.head("PATCH", session, {"Content-Length": str(len(_BLOB))})
    with client.connect() as connection:
        connection.sendall(head + _BLOB[: 5 << 20])
        eventually(
            lambda: sum(path.stat().st_size for path in registry.uploads()) > 2 << 20,
            within=30,
            what="the chunk reaches the disk",
        )
        yield connection


def test_an_upload_goes_on_after_a_restart(own: Daemon) -> None:
    client = own.client()
    session = client.send_chunk(client.start_upload("resumed"), 0, _BLOB[: 3 << 20])
    own.restart()
    assert offset_of(client, session) == 3 << 20
    go_on(client, session)


def test_an_upload_goes_on_after_a_kill_between_chunks(own: Daemon) -> None:
    client = own.client()
    session = client.send_chunk(client.start_upload("resumed"), 0, _BLOB[: 3 << 20])
    own.kill()
    own.start()
    assert offset_of(client, session) == 3 << 20
    go_on(client, session)


def test_an_upload_goes_on_after_a_kill_in_the_middle_of_a_chunk(own: Daemon) -> None:
    client = own.client()
    session = client.start_upload("resumed")
    with begun_chunk(client, session, own):
        own.kill()
    own.start()
    go_on(client, session)


def test_a_stopping_daemon_lets_a_chunk_end(own: Daemon) -> None:
    client = own.client()
    session = client.start_upload("resumed")
    with begun_chunk(client, session, own) as connection:
        own.terminate()
        eventually(lambda: not accepts(own), within=10, what="no new connection is accepted")
        connection.sendall(_BLOB[5 << 20 :])
        answer = read_answer(connection).expect(202)
        assert answer.headers["Range"] == f"0-{len(_BLOB) - 1}"
    assert own.wait() == 0
    own.start()
    go_on(client, session)


def test_a_daemon_that_may_not_wait_cuts_a_chunk_off_and_keeps_it(tmp_path: Path) -> None:
    settings = {"server": {"drain_seconds": 1}}
    with daemon.running(tmp_path / "registry", settings=settings) as registry:
        client = registry.client()
        session = client.start_upload("resumed")
        with begun_chunk(client, session, registry):
            registry.stop()
        registry.start()
        go_on(client, session)


def test_a_stopping_daemon_lets_a_pull_end(own: Daemon) -> None:
    client = own.client()
    own_blob = images.noise(64 << 20, "slowly pulled")
    digest = client.push_blob("slow", own_blob)
    connection = client.connection()
    try:
        connection.request("GET", f"/v2/slow/blobs/{digest}", headers=client.authorization())
        response = connection.getresponse()
        begun = response.read(1 << 20)
        own.terminate()
        eventually(lambda: not accepts(own), within=10, what="no new connection is accepted")
        assert digest_of(begun + response.read()) == digest
    finally:
        connection.close()
    assert own.wait() == 0


def accepts(registry: Daemon) -> bool:
    """Whether anybody still listens at its address."""
    host, _, port = registry.address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        return False
    return True


def test_two_chunks_at_once_do_not_mix(own: Daemon) -> None:
    client = own.client()
    session = client.start_upload("resumed")
    with begun_chunk(client, session, own) as first:
        other = client.request("PATCH", session, b"something else", {"Content-Range": "0-13"})
        assert 400 <= other.status < 500, other
        with suppress(ConnectionError):
            first.sendall(_BLOB[5 << 20 :])
            assert read_answer(first).status in {202, 409}
    go_on(client, session)


@pytest.mark.parametrize(
    ("target", "login", "status"),
    [
        ("/v2/early/blobs/uploads/no-such-session", "", 404),
        ("/v2/early/blobs/uploads/no-such-session", None, 401),
        ("/v2/early/manifests/1", "", 413),
        ("SESSION", "", 416),
    ],
)
def test_a_refusal_reaches_a_client_that_is_still_sending(
    own: Daemon, target: str, login: str | None, status: int
) -> None:
    if target == "SESSION":
        target = own.client().start_upload("early")
    client = own.client(login=login)
    headers = {"Content-Length": str(len(_BLOB)), "Content-Range": f"9-{8 + len(_BLOB)}"}
    method = "PUT" if "manifests" in target else "PATCH"
    with client.connect() as connection:
        with suppress(ConnectionError, ssl.SSLEOFError):
            connection.sendall(client.head(method, target, headers) + _BLOB)
        read_answer(connection).expect(status)
    own.stop()


def test_ten_uploads_of_one_blob_at_once_all_succeed(registry: Daemon) -> None:
    client = registry.client()
    start = threading.Barrier(10)

    def push(number: int) -> str:
        start.wait(30)
        return client.push_blob(f"same/{number % 3}", _BLOB)

    with ThreadPoolExecutor(10) as pool:
        assert set(pool.map(push, range(10))) == {_DIGEST}
    for number in range(3):
        assert client.get_blob(f"same/{number}", _DIGEST).body == _BLOB


def test_a_second_daemon_on_the_same_data_says_so_and_ends(own: Daemon, tmp_path: Path) -> None:
    folder = tmp_path / "second"
    folder.mkdir()
    second = Daemon(folder, storage=own.storage)
    done = second.command("serve")
    assert done.returncode == 2
    assert str(own.storage) in done.stderr
    assert "Traceback" not in done.stderr
    assert own.client().request("GET", "/readyz").status == 200


def test_a_running_daemon_tells_where_it_is(own: Daemon) -> None:
    lock = json.loads((own.storage / "lock").read_text())
    assert lock["pid"] == own.pid
    assert lock["listen"] == [own.address]
