"""A new daemon takes over from the running one: nothing is cut, nothing refused, nothing lost."""

import http.client
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from appliance.lock import Note, holder
from tests.system.daemon import Daemon
from tests.system.tools import background, eventually, free_port, run
from tests.system.wire import Answer, Client, digest_of, finished

REPOSITORY = "demo/app"
SLOW = os.urandom(6 << 20)
PIECES = 12
INDEX = b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}'


def note_of(daemon: Daemon) -> Note:
    found = holder(daemon.storage)
    assert found is not None, "no daemon has the folder"
    return found


@contextmanager
def line_of_daemons(folder: Path, **settings: dict[str, object]) -> Iterator[Daemon]:
    """Start the first one; whichever of them is there in the end is stopped."""
    folder.mkdir(exist_ok=True)
    daemon = Daemon(folder, settings=settings)
    daemon.start()
    try:
        yield daemon
        last = note_of(daemon).pid
        os.kill(last, signal.SIGTERM)
        eventually(lambda: holder(daemon.storage) is None, within=20, what="the last one ends")
        _, *surprise = daemon.log().partition("Traceback")
        assert not any(surprise), "".join(surprise)[:3000].replace("\\n", "\n")
    finally:
        while (left := holder(daemon.storage)) is not None and left.pid:
            with suppress(ProcessLookupError):
                os.kill(left.pid, signal.SIGKILL)
            time.sleep(0.05)
        daemon.kill()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with line_of_daemons(tmp_path / "registry") as found:
        yield found


def hand_over(daemon: Daemon) -> int:
    """Have the daemon that serves followed by another one; the process of that one."""
    before = note_of(daemon).pid
    os.kill(before, signal.SIGUSR2)
    eventually(
        lambda: note_of(daemon).pid not in {0, before},
        within=20,
        what=lambda: f"another one has taken over\n{daemon.log()[-3000:]}",
    )
    return note_of(daemon).pid


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def slow_pull(client: Client, digest: str, seconds: float) -> bytes:
    with client.connect() as sock:
        sock.sendall(client.head("GET", f"/v2/{REPOSITORY}/blobs/{digest}"))
        response = http.client.HTTPResponse(sock)
        response.begin()
        content = bytearray()
        while piece := response.read(len(SLOW) // PIECES):
            content += piece
            time.sleep(seconds / PIECES)
    return bytes(content)


def slow_push(client: Client, seconds: float) -> Answer:
    """Push in one request, piece by piece; the answer to its end."""
    size = len(SLOW) // PIECES

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(SLOW), size):
            yield SLOW[start : start + size]
            time.sleep(seconds / PIECES)

    session = client.start_upload("demo/pushed")
    answer = client.request("PATCH", session, pieces(), within=seconds + 30)
    return client.finish_upload(answer.expect(202).location(), digest_of(SLOW))


def test_transfers_end_and_every_request_is_answered(daemon: Daemon) -> None:
    client = daemon.client()
    digest = client.push_blob(REPOSITORY, SLOW)
    client.put_manifest(REPOSITORY, "v1", INDEX).expect(201)
    half = client.start_upload(REPOSITORY)
    half = client.send_chunk(half, 0, SLOW[: 1 << 20])
    kept = [client.connection() for _ in range(10)]
    for connection in kept:
        _ask(connection, client)
    old = note_of(daemon).pid
    slowest = 0.0
    with ThreadPoolExecutor() as threads:
        pulling = threads.submit(slow_pull, client, digest, 6.0)
        pushing = threads.submit(slow_push, client, 6.0)
        time.sleep(1)
        asking = threads.submit(_ask_often, client, 200)
        new = hand_over(daemon)
        slowest = asking.result()
        assert is_there(old)
        half = client.send_chunk(half, 1 << 20, SLOW[1 << 20 : 2 << 20])
        for connection in kept:  # which the old one has had open all the while
            assert _ask(connection, client) == "close"
            assert _ask(connection, client) is None
            connection.close()
        assert pulling.result() == SLOW
        pushing.result().expect(201)
    assert daemon.wait() == 0
    print(f"\nthe slowest of 200 requests took {slowest:.3f} s")
    assert note_of(daemon).pid == new
    eventually(
        lambda: '"leases_adopted":true' in daemon.log(), within=5, what="the leases are adopted"
    )
    client.request("PUT", finished(half, digest_of(SLOW)), SLOW[2 << 20 :]).expect(201)
    for name in (REPOSITORY, "demo/pushed"):
        assert client.get_blob(name, digest_of(SLOW)).body == SLOW
    assert client.get_manifest(REPOSITORY, "v1").body == INDEX
    for words in (["ls"], ["gc"], ["verify"]):
        done = daemon.command(*words)
        assert done.returncode == 0, done


def _ask(connection: http.client.HTTPConnection, client: Client) -> str | None:
    """Ask once on a connection that is kept; what the answer says of the connection."""
    connection.request("GET", "/v2/", headers=client.authorization())
    response = connection.getresponse()
    response.read()
    assert response.status == 200
    return response.headers["Connection"]


def _ask_often(client: Client, times: int) -> float:
    """Ask on new connections, some at a time; the longest that one took, in seconds."""

    def ask(_: int) -> float:
        began = time.monotonic()
        client.get_manifest(REPOSITORY, "v1").expect(200)
        return time.monotonic() - began

    with ThreadPoolExecutor(8) as threads:
        return max(threads.map(ask, range(times)))


def test_a_session_that_the_old_one_still_writes_to_goes_on_at_the_new_one(daemon: Daemon) -> None:
    client = daemon.client()
    session = client.start_upload(REPOSITORY)
    with client.connect() as sock:
        head = client.head("PATCH", session, {"Content-Length": "100", "Content-Type": "a/b"})
        sock.sendall(head + b"12345")
        eventually(lambda: any(map(_size, daemon.uploads())), within=5, what="bytes arrive")
        hand_over(daemon)
        found = client.request("GET", session)
        assert found.headers["Range"] == "0-4"
        session = client.send_chunk(session, 5, b"67890")
        answer = http.client.HTTPResponse(sock)
        answer.begin()
        assert answer.status == 409, "the older request is told"
    client.finish_upload(session, digest_of(b"1234567890")).expect(201)
    assert daemon.wait() == 0


def _size(path: Path) -> int:
    return path.stat().st_size


def test_while_one_still_finishes_the_next_one_is_followed_too(daemon: Daemon) -> None:
    client = daemon.client()
    digest = client.push_blob(REPOSITORY, SLOW)
    first = note_of(daemon).pid
    with ThreadPoolExecutor() as threads:
        pulls = [threads.submit(slow_pull, client, digest, 5.0)]
        time.sleep(0.5)
        second = hand_over(daemon)
        pulls.append(threads.submit(slow_pull, client, digest, 4.0))
        time.sleep(0.5)
        third = hand_over(daemon)
        pulls.append(threads.submit(slow_pull, client, digest, 1.0))
        assert len({pid for pid in (first, second, third) if is_there(pid)}) == 3
        for pull in pulls:
            assert pull.result() == SLOW
    assert daemon.wait() == 0
    eventually(lambda: not is_there(second), within=10, what="the second one ends")
    assert note_of(daemon).pid == third


def test_who_stops_waits_for_the_transfers_of_the_one_before(daemon: Daemon) -> None:
    client = daemon.client()
    digest = client.push_blob(REPOSITORY, SLOW)
    with ThreadPoolExecutor() as threads:
        pull = threads.submit(slow_pull, client, digest, 4.0)
        time.sleep(0.5)
        new = hand_over(daemon)
        os.kill(new, signal.SIGTERM)
        assert pull.result() == SLOW
        assert is_there(new)
    assert daemon.wait() == 0
    eventually(lambda: not is_there(new), within=10, what="the new one ends")
    daemon.start()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ('[server]\nlisten = "nowhere"\n', "server.listen must be"),
        ('[storage]\npath = "/proc/nothing"\n', "storage.path has changed; a restart is needed"),
    ],
)
def test_where_the_next_one_cannot_start_the_old_one_serves_on(
    daemon: Daemon, fault: str, words: str
) -> None:
    client = daemon.client()
    digest = client.push_blob(REPOSITORY, b"content")
    before = note_of(daemon)
    right = daemon.settings.read_text()
    daemon.settings.write_text(fault)
    os.kill(before.pid, signal.SIGUSR2)
    eventually(lambda: "serving on" in daemon.log(), within=20, what="the old one says so")
    (told,) = [json.loads(line) for line in daemon.log().splitlines() if "serving on" in line]
    assert re.search(words, told["reason"]), told
    assert note_of(daemon) == before
    assert client.get_blob(REPOSITORY, digest).body == b"content"
    client.push_blob(REPOSITORY, b"more")
    daemon.settings.write_text(right)
    assert daemon.command("gc").returncode == 0
    hand_over(daemon)
    assert daemon.wait() == 0
    assert client.get_blob(REPOSITORY, digest).body == b"content"
    assert daemon.command("verify").returncode == 0


def test_who_is_told_to_stop_meanwhile_stops_and_leaves_none_behind(daemon: Daemon) -> None:
    for pause in (0.0, 0.2, 0.4, 0.6):
        os.kill(note_of(daemon).pid, signal.SIGUSR2)
        time.sleep(pause)
        daemon.terminate()
        assert daemon.wait() == 0
        for _ in range(2):
            left = holder(daemon.storage)
            if left is not None:  # it had taken over before
                os.kill(left.pid, signal.SIGTERM)
                eventually(lambda: holder(daemon.storage) is None, within=20, what="it ends")
            time.sleep(0.5)
        assert holder(daemon.storage) is None
        daemon.start()


def test_a_new_one_that_dies_leaves_the_old_ones_transfers_alone(daemon: Daemon) -> None:
    client = daemon.client()
    digest = client.push_blob(REPOSITORY, SLOW)
    with ThreadPoolExecutor() as threads:
        pull = threads.submit(slow_pull, client, digest, 3.0)
        time.sleep(0.5)
        os.kill(hand_over(daemon), signal.SIGKILL)
        assert pull.result() == SLOW
    assert daemon.wait() == 0
    daemon.start()
    assert client.get_blob(REPOSITORY, digest).body == SLOW
    assert daemon.command("verify").returncode == 0


def test_sockets_of_systemd_are_served_and_passed_on(tmp_path: Path) -> None:
    tls, plain = free_port(), free_port()
    folder = tmp_path / "registry"
    folder.mkdir()
    daemon = Daemon(
        folder, port=tls, settings={"server": {"listen": [], "plain": [f"127.0.0.1:{plain}"]}}
    )
    text = daemon.settings.read_text().replace("listen = []\n", "")
    daemon.settings.write_text(text)
    command = (
        "systemd-socket-activate",
        f"--listen=127.0.0.1:{tls}",
        f"--listen=127.0.0.1:{plain}",
    )
    log = folder / "log"
    with background(
        *command,
        *daemon._program(),
        "serve",
        "--settings",
        daemon.settings,
        log=log,
        up=lambda: "Listening on" in log.read_text(),
    ):
        eventually(lambda: _answers(plain), within=20, what="the first connection wakes it")
        client = daemon.client()
        client.request("GET", "/v2/").expect(200)
        assert note_of(daemon).listen == [f"127.0.0.1:{tls}"]
        assert note_of(daemon).plain == [f"127.0.0.1:{plain}"]
        last = hand_over(daemon)
        client.request("GET", "/v2/").expect(200)
        assert _answers(plain)
        os.kill(last, signal.SIGTERM)
        eventually(lambda: holder(daemon.storage) is None, within=20, what="it ends")


def _answers(port: int) -> bool:
    """Whether plain HTTP is sent on to TLS."""
    command = ("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "10")
    return run(*command, f"http://127.0.0.1:{port}/v2/") in {"307", "308"}
