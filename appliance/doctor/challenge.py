"""The first answer of a registry, as docker reads it: whether it is one, and how one logs in."""

import re
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from urllib.parse import urlencode, urlsplit

from appliance.doctor.asking import Asker
from appliance.doctor.findings import Report
from appliance.trust.exchange import Answer, NoAnswerError
from appliance.trust.place import Place

REGISTRY, LOGIN, CLOCK, BODY = "registry", "challenge", "clock", "body"
_VERSION = "docker-distribution-api-version"
_CLOCK_WARNING_SECONDS = 60
_CLOCK_FAULT_SECONDS = 300  # tokens that say when they begin and end are wrong by then
_SMALL_BODY, _LARGE_BODY = 64 << 20, 4 << 30  # a layer of every image's, and a large one's
_PARAMETER = re.compile(r'([A-Za-z_]+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Challenge:
    """How a registry wants clients to say who they are."""

    scheme: str
    """`basic`, `bearer`, or nothing for one that lets anybody in."""
    realm: str = ""
    """Where tokens are had."""
    service: str = ""


def examine_registry(place: Place, asker: Asker, report: Report) -> Challenge | None:
    """Ask for `/v2/` as docker does first; None where nothing more can be tried."""
    before = time.time()
    try:
        answer = asker.ask("GET", "/v2/")
    except NoAnswerError as error:
        report.fault(
            REGISTRY,
            f"{place.url}/v2/",
            f"no answer: {error}",
            "on the registry's machine: journalctl -u registry -n 50",
        )
        return None
    _examine_clock(place, answer, before, report)
    if not _is_registry(place, answer, report):
        return None
    if answer.status == 200:
        report.ok(REGISTRY, f"{place.url}/v2/", "a registry answers, and asks nobody to log in")
        return Challenge("")
    return _examine_challenge(place, answer, asker, report)


def examine_body(place: Place, asker: Asker, report: Report) -> None:
    """See whether something in front refuses large bodies; none is sent for that."""
    for size, kind in ((_SMALL_BODY, report.fault), (_LARGE_BODY, report.warn)):
        try:
            status = asker.announce(size)
        except OSError as error:
            report.unseen(BODY, place.name, f"how large a layer may be is not known ({error})")
            return
        if status == 413:
            kind(
                BODY,
                place.name,
                f"a layer of {size >> 20} MiB is refused (413), by a proxy in front or by the registry's own limit",
                "nginx: client_max_body_size 0; and proxy_request_buffering off;",
                'on the registry: [limits] max_body = "0" in /etc/registry.toml',
            )
            return
    report.ok(
        BODY, place.name, f"nothing in front of it refuses a layer of {_LARGE_BODY >> 30} GiB"
    )


def _examine_clock(place: Place, answer: Answer, before: float, report: Report) -> None:
    told = answer.headers.get("date")
    if told is None:
        return
    try:
        theirs = parsedate_to_datetime(told).timestamp()
    except (ValueError, OverflowError):
        report.warn(CLOCK, place.name, "its Date header is no date")
        return
    # It names whole seconds, and was written at some moment since the question.
    late, early = before - (theirs + 1), theirs - time.time()
    difference = max(late, early, 0)
    if difference < _CLOCK_WARNING_SECONDS:
        report.ok(CLOCK, place.name, "its clock and this machine's agree")
        return
    kind = report.fault if difference >= _CLOCK_FAULT_SECONDS else report.warn
    kind(
        CLOCK,
        place.name,
        f"its clock is {_span(difference)} {'behind' if late > early else 'ahead of'} this machine's, so that"
        " tokens and certificates seem to have expired, or not to have begun",
        "on both machines: timedatectl; and: sudo timedatectl set-ntp true",
    )


def _is_registry(place: Place, answer: Answer, report: Report) -> bool:
    url = f"{place.url}/v2/"
    if 300 <= answer.status < 400:
        target = answer.headers.get("location", "")
        if place.scheme == "https" and target.lower().startswith("http://"):
            report.fault(
                REGISTRY,
                url,
                f"is redirected to plain HTTP, {_shown(target)}",
                "a proxy in front has to say how clients come: proxy_set_header X-Forwarded-Proto $scheme;",
                "and the registry to believe it: [server] trusted_proxies",
            )
        else:
            report.fault(
                REGISTRY,
                url,
                f"is redirected to {_shown(target)}, which docker does not follow here",
                "name the registry by the address at which it answers",
            )
        return False
    if answer.status in (502, 503, 504) and _VERSION not in answer.headers:
        report.fault(
            REGISTRY,
            url,
            f"a proxy answers {answer.status} in place of the registry, which it does not reach",
            "on the registry's machine: systemctl status registry",
        )
        return False
    if answer.status in (200, 401) and (
        _VERSION in answer.headers or "www-authenticate" in answer.headers
    ):
        if _VERSION not in answer.headers:
            report.warn(
                REGISTRY,
                url,
                "the answer lacks Docker-Distribution-Api-Version, which older clients look for",
                "let a proxy in front pass it on, or add it:"
                " add_header Docker-Distribution-Api-Version registry/2.0 always;",
            )
        return True
    if _VERSION in answer.headers:
        report.fault(
            REGISTRY,
            url,
            f"the registry answers {answer.status}",
            "on the registry's machine: journalctl -u registry -n 50",
        )
        return False
    kind = answer.headers.get("content-type", "").partition(";")[0] or "nothing"
    report.fault(
        REGISTRY,
        url,
        f"no registry answers there: status {answer.status} with {kind}",
        "check the host and the port, and that a proxy in front passes /v2/ on, at the top of a host",
    )
    return False


def _examine_challenge(
    place: Place, answer: Answer, asker: Asker, report: Report
) -> Challenge | None:
    url = f"{place.url}/v2/"
    challenge = _parse(answer)
    if challenge is None:
        report.fault(
            LOGIN,
            url,
            "asks for a login (401) without saying which kind, in WWW-Authenticate",
            "let the proxy in front pass WWW-Authenticate on, and not ask for a login itself",
        )
        return None
    if challenge.scheme == "basic":
        report.ok(REGISTRY, url, "a registry answers, and takes a name and a password")
        return challenge
    if place.scheme == "https" and not challenge.realm.lower().startswith("https://"):
        report.fault(
            LOGIN,
            url,
            f"sends clients to {_shown(challenge.realm)} for a token, which is not encrypted",
            f'on the registry: [server] public_url = "{place.url}" in /etc/registry.toml',
        )
        return None
    try:
        asker.ask("GET", f"{challenge.realm}?{urlencode({'service': challenge.service})}")
    except NoAnswerError as error:
        report.fault(
            LOGIN,
            url,
            f"sends clients to {_shown(challenge.realm)} for a token, and that cannot be reached: {error}",
            f'on the registry: [server] public_url = "{place.url}" in /etc/registry.toml',
        )
        return None
    report.ok(REGISTRY, url, f"a registry answers, and gives tokens at {_shown(challenge.realm)}")
    return challenge


def _parse(answer: Answer) -> Challenge | None:
    for line in answer.headers.get_list("www-authenticate"):
        scheme, _, rest = line.partition(" ")
        values = dict(_PARAMETER.findall(rest))
        if scheme.lower() == "bearer" and "realm" in values:
            return Challenge("bearer", values["realm"], values.get("service", ""))
        if scheme.lower() == "basic":
            return Challenge("basic")
    return None


def _span(seconds: float) -> str:
    for unit, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} seconds"


def _shown(url: str) -> str:
    """Write an address that somebody else chose, without what may be secret in it."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "an address that is none"
    host = parts.netloc.rpartition("@")[2]
    return (f"{parts.scheme}://{host}{parts.path}" if parts.scheme else parts.path)[:200]
