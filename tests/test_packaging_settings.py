"""The settings file that is shipped: it is valid, and tells the truth about every default."""

import re
import tomllib
from pathlib import Path
from typing import get_type_hints

import pytest

from appliance.protocol.routes import Action
from appliance.registry.space import reserve_of
from appliance.rulebook import policy
from appliance.settings import (
    IN_THE_FILE_ALONE,
    ClientCertificate,
    Group,
    Job,
    Namespace,
    Pair,
    Quota,
    Rule,
    Settings,
    Size,
    TokenIssuer,
    load,
)

SHIPPED = Path(__file__).parent.parent / "packaging" / "registry.toml"
EXAMPLE = re.compile(r"^#\[\[(\w+(?:\.\w+)?)\]\]\n(?:#\w+ = .*\n)+", re.MULTILINE)
OUT_OF_COMMENT = re.compile(r"^#(?=\w+ = |\[)", re.MULTILINE)

LISTS: dict[str, type] = {
    "rule": Rule,
    "group": Group,
    "namespace": Namespace,
    "certificate": ClientCertificate,
    "issuer": TokenIssuer,
    "workload": Job,
}
TABLES = {name: kind for name, kind in get_type_hints(Settings).items() if name not in LISTS}

DEFAULTS_OF_THE_SYSTEM = {
    "storage": {"path": "/var/lib/registry", "reserve": "1GiB"},
    "auth": {"htpasswd": "/etc/registry.htpasswd"},
}
"""Keys whose default depends on the user or the disk; shown is that of the service on a large one."""


def uncommented(text: str) -> str:
    return OUT_OF_COMMENT.sub("", text)


def test_as_it_stands_it_sets_nothing() -> None:
    assert load(SHIPPED, {}) == Settings()
    assert tomllib.loads(SHIPPED.read_text()) == {name: {} for name in TABLES}


def test_it_names_every_key_of_every_table_once() -> None:
    shown = tomllib.loads(uncommented(SHIPPED.read_text()))
    assert shown.keys() == {*TABLES, *LISTS}
    assert {table: list(shown[table]) for table in TABLES} == {
        table: [
            *(key for key in get_type_hints(kind) if key not in IN_THE_FILE_ALONE),
            *(key for key in get_type_hints(kind) if key in IN_THE_FILE_ALONE),
        ]
        for table, kind in TABLES.items()
    }
    for name, kind in LISTS.items():
        assert {key for table in shown[name] for key in table} == get_type_hints(kind).keys()


def test_every_value_it_shows_is_the_default(tmp_path: Path) -> None:
    text = uncommented(EXAMPLE.sub("", SHIPPED.read_text()))
    for table, keys in DEFAULTS_OF_THE_SYSTEM.items():
        for key, value in keys.items():
            line = f'\n{key} = "{value}"\n'
            assert text.count(line) == 1, f"{table}.{key}"
            text = text.replace(line, "\n")
    file = tmp_path / "registry.toml"
    file.write_text(text)
    assert load(file, {}) == Settings()


def test_the_defaults_it_shows_for_the_system_are_those_of_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("os.access", lambda *_: True)
    monkeypatch.setattr(Path, "exists", lambda _: False)
    settings = load(SHIPPED, {})
    assert str(settings.data) == DEFAULTS_OF_THE_SYSTEM["storage"]["path"]
    assert str(settings.htpasswd) == DEFAULTS_OF_THE_SYSTEM["auth"]["htpasswd"]
    reserve = reserve_of(settings.storage.reserve, 50 << 30)
    assert reserve == Size.parse(DEFAULTS_OF_THE_SYSTEM["storage"]["reserve"])
    assert reserve_of(settings.storage.reserve, 25 << 30) == 1 << 29


def test_its_example_of_further_certificates_works(tmp_path: Path) -> None:
    example = example_of("tls.additional")
    first = '[tls]\nmode = "files"\ncertificate = "/c"\nkey = "/k"\n'
    file = tmp_path / "registry.toml"
    file.write_text(first + uncommented(example))
    (pair,) = load(file, {}).tls.additional
    assert pair == Pair(
        certificate="/etc/ssl/registry-two.crt", key="/etc/ssl/private/registry-two.key"
    )


def test_its_example_of_a_quota_works(tmp_path: Path) -> None:
    file = tmp_path / "registry.toml"
    file.write_text(uncommented(example_of("push.quota")))
    assert load(file, {}).push.quota == (Quota(repositories="team", size=Size(50 << 30)),)


def test_its_example_of_rules_works(tmp_path: Path) -> None:
    file = tmp_path / "registry.toml"
    text = SHIPPED.read_text()
    example = uncommented(text[text.index("#[[group]]") :])
    file.write_text(f'[auth]\nclient_ca = "/etc/ssl/clients.crt"\n{example}')
    settings = load(file, {})
    assert settings.certificate == (ClientCertificate(name="cn:builder", account="ci"),)
    rules = policy(settings)
    assert rules.allows("alice", Action.PUSH, "team/app")
    assert rules.allows("ci", Action.PUSH, "team/release")
    assert not rules.allows("ci", Action.OVERWRITE, "team/app")
    assert not rules.allows("carol", Action.PULL, "team/app")
    assert rules.allows("carol", Action.PULL, "base/app")
    assert rules.allows("alice", Action.DELETE, "base/app")
    assert not rules.allows("alice", Action.DELETE, "base/release")


def example_of(key: str) -> str:
    (example,) = (
        found.group() for found in EXAMPLE.finditer(SHIPPED.read_text()) if found[1] == key
    )
    return example


def test_every_key_is_explained() -> None:
    paragraphs = SHIPPED.read_text().split("\n\n")
    for paragraph in paragraphs:
        if re.search(r"^#\w+ = ", paragraph, re.MULTILINE):
            assert paragraph.startswith("# "), paragraph
