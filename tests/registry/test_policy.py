"""Rules: which of them count, and which of those decides."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.protocol.routes import Action
from appliance.registry.policy import ANONYMOUS, EVERYBODY, RIGHTS, Policy, Rule

GROUPS = {"developers": ["alice", "bob"], "people": ["alice", "carol"]}


def rule(
    *accounts: str,
    allow: tuple[Action, ...] = (),
    deny: tuple[Action, ...] = (),
    repositories: tuple[str, ...] = ("*",),
) -> Rule:
    return Rule(f"for {accounts}", repositories, accounts, allow, deny)


def test_without_a_rule_nothing_is_allowed() -> None:
    for action in RIGHTS:
        assert not Policy([], {}).allows("alice", action, "app")


@pytest.mark.parametrize(
    ("meant", "account", "is_allowed"),
    [
        ("alice", "alice", True),
        ("alice", "Alice", False),
        ("alice", "", False),
        (EVERYBODY, "alice", True),
        (EVERYBODY, "", False),
        (ANONYMOUS, "", True),
        (ANONYMOUS, "alice", False),
        ("@developers", "bob", True),
        ("@developers", "carol", False),
        ("@people", "carol", True),
        ("developers", "bob", False),
    ],
)
def test_a_rule_means_accounts_groups_everybody_or_nobody(
    meant: str, account: str, is_allowed: bool
) -> None:
    policy = Policy([rule(meant, allow=(Action.PULL,))], GROUPS)
    assert policy.allows(account, Action.PULL, "app") == is_allowed


@pytest.mark.parametrize(
    ("pattern", "repository", "is_covered"),
    [
        ("team/*", "team/app", True),
        ("team/*", "team/app/part", True),
        ("team/*", "team", False),
        ("team/*", "team-b/app", False),
        ("*/release", "a/release", True),
        ("team/app", "team/app", True),
        ("team/app", "team/apps", False),
        ("team/v?", "team/v1", True),
        ("team/[ab]", "team/b", True),
    ],
)
def test_a_pattern_covers_repositories(pattern: str, repository: str, is_covered: bool) -> None:
    policy = Policy([rule("alice", allow=(Action.PULL,), repositories=(pattern,))], {})
    assert policy.allows("alice", Action.PULL, repository) == is_covered


def test_deny_beats_allow_and_is_what_is_told() -> None:
    allowing = rule(EVERYBODY, allow=RIGHTS)
    denying = rule("@developers", deny=(Action.DELETE,))
    policy = Policy([denying, allowing], GROUPS)
    assert policy.decide("carol", Action.DELETE, "app").rules == (allowing,)
    found = policy.decide("bob", Action.DELETE, "app")
    assert (found.allowed, found.rules) == (False, (denying,))
    assert policy.allows("bob", Action.PUSH, "app")
    nothing = policy.decide("", Action.PULL, "app")
    assert (nothing.allowed, nothing.rules) == (False, ())


def test_it_knows_whether_anything_is_allowed_to_nobody() -> None:
    assert not Policy([rule(EVERYBODY, allow=RIGHTS)], {}).knows("")
    assert not Policy([rule(ANONYMOUS, deny=RIGHTS)], {}).knows("")
    assert Policy([rule(ANONYMOUS, allow=(Action.PULL,))], {}).knows("")


NAMES = st.sampled_from(["alice", "bob", "carol", ""])
RULES = st.lists(
    st.builds(
        Rule,
        st.just("a rule"),
        st.lists(st.sampled_from(["*", "a/*", "*/b", "a/b", "c"]), min_size=1).map(tuple),
        st.lists(st.sampled_from(["alice", "@developers", EVERYBODY, ANONYMOUS])).map(tuple),
        st.lists(st.sampled_from(RIGHTS)).map(tuple),
        st.lists(st.sampled_from(RIGHTS)).map(tuple),
    ),
    max_size=6,
)


@given(RULES, NAMES, st.sampled_from(RIGHTS), st.sampled_from(["a/b", "a/c", "c", "d/b"]))
def test_the_order_of_rules_does_not_matter_and_one_more_denial_never_allows(
    rules: list[Rule], account: str, action: Action, repository: str
) -> None:
    allowed = Policy(rules, GROUPS).allows(account, action, repository)
    assert Policy(rules[::-1], GROUPS).allows(account, action, repository) == allowed
    everything = rule(EVERYBODY, ANONYMOUS, deny=RIGHTS)
    assert not Policy([*rules, everything], GROUPS).allows(account, action, repository)
