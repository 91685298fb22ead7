"""The tables of `/etc/registry.toml` as frozen structs: what each key may be, and what it is unless set."""

import math
import os
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

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
from appliance.shapes import (
    Addresses,
    Count,
    Networks,
    Reserve,
    SizeShape,
    Span,
    Switch,
    Text,
    Texts,
    Url,
)
from appliance.values import Address, Age, Duration, Interval, Size

FILES = frozenset(
    {
        "additional",
        "bind_password_file",
        "ca",
        "certificate",
        "client_ca",
        "key",
        "keys",
        "smtp_password_file",
    }
)
"""Keys that name files which are only read, and so may name a credential of systemd's instead."""

IN_THE_FILE_ALONE = frozenset({"additional", "quota"})
"""Keys that are lists of tables, which no variable can hold."""

DEFAULT_LISTEN = (Address.of("::", 443),)


class Server(Struct, frozen=True, kw_only=True):
    """`[server]`: where the registry listens, what it is called and which proxies it believes."""

    listen: Addresses = DEFAULT_LISTEN
    plain: Addresses = ()
    names: Texts = ()
    public_url: Url = ""
    trusted_proxies: Networks = ()
    proxy_protocol: Switch = False
    hosts: Texts = ()
    allow: Networks = ()
    deny: Networks = ()
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
    certificate: Text = ""
    key: Text = ""
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

    path: Text = ""
    reserve: Reserve = None
    snapshots: Annotated[
        int, Meta(ge=0, le=1000, description="a whole number, 0 (none) to 1000")
    ] = 7


class Limits(Struct, frozen=True, kw_only=True):
    """`[limits]`: how long the registry waits for a client, and how much it takes from one."""

    connections: Count = 10_000
    connections_per_address: Count = 1000
    requests_per_second: Count = 0
    requests_per_second_per_account: Count = 0
    max_body: SizeShape = Size(0)
    chunk_min: SizeShape = Size(0)
    handshake: Span = Duration(10)
    head: Span = Duration(30)
    idle: Span = Duration(120)
    stall: Span = Duration(300)


class Quota(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much the repositories of one name, and those below it, may hold together."""

    repositories: Annotated[str, Meta(pattern=r"\A([a-z0-9._-]+(/[a-z0-9._-]+)*)?\Z")]
    """A name, as in "team"; empty for all there are."""
    size: SizeShape


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

    every: Span = Duration(86400)
    grace: Span = Duration(86400)
    lease: Span = Duration(3600)
    quarantine: Span = Duration(7 * 86400)
    untagged: Annotated[Age, Meta(description='"keep", or an age with its unit, as in "30d"')] = (
        Age(math.inf)
    )
    history: Span = Duration(90 * 86400)
    uploads: Span = Duration(86400)


class Verify(Struct, frozen=True, kw_only=True):
    """`[verify]`: how often everything that is kept is read over, and where copies of it are."""

    every: Annotated[
        Interval, Meta(description='a duration with its unit, as in "30d", or "never"')
    ] = Interval(30 * 86400)
    rate: SizeShape = Size(20 << 20)
    sources: Texts = ()


class Log(Struct, frozen=True, kw_only=True):
    """`[log]`: what is written to standard error."""

    format: Annotated[
        Literal["auto", "text", "json"], Meta(description='one of "auto", "text" and "json"')
    ] = "auto"
    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description='one of "debug", "info", "warning" and "error"'),
    ] = "info"
    audit: Text = ""


class Failure(Struct, frozen=True, kw_only=True):
    """`[failure]`: who is told that the registry has failed and stays down."""

    mail_to: Annotated[
        tuple[Annotated[str, Meta(pattern=r"\A[^\s@<>,]+@[^\s@<>,]+\Z")], ...],
        Meta(description='a list of mail addresses, as in ["ops@example.com"]'),
    ] = ()
    webhook: Annotated[
        str,
        Meta(
            pattern=r"\A(https?://[^\s/?#]+[^\s#]*)?\Z",
            description='an address, as in "https://chat.example.com/hooks/abc"',
        ),
    ] = ""
    mail_from: Annotated[
        str,
        Meta(
            pattern=r"\A([^\s@<>,]+@[^\s@<>,]+)?\Z",
            description='a mail address, as in "registry@example.com"',
        ),
    ] = ""
    smtp: Annotated[
        str,
        Meta(
            pattern=r"\Asmtps?://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?\Z",
            description='a mail server, as in "smtp://localhost:25" or "smtps://mail.example.com"',
        ),
    ] = "smtp://localhost:25"
    smtp_account: Text = ""
    smtp_password_file: Text = ""


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
    failure: Failure = Failure()
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
