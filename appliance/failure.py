"""Telling people that the registry has failed and stays down: by mail, by webhook.

The registry itself cannot: it is dead. systemd starts this in its place (OnFailure=), for which
reason it needs none of the registry's parts.
"""

import smtplib
import socket
import ssl
import subprocess
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path
from urllib.parse import urlsplit

import httpx2

from appliance.settings import Failure

_PORTS = {"smtp": 25, "smtps": 465}
_SECONDS = 30.0
_LINES = 30


class UntoldError(Exception):
    """Why somebody could not be told: a sentence, without its final stop."""


@dataclass(frozen=True, slots=True)
class Report:
    """What is told of a failure."""

    unit: str
    host: str
    result: str
    """systemd's word for what became of it, as in "exit-code"; empty where systemd does not tell."""
    lines: list[str]
    """The last of the journal."""

    @property
    def subject(self) -> str:
        """All of it in one line."""
        reason = f" ({self.result})" if self.result else ""
        return f"{self.unit} on {self.host} has failed{reason} and stays down"

    @property
    def text(self) -> str:
        """All of it, and what to do next."""
        last = "\n".join(f"  {line}" for line in self.lines) or "  (nothing is to be read there)"
        return (
            f"{self.subject}.\n\nThe last lines of its journal:\n\n{last}\n\n"
            f"On {self.host}: registry check names what keeps it from starting, then\n"
            f"systemctl reset-failed {self.unit} && systemctl start {self.unit}\n"
        )


def look(unit: str) -> Report:
    """Ask systemd what became of a unit."""
    result = _said("systemctl", "show", "--property=Result", "--value", unit)
    lines = _said("journalctl", "--no-pager", "--output=cat", f"--lines={_LINES}", f"--unit={unit}")
    return Report(unit, socket.getfqdn(), result.strip(), lines.splitlines())


def tell(settings: Failure, report: Report) -> list[str]:
    """Tell all who are to be told and return their addresses; raises UntoldError at the end."""
    told: list[str] = []
    faults = []
    if settings.mail_to:
        try:
            _mail(settings, report)
            told += settings.mail_to
        except (OSError, smtplib.SMTPException, UntoldError) as error:
            faults.append(f"no mail could be sent by {settings.smtp}: {error}")
    if settings.webhook:
        place = urlsplit(settings.webhook).netloc.rpartition("@")[2]  # what follows may be a secret
        try:
            _post(settings.webhook, report)
            told.append(place)
        except httpx2.HTTPStatusError as error:
            faults.append(f"the webhook at {place} answers {error.response.status_code}")
        except httpx2.HTTPError as error:
            faults.append(f"the webhook at {place} cannot be reached: {type(error).__name__}")
    if faults:
        raise UntoldError("; ".join(faults))
    return told


def _mail(settings: Failure, report: Report) -> None:
    message = EmailMessage()
    message["Subject"] = report.subject
    message["From"] = settings.mail_from or f"registry@{report.host}"
    message["To"] = ", ".join(settings.mail_to)
    message.set_content(report.text)
    place = urlsplit(settings.smtp)
    host, port = place.hostname or "localhost", place.port or _PORTS[place.scheme]
    context = ssl.create_default_context()
    with (
        smtplib.SMTP_SSL(host, port, timeout=_SECONDS, context=context)
        if place.scheme == "smtps"
        else smtplib.SMTP(host, port, timeout=_SECONDS)
    ) as server:
        encrypted = place.scheme == "smtps"
        server.ehlo_or_helo_if_needed()
        if not encrypted and server.has_extn("starttls") and not _is_here(host):
            server.starttls(context=context)
            encrypted = True
        if settings.smtp_account:
            if not encrypted and not _is_here(host):
                raise UntoldError("it offers no TLS, and a password goes by TLS alone")
            password = Path(settings.smtp_password_file).read_text(encoding="utf-8").strip()
            server.login(settings.smtp_account, password)
        server.send_message(message)


def _post(address: str, report: Report) -> None:
    content = {
        "text": report.text,
        "unit": report.unit,
        "host": report.host,
        "result": report.result,
    }
    with httpx2.Client(timeout=_SECONDS) as client:
        client.post(address, json=content).raise_for_status()


def _is_here(host: str) -> bool:
    """Tell whether a mail server is on this machine, whose certificate has any name or none."""
    return host in {"localhost", "127.0.0.1", "::1"}


def _said(*command: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603  systemd's own, and a unit's name
            command, capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
