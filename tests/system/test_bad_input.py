"""What no decent client sends, to a live process: it answers or hangs up, and goes on serving."""

import base64
import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.system import daemon, images
from tests.system.daemon import USER, Daemon
from tests.system.tools import eventually
from tests.system.wire import Answer, Client, break_off, digest_of, finished, read_answer

_BLOB = images.noise(200_000, "bad input")
_DIGEST = digest_of(_BLOB)


@pytest.fixture(autouse=True)
def survives(registry: Daemon) -> Iterator[None]:
    """Whatever a test sends: the same process answers afterwards, and nothing failed inside it."""
    before = registry.pid, registry.log().count("Traceback")
    yield
    assert registry.client().request("GET", "/v2/").status == 200
    assert (registry.pid, registry.log().count("Traceback")) == before


def send(client: Client, sent: bytes) -> Answer | None:
    """Send bytes as they are; the answer, or None when the registry just hangs up."""
    with client.connect(within=20) as connection:
        try:
            connection.sendall(sent)
            return read_answer(connection)
        except TimeoutError:
            raise
        except OSError:
            return None


def assert_refused(answer: Answer | None, *statuses: int) -> None:
    """The client was told that it is wrong, or not told anything."""
    if answer is not None:
        assert answer.status in statuses, answer


def test_a_header_of_300_kilobytes_is_refused(registry: Daemon) -> None:
    client = registry.client()
    head = client.head("GET", "/v2/", {"X-Long": "x" * 300_000})
    assert_refused(send(client, head), 400, 431)


def test_ten_thousand_headers_are_refused(registry: Daemon) -> None:
    client = registry.client()
    head = client.head("GET", "/v2/", {f"X-{number}": "x" for number in range(10_000)})
    assert_refused(send(client, head), 400, 431)


def test_a_target_of_300_kilobytes_is_refused(registry: Daemon) -> None:
    client = registry.client()
    head = client.head("GET", "/v2/" + "a/" * 150_000 + "tags/list")
    assert_refused(send(client, head), 400, 404, 414, 431)


@pytest.mark.parametrize(
    "line",
    [
        b"GET /v2/\0 HTTP/1.1",
        b"GET\0 /v2/ HTTP/1.1",
        b"GET /v2/ HTTP/1.1\0",
        b"\0",
        b"GET  HTTP/1.1",
        b"GET /v2/ extra HTTP/1.1",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_a_malformed_request_line_is_refused(registry: Daemon, line: bytes) -> None:
    head = b"%b\r\nHost: %b\r\n\r\n" % (line, registry.address.encode())
    assert_refused(send(registry.client(), head), 400, 501, 505)


@pytest.mark.parametrize(
    "field",
    [
        b"X-Nul: a\0b",
        b"X\0Nul: a",
        b"X-Lonely-Return: a\rb",
        b"No colon",
        b": nothing",
        b"Content-Length: many",
        b"Content-Length: -1",
        b"Content-Length: 1\r\nContent-Length: 2",
        b"Transfer-Encoding: chunked, chunked",
        b"Transfer-Encoding: nonsense",
    ],
)
def test_a_malformed_header_is_refused(registry: Daemon, field: bytes) -> None:
    client = registry.client()
    head = client.head("GET", "/v2/")
    sent = head.removesuffix(b"\r\n") + field + b"\r\n\r\nhello"
    assert_refused(send(client, sent), 400, 501)


def test_two_framings_in_one_request_end_the_connection(registry: Daemon) -> None:
    """As RFC 9112, section 6.3, demands: what follows could be read in two ways."""
    client = registry.client()
    both = {"Content-Length": "5", "Transfer-Encoding": "chunked"}
    with client.connect(within=20) as connection:
        connection.sendall(client.head("GET", "/v2/", both) + b"0\r\n\r\n")
        assert read_answer(connection).status in {200, 400}
        assert_let_go(connection)


@pytest.mark.parametrize(
    "path",
    [
        "/v2/%ff%fe/tags/list",
        "/v2/a%00b/tags/list",
        "/v2/caf%c3%a9/tags/list",
        "/v2/a/manifests/%ff",
        "/v2/a/blobs/sha256:%ff",
        "/v2/..%2f..%2fetc%2fpasswd/tags/list",
        "/v2/../../etc/passwd",
        "/v2/a/blobs/..%2f..%2fcatalogue.sqlite3",
        "/v2/%",
        "/v2/%zz/tags/list",
        "/v2/a/tags/list?n=%ff",
        "/v2/a/tags/list?last=%00",
        "/v2/_catalog?n=99999999999999999999",
    ],
)
def test_a_strange_path_is_a_clients_mistake(registry: Daemon, path: str) -> None:
    answer = registry.client().request("GET", path)
    assert answer.status in {200, 400, 404}, answer
    assert b"Traceback" not in answer.body
    if answer.status != 200:
        assert json.loads(answer.body)["errors"][0]["code"]


def test_bytes_beyond_ascii_in_the_path_are_a_clients_mistake(registry: Daemon) -> None:
    client = registry.client()
    head = client.head("GET", "/v2/PLACE/tags/list").replace(b"PLACE", b"\xff\xfe\xc3\xa9")
    assert_refused(send(client, head), 400, 404)


@pytest.mark.parametrize(
    "credentials",
    [
        base64.b64encode(b"\xff\xfe:\xff").decode(),
        base64.b64encode(USER.encode() + b":\xff\xfe").decode(),
        base64.b64encode(b"no colon").decode(),
        base64.b64encode(b"a\0b:c\0d").decode(),
        base64.b64encode(USER.encode() + b":" + b"x" * 10_000).decode(),
        base64.b64encode(b":").decode(),
        "not base64!",
        "",
        "=",
    ],
)
def test_strange_credentials_are_just_wrong(registry: Daemon, credentials: str) -> None:
    client = registry.client(login=None)
    answer = client.request("GET", "/v2/", headers={"Authorization": f"Basic {credentials}"})
    assert answer.status in {400, 401}, answer
    assert json.loads(answer.body)["errors"][0]["code"]


@pytest.mark.parametrize("scheme", ["Digest username=x", "Basic", "Basic a b c"])
def test_another_scheme_is_answered_with_the_challenge(registry: Daemon, scheme: str) -> None:
    client = registry.client(login=None)
    answer = client.request("GET", "/v2/", headers={"Authorization": scheme})
    assert answer.status in {400, 401}
    if answer.status == 401:
        assert answer.headers["WWW-Authenticate"] == 'Basic realm="Registry Realm"'


def test_a_token_that_is_none_is_answered_with_where_to_get_one(registry: Daemon) -> None:
    client = registry.client(login=None)
    answer = client.request("GET", "/v2/", headers={"Authorization": "Bearer x.y.z"})
    assert answer.status == 401
    realm = f'Bearer realm="https://{registry.address}/auth/token"'
    assert answer.headers["WWW-Authenticate"].startswith(realm)


def test_a_blob_cut_short_never_appears(registry: Daemon) -> None:
    client = registry.client()
    session = client.start_upload("bad/short")
    target = finished(session, _DIGEST)
    for reset in (False, True):
        connection = client.connect()
        head = client.head("PUT", target, {"Content-Length": str(len(_BLOB))})
        connection.sendall(head + _BLOB[:-1])
        break_off(connection, reset=reset)
    assert_never_appears(client, f"/v2/bad/short/blobs/{_DIGEST}")
    assert not registry.blob_path(_DIGEST).exists()


def test_a_manifest_cut_short_never_appears(registry: Daemon) -> None:
    client = registry.client()
    manifest = b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json",'
    manifest += b'"manifests":[]}'
    for announced in (len(manifest) + 1, len(manifest) + 1_000_000):
        connection = client.connect()
        head = client.head(
            "PUT",
            "/v2/bad/manifest/manifests/short",
            {
                "Content-Length": str(announced),
                "Content-Type": "application/vnd.oci.image.index.v1+json",
            },
        )
        connection.sendall(head + manifest)
        break_off(connection, reset=False)
    assert_never_appears(client, "/v2/bad/manifest/manifests/short")


def assert_never_appears(client: Client, target: str) -> None:
    """Nothing is there now, nor once the daemon must have noticed that the client left."""
    until = time.monotonic() + 1

    def looked_long_enough() -> bool:
        client.request("HEAD", target).expect(404)
        return time.monotonic() > until

    eventually(looked_long_enough, within=10, what="a second has passed")


def test_a_chunk_size_that_is_no_number_is_refused(registry: Daemon) -> None:
    client = registry.client()
    for size in (b"XYZ", b"-5", b"F" * 40, b"5" * 100_000):
        session = client.start_upload("bad/chunk")
        head = client.head("PATCH", session, {"Transfer-Encoding": "chunked"})
        assert_refused(send(client, head + size + b"\r\nhello\r\n0\r\n\r\n"), 400, 413, 431)


def test_a_blob_that_is_not_what_its_digest_says_is_refused(registry: Daemon) -> None:
    client = registry.client()
    wrong = digest_of(b"something else")
    session = client.start_upload("bad/digest")
    session = client.request("PATCH", session, _BLOB).expect(202).location()
    answer = client.finish_upload(session, wrong).expect(400)
    assert answer.json()["errors"][0]["code"] == "DIGEST_INVALID"
    answer = client.finish_upload(client.start_upload("bad/digest"), wrong, _BLOB).expect(400)
    assert answer.json()["errors"][0]["code"] == "DIGEST_INVALID"
    for digest in (wrong, _DIGEST):
        client.request("HEAD", f"/v2/bad/digest/blobs/{digest}").expect(404)
        assert not registry.blob_path(digest).exists()


def test_a_manifest_that_is_not_what_its_digest_says_is_refused(registry: Daemon) -> None:
    client = registry.client()
    manifest = b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json",'
    manifest += b'"manifests":[]}'
    wrong = digest_of(b"something else")
    answer = client.put_manifest("bad/digest", wrong, manifest).expect(400)
    assert answer.json()["errors"][0]["code"] == "DIGEST_INVALID"
    client.get_manifest("bad/digest", wrong).expect(404)


@pytest.mark.parametrize("manifest", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_a_manifest_that_is_none_is_refused(registry: Daemon, manifest: bytes) -> None:
    answer = registry.client().request(
        "PUT",
        "/v2/bad/manifest/manifests/none",
        manifest,
        {"Content-Type": "application/vnd.oci.image.manifest.v1+json"},
    )
    answer.expect(400)
    assert answer.json()["errors"][0]["code"] == "MANIFEST_INVALID"


def test_plain_http_on_the_tls_port_does_not_hurt(registry: Daemon) -> None:
    plain = Client(registry.address, ca=None, login=None)
    with suppress(http.client.BadStatusLine):  # a TLS alert is no status line
        assert_refused(send(plain, plain.head("GET", "/v2/")), 301, 308, 400)


def test_clients_that_fall_silent_are_let_go(tmp_path: Path) -> None:
    limits = {"handshake": "1s", "head": "1s", "idle": "1s", "stall": "1s"}
    with daemon.running(tmp_path / "registry", settings={"limits": limits}) as patient:
        client = patient.client()
        plain = Client(patient.address, ca=None, login=None)
        head = client.head("PUT", "/v2/a/manifests/1", {"Content-Length": "100000"})
        with closing(plain.connect(within=15)) as before_tls:
            assert_let_go(before_tls)
        with closing(plain.connect(within=15)) as in_the_handshake:
            in_the_handshake.sendall(b"\x16\x03\x01\x02\x00")
            assert_let_go(in_the_handshake)
        for sent in (b"", head[:50], head + bytes(50_000)):
            with closing(client.connect(within=15)) as connection:
                connection.sendall(sent)
                assert_let_go(connection)


def assert_let_go(connection: socket.socket) -> None:
    """The other side ends the connection, whatever it says before."""
    with suppress(ConnectionError):
        while connection.recv(10_000):
            pass
