"""People are told that the registry has failed: by a real mail server, and a real webhook."""

import json
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message as Handler
from aiosmtpd.smtp import AuthResult

from appliance.failure import Report, UntoldError, tell
from appliance.settings import Failure, SettingsError, load, load_failure
from tests.system.tools import free_port

REPORT = Report(
    "registry.service", "box.example.com", "exit-code", ["serving", "Address already in use"]
)
PASSWORD = "correct horse"


class Mailbox(Handler):
    """Keeps what arrives."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[Any] = []

    def handle_message(self, message: Any) -> None:
        self.messages.append(message)


@contextmanager
def mail_server(**options: Any) -> Iterator[tuple[Mailbox, int]]:
    mailbox = Mailbox()
    server = Controller(mailbox, hostname="127.0.0.1", port=free_port(), **options)
    server.start()
    try:
        yield mailbox, server.port
    finally:
        server.stop()


@contextmanager
def webhook(status: int = 200) -> Iterator[tuple[list[Mapping[str, str]], str]]:
    posted: list[Mapping[str, str]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Hook) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield posted, f"http://127.0.0.1:{server.server_port}/hooks/s3cr3t"
        finally:
            server.shutdown()
            thread.join()


def test_a_mail_says_what_happened_and_what_to_do() -> None:
    with mail_server() as (mailbox, port):
        told = tell(Failure(mail_to=("ops@example.com",), smtp=f"smtp://127.0.0.1:{port}"), REPORT)
    assert told == ["ops@example.com"]
    (message,) = mailbox.messages
    assert message["To"] == "ops@example.com"
    assert message["From"] == "registry@box.example.com"
    assert message["Subject"].strip() == (
        "registry.service on box.example.com has failed (exit-code) and stays down"
    )
    text = message.get_payload()
    assert "Address already in use" in text
    assert "systemctl reset-failed registry.service && systemctl start registry.service" in text


def authenticator(
    _server: object, _session: object, _envelope: object, kind: str, data: Any
) -> AuthResult:
    right = kind in {"LOGIN", "PLAIN"} and (data.login, data.password) == (
        b"box",
        PASSWORD.encode(),
    )
    return AuthResult(success=right, handled=False)


def test_a_password_goes_by_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("mail.test").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.setattr("socket.getaddrinfo", _here(socket.getaddrinfo))
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    wanted = Failure(
        mail_to=("ops@example.com",),
        smtp_account="box",
        smtp_password_file=str(tmp_path / "password"),
    )
    options = {"authenticator": authenticator, "auth_required": True}
    with mail_server(tls_context=context, **options) as (mailbox, port):
        told = tell(_at(wanted, port), REPORT)
    assert told == ["ops@example.com"]
    assert len(mailbox.messages) == 1
    with (
        pytest.warns(UserWarning, match="AUTH while not requiring TLS"),
        mail_server(auth_require_tls=False, **options) as (mailbox, port),
        pytest.raises(UntoldError, match="no TLS, and a password goes by TLS alone"),
    ):
        tell(_at(wanted, port), REPORT)
    assert mailbox.messages == []


def _at(wanted: Failure, port: int) -> Failure:
    return Failure(
        mail_to=wanted.mail_to,
        smtp=f"smtp://mail.test:{port}",
        smtp_account=wanted.smtp_account,
        smtp_password_file=wanted.smtp_password_file,
    )


def _here(resolve: Any) -> Any:
    """Resolve the name of the mail server to this machine, as a hosts file would."""

    def resolved(host: Any, *rest: Any, **options: Any) -> Any:
        return resolve("127.0.0.1" if host == "mail.test" else host, *rest, **options)

    return resolved


def test_a_webhook_gets_a_text_and_its_parts() -> None:
    with webhook() as (posted, address):
        assert tell(Failure(webhook=address), REPORT) == [address.split("/")[2]]
    (content,) = posted
    assert content["text"] == REPORT.text
    assert (content["unit"], content["result"]) == ("registry.service", "exit-code")


def test_who_can_be_told_is_told_and_the_rest_is_named() -> None:
    with webhook(500) as (_, address), mail_server() as (mailbox, port):
        wanted = Failure(
            mail_to=("ops@example.com",), smtp=f"smtp://127.0.0.1:{port}", webhook=address
        )
        with pytest.raises(
            UntoldError, match=r"the webhook at 127.0.0.1:[0-9]+ answers 500"
        ) as told:
            tell(wanted, REPORT)
    assert len(mailbox.messages) == 1
    assert "s3cr3t" not in str(told.value)


def test_what_is_wrong_elsewhere_keeps_nobody_from_being_told(tmp_path: Path) -> None:
    file = tmp_path / "registry.toml"
    file.write_text('[server]\nlisten = 7\n[nonsense]\n[failure]\nmail_to = ["ops@example.com"]\n')
    with pytest.raises(SettingsError):
        load(file, {})
    assert load_failure(file, {}).mail_to == ("ops@example.com",)
    file.write_text('[failure]\nmail_to = "ops"\n')
    with pytest.raises(SettingsError, match=r"failure\.mail_to"):
        load_failure(file, {})


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('mail_to = ["nobody"]', "failure.mail_to"),
        ('mail_from = "a b@c"', "failure.mail_from"),
        ('smtp = "localhost:25"', "failure.smtp"),
        ('webhook = "chat.example.com"', "failure.webhook"),
        ('smtp_account = "box"', "failure.smtp_password_file"),
    ],
)
def test_what_cannot_be_is_named(tmp_path: Path, line: str, key: str) -> None:
    file = tmp_path / "registry.toml"
    file.write_text(f"[failure]\n{line}\n")
    with pytest.raises(SettingsError, match=key.replace(".", r"\.")):
        load(file, {})
