"""A registry as its clients see it, from its name to a pull."""

import os
from collections.abc import Sequence

from cryptography import x509

from appliance.doctor.asking import Asker
from appliance.doctor.challenge import examine_body, examine_registry
from appliance.doctor.credentials import Login, find_login
from appliance.doctor.findings import Report
from appliance.doctor.presented import Believed, examine_tls
from appliance.doctor.roundtrip import RoundTrip
from appliance.doctor.wire import examine_way
from appliance.trust.place import Place

_PLAIN, _ROUND = "tls", "login"


def examine_from_outside(
    place: Place,
    within: float,
    report: Report,
    *,
    login: Login | None = None,
    own: Sequence[x509.Certificate] = (),
) -> None:
    """Go the way of a client, step by step, as far as it leads.

    Without a login, the one that docker or podman has kept here is used. `own` are authorities known on the
    registry's own machine. Each wait ends after `within` seconds.
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
            RoundTrip(place, asker, challenge, login, report).run()
