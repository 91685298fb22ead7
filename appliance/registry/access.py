"""The one gate: who is asking, and may they.

`authenticate` turns what a request claims into an account, `admit` gives a proof that its action may
pass, or raises the challenge. Whoever handles a request wants that proof, and only a gate can make
one: there is no way round. See `appliance.api.app`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from appliance.oci.errors import FORBIDDEN, UNAUTHORIZED, RegistryError
from appliance.protocol.claims import Claims, Kind
from appliance.protocol.credentials import PASSING, Bearer, Credentials, parse_credentials
from appliance.protocol.keys import PREFIX
from appliance.protocol.routes import Action, Route
from appliance.protocol.scopes import Scope, scope_for
from appliance.registry.policy import Policy
from appliance.registry.ports import Accounts, RobotKeys, Workloads
from appliance.registry.throttle import Throttle
from appliance.registry.tokens import Bearing, Tokens

TOKEN_PATH = "/auth/token"  # noqa: S105  where to get one

_CERTIFICATE = f"{PASSING}certificate "
"""What begins the generation of an account that a certificate has proved."""

_SEAL = object()


@dataclass(frozen=True, slots=True)
class Account:
    """Who is asking."""

    name: str
    """Empty for an anonymous account."""
    claimed: bool
    """Whether the request brought an Authorization header at all."""
    weakness: str | None = None
    """What is weak about how it proved itself, as a sentence."""
    scopes: tuple[Scope, ...] | None = None
    """What its token is for; None for an account that may do whatever the rules allow."""
    generation: str = field(default="", repr=False)
    """What it proved itself by, without telling it."""
    key: str = ""
    """The ID of the key it proved itself by, where it was one."""
    subject: str = ""
    """What another issuer's token calls it, where it proved itself by one."""

    @property
    def is_anonymous(self) -> bool:
        """Tell whether nobody proved to be anyone."""
        return not self.name


NOBODY = Account("", claimed=False)
"""Whoever brings nothing to prove who it is."""


SOMEBODY = Account("", claimed=True)
"""Whoever claims to be somebody, and has not proved it, or says that it is nobody."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a request says about who sends it."""

    authorization: Sequence[bytes] = field(default=(), repr=False)
    """Its headers of that name."""
    address: str = ""
    """Where it comes from."""
    origin: str = ""
    """How the client calls this registry, as in `https://registry.example.com`; "" if unclear."""
    names: Sequence[str] = ()
    """What the client's certificate calls it, where it has shown one."""
    by_browser: bool = False
    """Whether a person looks at the answer."""


class WrongPasswordError(RegistryError):
    """The refusal of a password; `name` is the account's that it is not of, "" if there is no such."""

    def __init__(self, refusal: RegistryError, name: str) -> None:
        super().__init__(refusal.row, refusal.message, headers=refusal.headers)
        self.name = name


class Grant:
    """The proof that a gate has let a request pass; nobody else can make one."""

    __slots__ = ("account", "route")

    def __init__(self, seal: object, route: Route, account: Account) -> None:
        if seal is not _SEAL:
            raise TypeError("only a gate lets requests pass")
        self.route = route
        self.account = account


class Gate(Protocol):
    """What every request passes: who is asking, and may they."""

    async def authenticate(self, claim: Claim) -> Account:
        """Find out who is asking; raises UNAUTHORIZED."""

    def check(self, account: Account, action: Action, repository: str, claim: Claim) -> None:
        """Let the action pass, or raise UNAUTHORIZED with the challenge, or FORBIDDEN."""

    def admit(self, account: Account, route: Route, claim: Claim) -> Grant:
        """Give the proof that a request may pass, or raise as `check` does."""

    def may(self, account: Account, action: Action, repository: str) -> bool:
        """Tell whether the action passes."""


class OperatorGate:
    """The gate where only the operator can come: whoever is there may do anything."""

    async def authenticate(self, claim: Claim) -> Account:
        """Take whoever asks for the operator, whose name no password file may give to anybody."""
        return Account("(operator)", claimed=False)

    def check(self, account: Account, action: Action, repository: str, claim: Claim) -> None:
        """Let everything pass."""

    def admit(self, account: Account, route: Route, claim: Claim) -> Grant:
        """Let everything pass."""
        return Grant(_SEAL, route, account)

    def may(self, account: Account, action: Action, repository: str) -> bool:
        """Tell that it may."""
        return True


class Access:
    """Decides for every request, by what the policy says of its account."""

    def __init__(
        self,
        *,
        accounts: Accounts,
        keys: RobotKeys,
        policy: Policy,
        tokens: Tokens,
        throttle: Throttle,
        realm: str,
        workloads: Workloads | None = None,
        public_url: str = "",
        certificates: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Decide by what is behind these; `certificates` is names in certificates → accounts."""
        self._accounts = accounts
        self._keys = keys
        self._policy = policy
        self._tokens = tokens
        self._workloads = workloads
        self._throttle = throttle
        self._basic = ("WWW-Authenticate", f'Basic realm="{_quoted(realm)}"')
        self._public_url = public_url
        self._certificates = certificates

    # -- who is asking

    async def authenticate(self, claim: Claim, *, by_token: bool = True) -> Account:
        """Find out who is asking; raises UNAUTHORIZED for credentials that prove nothing.

        Wrong credentials are never taken for none: whoever claims a name must prove it. A token
        proves nothing unless `by_token`: who gets tokens for one would never have to prove it
        again. Raises TOO_MANY_FAILURES where too many were wrong.
        """
        try:
            credentials = parse_credentials(claim.authorization)
        except RegistryError as error:
            raise self.unauthorized(claim, error.message) from None
        match credentials:
            case Bearer(token):
                account = self._robot(token)
                if account is None and by_token:
                    account = await self.bearer(token, "access")
                if account is None:
                    account = await self._workload(token, "", claim)
                if account is None:
                    raise self.unauthorized(
                        claim, "the token is not valid, or not any more", error="invalid_token"
                    )
                return account
            case Credentials():
                return await self._verified(credentials, claim)
            case _:
                for name in claim.names:
                    if name in self._certificates:
                        return Account(
                            self._certificates[name],
                            claimed=True,
                            generation=f"{_CERTIFICATE}{name}",
                        )
                return SOMEBODY if claim.authorization else NOBODY

    async def login(self, name: str, password: str, claim: Claim) -> Account:
        """Find out whose a password is that came in a form; raises as `authenticate` does."""
        return await self._verified(Credentials(name, password.encode()), claim)

    async def bearer(self, token: bytes, kind: Kind) -> Account | None:
        """Return whose a token is; None for one that is not valid, or not any more."""
        claims = self._tokens.read(token, kind)
        if claims is None or not await self._is_current(claims):
            return None
        key = self._keys.named(claims.key) if claims.key else None
        scopes = claims.scopes if kind == "access" else (key.scopes if key else None)
        weakness = self._accounts.weakness(claims.account) if claims.account else None
        return Account(
            claims.account,
            claimed=True,
            weakness=weakness,
            scopes=scopes,
            generation=claims.generation,
            key=claims.key,
            subject=claims.subject,
        )

    async def _is_current(self, claims: Claims) -> bool:
        if claims.key:
            key = self._keys.named(claims.key)
            return key is not None and key.account == claims.account
        if claims.generation.startswith(_CERTIFICATE):
            name = claims.generation.removeprefix(_CERTIFICATE)
            return self._certificates.get(name) == claims.account
        if not claims.account:
            return self._policy.knows("")
        if self._workloads and self._workloads.knows(claims.account, claims.generation):
            return True
        return claims.generation == await self._accounts.generation(claims.account)

    async def _verified(self, credentials: Credentials, claim: Claim) -> Account:
        name = credentials.account
        if credentials.password.startswith(PREFIX):
            robot = self._robot(credentials.password)
            if robot is not None and robot.name == name:
                return robot
        job = await self._workload(credentials.password, name, claim)
        if job is not None:
            return job
        generation = await self._accounts.recall(credentials)
        if generation is None:
            async with self._throttle.turn(claim.address):
                # Whoever was waited for may have asked the same.
                generation = await self._accounts.recall(credentials)
                if generation is None and not self._accounts.is_wrong(credentials):
                    self._throttle.check(claim.address, name)
                    generation = await self._accounts.verify(credentials)
                    if generation is None:
                        self._throttle.fail(claim.address, name)
            if generation is None:
                refusal = self.unauthorized(claim, "unknown account or wrong password")
                raise WrongPasswordError(refusal, name if self._accounts.knows(name) else "")
        return Account(
            name, claimed=True, weakness=self._accounts.weakness(name), generation=generation
        )

    def _robot(self, secret: bytes) -> Account | None:
        key = self._keys.find(secret)
        if key is None:
            return None
        return Account(key.account, claimed=True, scopes=key.scopes, key=key.id)

    async def _workload(self, token: bytes, name: str, claim: Claim) -> Account | None:
        if self._workloads is None:
            return None
        try:
            proof = await self._workloads.prove(token, name)
        except RegistryError as error:
            if error.row is not UNAUTHORIZED:
                raise
            raise self.unauthorized(claim, error.message, error="invalid_token") from None
        if proof is None:
            return None
        return Account(
            proof.account,
            claimed=True,
            generation=proof.generation,
            subject=proof.subject,
        )

    # -- may they

    def admit(self, account: Account, route: Route, claim: Claim) -> Grant:
        """Give the proof that a request may pass, or raise as `check` does."""
        if route.action is not None:
            self.check(account, route.action, route.name, claim)
        return Grant(_SEAL, route, account)

    def check(self, account: Account, action: Action, repository: str, claim: Claim) -> None:
        """Let the action pass, or raise UNAUTHORIZED with the challenge, or FORBIDDEN."""
        if self.may(account, action, repository):
            return
        message = f"{action} on {repository} needs an account" if repository else None
        scope = scope_for(action, repository)
        if account.is_anonymous:
            raise self.unauthorized(claim, message, scope=scope)
        if account.scopes is not None and self._allows(account, action, repository):
            raise self.unauthorized(
                claim, "the token is for something else", scope=scope, error="insufficient_scope"
            )
        raise FORBIDDEN.error(f"{account.name} may not {action} {repository}".rstrip())

    def may(self, account: Account, action: Action, repository: str) -> bool:
        """Tell whether the action passes."""
        is_for_it = (
            account.scopes is None
            or action is Action.LOGIN
            or any(scope.covers(action, repository) for scope in account.scopes)
        )
        return is_for_it and self._allows(account, action, repository)

    def bearing(self, account: Account) -> Bearing:
        """Return what tokens an account may have."""

        def may(action: Action, repository: str) -> bool:
            return self.may(account, action, repository)

        return Bearing(account.name, account.generation, account.key, account.subject, may)

    def may_stay(self, account: Account) -> bool:
        """Tell whether an account may have an identity token: one that could outlive its proof may not."""
        is_whole = account.scopes is None or bool(account.key)
        passes = account.generation.startswith(PASSING)
        return is_whole and not account.is_anonymous and not passes

    def _allows(self, account: Account, action: Action, repository: str) -> bool:
        match action:
            case Action.LIST:  # which then lists what it may pull
                return not account.is_anonymous
            case Action.LOGIN:
                # `/v2/` is how clients ask whether to send a password at all: they must be
                # challenged there even where pulling needs none, or docker would never send one
                # for a push.
                return not account.is_anonymous or (account.claimed and self._policy.knows(""))
            case _:
                return self._policy.allows(account.name, action, repository)

    # -- what else

    def unauthorized(
        self, claim: Claim, message: str | None, *, scope: Scope | None = None, error: str = ""
    ) -> RegistryError:
        """Make the refusal of who has not proved enough, with how to do so."""
        return UNAUTHORIZED.error(message, headers=tuple(self._challenges(claim, scope, error)))

    def _challenges(
        self, claim: Claim, scope: Scope | None, error: str
    ) -> Sequence[tuple[str, str]]:
        """Say how to prove who one is: by tokens of ours where some need not, by a password otherwise.

        Those are asked for as well where jobs bring tokens of their platform: one that ends in a few
        minutes is exchanged for one that lasts as long as a push does.

        Docker answers each challenge there is, and fails where it has no password for the second,
        be it that nobody logged in or that it keeps an identity token instead. So only browsers,
        which know nothing of tokens, are asked for both.
        """
        origin = self._public_url or claim.origin
        by_token = self._policy.knows("") or self._workloads is not None or error
        if not origin or not by_token:
            return (self._basic,)
        service = origin.partition("://")[2]
        parts = [f'realm="{origin}{TOKEN_PATH}"', f'service="{service}"']
        if scope is not None:
            parts.append(f'scope="{scope}"')
        if error:
            parts.append(f'error="{error}"')
        bearer = ("WWW-Authenticate", f"Bearer {','.join(parts)}")
        return (bearer, self._basic) if claim.by_browser else (bearer,)


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
