"""Reading `/etc/registry.toml` into its tables; each fault is one sentence that names its key.

Every key is optional and may also stand in the environment, `[server] listen` as
`REGISTRY_SERVER_LISTEN` (lists separated by commas), which wins over the file. All faults are
gathered before any is reported. A key that is unknown is a fault too: a misspelt limit that
silently does nothing is worse than a daemon that does not start.

"credential:NAME" in the place of a file is one that systemd gives to the service (LoadCredential=),
which root's commands find as well while that runs.
"""

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
from msgspec import Struct

from appliance.access_tables import (
    Auth,
    ClientCertificate,
    Group,
    Job,
    Ldap,
    Namespace,
    Rule,
    TokenIssuer,
)
from appliance.contradictions import contradictions, near
from appliance.tables import (
    DEFAULT_LISTEN,
    FILES,
    IN_THE_FILE_ALONE,
    Failure,
    Gc,
    Limits,
    Log,
    Pair,
    Push,
    Quota,
    Server,
    Settings,
    Storage,
    Tls,
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
    "Failure",
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
    "load_failure",
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
_CREDENTIAL = re.compile(r"credential:([A-Za-z0-9._-]+)")
_CREDENTIALS = "/run/credentials/registry.service"


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
        f"{source}: [{name}] is unknown{near(name, _types(Settings))}; remove it."
        for name in sorted(unknown)
    ]
    found: dict[str, Any] = {}
    for name, table in _types(Settings).items():
        if name in _LISTS:
            listed = tables.get(name, [])
            found[name] = _listed(source, name, listed, environment, faults)
            continue
        keys = tables.get(name, {})
        if not isinstance(keys, dict):
            faults.append(f"{source}: {name} must be a table, [{name}], not {_shown(keys)}.")
            continue
        given = {key: (f"{source}: {name}.{key}", value) for key, value in keys.items()}
        given |= _from_environment(name, table, environment, faults)
        found[name] = table(**_convert(table, _with_credentials(given, environment), faults))
    settings = Settings(**found)
    faults += contradictions(source, settings)
    if faults:
        raise SettingsError(faults)
    return settings


def load_failure(file: Path | None, environment: Mapping[str, str]) -> Failure:
    """Read `[failure]` alone, whatever is wrong elsewhere: that may be why there is one.

    Raises SettingsError where the file cannot be read at all, or the fault is in this table.
    """
    faults: list[str] = []
    source = file or DEFAULT_FILE
    keys = _read(source, required=file is not None, faults=faults).get("failure", {})
    given = {}
    if isinstance(keys, dict):
        given = {key: (f"{source}: failure.{key}", value) for key, value in keys.items()}
    given |= _from_environment("failure", Failure, environment, faults)
    failure = Failure(**_convert(Failure, _with_credentials(given, environment), faults))
    if faults:
        raise SettingsError(faults)
    return failure


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
            faults.append(f"{place} is unknown{near(key, types)}; remove it.")
            continue
        try:
            converted[key] = msgspec.convert(value, types[key], dec_hook=_parse)
        except msgspec.ValidationError:
            (meta,) = types[key].__metadata__
            faults.append(f"{place} must be {meta.description}, not {_shown(value)}.")
    return converted


def _with_credentials(
    given: Mapping[str, tuple[str, object]], environment: Mapping[str, str]
) -> Mapping[str, tuple[str, object]]:
    """Put the paths of credentials in the place of their names."""
    folder = environment.get("CREDENTIALS_DIRECTORY", _CREDENTIALS)

    def found(value: object) -> object:
        match value:
            case str():
                named = _CREDENTIAL.fullmatch(value)
                return f"{folder}/{named[1]}" if named else value
            case list():
                return [found(one) for one in value]
            case dict():
                return {key: found(one) for key, one in value.items()}
            case _:
                return value

    return {
        key: (place, found(value) if key in FILES else value)
        for key, (place, value) in given.items()
    }


def _listed(
    source: Path, name: str, given: object, environment: Mapping[str, str], faults: list[str]
) -> tuple[Struct, ...]:
    """Convert the tables of a list, each [[name]]."""
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        faults.append(f"{source}: {name} must be tables, each [[{name}]], not {_shown(given)}.")
        return ()
    converted = []
    for number, keys in enumerate(given, start=1):
        place = f"{source}: {name} {number}"
        faults += [f"{place} lacks {key}; say which." for key in _REQUIRED[name] if key not in keys]
        values = {key: (f"{place}, {key},", value) for key, value in keys.items()}
        values = dict(_with_credentials(values, environment))
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
            faults.append(f"{variable} in the environment is not a setting{near(key, types)}.")
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


def _types(table: type[Struct]) -> dict[str, Any]:
    return get_type_hints(table, include_extras=True)


def _parse(kind: type, value: object) -> object:
    if kind in (Address, Age, Duration, Interval, Network, Size) and isinstance(value, str):
        return kind.parse(value)
    raise ValueError(value)


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
