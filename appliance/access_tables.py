"""The tables of `/etc/registry.toml` about who may do what, as frozen structs."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from appliance.shapes import Switch, Text

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

    htpasswd: Text = ""
    realm: Annotated[
        str,
        Meta(pattern=r"\A[\x20-\x7e]*\Z", description="text of printable ASCII characters"),
    ] = "Registry Realm"
    anonymous: Annotated[
        tuple[Literal["pull"], ...],
        Meta(description='a list of what needs no account, [] or ["pull"]'),
    ] = ()
    admins: _Whoever = ("admin",)
    client_ca: Text = ""


class Ldap(Struct, frozen=True, kw_only=True):
    """`[ldap]`: a directory whose accounts may come in as well, where there is one."""

    url: Annotated[
        str,
        Meta(
            pattern=r"\A(ldaps?://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?)?\Z",
            description='an address, as in "ldaps://ldap.example.com" or "ldap://10.0.0.1:389"',
        ),
    ] = ""
    start_tls: Switch = False
    ca: Text = ""
    base: Text = ""
    filter: Annotated[
        str,
        Meta(
            pattern=r"\A\(.*=\{account\}\).*\Z",
            description='a filter in which {account} is the name, as in "(uid={account})"',
        ),
    ] = "(uid={account})"
    bind_dn: Text = ""
    bind_password_file: Text = ""


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
    keys: Text = ""
    ca: Text = ""


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
