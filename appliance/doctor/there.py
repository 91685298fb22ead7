"""A registry as its clients see it, from its name to a pull."""

import os
from collections.abc import Sequence
from urllib.parse import urlsplit

from cryptography import x509

from appliance.doctor.asking import Asker
from appliance.doctor.challenge import Challenge, examine_body, examine_registry
from appliance.doctor.credentials import Login, find_login
from appliance.doctor.findings import Report
from appliance.doctor.presented import Believed, examine_tls
from appliance.doctor.roundtrip import RoundTrip
from appliance.doctor.wire import examine_way
from appliance.trust.place import Place, is_loopback

_PLAIN, _ROUND = "tls", "login"


def examine_from_outside(
    place: Place,
    within: float,
    report: Report,
    *,
    login: Login | None = None,
    own: Sequence[x509.Certificate] = (),
    repository: str | None = None,
) -> None:
    """Go the way of a client, step by step, as far as it leads.

    Without a login, the one that docker or podman has kept here is used. `own` are authorities known on the
    registry's own machine. The push goes to `repository`, or else to one of its own. Each wait ends after `within` seconds.
    """
    if not examine_way(place, within, report):
        return
    believed: Believed | None = None
    if place.scheme == "https":
        believed = examine_tls(place, own, within, report)
        if believed is None:
            return
    else:
        report.warn(
            _PLAIN,
            place.name,
            "without TLS, passwords and images travel readable",
            f'docker needs "insecure-registries": ["{place.name}"] in /etc/docker/daemon.json',
        )
    with Asker(place, believed, within) as asker:
        challenge = examine_registry(place, asker, report)
        if challenge is None:
            return
        examine_body(place, asker, report)
        readable = _readable(place, challenge)
        if readable and (login is None or not login.is_asked_for):
            report.unseen(
                _ROUND,
                place.name,
                f"no password that is kept here was sent, nor a push tried, as {readable} is not encrypted",
                f"to send one all the same: registry doctor {place.url} --user NAME",
            )
            return
        if login is None:
            login = find_login(place, os.environ, within, report)
        if login is None:
            report.unseen(
                _ROUND,
                place.name,
                "nobody is logged in here, so no push was tried",
                f"docker login {place.name}, or: registry doctor {place.url} --user NAME",
            )
        elif not asker.is_safe:
            report.unseen(
                _ROUND,
                place.name,
                "no password was sent, nor a push tried, as the certificate is not to be believed",
            )
        else:
            RoundTrip(place, asker, challenge, login, report, repository=repository).run()


def _readable(place: Place, challenge: Challenge) -> str:
    """Say where a password would travel readable; nothing where it does not."""
    if not place.is_private:
        return place.name
    target = urlsplit(challenge.realm)  # that of tokens, which has answered
    if target.scheme == "http" and not is_loopback(target.hostname or ""):
        return target.netloc
    return ""
