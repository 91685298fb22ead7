"""Keys for robots. A running registry sees every change at once."""

import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import click

from appliance.accounts import editing, keys
from appliance.accounts.files import AccountError
from appliance.accounts.keys import Kept
from appliance.cli.options import read, settings_option
from appliance.oci.errors import RegistryError
from appliance.owner import acting_as
from appliance.protocol.scopes import CATALOG, REGISTRY, REPOSITORY, parse_scope
from appliance.settings import Settings
from appliance.values import Interval

_NEVER = "never"
_EXPIRES_MAX = 36500 * 86400


@click.group()
def token() -> None:
    """Make, list and revoke keys with which robots log in, such as CI jobs."""


@token.command()
@click.argument("account")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    metavar="SCOPE",
    help="What it is for, as in repository:team/*:pull,push; may be given several times.",
)
@click.option(
    "--expires", default="90d", show_default=True, help='How long it counts, as in 30d, or "never".'
)
@click.option("--note", default="", help="What it is for, in your words.")
@settings_option
def create(
    account: str, scopes: tuple[str, ...], expires: str, note: str, file: Path | None
) -> None:
    """Make a key for ACCOUNT and print it; it is told this once.

    It is the password of a login as ACCOUNT, who need not be in the password file. What the account may
    do is still said by the rules: a key never allows more.
    """
    settings = read(file)
    editing.check_name(account)
    for scope in scopes:
        _check_scope(scope)
    try:
        seconds = Interval.parse(expires)
    except ValueError:
        raise AccountError(
            f'--expires is a duration as in 30d, or "never", not {expires}'
        ) from None
    if seconds > _EXPIRES_MAX and not math.isinf(seconds):
        raise AccountError(f'--expires is at most 36500d, or "never", not {expires}')
    if not note.isprintable():
        raise AccountError("--note is one line of printable text")
    ends = None if math.isinf(seconds) else int(time.time() + seconds)
    with acting_as(_folder(settings).stat()):
        secret, kept = keys.create(_folder(settings) / keys.FILE, account, scopes, ends, note)
    click.echo(secret)
    click.echo(
        f"That is key {kept.id}; nobody can show it again. To log in: docker login -u {account}",
        err=True,
    )


@token.command("list")
@settings_option
def list_(file: Path | None) -> None:
    """List the keys, without their secrets."""
    found = keys.read(_folder(read(file)) / keys.FILE)
    rows = [("KEY", "ACCOUNT", "ENDS", "FOR", "NOTE"), *map(_row, found)]
    if not found:
        click.echo(
            "There are no keys; make one: registry token create ACCOUNT --scope SCOPE", err=True
        )
        return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


@token.command()
@click.argument("key")
@settings_option
def revoke(key: str, file: Path | None) -> None:
    """Revoke the key of the ID KEY; whoever has it is locked out at once."""
    folder = _folder(read(file))
    with acting_as(folder.stat()):
        kept = keys.revoke(folder / keys.FILE, key)
    click.echo(f"Key {kept.id} of {kept.account} is revoked.")


def _row(kept: Kept) -> Sequence[str]:
    ends = _NEVER
    if kept.expires_at is not None:
        ends = datetime.fromtimestamp(kept.expires_at, UTC).strftime("%Y-%m-%d")
    return kept.id, kept.account, ends, " ".join(kept.scopes), kept.note


def _folder(settings: Settings) -> Path:
    if not settings.data.is_dir():
        raise AccountError(
            f"{settings.data} is not there; start the registry once before it has keys"
        )
    return settings.data


def _check_scope(text: str) -> None:
    try:
        scope = parse_scope(text)
    except RegistryError as error:
        raise AccountError(f"--scope {text}: {error.message}") from None
    known = {REPOSITORY: {"pull", "push", "delete", "*"}, REGISTRY: {"*"}}
    is_odd = not text.isprintable() or (scope.type == REGISTRY and scope.name != CATALOG)
    if is_odd or not scope.actions or not scope.actions <= known.get(scope.type, set()):
        raise AccountError(
            f"--scope {text!r}: the actions are pull, push, delete and * for a repository, and * for"
            " registry:catalog"
        )
