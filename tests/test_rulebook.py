"""From settings to rules."""

from pathlib import Path

import pytest

from appliance.protocol.routes import Action
from appliance.registry.policy import Policy
from appliance.rulebook import policy
from appliance.settings import SettingsError, load

GROUP = '[[group]]\nname = "team"\nmembers = ["bob"]\n'


def policy_of(folder: Path, text: str) -> Policy:
    file = folder / "registry.toml"
    file.write_text(text)
    return policy(load(file, {}))


def rights(found: Policy, account: str, repository: str = "team/app") -> set[str]:
    actions = (Action.PULL, Action.PUSH, Action.OVERWRITE, Action.DELETE, Action.ADMIN)
    return {action.value for action in actions if found.allows(account, action, repository)}


def test_without_rules_accounts_may_work_and_admins_administer(tmp_path: Path) -> None:
    found = policy_of(tmp_path, "")
    assert rights(found, "bob") == {"pull", "push", "overwrite", "delete"}
    assert rights(found, "admin") == {"pull", "push", "overwrite", "delete", "admin"}
    assert rights(found, "") == set()


def test_one_rule_ends_what_all_might_do_without(tmp_path: Path) -> None:
    rule = '[[rule]]\nrepositories = ["base/*"]\naccounts = ["*"]\nallow = ["pull"]\n'
    found = policy_of(tmp_path, rule)
    assert rights(found, "bob") == set()
    assert rights(found, "bob", "base/app") == {"pull"}
    assert "admin" in rights(found, "admin")


def test_a_rule_binds_admins_where_it_denies(tmp_path: Path) -> None:
    rule = '[[rule]]\nrepositories = ["team/*"]\naccounts = ["*"]\ndeny = ["delete"]\n'
    assert "delete" not in rights(policy_of(tmp_path, rule), "admin")


def test_anonymous_pull_is_a_rule_for_everybody(tmp_path: Path) -> None:
    found = policy_of(tmp_path, '[auth]\nanonymous = ["pull"]\nadmins = []\n')
    assert rights(found, "") == {"pull"}
    assert rights(found, "admin") == {"pull", "push", "overwrite", "delete"}


def test_roles_of_a_namespace_are_those_of_harbor(tmp_path: Path) -> None:
    text = (
        f'{GROUP}[[namespace]]\nname = "team"\nguest = ["(anonymous)", "*"]\n'
        'developer = ["@team"]\nmaintainer = ["carol"]\nadmin = ["dora"]\n'
    )
    found = policy_of(tmp_path, text)
    assert rights(found, "") == rights(found, "eve") == {"pull"}
    assert rights(found, "bob") == {"pull", "push", "overwrite"}
    assert rights(found, "carol") == {"pull", "push", "overwrite", "delete"}
    assert rights(found, "dora") == {"pull", "push", "overwrite", "delete", "admin"}
    assert rights(found, "bob", "team") == rights(found, "bob", "team/a/b")
    assert rights(found, "bob", "teams/app") == set()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rule = 7", "rule must be tables, each [[rule]], not 7"),
        ('[rule]\nallow = ["pull"]', "rule must be tables, each [[rule]], not a table"),
        ("[[rule]]\n", "rule 1 lacks repositories"),
        ('[[rule]]\nrepositories = ["a"]\nallow = ["pull"]', "rule 1 lacks accounts"),
        ('[[rule]]\nrepositories = ["a"]\naccounts = ["a"]', "neither allows nor denies"),
        (
            '[[rule]]\nrepositories = ["A"]\naccounts = ["a"]\nallow = ["pull"]',
            "rule 1, repositories,",
        ),
        (
            '[[rule]]\nrepositories = []\naccounts = ["a"]\nallow = ["pull"]',
            "rule 1, repositories,",
        ),
        (
            '[[rule]]\nrepositories = ["a"]\naccounts = ["a:b"]\nallow = ["pull"]',
            "rule 1, accounts,",
        ),
        ('[[rule]]\nrepositories = ["a"]\naccounts = ["a"]\nallow = ["pul"]', "rule 1, allow,"),
        (
            '[[rule]]\nrepositories = ["a"]\naccounts = ["a"]\nalow = ["pull"]',
            "did you mean allow?",
        ),
        (
            f'{GROUP}[[rule]]\nrepositories = ["a"]\naccounts = ["@teem"]\nallow = ["pull"]',
            "rule 1 means the group teem, which is not there (did you mean team?)",
        ),
        ('[[namespace]]\nname = "a"\nguest = ["@b"]', "namespace a means the group b"),
        (GROUP * 2, "several groups called team"),
        ("[[group]]\nmembers = []", "group 1 lacks name"),
        ('[[namespace]]\nname = "a"\nadmin = ["(anonymous)"]', "may be a guest and nothing else"),
    ],
)
def test_what_is_wrong_with_a_rule_is_told_in_a_sentence(
    tmp_path: Path, text: str, expected: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        policy_of(tmp_path, text)
    assert any(expected in fault for fault in caught.value.faults), caught.value.faults
    assert all(fault.endswith(".") for fault in caught.value.faults)
