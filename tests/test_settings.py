"""The settings: what each key takes, and the sentence for everything it does not."""

import math
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any, get_type_hints

import hypothesis.strategies as st
import pytest
from hypothesis import given

from appliance import settings as module
from appliance.settings import (
    IN_THE_FILE_ALONE,
    Address,
    Age,
    Duration,
    Interval,
    Network,
    Pair,
    Quota,
    Settings,
    SettingsError,
    Size,
    load,
)
from tests.unprivileged import as_user


@dataclass(frozen=True)
class Key:
    """A key as it may be set; `beside` is what else its table must say then."""

    name: str
    default: object
    text: str
    value: object
    bad: tuple[str, ...]
    expected: str
    variable: str | None = None
    beside: str = ""
    table: str = field(init=False)
    key: str = field(init=False)

    def __post_init__(self) -> None:
        table, key = self.name.split(".")
        object.__setattr__(self, "table", table)
        object.__setattr__(self, "key", key)

    @property
    def environment(self) -> str:
        return f"REGISTRY_{self.table}_{self.key}".upper()

    def read(self, settings: Settings) -> object:
        return getattr(getattr(settings, self.table), self.key)


FILES = 'mode = "files"\n'
LDAP = 'url = "ldaps://a"\nbase = "dc=a"\n'
NO_TEXT = ("7", "true", '["text"]', "{ a = 1 }", "1979-05-27")
NO_LIST = ('"text"', "7", "{ a = 1 }", "[7]", '[["text"]]', "[true]")
NO_DURATION = ("10", '"10"', '"s"', '"-1s"', '"1y"', '"1m30s"', '" 1s"', '""', "true", '["1s"]')
AN_ADDRESS = r"a list of addresses, as in \[.*\]"
A_TEXT = 'text in quotes, as in "one"'
NO_COUNT = ('"60"', "-1", "1000001", "1.5", "60.0", "true", "[60]", '"1h"')
A_COUNT = r"a whole number, 0 \(no limit\) to 1000000"
A_DURATION = 'a duration with its unit, as in "90s" or "24h"'

KEYS = [
    Key(
        "server.listen",
        (Address.of("::", 443),),
        '["10.0.0.1:5000", ":80", "[fe80::1]:443", "localhost:1"]',
        ("10.0.0.1:5000", "[::]:80", "[fe80::1]:443", "localhost:1"),
        (*NO_LIST, '["443"]', '["::1:443"]', '["a:99999"]', '["a:"]', '["a:b"]', '["http://a:1"]'),
        AN_ADDRESS,
        "10.0.0.1:5000, :80,[fe80::1]:443 , localhost:1,",
    ),
    Key(
        "server.plain", (), '["[::]:80"]', ("[::]:80",), (*NO_LIST, '["80"]'), AN_ADDRESS, "[::]:80"
    ),
    Key(
        "server.names",
        (),
        '["registry.example", "10.0.0.1"]',
        ("registry.example", "10.0.0.1"),
        NO_LIST,
        "a list of texts, as in",
        "registry.example, 10.0.0.1",
    ),
    Key(
        "server.public_url",
        "",
        '"https://registry.example:8443"',
        "https://registry.example:8443",
        (
            *NO_TEXT,
            '"registry.example"',
            '"ftp://registry.example"',
            '"https://"',
            '"https://registry.example/"',
            '"https://registry.example/path"',
            '"https://registry.example?a=b"',
            '"https://registry example"',
        ),
        "an address without a path",
    ),
    Key(
        "server.trusted_proxies",
        (),
        '["10.0.0.5", "10.1.0.0/16", "2001:db8::/32"]',
        ("10.0.0.5/32", "10.1.0.0/16", "2001:db8::/32"),
        (*NO_LIST, '["10.0.0.1/8"]', '["10.0.0.0/33"]', '["proxy"]', '["10.0.0.5:80"]', '[""]'),
        r"a list of addresses, and of networks by their first one, as in \[.*\]",
        "10.0.0.5, 10.1.0.0/16,2001:db8::/32",
    ),
    Key(
        "server.proxy_protocol",
        False,
        "true",
        True,
        ('"true"', "1", "0", "[true]", '"on"'),
        "true or false",
        " true ",
        beside='trusted_proxies = ["10.0.0.5"]',
    ),
    Key(
        "server.hosts",
        (),
        '["a", "*.lan"]',
        ("a", "*.lan"),
        NO_LIST,
        "a list of texts, as in",
        "a, *.lan",
    ),
    *(
        Key(
            f"server.{name}",
            (),
            '["10.0.0.5", "2001:db8::/32"]',
            ("10.0.0.5/32", "2001:db8::/32"),
            (*NO_LIST, '["10.0.0.1/8"]', '["proxy"]'),
            r"a list of addresses, and of networks by their first one, as in \[.*\]",
            "10.0.0.5,2001:db8::/32",
        )
        for name in ("allow", "deny")
    ),
    Key(
        "server.drain_seconds",
        3600,
        "60",
        60,
        ('"60"', "-1", "1.5", "60.0", "true", "[60]", '"1h"'),
        "a whole number of seconds, 0 or more",
        " 60",
    ),
    Key("tls.mode", "auto", '"off"', "off", ('"on"', '"Off"', "true", "0", '""'), "one of"),
    Key("tls.certificate", "", '"/c"', "/c", NO_TEXT, A_TEXT, beside=FILES + 'key = "/k"'),
    Key("tls.key", "", '"/k"', "/k", NO_TEXT, A_TEXT, beside=FILES + 'certificate = "/c"'),
    Key(
        "tls.additional",
        (),
        '[{ certificate = "/a", key = "/b" }, { certificate = "/d", key = "/e" }]',
        (Pair(certificate="/a", key="/b"), Pair(certificate="/d", key="/e")),
        (
            '"/a"',
            '["/a"]',
            '{ certificate = "/a", key = "/b" }',
            '[{ certificate = "/a" }]',
            '[{ certificate = "/a", key = 7 }]',
            '[{ certificate = "/a", key = "/b", name = "c" }]',
        ),
        r"tables \[\[tls\.additional\]\], each with certificate and key",
        beside=FILES + 'certificate = "/c"\nkey = "/k"',
    ),
    Key(
        "tls.alpn",
        ("http/1.1", "h2"),
        '["h2"]',
        ("h2",),
        (*NO_LIST, "[]", '["h3"]', '["h2", "spdy"]'),
        'a list of "http/1.1" and "h2"',
        "h2",
    ),
    Key("storage.path", "", '"/srv/registry"', "/srv/registry", NO_TEXT, A_TEXT),
    Key(
        "storage.reserve",
        None,
        '"20GiB"',
        20 << 30,
        ("0", "20", "true", '"20"', '"1.5GiB"', '"-1GiB"', '"2%"', '""', '["1GiB"]'),
        'a size with its unit, as in .* or "0" for none',
    ),
    Key(
        "storage.snapshots",
        7,
        "30",
        30,
        ('"7"', "-1", "1001", "7.5", "true", "[7]"),
        r"a whole number, 0 \(none\) to 1000",
        " 30 ",
    ),
    Key("auth.htpasswd", "", '"/srv/htpasswd"', "/srv/htpasswd", NO_TEXT, A_TEXT),
    Key(
        "auth.realm",
        "Registry Realm",
        "'The \"best\", really'",
        'The "best", really',
        (*NO_TEXT, '"Gerät"', '"a\\nb"', '"a\\tb"', '"a\\u0000"'),
        "text of printable ASCII characters",
    ),
    Key(
        "auth.anonymous",
        (),
        '["pull"]',
        ("pull",),
        (*NO_LIST, '["push"]', '["pull", "delete"]', "true"),
        "a list of what needs no account",
        "pull",
    ),
    Key(
        "auth.admins",
        ("admin",),
        '["a", "b"]',
        ("a", "b"),
        (*NO_LIST, '["a:b"]', '["(x)"]', '["a b"]'),
        "a list of accounts, of groups as in",
        "a, b",
    ),
    Key("auth.client_ca", "", '"/etc/ssl/clients.crt"', "/etc/ssl/clients.crt", NO_TEXT, A_TEXT),
    Key(
        "ldap.url",
        "",
        '"ldaps://ldap.example.com:636"',
        "ldaps://ldap.example.com:636",
        (*NO_TEXT, '"ldap.example.com"', '"https://a"', '"ldaps://a/dc=b"', '"ldaps://"'),
        "an address, as in",
        beside='base = "dc=a"',
    ),
    Key(
        "ldap.start_tls",
        False,
        "true",
        True,
        ('"true"', "1", "[true]"),
        "true or false",
        beside=LDAP,
    ),
    Key("ldap.ca", "", '"/ca.crt"', "/ca.crt", NO_TEXT, A_TEXT, beside=LDAP),
    Key("ldap.base", "", '"dc=b"', "dc=b", NO_TEXT, A_TEXT, beside='url = "ldaps://a"\n'),
    Key(
        "ldap.filter",
        "(uid={account})",
        '"(&(mail={account})(active=1))"',
        "(&(mail={account})(active=1))",
        (*NO_TEXT, '""', '"(uid=*)"', '"uid={account}"', '"({account}=*)"'),
        "a filter in which {account} is the name",
    ),
    Key(
        "ldap.bind_dn",
        "",
        '"cn=a"',
        "cn=a",
        NO_TEXT,
        A_TEXT,
        beside=LDAP + 'bind_password_file = "/p"\n',
    ),
    Key(
        "ldap.bind_password_file",
        "",
        '"/p"',
        "/p",
        NO_TEXT,
        A_TEXT,
        beside=LDAP + 'bind_dn = "cn=a"\n',
    ),
    Key("limits.connections", 10000, "0", 0, NO_COUNT, A_COUNT),
    Key("limits.connections_per_address", 1000, "1000000", 1000000, NO_COUNT, A_COUNT),
    Key("limits.requests_per_second", 0, "50", 50, NO_COUNT, A_COUNT, " 50 "),
    Key("limits.requests_per_second_per_account", 0, "20", 20, NO_COUNT, A_COUNT),
    Key(
        "limits.max_body",
        Size(0),
        '"20MiB"',
        20 << 20,
        ("0", "20", '"20"', '"20B"', '"1.5GiB"', '"-1MiB"', '"20mib"', '"MiB"', '""', '["1MiB"]'),
        "a size with its unit",
    ),
    Key(
        "limits.chunk_min",
        Size(0),
        '"64KiB"',
        64 << 10,
        ("0", '"64"', '"-1MiB"', '["1MiB"]'),
        "a size with its unit",
    ),
    Key("limits.handshake", Duration(10), '"500ms"', 0.5, NO_DURATION, A_DURATION),
    Key("limits.head", Duration(30), '"5s"', 5.0, NO_DURATION, A_DURATION),
    Key("limits.idle", Duration(120), '"1.5m"', 90.0, NO_DURATION, A_DURATION),
    Key("limits.stall", Duration(300), '"2 h"', 7200.0, NO_DURATION, A_DURATION),
    Key(
        "push.require_platforms",
        ("*",),
        '["linux/amd64", "linux/arm/*"]',
        ("linux/amd64", "linux/arm/*"),
        (*NO_LIST, '["amd64"]', '["linux/"]', '["linux/arm/v7/x"]', '["linux / amd64"]', '[""]'),
        "a list of platforms",
        "linux/amd64,linux/arm/*",
    ),
    Key(
        "push.immutable",
        (),
        '["*:v[0-9]*", "release/*:*"]',
        ("*:v[0-9]*", "release/*:*"),
        (*NO_LIST, '["v1"]', '["app:"]', '[":v1"]', '["app:v1:v2"]', '["app: v1"]', '[""]'),
        "a list of patterns NAME:TAG",
        "*:v[0-9]*,release/*:*",
    ),
    Key(
        "push.quota",
        (),
        '[{ repositories = "team/app", size = "50GiB" }, { repositories = "", size = "1TiB" }]',
        (
            Quota(repositories="team/app", size=Size(50 << 30)),
            Quota(repositories="", size=Size(1 << 40)),
        ),
        (
            '"50GiB"',
            '{ repositories = "team", size = "50GiB" }',
            '[{ repositories = "team" }]',
            '[{ repositories = "team/", size = "50GiB" }]',
            '[{ repositories = "Team", size = "50GiB" }]',
            '[{ repositories = "team", size = 50 }]',
            '[{ repositories = "team", size = "50GiB", tags = 7 }]',
        ),
        r"tables \[\[push\.quota\]\], each with repositories and size",
    ),
    Key("gc.every", Duration(86400), '"1h"', 3600.0, NO_DURATION, A_DURATION),
    Key("gc.grace", Duration(86400), '"2d"', 172800.0, NO_DURATION, A_DURATION),
    Key("gc.lease", Duration(3600), '"90s"', 90.0, NO_DURATION, A_DURATION),
    Key("gc.quarantine", Duration(604800), '"1d"', 86400.0, NO_DURATION, A_DURATION),
    Key(
        "gc.untagged",
        Age(math.inf),
        '"30d"',
        2592000.0,
        ('"never"', "30", '"30"', '["30d"]', "true"),
        'keep", or an age',
    ),
    Key("gc.history", Duration(7776000), '"1d"', 86400.0, NO_DURATION, A_DURATION),
    Key("gc.uploads", Duration(86400), '"2w"', 1209600.0, NO_DURATION, A_DURATION),
    Key(
        "verify.every",
        Interval(2592000),
        '"never"',
        math.inf,
        ('"keep"', "30", '"30"', '["30d"]', "true", '"0s"'),
        'a duration with its unit, as in "30d", or "never"',
    ),
    Key(
        "verify.rate",
        Size(20 << 20),
        '"5MB"',
        5_000_000,
        ("5", '"5"', '["5MB"]', "true"),
        "a size with its unit",
    ),
    Key(
        "verify.sources",
        (),
        '["/srv/a", "/srv/b"]',
        ("/srv/a", "/srv/b"),
        NO_LIST,
        "a list of texts, as in",
        "/srv/a,/srv/b",
    ),
    Key("log.format", "auto", '"json"', "json", ('"xml"', "true", '[""]'), "one of"),
    Key("log.level", "info", '"debug"', "debug", ('"DEBUG"', '"warn"', "10"), "one of"),
    Key("log.audit", "", '"/var/log/audit.log"', "/var/log/audit.log", NO_TEXT, A_TEXT),
    Key(
        "failure.mail_to",
        (),
        '["ops@example.com", "me@example.com"]',
        ("ops@example.com", "me@example.com"),
        ('"ops@example.com"', '["nobody"]', "[1]"),
        "a list of mail addresses",
        "ops@example.com,me@example.com",
    ),
    Key(
        "failure.webhook",
        "",
        '"https://chat.example.com/hooks/abc?d=1"',
        "https://chat.example.com/hooks/abc?d=1",
        ('"chat.example.com"', '"ftp://example.com"', '"https://a b"', "1"),
        "an address",
    ),
    Key(
        "failure.mail_from",
        "",
        '"registry@example.com"',
        "registry@example.com",
        ('"registry"', '"a b@example.com"', "true"),
        "a mail address",
    ),
    Key(
        "failure.smtp",
        "smtp://localhost:25",
        '"smtps://mail.example.com"',
        "smtps://mail.example.com",
        ('"mail.example.com"', '"smtp://"', '"smtp://a/b"', "25"),
        "a mail server",
    ),
    Key(
        "failure.smtp_account",
        "",
        '"box"',
        "box",
        NO_TEXT,
        A_TEXT,
        beside='smtp_password_file = "/etc/registry.smtp"',
    ),
    Key(
        "failure.smtp_password_file",
        "",
        '"/etc/registry.smtp"',
        "/etc/registry.smtp",
        NO_TEXT,
        A_TEXT,
    ),
]

every_key = pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "registry.toml"


def read(file: Path, text: str, environment: Mapping[str, str] | None = None) -> Settings:
    file.write_text(text, "utf-8")
    return load(file, environment or {})


def faults(file: Path, text: str, environment: Mapping[str, str] | None = None) -> list[str]:
    """What is wrong with the settings: at least something, each a whole sentence."""
    with pytest.raises(SettingsError) as caught:
        read(file, text, environment)
    assert str(caught.value).splitlines() == caught.value.faults
    for sentence in caught.value.faults:
        assert sentence.endswith("."), sentence
        assert "\n" not in sentence
    return caught.value.faults


def the_fault(file: Path, text: str, environment: Mapping[str, str] | None = None) -> str:
    (fault,) = faults(file, text, environment)
    return fault


# --- every key


def test_every_key_is_looked_at_here() -> None:
    tables = get_type_hints(Settings)
    names = [
        f"{table}.{key}"
        for table, kind in tables.items()
        if isinstance(kind, type)  # the others are lists of tables
        for key in get_type_hints(kind)
    ]
    assert names == [key.name for key in KEYS]


@every_key
def test_a_key_that_is_not_set_has_its_default(file: Path, key: Key) -> None:
    assert key.read(read(file, "")) == key.default
    assert key.read(Settings()) == key.default


@every_key
def test_a_key_takes_a_good_value(file: Path, key: Key) -> None:
    text = f"[{key.table}]\n{key.beside}\n{key.key} = {key.text}\n"
    assert key.read(read(file, text)) == key.value


@every_key
def test_a_bad_value_is_one_sentence_with_file_and_key(file: Path, key: Key) -> None:
    for bad in key.bad:
        fault = the_fault(file, f"[{key.table}]\n{key.key} = {bad}\n")
        assert fault.startswith(f"{file}: {key.name} must be ")
        assert re.search(key.expected, fault)
        assert ", not " in fault
        assert len(fault) < len(str(file)) + 250


@every_key
def test_a_key_takes_a_good_value_from_the_environment(file: Path, key: Key) -> None:
    if key.key in IN_THE_FILE_ALONE:
        return
    environment = {key.environment: key.variable or key.text.strip("\"'")}
    settings = read(file, f"[{key.table}]\n{key.beside}\n", environment)
    assert key.read(settings) == key.value


@every_key
def test_the_environment_wins_over_the_file(file: Path, key: Key) -> None:
    if key.key in IN_THE_FILE_ALONE:
        return
    text = f"[{key.table}]\n{key.beside}\n{key.key} = {key.bad[0]}\n"
    environment = {key.environment: key.variable or key.text.strip("\"'")}
    assert key.read(read(file, text, environment)) == key.value


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("REGISTRY_SERVER_LISTEN", "443", "a list of addresses"),
        ("REGISTRY_SERVER_PLAIN", "10.0.0.1:80,nonsense", "a list of addresses"),
        ("REGISTRY_SERVER_PUBLIC_URL", "registry.example", "an address without a path"),
        ("REGISTRY_SERVER_DRAIN_SECONDS", "1h", "a whole number"),
        ("REGISTRY_SERVER_DRAIN_SECONDS", "", "a whole number"),
        ("REGISTRY_SERVER_DRAIN_SECONDS", "-1", "a whole number"),
        ("REGISTRY_SERVER_DRAIN_SECONDS", "1.5", "a whole number"),
        ("REGISTRY_SERVER_TRUSTED_PROXIES", "10.0.0.1/8", "a list of addresses, and of networks"),
        ("REGISTRY_SERVER_PROXY_PROTOCOL", "yes", "true or false"),
        ("REGISTRY_LIMITS_CONNECTIONS", "many", "a whole number, 0"),
        ("REGISTRY_LIMITS_MAX_BODY", "20", "a size with its unit"),
        ("REGISTRY_TLS_MODE", "on", "one of"),
        ("REGISTRY_TLS_ALPN", "", 'a list of "http/1.1"'),
        ("REGISTRY_AUTH_ANONYMOUS", "push", "a list of what needs no account"),
        ("REGISTRY_AUTH_REALM", "Gerät", "printable ASCII"),
        ("REGISTRY_LIMITS_STALL", "10", "a duration"),
        ("REGISTRY_LOG_LEVEL", "loud", "one of"),
    ],
)
def test_a_bad_value_in_the_environment_is_named_by_its_variable(
    file: Path, variable: str, value: str, expected: str
) -> None:
    fault = the_fault(file, "", {variable: value})
    assert fault.startswith(f"{variable} in the environment must be ")
    assert expected in fault


def test_an_empty_list_in_the_environment_is_an_empty_list(file: Path) -> None:
    text = '[server]\nnames = ["a"]\nplain = ["[::]:80"]\n[auth]\nanonymous = ["pull"]'
    environment = {
        "REGISTRY_SERVER_NAMES": "",
        "REGISTRY_SERVER_LISTEN": " , ",
        "REGISTRY_AUTH_ANONYMOUS": "",
        "REGISTRY_TLS_MODE": "off",
    }
    settings = read(file, text, environment)
    assert (settings.server.names, settings.server.listen, settings.auth.anonymous) == ((), (), ())


def test_what_is_not_ours_in_the_environment_means_nothing(file: Path) -> None:
    environment = {"REGISTRY": "a", "REGISTRY_": "b", "LISTEN": "c", "XREGISTRY_LOG_LEVEL": "d"}
    assert read(file, "", environment) == Settings()


# --- unknown words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[serve]\n", r": \[serve\] is unknown \(did you mean server\?\); remove it\."),
        ("[nonsense]\n", r": \[nonsense\] is unknown; remove it\."),
        ("listen = []\n", r": \[listen\] is unknown; remove it\."),
        ("[[logg]]\n", r": \[logg\] is unknown \(did you mean log\?\); remove it\."),
        (
            "[server]\nlisten_on = []\n",
            r": server\.listen_on is unknown \(did you mean listen\?\); remove it\.",
        ),
        ("[server]\nport = 1\n", r": server\.port is unknown; remove it\."),
        ("[limits.handshak]\n", r": limits\.handshak is unknown \(did you mean handshake\?\)"),
        ("[log]\nLevel = 'info'\n", r": log\.Level is unknown \(did you mean level\?\)"),
    ],
)
def test_an_unknown_word_is_a_fault_with_a_suggestion(file: Path, text: str, expected: str) -> None:
    assert re.search(expected, the_fault(file, text))


@pytest.mark.parametrize(
    ("variable", "suggestion"),
    [
        ("REGISTRY_SERVER_LISTEN_ON", "did you mean listen?"),
        ("REGISTRY_LOG_LEVLE", "did you mean level?"),
        ("REGISTRY_GC_", ""),
        ("REGISTRY_TLS_ADDITIONAL", ""),
        ("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", ""),
    ],
)
def test_an_unknown_variable_is_a_fault_with_a_suggestion(
    file: Path, variable: str, suggestion: str
) -> None:
    fault = the_fault(file, "", {variable: "x"})
    assert fault.startswith(f"{variable} in the environment is not a setting")
    assert suggestion in fault


@pytest.mark.parametrize("text", ["server = 7", 'server = "a"', "server = []", "[[server]]\n"])
def test_what_must_be_a_table_is_one(file: Path, text: str) -> None:
    assert f"{file}: server must be a table, [server], not " in the_fault(file, text)


def test_all_faults_are_told_at_once(file: Path) -> None:
    text = """
        log = "loud"
        [serve]
        [server]
        listen = ["443"]
        port = 1
        drain_seconds = "1h"
        [tls]
        mode = "acme"
        [limits]
        idle = 7
    """
    found = faults(file, text, {"REGISTRY_AUTH_REALM": "ä", "REGISTRY_GC_UPLOAD": "1d"})
    for word in (
        "[serve]",
        "server.listen",
        "server.port",
        "server.drain_seconds",
        "tls.mode",
        "limits.idle",
        "REGISTRY_AUTH_REALM",
        "REGISTRY_GC_UPLOAD",
        "[log]",
    ):
        assert sum(word in fault for fault in found) == 1, word
    assert len(found) == 9


# --- what does not go together


GITHUB = "https://token.actions.githubusercontent.com"


def table(name: str, keys: dict[str, str]) -> str:
    return "\n".join([f"[[{name}]]", *(f"{key} = {value}" for key, value in keys.items()), ""])


def issuer(**keys: str) -> str:
    usual = {"name": '"github"', "url": f'"{GITHUB}"', "audiences": '["here"]'}
    return table("issuer", usual | keys)


def workload(**keys: str) -> str:
    usual = {"issuer": '"github"', "account": '"ci"', "claims": '{ repository = "acme/app" }'}
    return table("workload", usual | keys)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[tls]\nmode = "acme"', "is not available"),
        ('[tls]\nmode = "files"', "needs both tls.certificate and tls.key"),
        ('[tls]\nmode = "files"\ncertificate = "/c"', "needs both"),
        ('[tls]\nmode = "files"\nkey = "/k"', "needs both"),
        ('[tls]\ncertificate = "/c"\nkey = "/k"', 'count only with tls.mode = "files"'),
        ('[tls]\nmode = "off"\nkey = "/k"', 'count only with tls.mode = "files"'),
        (
            '[[tls.additional]]\ncertificate = "/c"\nkey = "/k"',
            'count only with tls.mode = "files"',
        ),
        ("[server]\nlisten = []", "server.listen is empty"),
        ('[server]\nlisten = [":80"]\nplain = ["[::]:80"]', "[::]:80 stands in server.listen and"),
        ("[server]\nproxy_protocol = true", "server.proxy_protocol needs server.trusted_proxies"),
        (
            '[auth]\nclient_ca = "/c"\n' + 2 * '[[certificate]]\nname = "cn:a"\naccount = "b"\n',
            "there are several certificates of the name cn:a; say once whose it is",
        ),
        ('[ldap]\nurl = "ldaps://a"', 'ldap.base is empty; say where, as in "dc=example,dc=com"'),
        ('[ldap]\nurl = "ldap://a"\nbase = "dc=a"', "would send passwords unprotected; use ldaps"),
        (
            '[ldap]\nbind_dn = "cn=a"\n' + LDAP,
            "ldap.bind_dn and ldap.bind_password_file go together",
        ),
        ('[ldap]\nbase = "dc=a"', "ldap.base counts only with ldap.url; set that too, or remove"),
        ("[ldap]\nstart_tls = true", "ldap.start_tls counts only with ldap.url"),
        ('[ldap]\nurl = "ldap://[1:2]"\nbase = "dc=a"', "would send passwords unprotected"),
        (issuer(url='"http://[x"'), "issuer 1, url, http://[x is not https"),
        (issuer() + workload(claims=f'{{ iss = "{GITHUB}" }}'), "claims, lets in jobs of github"),
        (issuer() + workload(claims='{ aud = "here", exp = "1*" }'), "claims, lets in jobs of"),
        (issuer() + workload(claims='{ ref = "refs/heads/main" }'), "claims, lets in jobs of"),
        (issuer() + workload(claims='{ sub = "repo:*:ref:refs/heads/main" }'), "lets in jobs of"),
        (issuer() + workload(claims='{ repository = "*/app" }'), "claims, lets in jobs of github"),
        (issuer(url='"http://example.com"'), "issuer 1, url, http://example.com is not https"),
        (issuer() + issuer(url='"https://b"'), "several issuers of the name github; make them one"),
        (issuer() + issuer(name='"b"'), "several issuers of the url https://token.actions"),
        (issuer(url='"example.com"'), "issuer 1, url, must be what tokens call it, as in"),
        (issuer(url='"https://example.com/?a"'), "issuer 1, url, must be what tokens call it"),
        (issuer(audiences="[]"), "issuer 1, audiences, must be a list of what tokens for this"),
        (
            issuer() + workload(issuer='"gitlab"'),
            "workload 1 means the issuer gitlab, which is not",
        ),
        (issuer() + workload(issuer='"gihub"'), "(did you mean github?); add it as [[issuer]]"),
        (issuer() + workload(claims='{ sub = "*" }'), "claims, lets in jobs of github"),
        (issuer() + workload(claims='{ sub = ["acme", "?*"] }'), "lets in jobs of github"),
        (issuer() + workload(claims="{}"), "workload 1, claims, must be a table of what a token"),
        (
            issuer() + workload(claims='{ sub = "" }'),
            "claims, must be a table of what a token says",
        ),
        (
            issuer() + workload(claims="{ sub = [] }"),
            "claims, must be a table of what a token says",
        ),
        (issuer() + workload(claims="{ sub = 7 }"), "claims, must be a table of what a token says"),
        (issuer() + workload(account='"@team"'), "workload 1, account, must be an account, as in"),
        ("[[issuer]]\nname = 'a'\nurl = 'https://b'", "issuer 1 lacks audiences; say which"),
        (issuer() + "[[workload]]\nissuer = 'github'\naccount = 'a'", "workload 1 lacks claims"),
    ],
)
def test_a_contradiction_is_one_sentence(file: Path, text: str, expected: str) -> None:
    fault = the_fault(file, text)
    assert fault.startswith(f"{file}: ")
    assert expected in fault


@pytest.mark.parametrize(
    "text",
    [
        '[server]\nlisten = []\nplain = [":80"]\n[tls]\nmode = "off"',
        '[server]\nlisten = ["127.0.0.1:0"]\nplain = ["127.0.0.1:0"]',
        '[server]\nlisten = [":443", ":8443"]\nplain = [":80"]',
        '[tls]\nmode = "files"\ncertificate = "/c"\nkey = "/k"',
        '[server]\nproxy_protocol = true\ntrusted_proxies = ["::1"]',
        "[server]\nproxy_protocol = false",
        issuer() + workload() + workload(claims='{ sub = ["repo:a/*", "repo:b/c:*"], x = "*" }'),
        issuer(url='"https://gitlab.lan"') + workload(claims='{ ref = "refs/heads/main" }'),
        '[ldap]\nurl = "ldap://127.0.0.1:389"\nbase = "dc=a"',
        '[ldap]\nurl = "ldap://a"\nbase = "dc=a"\nstart_tls = true',
        issuer(url='"http://127.0.0.1:8000"'),
        issuer(url='"http://example.com"', keys='"/keys.json"'),
    ],
)
def test_what_goes_together_is_no_fault(file: Path, text: str) -> None:
    read(file, text)


# --- the file


def test_without_a_file_everything_has_its_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DEFAULT_FILE", tmp_path / "none.toml")
    assert load(None, {}) == Settings()


def test_the_usual_file_is_read_if_it_is_there(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DEFAULT_FILE", file)
    file.write_text('[log]\nlevel = "debug"')
    assert load(None, {}).log.level == "debug"
    file.write_text("[log]\nlevel = 7")
    with pytest.raises(SettingsError, match=re.escape(f"{file}: log.level must be")):
        load(None, {})


def test_a_file_that_was_named_must_be_there(file: Path) -> None:
    with pytest.raises(SettingsError, match="there is no such file; name another with --settings"):
        load(file, {})


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot be read \(Is a directory\)"):
        load(tmp_path, {})


def test_a_file_that_may_not_be_read_is_told(file: Path) -> None:
    file.write_text("")
    file.chmod(0)
    with (
        pytest.raises(SettingsError, match=r"cannot be read \(Permission denied\); mend its perm"),
        as_user(),
    ):
        load(file, {})


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'[auth]\nrealm = "Ger\xe4t"', "is not UTF-8 text; save it as UTF-8"),
        ("[log]".encode("utf-16"), "is not UTF-8 text"),
        (b"nonsense", "is not TOML: "),
        (b"[server\n", "is not TOML: "),
        (b"[log]\nlevel = info\n", "is not TOML: "),
        (b"[log]\n[log]\n", "is not TOML: "),
        (b'[log]\nlevel = "info"\nlevel = "debug"\n', "is not TOML: "),
        (b"\0", "is not TOML: "),
    ],
)
def test_what_cannot_be_read_is_one_fault(file: Path, content: bytes, expected: str) -> None:
    file.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        load(file, {})
    (fault,) = caught.value.faults
    assert fault.startswith(f"{file}: {expected}")


def test_an_unreadable_file_and_a_bad_variable_are_told_together(file: Path) -> None:
    found = faults(file, "nonsense", {"REGISTRY_LOG_LEVEL": "loud"})
    assert ["is not TOML" in fault for fault in found] == [True, False]


def test_a_byte_order_mark_is_told(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf[log]\n")
    with pytest.raises(SettingsError, match="is not TOML"):
        load(file, {})


def test_a_long_value_is_shown_shortened(file: Path) -> None:
    fault = the_fault(file, f'[log]\nlevel = "{"x" * 10_000}"')
    assert len(fault) < len(str(file)) + 200


# --- single kinds of values


@pytest.mark.parametrize(
    ("text", "host", "port", "shown"),
    [
        ("[::]:443", "::", 443, "[::]:443"),
        (":443", "::", 443, "[::]:443"),
        ("0.0.0.0:80", "0.0.0.0", 80, "0.0.0.0:80"),  # noqa: S104  only text here
        ("[2001:db8::1]:5000", "2001:db8::1", 5000, "[2001:db8::1]:5000"),
        ("localhost:0", "localhost", 0, "localhost:0"),
        ("a.b-c.example:65535", "a.b-c.example", 65535, "a.b-c.example:65535"),
    ],
)
def test_an_address_is_a_host_and_a_port(text: str, host: str, port: int, shown: str) -> None:
    address = Address.parse(text)
    assert (address.host, address.port, str(address)) == (host, port, shown)
    assert Address.of(host, port) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "443",
        "::",
        "::1",
        "::1:443",
        "[::1]",
        "[::1]443",
        "[::1%eth0]:1",
        "a",
        "a:",
        "a:65536",
        "a:999999",
        "a:-1",
        "a:1.5",
        "a:1\n",
        "a b:1",
        "a/b:1",
        "http://a:1",
    ],
)
def test_any_other_text_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text) + "$"):
        Address.parse(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("0.25s", 0.25),
        ("10s", 10),
        ("10 s", 10),
        ("2m", 120),
        ("1.5h", 5400),
        ("24h", 86400),
        ("7d", 604800),
        ("1w", 604800),
        ("999999999w", 999999999 * 604800),
    ],
)
def test_a_duration_is_a_number_of_seconds(text: str, seconds: float) -> None:
    assert Duration.parse(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("0MiB", 0),
        ("1KB", 1000),
        ("1KiB", 1024),
        ("512 KiB", 512 << 10),
        ("20MiB", 20 << 20),
        ("20MB", 20_000_000),
        ("5GiB", 5 << 30),
        ("5GB", 5_000_000_000),
        ("1TiB", 1 << 40),
        ("1TB", 10**12),
        ("999999999TiB", 999999999 << 40),
    ],
)
def test_a_size_is_a_number_of_bytes(text: str, size: int) -> None:
    assert Size.parse(text) == size


@pytest.mark.parametrize(
    "text", ["", "00", "1", "1B", "1K", "1Ki", "1kB", "1 PiB", "1.5MB", "1MB\n"]
)
def test_any_other_text_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text) + "$"):
        Size.parse(text)


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("10.0.0.5", "10.0.0.5/32"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("::1", "::1/128"),
        ("2001:DB8::/32", "2001:db8::/32"),
        ("::ffff:10.0.0.5", "10.0.0.5/32"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::/0", "::/0"),
    ],
)
def test_a_network_is_kept_in_one_spelling(text: str, network: str) -> None:
    found = Network.parse(text)
    assert found == network
    assert found.network == ip_network(network)


@pytest.mark.parametrize(
    "text",
    ["", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/255.0.0.0", "10", "010.0.0.1", "fe80::1%eth0", "a"],
)
def test_any_other_text_is_no_network(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text) + ".*"):
        Network.parse(text)


@given(st.text() | st.from_regex(r"[0-9a-f:./]{1,20}|[0-9]{1,3} ?[KMGT]?i?B"))
def test_any_text_is_a_value_or_none(text: str) -> None:
    for kind in (Address, Duration, Network, Size):
        try:
            found = kind.parse(text)
        except ValueError:
            continue
        assert isinstance(found, kind)


@pytest.mark.parametrize("ending", ["\\n", "\\r\\n"])
def test_a_realm_that_ends_a_line_is_refused(file: Path, ending: str) -> None:
    # It stands in a header of every answer that asks for a password.
    assert "auth.realm" in the_fault(file, f'[auth]\nrealm = "Realm{ending}"')


@pytest.mark.parametrize(
    "url", ["https://a\\n", "https://[::1", "https://a]", "http://[nonsense]:1"]
)
def test_a_public_url_that_is_none_is_refused(file: Path, url: str) -> None:
    assert "server.public_url" in the_fault(file, f'[server]\npublic_url = "{url}"')


@given(
    st.dictionaries(
        st.sampled_from(
            ["server", "tls", "storage", "auth", "ldap", "limits", "gc", "log", "other"]
        ),
        st.dictionaries(
            st.sampled_from([key.key for key in KEYS] + ["other"]),
            st.recursive(
                st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
                lambda inner: (
                    st.lists(inner, max_size=2)
                    | st.dictionaries(st.text("ab", min_size=1), inner, max_size=2)
                ),
                max_leaves=3,
            ),
            max_size=3,
        )
        | st.integers(),
        max_size=4,
    )
)
def test_any_document_is_settings_or_faults(
    tmp_path_factory: pytest.TempPathFactory, document: Mapping[str, Any]
) -> None:
    source = tmp_path_factory.getbasetemp() / "any.toml"
    source.touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tomllib, "loads", lambda _: document)
        found = settings_or_faults(source)
    assert isinstance(found, Settings) or all(sentence.endswith(".") for sentence in found)


def settings_or_faults(source: Path) -> Settings | list[str]:
    try:
        return load(source, {})
    except SettingsError as error:
        return error.faults


# --- where data and accounts lie


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> "Machine":
    return Machine(monkeypatch)


class Machine:
    """A machine on which only these files are there, and only these folders are writable."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.there: set[str] = set()
        self.writable: set[str] = set()
        self.user = 1000
        monkeypatch.setattr(os, "geteuid", lambda: self.user)
        monkeypatch.setattr(os, "access", lambda path, _: str(path) in self.writable)
        monkeypatch.setattr(Path, "exists", lambda path: str(path) in self.there)
        monkeypatch.setattr(os.path, "exists", lambda path: str(path) in self.there)
        monkeypatch.setenv("HOME", "/home/alice")
        monkeypatch.delenv("XDG_DATA_HOME", raising=False)
        self.setenv = monkeypatch.setenv


SYSTEM, OWN = Path("/var/lib/registry"), Path("/home/alice/.local/share/registry")
ETC = Path("/etc/registry.htpasswd")


def test_root_keeps_data_where_the_system_does(machine: Machine) -> None:
    machine.user = 0
    assert Settings().data == SYSTEM


def test_a_user_who_may_write_there_does_as_well(machine: Machine) -> None:
    machine.writable = {str(SYSTEM)}
    assert Settings().data == SYSTEM


def test_any_other_user_keeps_data_at_home(machine: Machine) -> None:
    assert Settings().data == OWN
    machine.setenv("XDG_DATA_HOME", "/home/alice/data")
    assert Settings().data == Path("/home/alice/data/registry")
    machine.setenv("XDG_DATA_HOME", "")
    assert Settings().data == OWN


@pytest.mark.parametrize("user", [0, 1000])
def test_what_is_set_counts_for_everybody(machine: Machine, file: Path, user: int) -> None:
    settings = read(file, '[storage]\npath = "/srv/a"\n[auth]\nhtpasswd = "/srv/b"')
    machine.user = user
    machine.there = {str(ETC), "/srv/a/htpasswd"}
    assert (settings.data, settings.htpasswd) == (Path("/srv/a"), Path("/srv/b"))


@pytest.mark.parametrize(
    ("there", "writable", "expected"),
    [
        (set(), set(), OWN / "htpasswd"),
        (set(), {"/etc"}, ETC),
        ({ETC}, set(), ETC),
        ({ETC}, {"/etc"}, ETC),
        ({ETC, OWN / "htpasswd"}, {"/etc"}, ETC),
        ({OWN / "htpasswd"}, {"/etc"}, OWN / "htpasswd"),
        ({OWN / "htpasswd"}, set(), OWN / "htpasswd"),
    ],
)
def test_the_password_file_is_the_one_that_is_there_or_can_be_made(
    machine: Machine, there: set[Path], writable: set[str], expected: Path
) -> None:
    machine.there, machine.writable = {str(path) for path in there}, writable
    assert Settings().htpasswd == expected


def test_the_password_file_is_made_in_the_data_folder_that_is_set(
    machine: Machine, file: Path
) -> None:
    settings = read(file, '[storage]\npath = "/srv/registry"')
    assert settings.htpasswd == Path("/srv/registry/htpasswd")


def test_who_may_not_look_into_the_data_folder_has_a_password_file_all_the_same(
    tmp_path: Path, file: Path
) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    settings = read(file, f'[storage]\npath = "{hidden}"')
    hidden.chmod(0)
    with as_user():
        assert settings.htpasswd in {ETC, hidden / "htpasswd"}
    hidden.chmod(0o700)


# --- credentials of systemd


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"CREDENTIALS_DIRECTORY": "/run/credentials/other"}, "/run/credentials/other"),
        ({}, "/run/credentials/registry.service"),
    ],
)
def test_a_credential_stands_for_a_file(
    file: Path, environment: dict[str, str], folder: str
) -> None:
    file.write_text(
        """
        [server]
        names = ["credential:left"]
        [tls]
        mode = "files"
        certificate = "/etc/ssl/registry.crt"
        key = "credential:tls.key"
        [[tls.additional]]
        certificate = "credential:other.crt"
        key = "credential:a/b"
        [[issuer]]
        name = "github"
        url = "https://token.actions.githubusercontent.com"
        audiences = ["registry"]
        ca = "credential:ca.crt"
        """
    )
    settings = load(file, environment)
    assert settings.tls.certificate == "/etc/ssl/registry.crt"
    assert settings.tls.key == f"{folder}/tls.key"
    (other,) = settings.tls.additional
    assert (other.certificate, other.key) == (f"{folder}/other.crt", "credential:a/b")
    assert settings.issuer[0].ca == f"{folder}/ca.crt"
    assert settings.server.names == ("credential:left",)
