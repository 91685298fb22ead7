"""Who may do what: rules over repositories and accounts, and how they decide.

All rules that match count, one that denies beats any that allow, and where none matches nothing is
allowed. Nothing else decides: what is true without any rule is a rule as well.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache

from appliance.protocol.routes import Action

ANONYMOUS = "(anonymous)"
"""What rules call whoever has no account; no account can have such a name."""

EVERYBODY = "*"
"""What rules call all who have an account."""

GROUP = "@"
"""What begins the name of a group where accounts are listed."""

RIGHTS = (Action.PULL, Action.PUSH, Action.OVERWRITE, Action.DELETE, Action.ADMIN)
"""What rules allow and deny.

`push` brings in what was not there: blobs, manifests, and tags that are new; `overwrite` moves a tag
that means something already. `delete` takes out blobs, manifests and tags, `admin` a repository as
a whole.
"""

_REMEMBERED = 4096  # decisions


@dataclass(frozen=True, slots=True)
class Rule:
    """What some accounts may, or may not, do in some repositories."""

    name: str
    """What an explanation calls it."""
    repositories: Sequence[str]
    """Patterns, in which `*` stands for any characters."""
    accounts: Collection[str]
    """Names, and @ before those of groups; EVERYBODY and ANONYMOUS."""
    allow: Collection[Action] = ()
    deny: Collection[Action] = ()

    def covers(self, repository: str) -> bool:
        """Tell whether it is about that repository."""
        return any(fnmatchcase(repository, pattern) for pattern in self.repositories)


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether something is allowed, and which rules said so."""

    allowed: bool
    rules: tuple[Rule, ...]
    """Those that decided: all that deny, or else all that allow."""


class Policy:
    """All rules, and who is in which group."""

    def __init__(self, rules: Sequence[Rule], groups: Mapping[str, Collection[str]]) -> None:
        self._rules = tuple(rules)
        self._groups = {name: frozenset(members) for name, members in groups.items()}
        self._recent = lru_cache(maxsize=_REMEMBERED)(self._decide)

    def allows(self, account: str, action: Action, repository: str) -> bool:
        """Tell whether an account, or whoever has none (""), may do that."""
        return self._recent(account, action, repository).allowed

    def decide(self, account: str, action: Action, repository: str) -> Decision:
        """Tell the same, and why."""
        return self._decide(account, action, repository)

    def knows(self, account: str) -> bool:
        """Tell whether any rule allows an account, or whoever has none (""), anything at all."""
        names = self._names(account)
        return any(rule.allow and not names.isdisjoint(rule.accounts) for rule in self._rules)

    def groups(self, account: str) -> list[str]:
        """List the groups that an account is in."""
        return sorted(name for name, members in self._groups.items() if account in members)

    def _decide(self, account: str, action: Action, repository: str) -> Decision:
        if action is Action.ADMIN:  # with a repository goes all that is in it
            deleting = self._decide(account, Action.DELETE, repository)
            if not deleting.allowed:
                return deleting
        matching = list(self._matching(account, repository))
        if denying := tuple(rule for rule in matching if action in rule.deny):
            return Decision(allowed=False, rules=denying)
        allowing = tuple(rule for rule in matching if action in rule.allow)
        return Decision(allowed=bool(allowing), rules=allowing)

    def _matching(self, account: str, repository: str) -> Iterator[Rule]:
        names = self._names(account)
        for rule in self._rules:
            if not names.isdisjoint(rule.accounts) and rule.covers(repository):
                yield rule

    def _names(self, account: str) -> frozenset[str]:
        """All names under which rules may mean an account."""
        if not account:
            return frozenset({ANONYMOUS})
        groups = (GROUP + name for name in self.groups(account))
        return frozenset({account, EVERYBODY, *groups})
