"""A registry on its own machine: settings and all that they point to, then what clients see of it.

The faults that `registry check` finds are reused. Where an examination of ours tells more about the same thing,
theirs is left out.
"""

import os
import pwd
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

from appliance import lock, preflight
from appliance.accounts import editing
from appliance.accounts.files import AccountError
from appliance.banner import public_url
from appliance.doctor.credentials import Login
from appliance.doctor.findings import Report
from appliance.doctor.firewall import examine_firewall
from appliance.doctor.folder import examine_modes, examine_owners, examine_room
from appliance.doctor.identity import authorities, examine_certificates
from appliance.doctor.ports import examine_ports
from appliance.doctor.service import examine_clock, examine_service, start_command, unit_state
from appliance.doctor.there import examine_from_outside
from appliance.firststart import ADMINISTRATOR, password_note
from appliance.lock import Note
from appliance.settings import DEFAULT_FILE, Address, Settings, SettingsError, load
from appliance.trust.place import Place
from appliance.wholeness import CATALOGUE

SETTINGS, PASSWORDS, OUTSIDE = "settings", "passwords", "outside"


def examine_here(
    file: Path | None,
    environment: Mapping[str, str],
    within: float,
    report: Report,
    *,
    login: Login | None = None,
    repository: str | None = None,
) -> None:
    """Examine the registry of these settings, from inside and then from outside, with a push to `repository`."""
    source = file or DEFAULT_FILE
    if not _may_read(source):
        report.unseen(SETTINGS, source, "only root may read it", "sudo registry doctor")
        return
    state = unit_state(within)
    try:
        settings = load(file, environment)
    except SettingsError as error:
        for sentence in error.faults:
            _tell_fault(SETTINGS, sentence, source, report)
        examine_service(state, None, report)
        return
    running = None
    with suppress(OSError):
        running = lock.holder(settings.data)
    listen = _listening(settings, running)
    url = public_url(settings, listen)
    _examine_settings(settings, source, running, report)
    _examine_passwords(settings, report)
    examine_modes(settings, source, report)
    examine_owners(settings, _user(state, running), report)
    examine_room(settings, report)
    examine_certificates(settings, source, urlsplit(url).hostname or "", report)
    examine_clock(within, report)
    examine_service(state, running, report)
    examine_ports(listen, running, source, start_command(state), report)
    examine_firewall([address.port for address in listen], within, report)
    try:
        place = Place.parse(url)
    except ValueError:
        what = "clients cannot come by this address"
        report.fault(SETTINGS, url, what, f'[server] public_url = "https://HOST" in {source}')
        return
    if settings.server.proxy_protocol and not settings.server.public_url:
        what = "is for the proxies in front alone, which say who asks; clients come by theirs"
        report.unseen(OUTSIDE, url, what, "registry doctor https://HOST, with their address")
        return
    if login is None:
        login = _administrator(settings)
    examine_from_outside(
        place, within, report, login=login, own=authorities(settings), repository=repository
    )


def _listening(settings: Settings, running: Note | None) -> list[Address]:
    if running is not None and (running.listen or running.plain):
        return [Address.parse(text) for text in (*running.listen, *running.plain)]
    return [*settings.server.listen, *settings.server.plain]


def _examine_settings(
    settings: Settings, source: Path, running: Note | None, report: Report
) -> None:
    if not _may_examine(settings):
        report.unseen(
            SETTINGS,
            source,
            f"they can be read; whether {settings.data} fits them only root and the registry's own user"
            " may see",
            "sudo registry doctor",
        )
        return
    findings = preflight.examine(settings, source, thorough=True)
    certificates = (settings.tls.certificate, *(one.certificate for one in settings.tls.additional))
    told_elsewhere = (
        f"{source}: tls: ",
        f"{source}: storage.reserve ",
        str(settings.htpasswd),
        *filter(None, certificates),
    )
    for sentence in findings.faults:
        in_use = (
            sentence.startswith(f"{source}: server.") and "in use by another process" in sentence
        )
        if not in_use and not sentence.startswith(told_elsewhere):
            _tell_fault(SETTINGS, sentence, source, report)
    for sentence in findings.warnings:
        if not sentence.startswith(told_elsewhere):
            what, remedy = _parted(sentence, source)
            report.warn(SETTINGS, source, what, *remedy)
    if not report.has_trouble(SETTINGS):
        what = "no faults" if source.exists() else "is not there, so the defaults count"
        report.ok(SETTINGS, source, what)


def _examine_passwords(settings: Settings, report: Report) -> None:
    file = settings.htpasswd
    add = "registry user add NAME"
    try:
        if not file.exists():
            if (settings.data / CATALOGUE).exists():
                report.fault(
                    PASSWORDS,
                    file,
                    "is not there, so that nobody can log in",
                    f"bring it back from a backup, or: {add}",
                )
            else:
                report.unseen(
                    PASSWORDS, file, "is made when the registry starts for the first time"
                )
            return
        found = editing.accounts(file)
    except (AccountError, OSError) as error:
        report.unseen(PASSWORDS, file, f"cannot be read ({error})", "sudo registry doctor")
        return
    for fault in found.faults:
        report.warn(
            PASSWORDS,
            file,
            f"line {fault.line} is ignored: {fault.reason.partition('; ')[0]}",
            "set the password anew: registry user passwd NAME, or remove the line",
        )
    for sentence in found.weaknesses.values():
        what, remedy = _parted(f"{sentence}.", file)
        report.warn(PASSWORDS, file, what, *remedy)
    if not found.hashes:
        report.fault(PASSWORDS, file, "has no usable account, so that nobody can log in", add)
    elif not report.has_trouble(PASSWORDS):
        report.ok(PASSWORDS, file, f"{len(found.hashes)} of its accounts can log in")


def _administrator(settings: Settings) -> Login | None:
    """Take the password of the first start, as long as its note is there."""
    note = password_note(settings)
    try:
        return Login(ADMINISTRATOR, note.read_text("utf-8").strip(), str(note))
    except (OSError, UnicodeDecodeError):
        return None


def _may_read(source: Path) -> bool:
    try:
        return not source.exists() or os.access(source, os.R_OK)
    except OSError:
        return False


def _may_examine(settings: Settings) -> bool:
    if os.geteuid() == 0:
        return True
    try:
        return settings.data.stat().st_uid == os.geteuid()
    except FileNotFoundError:
        return True
    except OSError:
        return False


def _user(state: Mapping[str, str] | None, running: Note | None) -> int | None:
    """As whom the registry runs, or would; None where nobody says."""
    if running is not None and running.pid:
        with suppress(OSError):
            return Path(f"/proc/{running.pid}").stat().st_uid
    with suppress(KeyError):
        return pwd.getpwnam((state or {})["User"]).pw_uid
    return None


def _tell_fault(check: str, sentence: str, source: Path, report: Report) -> None:
    what, remedy = _parted(sentence, source)
    report.fault(check, source, what, *remedy)


def _parted(sentence: str, source: Path) -> tuple[str, tuple[str, ...]]:
    """Part a sentence of `registry check` into what is at fault and what to do."""
    what, _, remedy = sentence.removeprefix(f"{source}: ").rstrip(".").partition("; ")
    if (
        not remedy and ": restore " in what
    ):  # of a catalogue, whose damage is told in words with semicolons
        what, _, remedy = what.rpartition(": ")
    return what, (remedy,) if remedy else (f"edit {source}, then: registry check",)
