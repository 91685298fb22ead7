"""The gate: every identity, every action, with and without anonymous pulls."""

from base64 import b64encode
from collections.abc import Collection

import pytest

from appliance.oci.errors import UNAUTHORIZED
from appliance.protocol.credentials import Credentials
from appliance.protocol.routes import Action
from appliance.registry.access import Access, Account
from tests.refused import refused


class Everybody:
    """The accounts alice and bob, whose passwords are their names."""

    async def verify(self, credentials: Credentials) -> bool:
        known = credentials.account in {"alice", "bob"}
        return known and credentials.password == credentials.account.encode()

    def weakness(self, account: str) -> str | None:
        return f"{account} is weak" if account == "bob" else None


def gate(anonymous: Collection[Action] = (), realm: str = "Registry Realm") -> Access:
    return Access(accounts=Everybody(), realm=realm, anonymous=anonymous)


def basic(pair: str) -> bytes:
    return b"Basic " + b64encode(pair.encode())


HERE = "here/app"
CHALLENGE = (("WWW-Authenticate", 'Basic realm="Registry Realm"'),)
ALICE = [basic("alice:alice")]
EMPTY = [basic(":")]
NONE: list[bytes] = []
WRONG = [
    [basic("alice:bob")],
    [basic("alice:")],
    [basic(":alice")],
    [basic("eve:eve")],
    [basic("Alice:alice")],
    [basic("alice :alice")],
    [b"Bearer alice"],
    [b"Basic"],
    [b""],
    [basic("alice:alice"), basic("bob:bob")],
]


# --- who is asking


@pytest.mark.parametrize("anonymous", [[], [Action.PULL]])
@pytest.mark.parametrize("authorization", WRONG)
async def test_who_claims_to_be_somebody_must_prove_it(
    authorization: list[bytes], anonymous: list[Action]
) -> None:
    with refused(UNAUTHORIZED) as caught:
        await gate(anonymous).authenticate(authorization)
    assert caught.value.headers == CHALLENGE
    assert b"alice" not in str(caught.value).encode()


async def test_an_unknown_account_and_a_wrong_password_are_told_alike() -> None:
    told = []
    for pair in ("alice:wrong", "eve:wrong"):
        with refused(UNAUTHORIZED) as caught:
            await gate().authenticate([basic(pair)])
        told.append((str(caught.value), caught.value.headers, caught.value.details))
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("authorization", "account"),
    [
        (ALICE, Account("alice", claimed=True)),
        ([basic("bob:bob")], Account("bob", claimed=True, weakness="bob is weak")),
        (EMPTY, Account("", claimed=True)),
        (NONE, Account("", claimed=False)),
    ],
)
@pytest.mark.parametrize("anonymous", [[], [Action.PULL]])
async def test_an_account_is_somebody_or_nobody(
    authorization: list[bytes], account: Account, anonymous: list[Action]
) -> None:
    found = await gate(anonymous).authenticate(authorization)
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
        gate(anonymous).check(account, action, HERE)
        return
    with refused(UNAUTHORIZED) as caught:
        gate(anonymous).check(account, action, HERE)
    assert caught.value.headers == CHALLENGE


@pytest.mark.parametrize("anonymous", list(ALLOWED_TO_NOBODY))
@pytest.mark.parametrize("action", [*Action, None])
@pytest.mark.parametrize("repository", [HERE, ""])
def test_an_account_may_do_everything(
    repository: str, action: Action | None, anonymous: tuple[Action, ...]
) -> None:
    gate(anonymous).check(Account("alice", claimed=True), action, repository)


@pytest.mark.parametrize("anonymous", list(ALLOWED_TO_NOBODY))
def test_what_asks_for_nothing_is_everybodys(anonymous: tuple[Action, ...]) -> None:
    gate(anonymous).check(Account("", claimed=False), None, "")


def test_a_refusal_says_what_needs_an_account() -> None:
    with refused(UNAUTHORIZED, "push on here/app needs an account"):
        gate().check(Account("", claimed=False), Action.PUSH, HERE)
    with refused(UNAUTHORIZED, "authentication required"):
        gate().check(Account("", claimed=False), Action.LOGIN, "")


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
        gate(realm=realm).check(Account("", claimed=False), Action.PULL, HERE)
    assert caught.value.headers == (("WWW-Authenticate", quoted),)
