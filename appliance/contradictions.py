"""What in the settings does not go together, though each key by itself is what it may be."""

import difflib
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from appliance.access_tables import Job, Ldap
from appliance.registry.policy import ANONYMOUS
from appliance.tables import Settings

_OF_EVERY_JOB = {"iss", "aud", "exp", "iat", "nbf", "jti"}
_OWNERS = {
    "https://token.actions.githubusercontent.com": (
        "sub",
        "repository",
        "repository_id",
        "repository_owner",
        "repository_owner_id",
        "job_workflow_ref",
    ),
    "https://gitlab.com": ("sub", "project_path", "project_id", "namespace_path", "namespace_id"),
}
"""What says whose a job is, where everybody's jobs have tokens of one issuer."""


def contradictions(source: Path, settings: Settings) -> list[str]:
    """Find what does not go together: each fault is one sentence that names its keys."""
    server, tls = settings.server, settings.tls
    faults = []
    if tls.mode == "acme":
        faults.append(f'{source}: tls.mode = "acme" is not available; use "auto" or "files".')
    if tls.mode == "files" and not (tls.certificate and tls.key):
        faults.append(f'{source}: tls.mode = "files" needs both tls.certificate and tls.key.')
    if tls.mode != "files" and (tls.certificate or tls.key or tls.additional):
        faults.append(
            f"{source}: tls.certificate, tls.key and tls.additional count only with"
            f' tls.mode = "files"; set that, or remove them.'
        )
    if not server.listen and (tls.mode != "off" or not server.plain):
        faults.append(f'{source}: server.listen is empty; give an address, as in ["[::]:443"].')
    if server.proxy_protocol and not server.trusted_proxies:
        faults.append(
            f"{source}: server.proxy_protocol needs server.trusted_proxies; name the proxies"
            " that speak it there."
        )
    faults += [
        f"{source}: {address} stands in server.listen and in server.plain; remove one."
        for address in sorted(set(server.listen) & set(server.plain))
        if address.port
    ]
    if settings.failure.smtp_account and not settings.failure.smtp_password_file:
        faults.append(
            f"{source}: failure.smtp_account needs failure.smtp_password_file, a file with its"
            " password; set that too."
        )
    if settings.auth.client_ca and tls.mode == "off":
        faults.append(f"{source}: auth.client_ca counts only with TLS; remove it, or turn TLS on.")
    if settings.certificate and not settings.auth.client_ca:
        faults.append(
            f"{source}: [[certificate]] counts only with auth.client_ca, the authorities that issue"
            " them; set that too."
        )
    faults += [
        f"{source}: there are several certificates of the name {name}; say once whose it is."
        for name in _repeated(one.name for one in settings.certificate)
    ]
    return (
        faults
        + _unfit_directory(source, settings.ldap)
        + _unknown_groups(source, settings)
        + _unfit_workloads(source, settings)
    )


def _unfit_directory(source: Path, ldap: Ldap) -> list[str]:
    faults = []
    if not ldap.url:
        return [
            f"{source}: ldap.{key} counts only with ldap.url; set that too, or remove it."
            for key in ("base", "bind_dn", "bind_password_file", "ca", "start_tls")
            if getattr(ldap, key)
        ]
    if not ldap.base:
        faults.append(f'{source}: ldap.base is empty; say where, as in "dc=example,dc=com".')
    if ldap.url.startswith("ldap:") and not ldap.start_tls and not _is_loopback(ldap.url):
        faults.append(
            f"{source}: ldap.url, {ldap.url}, would send passwords unprotected; use ldaps, or set"
            " ldap.start_tls."
        )
    if bool(ldap.bind_dn) != bool(ldap.bind_password_file):
        faults.append(
            f"{source}: ldap.bind_dn and ldap.bind_password_file go together; set both, or none."
        )
    return faults


def _unfit_workloads(source: Path, settings: Settings) -> list[str]:
    """Find issuers that are meant twice, or not there, and workloads that anybody's job would fit."""
    faults = []
    for key in ("name", "url"):
        faults += [
            f"{source}: there are several issuers of the {key} {value}; make them one."
            for value in _repeated(getattr(issuer, key) for issuer in settings.issuer)
        ]
    faults += [
        f"{source}: issuer {number}, url, {issuer.url} is not https, so whoever is on the way could"
        " be anybody; name its keys as a file (keys), or use https."
        for number, issuer in enumerate(settings.issuer, 1)
        if issuer.url.startswith("http:") and not issuer.keys and not _is_loopback(issuer.url)
    ]
    urls = {issuer.name: issuer.url for issuer in settings.issuer}
    for number, job in enumerate(settings.workload, 1):
        if job.issuer not in urls:
            faults.append(
                f"{source}: workload {number} means the issuer {job.issuer}, which is not"
                f" there{near(job.issuer, urls)}; add it as [[issuer]]."
            )
        if job.claims and not _says_whose(job, urls.get(job.issuer, "")):
            faults.append(
                f"{source}: workload {number}, claims, lets in jobs of {job.issuer}, whoever's they"
                ' are; say whose, as in { sub = "repo:acme/app:*" } or { repository = "acme/app" }.'
            )
    return faults


def _says_whose(job: Job, url: str) -> bool:
    telling = _OWNERS.get(url) or tuple(job.claims.keys() - _OF_EVERY_JOB)
    return any(_narrows(job.claims[name]) for name in telling if name in job.claims)


def _narrows(wanted: str | tuple[str, ...]) -> bool:
    """Tell whether patterns begin with more than the word that all subjects begin with."""
    patterns = (wanted,) if isinstance(wanted, str) else wanted
    return all(
        re.sub(r"\A(repo|project_path):", "", pattern)[:1] not in {"", "*", "?", "["}
        for pattern in patterns
    )


def _is_loopback(url: str) -> bool:
    return re.match(r"\w+://(localhost|127\.0\.0\.1|\[::1\])(:\d+)?(/|\Z)", url) is not None


def _unknown_groups(source: Path, settings: Settings) -> list[str]:
    """Find groups that are meant and do not exist, or exist twice, and rules that say nothing."""
    groups = [group.name for group in settings.group]
    faults = [
        f"{source}: there are several groups called {name}; make them one."
        for name in _repeated(groups)
    ]
    meant = [("auth.admins", settings.auth.admins)]
    meant += [(f"rule {number}", rule.accounts) for number, rule in enumerate(settings.rule, 1)]
    meant += [
        (
            f"namespace {space.name}",
            (*space.guest, *space.developer, *space.maintainer, *space.admin),
        )
        for space in settings.namespace
    ]
    for place, accounts in meant:
        faults += [
            f"{source}: {place} means the group {name[1:]}, which is not there"
            f"{near(name[1:], groups)}; add it as [[group]]."
            for name in accounts
            if name.startswith("@") and name[1:] not in groups
        ]
    faults += [
        f"{source}: rule {number} lets everybody do more than pull; whoever has no account may not."
        for number, rule in enumerate(settings.rule, 1)
        if ANONYMOUS in rule.accounts and set(rule.allow) - {"pull"}
    ]
    if ANONYMOUS in settings.auth.admins:
        faults.append(f"{source}: auth.admins makes everybody an administrator; name accounts.")
    faults += [
        f"{source}: namespace {space.name} lets everybody do more than pull; (anonymous) may be a"
        " guest and nothing else."
        for space in settings.namespace
        if ANONYMOUS in (*space.developer, *space.maintainer, *space.admin)
    ]
    faults += [
        f"{source}: rule {number} neither allows nor denies anything; give it allow or deny."
        for number, rule in enumerate(settings.rule, 1)
        if not rule.allow and not rule.deny
    ]
    return faults


def _repeated(values: Iterable[str]) -> list[str]:
    return sorted(value for value, number in Counter(values).items() if number > 1)


def near(word: str, words: Iterable[str]) -> str:
    """Ask whether another word was meant, where one is like it."""
    near = difflib.get_close_matches(word, words, n=1)
    return f" (did you mean {near[0]}?)" if near else ""
