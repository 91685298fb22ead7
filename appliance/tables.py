"""The tables of `/etc/registry.toml` as frozen structs: what each key may be, and what it is unless set."""

import math
import os
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from appliance.values import Address, Age, Duration, Interval, Network, Size

_Text = Annotated[str, Meta(pattern=r"\A[^\0]*\Z", description='text in quotes, as in "one"')]
_Texts = Annotated[tuple[str, ...], Meta(description='a list of texts, as in ["one", "two"]')]
_Addresses = Annotated[
    tuple[Address, ...],
    Meta(description='a list of addresses, as in ["[::]:443"] or ["10.0.0.1:443"]'),
]
_Networks = Annotated[
    tuple[Network, ...],
    Meta(
        description="a list of addresses, and of networks by their first one, as in "
        '["10.0.0.5", "10.1.0.0/16"]'
    ),
]
_Span = Annotated[Duration, Meta(description='a duration with its unit, as in "90s" or "24h"')]
_Size = Annotated[
    Size, Meta(description='a size with its unit, as in "512KiB" or "20MiB", or "0" for no limit')
]
_Reserve = Annotated[
    Size | None,
    Meta(description='a size with its unit, as in "512MiB" or "20GiB", or "0" for none'),
]
_Count = Annotated[
    int, Meta(ge=0, le=1_000_000, description="a whole number, 0 (no limit) to 1000000")
]
_Switch = Annotated[bool, Meta(description="true or false")]
_Url = Annotated[
    str,
    Meta(
        pattern=r"\A(https?://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?)?\Z",
        description='an address without a path, as in "https://registry.example.com"',
    ),
]

IN_THE_FILE_ALONE = frozenset({"additional", "quota"})
"""Keys that are lists of tables, which no variable can hold."""

DEFAULT_LISTEN = (Address.of("::", 443),)


class Server(Struct, frozen=True, kw_only=True):
    """`[server]`: where the registry listens, what it is called and which proxies it believes."""

    listen: _Addresses = DEFAULT_LISTEN
    plain: _Addresses = ()
    names: _Texts = ()
    public_url: _Url = ""
    trusted_proxies: _Networks = ()
    proxy_protocol: _Switch = False
    hosts: _Texts = ()
    allow: _Networks = ()
    deny: _Networks = ()
    drain_seconds: Annotated[
        int, Meta(ge=0, description="a whole number of seconds, 0 or more")
    ] = 3600


class Pair(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A certificate and its key, as files."""

    certificate: str
    key: str


class Tls(Struct, frozen=True, kw_only=True):
    """`[tls]`: which certificates are shown, if any."""

    mode: Annotated[
        Literal["auto", "files", "acme", "off"],
        Meta(description='one of "auto", "files" and "off"'),
    ] = "auto"
    certificate: _Text = ""
    key: _Text = ""
    additional: Annotated[
        tuple[Pair, ...],
        Meta(description="tables [[tls.additional]], each with certificate and key"),
    ] = ()
    alpn: Annotated[
        tuple[Literal["http/1.1", "h2"], ...],
        Meta(min_length=1, description='a list of "http/1.1" and "h2", the preferred one first'),
    ] = ("http/1.1", "h2")


class Storage(Struct, frozen=True, kw_only=True):
    """`[storage]`: where everything is kept, what of the disk is not for pushes, and snapshots.

    A `reserve` that is not set is a gibibyte, or 2 % of a disk of less than fifty; one that is set
    counts as it stands, were it larger than the disk.
    """

    path: _Text = ""
    reserve: _Reserve = None
    snapshots: Annotated[
        int, Meta(ge=0, le=1000, description="a whole number, 0 (none) to 1000")
    ] = 7


_Who = Annotated[
    str,
    Meta(pattern=r"\A(\*|\(anonymous\)|@?[^\s:@(*][^\s:]*)\Z"),
]
_Whoever = Annotated[
    tuple[_Who, ...],
    Meta(
        description='a list of accounts, of groups as in "@team", of "*" for every account'
        ' and of "(anonymous)" for whoever has none'
    ),
]


class Auth(Struct, frozen=True, kw_only=True):
    """`[auth]`: who may come in."""

    htpasswd: _Text = ""
    realm: Annotated[
        str,
        Meta(pattern=r"\A[\x20-\x7e]*\Z", description="text of printable ASCII characters"),
    ] = "Registry Realm"
    anonymous: Annotated[
        tuple[Literal["pull"], ...],
        Meta(description='a list of what needs no account, [] or ["pull"]'),
    ] = ()
    admins: _Whoever = ("admin",)
    client_ca: _Text = ""


class Ldap(Struct, frozen=True, kw_only=True):
    """`[ldap]`: a directory whose accounts may come in as well, where there is one."""

    url: Annotated[
        str,
        Meta(
            pattern=r"\A(ldaps?://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?)?\Z",
            description='an address, as in "ldaps://ldap.example.com" or "ldap://10.0.0.1:389"',
        ),
    ] = ""
    start_tls: _Switch = False
    ca: _Text = ""
    base: _Text = ""
    filter: Annotated[
        str,
        Meta(
            pattern=r"\A\(.*=\{account\}\).*\Z",
            description='a filter in which {account} is the name, as in "(uid={account})"',
        ),
    ] = "(uid={account})"
    bind_dn: _Text = ""
    bind_password_file: _Text = ""


_AccountName = Annotated[
    str, Meta(pattern=r"\A[^\s:@(*][^\s:]*\Z", description='an account, as in "ci"')
]
_Members = Annotated[
    tuple[_AccountName, ...],
    Meta(description='a list of accounts, as in ["alice", "bob"]'),
]
_Patterns = Annotated[
    tuple[Annotated[str, Meta(pattern=r"\A[a-z0-9._*?/\[\]!-]+\Z")], ...],
    Meta(min_length=1, description='a list of repositories, as in ["team/*", "base"]'),
]
_Rights = Annotated[
    tuple[Literal["pull", "push", "overwrite", "delete", "admin"], ...],
    Meta(description='a list of "pull", "push", "overwrite", "delete" and "admin"'),
]
_Word = Annotated[
    str, Meta(pattern=r"\A[a-z0-9][a-z0-9._-]*\Z", description='a word, as in "developers"')
]
_Name = Annotated[
    str,
    Meta(
        pattern=r"\A[a-z0-9._-]+(/[a-z0-9._-]+)*\Z",
        description='a name of repositories, as in "team" or "team/project"',
    ),
]


class Rule(Struct, frozen=True, kw_only=True):
    """`[[rule]]`: what some accounts may, or may not, do in some repositories."""

    repositories: _Patterns = ()
    accounts: _Whoever = ()
    allow: _Rights = ()
    deny: _Rights = ()


class Group(Struct, frozen=True, kw_only=True):
    """`[[group]]`: accounts that rules name together."""

    name: _Word = ""
    members: _Members = ()


class ClientCertificate(Struct, frozen=True, kw_only=True):
    """`[[certificate]]`: whose a name in a client's certificate is."""

    name: Annotated[
        str,
        Meta(
            pattern=r"\A(dns|email|uri|cn|subject):.+\Z",
            description='a name with its kind, as in "cn:builder" or "dns:ci.example.com"',
        ),
    ] = ""
    account: _AccountName = ""


class TokenIssuer(Struct, frozen=True, kw_only=True):
    """`[[issuer]]`: a platform whose tokens prove what its jobs are."""

    name: _Word = ""
    url: Annotated[
        str,
        Meta(
            pattern=r"\Ahttps?://[^\s?#@]+\Z",
            description='what tokens call it, as in "https://token.actions.githubusercontent.com"',
        ),
    ] = ""
    audiences: Annotated[
        tuple[Annotated[str, Meta(min_length=1)], ...],
        Meta(
            min_length=1,
            description='a list of what tokens for this registry are for, as in ["registry.example.com"]',
        ),
    ] = ()
    keys: _Text = ""
    ca: _Text = ""


_Pattern = Annotated[str, Meta(min_length=1)]
_Claims = Annotated[
    dict[str, _Pattern | Annotated[tuple[_Pattern, ...], Meta(min_length=1)]],
    Meta(
        min_length=1,
        description='a table of what a token says, as in { repository = "acme/app", ref = ["refs/tags/*"] }',
    ),
]


class Job(Struct, frozen=True, kw_only=True):
    """`[[workload]]`: which tokens of an issuer stand for an account."""

    issuer: _Word = ""
    account: _AccountName = ""
    claims: _Claims = {}


class Namespace(Struct, frozen=True, kw_only=True):
    """`[[namespace]]`: who has which role in the repositories of a name and below it."""

    name: _Name = ""
    guest: _Whoever = ()
    developer: _Whoever = ()
    maintainer: _Whoever = ()
    admin: _Whoever = ()


class Limits(Struct, frozen=True, kw_only=True):
    """`[limits]`: how long the registry waits for a client, and how much it takes from one."""

    connections: _Count = 10_000
    connections_per_address: _Count = 1000
    requests_per_second: _Count = 0
    requests_per_second_per_account: _Count = 0
    max_body: _Size = Size(0)
    chunk_min: _Size = Size(0)
    handshake: _Span = Duration(10)
    head: _Span = Duration(30)
    idle: _Span = Duration(120)
    stall: _Span = Duration(300)


class Quota(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much the repositories of one name, and those below it, may hold together."""

    repositories: Annotated[str, Meta(pattern=r"\A([a-z0-9._-]+(/[a-z0-9._-]+)*)?\Z")]
    """A name, as in "team"; empty for all there are."""
    size: _Size


class Push(Struct, frozen=True, kw_only=True):
    """`[push]`: what must be so of what is pushed."""

    require_platforms: Annotated[
        tuple[Annotated[str, Meta(pattern=r"\A(\*|[^/\s]+/[^/\s]+(/[^/\s]+)?)\Z")], ...],
        Meta(description='a list of platforms, as in ["linux/amd64"], ["*"] for all, [] for none'),
    ] = ("*",)
    immutable: Annotated[
        tuple[Annotated[str, Meta(pattern=r"\A[^:\s]+:[^:\s]+\Z")], ...],
        Meta(description='a list of patterns NAME:TAG, as in ["*:v[0-9]*", "release/*:*"]'),
    ] = ()
    quota: Annotated[
        tuple[Quota, ...],
        Meta(description="tables [[push.quota]], each with repositories and size"),
    ] = ()


class Gc(Struct, frozen=True, kw_only=True):
    """`[gc]`: what is cleared away by itself, and when."""

    every: _Span = Duration(86400)
    grace: _Span = Duration(86400)
    lease: _Span = Duration(3600)
    quarantine: _Span = Duration(7 * 86400)
    untagged: Annotated[Age, Meta(description='"keep", or an age with its unit, as in "30d"')] = (
        Age(math.inf)
    )
    history: _Span = Duration(90 * 86400)
    uploads: _Span = Duration(86400)


class Verify(Struct, frozen=True, kw_only=True):
    """`[verify]`: how often everything that is kept is read over, and where copies of it are."""

    every: Annotated[
        Interval, Meta(description='a duration with its unit, as in "30d", or "never"')
    ] = Interval(30 * 86400)
    rate: _Size = Size(20 << 20)
    sources: _Texts = ()


class Log(Struct, frozen=True, kw_only=True):
    """`[log]`: what is written to standard error."""

    format: Annotated[
        Literal["auto", "text", "json"], Meta(description='one of "auto", "text" and "json"')
    ] = "auto"
    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description='one of "debug", "info", "warning" and "error"'),
    ] = "info"
    audit: _Text = ""


class Settings(Struct, frozen=True, kw_only=True):
    """All of the settings, table by table."""

    server: Server = Server()
    tls: Tls = Tls()
    storage: Storage = Storage()
    auth: Auth = Auth()
    ldap: Ldap = Ldap()
    limits: Limits = Limits()
    push: Push = Push()
    gc: Gc = Gc()
    verify: Verify = Verify()
    log: Log = Log()
    rule: tuple[Rule, ...] = ()
    group: tuple[Group, ...] = ()
    namespace: tuple[Namespace, ...] = ()
    certificate: tuple[ClientCertificate, ...] = ()
    issuer: tuple[TokenIssuer, ...] = ()
    workload: tuple[Job, ...] = ()

    @property
    def data(self) -> Path:
        """The data folder: the one that is set, else the system's, else the user's own."""
        if self.storage.path:
            return Path(self.storage.path)
        system = Path("/var/lib/registry")
        if os.geteuid() == 0 or os.access(system, os.W_OK):
            return system
        home = Path(os.environ.get("HOME", "/"))
        return Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share") / "registry"

    @property
    def audit(self) -> Path | None:
        """The audit log: the file that is set, else one in the data folder; None where it is off."""
        if self.log.audit == "off":
            return None
        return Path(self.log.audit) if self.log.audit else self.data / "audit.log"

    @property
    def htpasswd(self) -> Path:
        """The password file: the one that is set, else the one that is there.

        Where none is there yet, it will be `/etc/registry.htpasswd` if this user may make it, and
        lie in the data folder otherwise, so that a daemon without rights in `/etc` has one too.
        """
        if self.auth.htpasswd:
            return Path(self.auth.htpasswd)
        system, own = Path("/etc/registry.htpasswd"), self.data / "htpasswd"
        try:
            is_there = own.exists()
        except PermissionError:  # in a folder that is closed to this user
            is_there = False
        if system.exists() or (not is_there and os.access(system.parent, os.W_OK)):
            return system
        return own
