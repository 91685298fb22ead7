"""Keys of robots, as requests bring them in the place of a password or of a token."""

from dataclasses import dataclass

from appliance.protocol.scopes import Scope

PREFIX = b"reg_"
"""What every key begins with, so that tools which look for lost secrets find it."""


@dataclass(frozen=True, slots=True)
class Key:
    """What a key is for."""

    id: str
    account: str
    scopes: tuple[Scope, ...]


def key_id(secret: bytes) -> str:
    """Return the part of a key that is no secret."""
    return secret.split(b"_")[1].decode()
