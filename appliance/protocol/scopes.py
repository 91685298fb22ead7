"""What a token is for: scopes, as in "Token Scope Documentation" of the Distribution project.

A scope reads `repository:NAME:pull,push` or `registry:catalog:*`. Who asks for a token names
scopes; what it gets is what of them the account may do.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from appliance.oci.errors import REQUEST_INVALID
from appliance.protocol.routes import Action

REPOSITORY = "repository"
REGISTRY = "registry"
CATALOG = "catalog"
ANYTHING = "*"

SCOPES_MAX = 100
"""Scopes of one token; a push from several repositories asks for a handful."""

_NAME_MAX = 255
_WORDS = {
    Action.LIST: ANYTHING,
    Action.PULL: "pull",
    Action.PUSH: "push",
    Action.OVERWRITE: "push",
    Action.DELETE: "delete",
    Action.ADMIN: ANYTHING,
}


@dataclass(frozen=True, slots=True)
class Scope:
    """Some actions on one resource."""

    type: str
    name: str
    """A repository's name; in the scope of a key, a pattern of names."""
    actions: frozenset[str]

    def __str__(self) -> str:
        return f"{self.type}:{self.name}:{','.join(sorted(self.actions))}"

    def covers(self, action: Action, repository: str) -> bool:
        """Tell whether it is for that."""
        word = _WORDS.get(action)
        if word is None or not self.actions & {word, ANYTHING}:
            return False
        if action is Action.LIST:
            return (self.type, self.name) == (REGISTRY, CATALOG)
        return self.type == REPOSITORY and fnmatchcase(repository, self.name)


def scope_for(action: Action, repository: str) -> Scope | None:
    """Return the scope that a request for an action needs; None where any token will do."""
    match action:
        case Action.LOGIN:
            return None
        case Action.LIST:
            return Scope(REGISTRY, CATALOG, frozenset({ANYTHING}))
        case Action.PULL:
            return Scope(REPOSITORY, repository, frozenset({"pull"}))
        case Action.DELETE:
            return Scope(REPOSITORY, repository, frozenset({"delete"}))
        case Action.ADMIN:
            return Scope(REPOSITORY, repository, frozenset({ANYTHING}))
        case _:
            return Scope(REPOSITORY, repository, frozenset({"pull", "push"}))


def actions_of(word: str) -> tuple[Action, ...]:
    """Return what an action's word in a scope stands for; nothing for one that is unknown."""
    return tuple(action for action, known in _WORDS.items() if known == word)


def parse_scope(text: str) -> Scope:
    """Read one scope; raises REQUEST_INVALID."""
    kind, _, rest = text.partition(":")
    name, colon, actions = rest.rpartition(":")  # a name may have a port in it
    words = frozenset(word for word in actions.split(",") if word)
    if not kind or not name or not colon or len(name) > _NAME_MAX:
        raise REQUEST_INVALID.error(
            "a scope reads repository:NAME:ACTIONS, as in repository:team/app:pull,push"
        )
    return Scope(kind, name, words)


def parse_scopes(texts: Iterable[str]) -> tuple[Scope, ...]:
    """Read parameters `scope`, each of which may have several between spaces.

    Raises REQUEST_INVALID.
    """
    named = [one for text in texts for one in text.split()]
    if len(named) > SCOPES_MAX:
        raise REQUEST_INVALID.error(f"a token is for at most {SCOPES_MAX} scopes")
    return tuple(parse_scope(one) for one in dict.fromkeys(named))
