"""The gate: every identity, every action, with and without anonymous pulls, by password and token."""

from base64 import b64encode
from collections.abc import Collection, Sequence

import pytest
import trio
import trio.lowlevel
from trio.testing import MockClock

from appliance.oci.errors import (
    FORBIDDEN,
    TOO_MANY_FAILURES,
    TOO_MANY_LOGINS,
    UNAUTHORIZED,
    RegistryError,
)
from appliance.protocol.claims import Claims
from appliance.protocol.credentials import PASSING, Credentials, Proof
from appliance.protocol.keys import Key
from appliance.protocol.routes import Action, Resource, Route
from appliance.protocol.scopes import parse_scopes
from appliance.registry.access import (
    NOBODY,
    Access,
    Account,
    Claim,
    Gate,
    Grant,
    OperatorGate,
    WrongPasswordError,
)
from appliance.registry.policy import ANONYMOUS, EVERYBODY, RIGHTS, Policy, Rule
from appliance.registry.throttle import Throttle
from appliance.registry.tokens import Tokens
from tests.refused import refused


class Everybody:
    """The accounts alice and bob, whose passwords are their names."""

    def __init__(self) -> None:
        self.generations = {"alice": "a1", "bob": "b1"}
        self.checks = 0
        self.recalled: set[str] = set()
        self.wrong: set[Credentials] = set()

    async def recall(self, credentials: Credentials) -> str | None:
        name = credentials.account
        return self.generations.get(name) if name in self.recalled else None

    def is_wrong(self, credentials: Credentials) -> bool:
        return credentials in self.wrong

    async def verify(self, credentials: Credentials) -> str | None:
        self.checks += 1
        await trio.lowlevel.checkpoint()
        is_right = credentials.password == credentials.account.encode()
        if not is_right:
            self.wrong.add(credentials)
        return self.generations.get(credentials.account) if is_right else None

    async def generation(self, account: str) -> str | None:
        return self.generations.get(account)

    def knows(self, account: str) -> bool:
        return account in self.generations

    def weakness(self, account: str) -> str | None:
        return f"{account} is weak" if account == "bob" else None


class Robots:
    """One robot, whose key may pull."""

    def __init__(self) -> None:
        self.key: Key | None = Key("1", "ci", parse_scopes(["repository:here/*:pull"]))

    def find(self, secret: bytes) -> Key | None:
        return self.key if secret == b"reg_1_secret" else None

    def named(self, key: str) -> Key | None:
        return self.key if key == "1" else None


class Jobs:
    """One job, whose token is `job`; of the same issuer, `late` is a token that has expired."""

    def __init__(self) -> None:
        self.generation = f"{PASSING}workload 1"

    def knows(self, account: str, generation: str) -> bool:
        return (account, generation) == ("ci", self.generation)

    async def prove(self, token: bytes, account: str = "") -> Proof | None:
        if token == b"late":
            raise UNAUTHORIZED.error("the token of github has expired")
        if token != b"job" or account not in {"", "ci"}:
            return None
        return Proof("ci", self.generation, "repo:acme/app")


class Signer:
    """Tokens are numbers, in the order in which they were made."""

    def __init__(self) -> None:
        self.made: list[Claims] = []

    def sign(self, claims: Claims) -> str:
        self.made.append(claims)
        return str(len(self.made) - 1)

    def read(self, token: bytes) -> Claims | None:
        return self.made[int(token)] if token.isdigit() and int(token) < len(self.made) else None


class World:
    """A gate, and what stands behind it."""

    def __init__(
        self, rules: Sequence[Rule], realm: str = "Registry Realm", *, jobs: bool = False
    ) -> None:
        self.accounts = Everybody()
        self.keys = Robots()
        self.jobs = Jobs()
        self.now = 1_000_000.0
        self.tokens = Tokens(Signer(), clock=lambda: self.now)
        self.gate = Access(
            accounts=self.accounts,
            keys=self.keys,
            policy=Policy(rules, {}),
            tokens=self.tokens,
            throttle=Throttle(clock=lambda: self.now),
            realm=realm,
            workloads=self.jobs if jobs else None,
        )

    async def token(self, pair: str, *scopes: str) -> bytes:
        account = await self.gate.authenticate(claim(basic(pair)) if pair else Claim())
        given, _ = self.tokens.access(self.gate.bearing(account), parse_scopes(scopes))
        return b"Bearer " + given.encode()


def rules(anonymous: Collection[Action] = ()) -> list[Rule]:
    return [
        Rule("accounts", ("*",), (EVERYBODY,), allow=RIGHTS),
        *([Rule("nobody", ("*",), (ANONYMOUS,), allow=anonymous)] if anonymous else []),
    ]


def gate(anonymous: Collection[Action] = (), realm: str = "Registry Realm") -> Access:
    return World(rules(anonymous), realm).gate


def basic(pair: str) -> bytes:
    return b"Basic " + b64encode(pair.encode())


def claim(*authorization: bytes) -> Claim:
    return Claim(authorization, "192.0.2.1", ORIGIN)


ORIGIN = "https://registry.example"
HERE = "here/app"
BEARER = 'Bearer realm="https://registry.example/auth/token",service="registry.example"'
BASIC = ("WWW-Authenticate", 'Basic realm="Registry Realm"')
ALICE = claim(basic("alice:alice"))
EMPTY = claim(basic(":"))
NONE = claim()
WRONG = [
    claim(basic("alice:bob")),
    claim(basic("alice:")),
    claim(basic(":alice")),
    claim(basic("eve:eve")),
    claim(basic("Alice:alice")),
    claim(basic("alice :alice")),
    claim(b"Digest alice"),
    claim(b"Basic"),
    claim(b""),
    claim(basic("alice:alice"), basic("bob:bob")),
]


# --- who is asking


@pytest.mark.parametrize("anonymous", [[], [Action.PULL]])
@pytest.mark.parametrize("claimed", WRONG, ids=range(len(WRONG)))
async def test_who_claims_to_be_somebody_must_prove_it(
    claimed: Claim, anonymous: list[Action]
) -> None:
    with refused(UNAUTHORIZED) as caught:
        await gate(anonymous).authenticate(claimed)
    expected = ("WWW-Authenticate", BEARER) if anonymous else BASIC
    assert caught.value.headers == (expected,)
    assert b"alice" not in str(caught.value).encode()


async def test_an_unknown_account_and_a_wrong_password_are_told_alike() -> None:
    told = []
    for pair in ("alice:wrong", "eve:wrong"):
        with refused(UNAUTHORIZED) as caught:
            await gate().authenticate(claim(basic(pair)))
        told.append((str(caught.value), caught.value.headers, caught.value.details))
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("claimed", "account"),
    [
        (ALICE, Account("alice", claimed=True, generation="a1")),
        (
            claim(basic("bob:bob")),
            Account("bob", claimed=True, weakness="bob is weak", generation="b1"),
        ),
        (EMPTY, Account("", claimed=True)),
        (NONE, NOBODY),
    ],
    ids=["alice", "bob", "the empty pair", "nothing"],
)
@pytest.mark.parametrize("anonymous", [[], [Action.PULL]])
async def test_an_account_is_somebody_or_nobody(
    claimed: Claim, account: Account, anonymous: list[Action]
) -> None:
    found = await gate(anonymous).authenticate(claimed)
    assert found == account
    assert found.is_anonymous == (not account.name)


# --- may they

# What nobody in particular may do, without and with the empty pair of podman's.
ALLOWED_TO_NOBODY: dict[tuple[Action, ...], set[tuple[Action, bool]]] = {
    (): set(),
    (Action.PULL,): {
        (Action.PULL, False),
        (Action.PULL, True),
        (Action.LOGIN, True),
    },
}


@pytest.mark.parametrize("anonymous", list(ALLOWED_TO_NOBODY))
@pytest.mark.parametrize("claimed", [False, True])
@pytest.mark.parametrize("action", list(Action))
def test_nobody_may_do_only_what_is_allowed_to_all(
    action: Action, claimed: bool, anonymous: tuple[Action, ...]
) -> None:
    account = Account("", claimed=claimed)
    if (action, claimed) in ALLOWED_TO_NOBODY[anonymous]:
        gate(anonymous).check(account, action, HERE, NONE)
        return
    with refused(UNAUTHORIZED) as caught:
        gate(anonymous).check(account, action, HERE, NONE)
    [(name, value)] = caught.value.headers
    assert name == "WWW-Authenticate"
    assert value.startswith(BEARER if anonymous else BASIC[1])


@pytest.mark.parametrize("anonymous", list(ALLOWED_TO_NOBODY))
@pytest.mark.parametrize("action", list(Action))
@pytest.mark.parametrize("repository", [HERE, ""])
def test_an_account_may_do_what_its_rules_allow(
    repository: str, action: Action, anonymous: tuple[Action, ...]
) -> None:
    gate(anonymous).check(Account("alice", claimed=True), action, repository, ALICE)


def test_what_asks_for_nothing_is_everybodys() -> None:
    route = Route(Resource.HEALTH, "GET", None)
    assert gate().admit(NOBODY, route, NONE).account is NOBODY


@pytest.mark.parametrize("action", RIGHTS)
def test_who_is_somebody_and_may_not_is_told_so(action: Action) -> None:
    world = World([Rule("no", ("*",), ("alice",), allow=RIGHTS, deny=(action,))])
    with refused(FORBIDDEN, f"alice may not {action} here/app") as caught:
        world.gate.check(Account("alice", claimed=True), action, HERE, ALICE)
    assert caught.value.headers == ()  # another login would change nothing


def test_a_refusal_says_what_needs_an_account() -> None:
    with refused(UNAUTHORIZED, "push on here/app needs an account"):
        gate().check(NOBODY, Action.PUSH, HERE, NONE)
    with refused(UNAUTHORIZED, "authentication required"):
        gate().check(NOBODY, Action.LOGIN, "", NONE)


@pytest.mark.parametrize(
    ("realm", "quoted"),
    [
        ("Registry Realm", 'Basic realm="Registry Realm"'),
        ("", 'Basic realm=""'),
        ('The "best"', 'Basic realm="The \\"best\\""'),
        ("back\\slash", 'Basic realm="back\\\\slash"'),
        ('", Bearer realm="', 'Basic realm="\\", Bearer realm=\\""'),
    ],
)
def test_a_realm_stays_within_its_quotes(realm: str, quoted: str) -> None:
    with refused(UNAUTHORIZED) as caught:
        gate(realm=realm).check(NOBODY, Action.PULL, HERE, NONE)
    assert caught.value.headers == (("WWW-Authenticate", quoted),)


def test_only_a_gate_can_let_a_request_pass() -> None:
    route = Route(Resource.MANIFEST, "DELETE", Action.DELETE, HERE, "latest")
    with pytest.raises(TypeError, match="only a gate"):
        Grant(object(), route, Account("alice", claimed=True))
    gates: tuple[Gate, ...] = (gate(), OperatorGate())
    for one in gates:
        assert one.admit(Account("alice", claimed=True), route, ALICE).route is route


# --- how to prove who one is


def challenges(world: World, asking: Claim, action: Action = Action.PUSH) -> list[str]:
    with refused(UNAUTHORIZED) as caught:
        world.gate.check(NOBODY, action, HERE, asking)
    return [value for _, value in caught.value.headers]


def test_docker_is_sent_for_a_token_where_some_need_no_account() -> None:
    world = World(rules([Action.PULL]))
    assert challenges(world, NONE) == [f'{BEARER},scope="repository:here/app:pull,push"']
    assert challenges(world, NONE, Action.LOGIN) == [BEARER]
    assert challenges(world, NONE, Action.LIST) == [f'{BEARER},scope="registry:catalog:*"']


def test_a_browser_is_asked_for_a_password_as_well() -> None:
    asking = Claim((), "192.0.2.1", ORIGIN, by_browser=True)
    bearer, plain = challenges(World(rules([Action.PULL])), asking)
    assert bearer.startswith(BEARER)
    assert plain == BASIC[1]


def test_a_client_that_does_not_say_where_it_is_gets_a_challenge_that_needs_no_address() -> None:
    assert challenges(World(rules([Action.PULL])), Claim()) == [BASIC[1]]


# --- tokens


async def test_a_token_is_for_what_it_says_and_nothing_else() -> None:
    world = World(rules())
    token = await world.token("alice:alice", "repository:here/app:pull,push")
    account = await world.gate.authenticate(claim(token))
    assert account.name == "alice"
    for action, repository in (
        (Action.PULL, HERE),
        (Action.PUSH, HERE),
        (Action.OVERWRITE, HERE),
        (Action.LOGIN, ""),
    ):
        assert world.gate.may(account, action, repository)
    for action, repository in (
        (Action.DELETE, HERE),
        (Action.ADMIN, HERE),
        (Action.PULL, "here/other"),
        (Action.LIST, ""),
    ):
        with refused(UNAUTHORIZED, "the token is for something else") as caught:
            world.gate.check(account, action, repository, claim(token))
        [(_, value)] = caught.value.headers
        assert 'error="insufficient_scope"' in value


async def test_what_may_not_be_is_not_in_the_token() -> None:
    world = World([Rule("some", ("here/*",), ("alice",), allow=(Action.PULL, Action.PUSH))])
    token = await world.token(
        "alice:alice",
        "repository:here/app:pull,push,delete,*",
        "repository:there/app:pull repository:*:pull",
        "repository:here/*:pull",
        "repository(plugin):here/app:pull",
        "registry:catalog:* registry:else:*",
    )
    claims = world.tokens.read(token.removeprefix(b"Bearer "), "access")
    assert claims is not None
    assert [*map(str, claims.scopes)] == ["repository:here/app:pull,push", "registry:catalog:*"]


async def test_anybody_gets_a_token_for_what_anybody_may() -> None:
    world = World(rules([Action.PULL]))
    token = await world.token("", "repository:here/app:pull,push")
    account = await world.gate.authenticate(claim(token))
    assert account.is_anonymous
    assert world.gate.may(account, Action.PULL, HERE)
    assert world.gate.may(account, Action.LOGIN, "")
    assert not world.gate.may(account, Action.PUSH, HERE)


async def test_a_token_ends_with_the_password_and_the_account_and_by_itself() -> None:
    world = World(rules())
    token = await world.token("alice:alice", "repository:here/app:pull")
    for ending in ("a2", None):
        before = dict(world.accounts.generations)
        if ending is None:
            world.accounts.generations.pop("alice")
        else:
            world.accounts.generations["alice"] = ending
        with refused(UNAUTHORIZED, "not valid, or not any more") as caught:
            await world.gate.authenticate(claim(token))
        assert 'error="invalid_token"' in caught.value.headers[0][1]
        world.accounts.generations = before
    await world.gate.authenticate(claim(token))
    world.now += 3601
    with refused(UNAUTHORIZED):
        await world.gate.authenticate(claim(token))


async def test_a_rule_that_changes_counts_for_tokens_that_are_there() -> None:
    before = World(rules())
    token = await before.token("alice:alice", "repository:here/app:pull")
    account = await before.gate.authenticate(claim(token))
    after = World([Rule("other", ("there",), ("alice",), allow=RIGHTS)])
    with refused(FORBIDDEN):
        after.gate.check(account, Action.PULL, HERE, claim(token))


async def test_an_identity_token_is_no_token_for_requests_nor_the_other_way_round() -> None:
    world = World(rules())
    account = await world.gate.authenticate(ALICE)
    identity = world.tokens.refresh(world.gate.bearing(account)).encode()
    with refused(UNAUTHORIZED):
        await world.gate.authenticate(claim(b"Bearer " + identity))
    found = await world.gate.bearer(identity, "refresh")
    assert found is not None
    assert (found.name, found.scopes) == ("alice", None)
    access = (await world.token("alice:alice")).removeprefix(b"Bearer ")
    assert await world.gate.bearer(access, "refresh") is None


# --- too many wrong passwords


async def test_wrong_passwords_slow_down_who_tries_them_and_nobody_else() -> None:
    world = World(rules())
    for number in range(10):
        for _ in range(3):  # as clients try the same again
            with refused(UNAUTHORIZED):
                await world.gate.authenticate(claim(basic(f"alice:wrong {number}")))
    checks = world.accounts.checks
    assert checks == 10
    with refused(TOO_MANY_FAILURES) as caught:
        await world.gate.authenticate(claim(basic("alice:wrong")))
    assert caught.value.headers == (("Retry-After", "5"),)
    assert world.accounts.checks == checks  # which is what costs time
    elsewhere = Claim((basic("alice:alice"),), "192.0.2.7", ORIGIN)
    assert (await world.gate.authenticate(elsewhere)).name == "alice"
    world.accounts.recalled.add("alice")  # who was right a moment ago still is
    assert (await world.gate.authenticate(ALICE)).name == "alice"
    world.accounts.recalled.clear()
    world.now += 5
    assert (await world.gate.authenticate(ALICE)).name == "alice"


async def test_right_passwords_are_never_too_many_however_many_at_once() -> None:
    world = World(rules())
    async with trio.open_nursery() as nursery:
        for _ in range(500):
            nursery.start_soon(world.gate.authenticate, ALICE)
    with refused(UNAUTHORIZED):
        await world.gate.authenticate(claim(basic("alice:wrong")))


async def test_a_login_that_is_cancelled_counts_for_nothing() -> None:
    world = World(rules())
    for _ in range(50):
        with trio.CancelScope() as scope:
            scope.cancel()
            await world.gate.authenticate(claim(basic("alice:wrong")))
    with refused(UNAUTHORIZED):
        await world.gate.authenticate(claim(basic("alice:wrong")))


async def test_a_token_for_a_certificate_ends_with_what_says_whose_it_is() -> None:
    world = World(rules())
    shown = Claim((), "192.0.2.1", ORIGIN, names=("dns:other", "cn:one"))
    assert (await world.gate.authenticate(shown)).is_anonymous
    world.gate._certificates = {"cn:one": "alice"}
    account = await world.gate.authenticate(shown)
    assert account.name == "alice"
    token, _ = world.tokens.access(world.gate.bearing(account), ())
    bearer = claim(b"Bearer " + token.encode())
    assert (await world.gate.authenticate(bearer)).name == "alice"
    world.gate._certificates = {"cn:one": "bob"}
    with refused(UNAUTHORIZED):
        await world.gate.authenticate(bearer)


@pytest.mark.parametrize("host", ["[::::]", "[1.2.3.4]", "[:]", "a:99999"])
def test_an_odd_name_of_the_registry_breaks_nothing(host: str) -> None:
    asking = Claim((), "192.0.2.1", f"https://{host}")
    [value] = challenges(World(rules([Action.PULL])), asking)
    assert f'service="{host}"' in value


# --- keys


KEY = "ci:reg_1_secret"


async def test_a_key_is_for_its_scopes_as_password_and_as_token() -> None:
    world = World(rules())
    for header in (
        basic(KEY),
        b"Bearer reg_1_secret",
        await world.token(KEY, "repository:here/app:pull,push"),
    ):
        account = await world.gate.authenticate(claim(header))
        assert account.name == "ci"
        assert world.gate.may(account, Action.PULL, HERE)
        assert not world.gate.may(account, Action.PUSH, HERE)
        assert not world.gate.may(account, Action.PULL, "there/app")
        assert not world.gate.may(account, Action.LIST, "")


async def test_a_key_is_nobody_elses_password() -> None:
    with refused(UNAUTHORIZED):
        await gate().authenticate(claim(basic("alice:reg_1_secret")))


async def test_a_token_got_with_a_key_is_for_no_more_than_the_key() -> None:
    world = World(rules())
    for wanted in ("repository:there:pull", "repository:here/*:pull", "repository:here/app:*"):
        token = await world.token(KEY, wanted)
        claims = world.tokens.read(token.removeprefix(b"Bearer "), "access")
        assert claims is not None
        assert claims.scopes == ()


async def test_a_revoked_key_ends_its_tokens_and_its_identity_tokens() -> None:
    world = World(rules())
    token = await world.token(KEY, "repository:here/app:pull")
    account = await world.gate.authenticate(claim(basic(KEY)))
    identity = world.tokens.refresh(world.gate.bearing(account)).encode()
    found = await world.gate.bearer(identity, "refresh")
    assert found is not None
    assert found.scopes == account.scopes
    world.keys.key = None
    for header in (basic(KEY), token):
        with refused(UNAUTHORIZED):
            await world.gate.authenticate(claim(header))
    assert await world.gate.bearer(identity, "refresh") is None


def test_whoever_may_not_delete_removes_no_repository_either() -> None:
    world = World([Rule("all", ("*",), ("alice",), allow=RIGHTS, deny=(Action.DELETE,))])
    assert not world.gate.may(Account("alice", claimed=True), Action.ADMIN, HERE)


# --- jobs, by tokens of their platform


@pytest.mark.parametrize("authorization", [basic("ci:job"), b"Bearer job"], ids=["Basic", "Bearer"])
async def test_a_job_is_the_account_that_its_token_stands_for(authorization: bytes) -> None:
    world = World(rules(), jobs=True)
    account = await world.gate.authenticate(claim(authorization), by_token=False)
    assert (account.name, account.subject) == ("ci", "repo:acme/app")
    assert world.gate.may(account, Action.PUSH, HERE)
    assert not world.gate.may_stay(account)
    assert world.accounts.checks == 0


async def test_a_token_of_a_job_is_nothing_under_another_name() -> None:
    world = World(rules(), jobs=True)
    with refused(UNAUTHORIZED, "unknown account or wrong password"):
        await world.gate.authenticate(claim(basic("alice:job")))


@pytest.mark.parametrize(
    "authorization", [basic("ci:late"), b"Bearer late"], ids=["Basic", "Bearer"]
)
async def test_a_job_is_told_why_its_token_proves_nothing(authorization: bytes) -> None:
    world = World(rules(), jobs=True)
    with refused(UNAUTHORIZED, "the token of github has expired") as caught:
        await world.gate.authenticate(claim(authorization))
    assert caught.value.headers == (("WWW-Authenticate", f'{BEARER},error="invalid_token"'),)


async def test_where_jobs_come_a_token_is_asked_for_that_lasts_as_long_as_a_push() -> None:
    world = World(rules(), jobs=True)
    assert challenges(world, NONE) == [f'{BEARER},scope="repository:here/app:pull,push"']


async def test_what_a_job_was_given_ends_with_what_its_token_was_mapped_by() -> None:
    world = World(rules(), jobs=True)
    token = await world.token("ci:job", "repository:here/app:push")
    account = await world.gate.authenticate(claim(token))
    assert (account.name, account.subject) == ("ci", "repo:acme/app")
    world.jobs.generation = f"{PASSING}workload 2"
    with refused(UNAUTHORIZED, "not any more"):
        await world.gate.authenticate(claim(token))


@pytest.mark.parametrize(
    ("account", "stays"),
    [
        (Account("alice", claimed=True, generation="a1"), True),
        (Account("ci", claimed=True, scopes=parse_scopes([]), key="1"), True),
        (Account("alice", claimed=True, scopes=parse_scopes([])), False),
        (Account("ci", claimed=True, generation=f"{PASSING}workload 1"), False),
        (Account("ci", claimed=True, generation=f"{PASSING}certificate cn:a"), False),
        (Account("", claimed=True), False),
        (NOBODY, False),
    ],
)
def test_an_identity_token_is_for_who_stays(account: Account, *, stays: bool) -> None:
    assert gate().may_stay(account) is stays


async def test_it_is_told_whose_password_was_wrong_where_somebody_has_the_name() -> None:
    told = []
    for pair in ("alice:wrong", "eve:wrong"):
        with pytest.raises(WrongPasswordError) as caught:
            await gate().authenticate(claim(basic(pair)))
        told.append(caught.value.name)
    assert told == ["alice", ""]


async def test_nobody_waits_for_a_turn_for_ever(autojump_clock: MockClock) -> None:
    throttle = Throttle()
    refusals = []

    async def wait() -> None:
        try:
            async with throttle.turn("192.0.2.1"):
                await trio.sleep(1000)
        except RegistryError as error:
            refusals.append(error.row)

    async with trio.open_nursery() as nursery:
        for _ in range(6):
            nursery.start_soon(wait)
        await trio.sleep(100)
        assert refusals == [TOO_MANY_LOGINS] * 2
        nursery.cancel_scope.cancel()
    async with throttle.turn("192.0.2.1"):
        pass
    assert throttle._turns == {}
