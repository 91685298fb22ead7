"""The policy that the settings ask for, whichever way they say it.

`[[rule]]` says it in full, `[[namespace]]` by roles. Where there is neither, every account may pull,
push, overwrite and delete. `[auth] admins` may do anything, and `[auth] anonymous` what it says,
unless a rule denies it.
"""

from collections.abc import Iterator

from appliance.protocol.routes import Action
from appliance.registry.policy import ANONYMOUS, EVERYBODY, RIGHTS, Policy, Rule
from appliance.settings import Namespace, Settings

_ANYWHERE = ("*",)

ROLES = {
    "guest": (Action.PULL,),
    "developer": (Action.PULL, Action.PUSH, Action.OVERWRITE),
    "maintainer": (Action.PULL, Action.PUSH, Action.OVERWRITE, Action.DELETE),
    "admin": RIGHTS,
}
"""What each role of a namespace may do, in the words that Harbor has for them."""


def policy(settings: Settings) -> Policy:
    """Put together what the settings allow and deny."""
    groups = {group.name: group.members for group in settings.group}
    return Policy([*_rules(settings)], groups)


def _rules(settings: Settings) -> Iterator[Rule]:
    auth = settings.auth
    if auth.admins:
        yield Rule("auth.admins", _ANYWHERE, auth.admins, allow=RIGHTS)
    if auth.anonymous:
        allowed = tuple(map(Action, auth.anonymous))
        yield Rule("auth.anonymous", _ANYWHERE, (ANONYMOUS, EVERYBODY), allow=allowed)
    if not settings.rule and not settings.namespace:
        allowed = tuple(right for right in RIGHTS if right is not Action.ADMIN)
        yield Rule("the default where no rule is set", _ANYWHERE, (EVERYBODY,), allow=allowed)
    for number, rule in enumerate(settings.rule, start=1):
        yield Rule(
            f"rule {number}",
            rule.repositories,
            rule.accounts,
            allow=tuple(map(Action, rule.allow)),
            deny=tuple(map(Action, rule.deny)),
        )
    for space in settings.namespace:
        yield from _roles(space)


def _roles(space: Namespace) -> Iterator[Rule]:
    below = (space.name, f"{space.name}/*")
    for role, rights in ROLES.items():
        accounts = getattr(space, role)
        if accounts:
            yield Rule(f"namespace {space.name}, {role}", below, accounts, allow=rights)
