"""Reading `/etc/registry.toml` into its tables; each fault is one sentence that names its key.

Every key is optional and may also stand in the environment, `[server] listen` as
`REGISTRY_SERVER_LISTEN` (lists separated by commas), which wins over the file. All faults are
gathered before any is reported. A key that is unknown is a fault too: a misspelt limit that
silently does nothing is worse than a daemon that does not start.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
from msgspec import Struct

from appliance.registry.policy import ANONYMOUS
from appliance.tables import (
    DEFAULT_LISTEN,
    IN_THE_FILE_ALONE,
    Auth,
    ClientCertificate,
    Gc,
    Group,
    Job,
    Ldap,
    Limits,
    Log,
    Namespace,
    Pair,
    Push,
    Quota,
    Rule,
    Server,
    Settings,
    Storage,
    Tls,
    TokenIssuer,
    Verify,
)
from appliance.values import Address, Age, Duration, Interval, Network, Size

__all__ = [
    "DEFAULT_FILE",
    "DEFAULT_LISTEN",
    "IN_THE_FILE_ALONE",
    "Address",
    "Age",
    "Auth",
    "ClientCertificate",
    "Duration",
    "Gc",
    "Group",
    "Interval",
    "Job",
    "Ldap",
    "Limits",
    "Log",
    "Namespace",
    "Network",
    "Pair",
    "Push",
    "Quota",
    "Rule",
    "Server",
    "Settings",
    "SettingsError",
    "Size",
    "Storage",
    "Tls",
    "TokenIssuer",
    "Verify",
    "load",
]

DEFAULT_FILE = Path("/etc/registry.toml")

_LISTS: Mapping[str, type[Struct]] = {
    "rule": Rule,
    "group": Group,
    "namespace": Namespace,
    "certificate": ClientCertificate,
    "issuer": TokenIssuer,
    "workload": Job,
}
_REQUIRED = {
    "rule": ("repositories", "accounts"),
    "group": ("name",),
    "namespace": ("name",),
    "certificate": ("name", "account"),
    "issuer": ("name", "url", "audiences"),
    "workload": ("issuer", "account", "claims"),
}
_SWITCH = {"true": True, "false": False}


class SettingsError(Exception):
    """An operator's mistakes, one sentence each, in `faults`."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


def load(file: Path | None, environment: Mapping[str, str]) -> Settings:
    """Read the settings; without a file named, `/etc/registry.toml` if it is there.

    Raises SettingsError with every fault that was found.
    """
    faults: list[str] = []
    source = file or DEFAULT_FILE
    tables = _read(source, required=file is not None, faults=faults)
    unknown = tables.keys() - _types(Settings).keys()
    faults += [
        f"{source}: [{name}] is unknown{_near(name, _types(Settings))}; remove it."
        for name in sorted(unknown)
    ]
    found: dict[str, Any] = {}
    for name, table in _types(Settings).items():
        if name in _LISTS:
            found[name] = _listed(source, name, tables.get(name, []), faults)
            continue
        keys = tables.get(name, {})
        if not isinstance(keys, dict):
            faults.append(f"{source}: {name} must be a table, [{name}], not {_shown(keys)}.")
            continue
        given = {key: (f"{source}: {name}.{key}", value) for key, value in keys.items()}
        given |= _from_environment(name, table, environment, faults)
        found[name] = table(**_convert(table, given, faults))
    settings = Settings(**found)
    faults += _contradictions(source, settings)
    if faults:
        raise SettingsError(faults)
    return settings


def _read(source: Path, *, required: bool, faults: list[str]) -> dict[str, Any]:
    try:
        return tomllib.loads(source.read_bytes().decode())
    except FileNotFoundError:
        if required:
            faults.append(f"{source}: there is no such file; name another with --settings.")
    except OSError as error:
        faults.append(f"{source}: cannot be read ({error.strerror}); mend its permissions.")
    except UnicodeDecodeError:
        faults.append(f"{source}: is not UTF-8 text; save it as UTF-8.")
    except tomllib.TOMLDecodeError as error:
        faults.append(f"{source}: is not TOML: {error}.")
    return {}


def _convert(
    table: type[Struct], given: Mapping[str, tuple[str, object]], faults: list[str]
) -> dict[str, Any]:
    """Convert what is given, key → (where it stands, value), leaving out what is at fault."""
    types = _types(table)
    converted = {}
    for key, (place, value) in given.items():
        if key not in types:
            faults.append(f"{place} is unknown{_near(key, types)}; remove it.")
            continue
        try:
            converted[key] = msgspec.convert(value, types[key], dec_hook=_parse)
        except msgspec.ValidationError:
            (meta,) = types[key].__metadata__
            faults.append(f"{place} must be {meta.description}, not {_shown(value)}.")
    return converted


def _listed(source: Path, name: str, given: object, faults: list[str]) -> tuple[Struct, ...]:
    """Convert the tables of a list, each [[name]]."""
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        faults.append(f"{source}: {name} must be tables, each [[{name}]], not {_shown(given)}.")
        return ()
    converted = []
    for number, keys in enumerate(given, start=1):
        place = f"{source}: {name} {number}"
        faults += [f"{place} lacks {key}; say which." for key in _REQUIRED[name] if key not in keys]
        values = {key: (f"{place}, {key},", value) for key, value in keys.items()}
        converted.append(_LISTS[name](**_convert(_LISTS[name], values, faults)))
    return tuple(converted)


def _from_environment(
    name: str, table: type[Struct], environment: Mapping[str, str], faults: list[str]
) -> dict[str, tuple[str, object]]:
    prefix = f"REGISTRY_{name.upper()}_"
    given: dict[str, tuple[str, object]] = {}
    types = _types(table)
    for variable in sorted(environment):
        key = variable.removeprefix(prefix).lower()
        if not variable.startswith(prefix):
            continue
        if key not in types or key in IN_THE_FILE_ALONE:
            faults.append(f"{variable} in the environment is not a setting{_near(key, types)}.")
            continue
        text = environment[variable]
        shape = types[key].__origin__
        value: object = text
        if getattr(shape, "__origin__", None) is tuple:
            value = [part.strip() for part in text.split(",") if part.strip()]
        elif shape is int and text.strip().isdecimal():
            value = int(text)
        elif shape is bool:
            value = _SWITCH.get(text.strip(), text)
        given[key] = (f"{variable} in the environment", value)
    return given


def _contradictions(source: Path, settings: Settings) -> list[str]:
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
    if settings.auth.client_ca and tls.mode == "off":
        faults.append(f"{source}: auth.client_ca counts only with TLS; remove it, or turn TLS on.")
    if settings.certificate and not settings.auth.client_ca:
        faults.append(
            f"{source}: [[certificate]] counts only with auth.client_ca, the authorities that issue"
            " them; set that too."
        )
    certificates = [one.name for one in settings.certificate]
    faults += [
        f"{source}: there are several certificates of the name {name}; say once whose it is."
        for name in sorted({name for name in certificates if certificates.count(name) > 1})
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
        given = [getattr(issuer, key) for issuer in settings.issuer]
        faults += [
            f"{source}: there are several issuers of the {key} {value}; make them one."
            for value in sorted({value for value in given if given.count(value) > 1})
        ]
    faults += [
        f"{source}: issuer {number}, url, {issuer.url} is not https, so whoever is on the way could"
        " be anybody; name its keys as a file (keys), or use https."
        for number, issuer in enumerate(settings.issuer, 1)
        if issuer.url.startswith("http:") and not issuer.keys and not _is_loopback(issuer.url)
    ]
    names = [issuer.name for issuer in settings.issuer]
    for number, job in enumerate(settings.workload, 1):
        if job.issuer not in names:
            faults.append(
                f"{source}: workload {number} means the issuer {job.issuer}, which is not"
                f" there{_near(job.issuer, names)}; add it as [[issuer]]."
            )
        url = next((one.url for one in settings.issuer if one.name == job.issuer), "")
        if job.claims and not _says_whose(job, url):
            faults.append(
                f"{source}: workload {number}, claims, lets in jobs of {job.issuer}, whoever's they"
                ' are; say whose, as in { sub = "repo:acme/app:*" } or { repository = "acme/app" }.'
            )
    return faults


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
        for name in sorted({name for name in groups if groups.count(name) > 1})
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
            f"{_near(name[1:], groups)}; add it as [[group]]."
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


def _types(table: type[Struct]) -> dict[str, Any]:
    return get_type_hints(table, include_extras=True)


def _parse(kind: type, value: object) -> object:
    if kind in (Address, Age, Duration, Interval, Network, Size) and isinstance(value, str):
        return kind.parse(value)
    raise ValueError(value)


def _near(word: str, words: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, words, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _shown(value: object) -> str:
    """Show a value as TOML writes it, shortened."""
    match value:
        case dict():
            return "a table"
        case bool():
            return str(value).lower()
        case str():
            text = json.dumps(value, ensure_ascii=False)
        case _:
            text = str(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
