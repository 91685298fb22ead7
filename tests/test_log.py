"""The log: its two forms, and that no secret ever gets into either."""

import io
import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bcrypt
import pytest
import structlog

from appliance import log
from tests.api.driver import ALICE, Registry, basic, open_registry

FORMS = ["text", "json"]
Configure = Callable[..., io.StringIO]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def configure() -> Iterator[Configure]:
    """Set logging up as the daemon does, for one test, and give what it writes to."""

    def configured(
        form: Any, level: str = "debug", stream: io.StringIO | None = None
    ) -> io.StringIO:
        stream = stream or io.StringIO()
        log.configure(form, level, stream)
        structlog.configure(cache_logger_on_first_use=False)  # or no later test could change it
        return stream

    before = structlog.get_config()
    yield configured
    structlog.configure(**before)


# --- forms


def test_json_is_one_object_a_line(configure: Configure) -> None:
    stream = configure("json")
    logger = structlog.get_logger()
    logger.info("serving", listen=["[::]:443"], size=7, path=Path("/a"))
    logger.error("a line\nand another", reason='"quoted"\r\n\x1b[31m\u2028')
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert (first["event"], first["level"], first["size"]) == ("serving", "info", 7)
    assert first["listen"] == ["[::]:443"]
    assert "/a" in first["path"]
    assert first["timestamp"].endswith("Z")
    assert (second["event"], second["level"]) == ("a line\nand another", "error")
    assert "\x1b" not in stream.getvalue()


def test_an_exception_in_json_is_one_line_with_its_traceback(configure: Configure) -> None:
    stream = configure("json")
    try:
        _ = 1 / 0
    except ZeroDivisionError:
        structlog.get_logger().exception("request failed")
    (line,) = stream.getvalue().splitlines()
    assert "ZeroDivisionError: division by zero" in json.loads(line)["exception"]


def test_text_is_one_line_an_event(configure: Configure) -> None:
    stream = configure("text")
    structlog.get_logger().info("serving", path="/v2/\nfaked line\x1b[31m", count=3)
    (line,) = stream.getvalue().splitlines()
    assert "serving" in line
    assert "count=3" in line
    assert "\x1b" not in line


@pytest.mark.parametrize(
    ("form", "stream", "is_json"),
    [
        ("auto", io.StringIO, True),
        ("auto", Terminal, False),
        ("text", io.StringIO, False),
        ("text", Terminal, False),
        ("json", io.StringIO, True),
        ("json", Terminal, True),
    ],
)
def test_auto_is_text_on_a_terminal_and_json_otherwise(
    configure: Configure, form: str, stream: type[io.StringIO], is_json: bool
) -> None:
    written = configure(form, stream=stream())
    structlog.get_logger().info("serving")
    assert written.getvalue().startswith("{") == is_json


def test_colours_are_for_terminals(configure: Configure) -> None:
    structlog.get_logger()
    plain, terminal = configure("text"), Terminal()
    structlog.get_logger().info("serving")
    configure("text", stream=terminal)
    structlog.get_logger().info("serving")
    assert "\x1b[" not in plain.getvalue()
    assert "\x1b[" in terminal.getvalue()


@pytest.mark.parametrize(
    ("level", "count"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)]
)
def test_a_level_leaves_out_what_is_below_it(configure: Configure, level: str, count: int) -> None:
    stream = configure("json", level)
    logger = structlog.get_logger()
    for event in ("debug", "info", "warning", "error"):
        getattr(logger, event)("something")
    assert len(stream.getvalue().splitlines()) == count


# --- secrets

PASSWORDS = ("open sesame", "wr0ng guess", "correct horse")


async def talk(registry: Registry) -> None:
    """Bring passwords in every way a client can."""
    for login in (ALICE, ("alice", "wr0ng guess"), ("eve", "wr0ng guess"), None):
        await registry.ask("GET", "/v2/", login=login)
        await registry.ask("GET", "/v2/a/tags/list?token=wr0ng+guess", login=login)
        await registry.ask("POST", "/v2/a/blobs/uploads/?digest=nonsense", body=b"x", login=login)
    for header in (
        "Bearer wr0ng guess",
        "Basic wr0ng guess",
        "Basic " + b64encode(b"wr0ng guess").decode(),
        basic("open sesame", "correct horse"),
    ):
        await registry.ask("GET", "/v2/", {"Authorization": header})
    await registry.ask("GET", "/v2/", {"Cookie": "wr0ng guess", "X-Other": "wr0ng guess"})
    await registry.ask("PUT", "/v2/a/manifests/x", body=b'{"mediaType":"wr0ng guess"')


def expect_no_secret(written: str) -> None:
    for password in PASSWORDS:
        for form in (password, password.replace(" ", "+")):
            assert form not in written
            assert b64encode(form.encode()).decode().rstrip("=") not in written
    for login in (ALICE, ("alice", "wr0ng guess"), ("eve", "wr0ng guess")):
        assert basic(*login).removeprefix("Basic ") not in written


@pytest.mark.parametrize("form", FORMS)
async def test_a_request_is_logged_without_its_secrets(
    configure: Configure, tmp_path: Path, form: str
) -> None:
    stream = configure(form)
    registry = open_registry(tmp_path)
    await talk(registry)
    await registry.close()
    assert stream.getvalue().count("request") >= 17
    assert "alice" in stream.getvalue()
    expect_no_secret(stream.getvalue())


@pytest.mark.parametrize("form", FORMS)
async def test_a_fault_of_ours_is_logged_without_the_clients_secrets(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    def fail(password: bytes, stored: bytes) -> bool:
        raise RuntimeError("out of order")

    stream = configure(form)
    registry = open_registry(tmp_path)
    monkeypatch.setattr(bcrypt, "checkpw", fail)
    answer = await registry.ask("GET", "/v2/")
    await registry.close()
    assert (answer.status, answer.code) == (500, "UNKNOWN")
    assert b"out of order" not in answer.body
    assert "out of order" in stream.getvalue()
    expect_no_secret(stream.getvalue())


async def test_a_request_is_logged_with_what_an_operator_asks_for(
    configure: Configure, tmp_path: Path
) -> None:
    stream = configure("json")
    registry = open_registry(tmp_path)
    await registry.ask("GET", "/v2/")
    await registry.ask("GET", "/v2/a/tags/list?n=1", login=None)
    await registry.close()
    first, second = map(json.loads, stream.getvalue().splitlines())
    for entry in (first, second):
        assert entry.pop("seconds") >= 0
        del entry["timestamp"]
    assert first == {
        "event": "request",
        "level": "info",
        "client": "192.0.2.1",
        "account": "alice",
        "method": "GET",
        "path": "/v2/",
        "status": 200,
        "received": 0,
        "sent": 2,
    }
    assert (second["account"], second["path"], second["status"]) == ("-", "/v2/a/tags/list", 401)


@pytest.mark.parametrize("form", FORMS)
def test_half_a_character_is_logged_as_well(configure: Configure, form: str) -> None:
    written = configure(form)
    structlog.get_logger().info("told", reason="\ud800", other=Path("/"))
    assert "d800" in ascii(written.getvalue())
