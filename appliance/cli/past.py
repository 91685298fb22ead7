"""What tags have been, and bringing back what was removed."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import click

from appliance.cli.options import read, settings_option
from appliance.cli.progress import shown
from appliance.control import ControlError, operate
from appliance.oci.digest import Digest
from appliance.oci.errors import RegistryError
from appliance.oci.history import Change, Restored
from appliance.oci.names import parse_name, parse_tag
from appliance.registry.space import amount
from appliance.settings import DEFAULT_FILE


@click.command()
@click.argument("what", metavar="NAME[:TAG]")
@click.option(
    "--limit",
    "-n",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="How many changes to show.",
)
@settings_option
def history(what: str, limit: int, file: Path | None) -> None:
    """Show what a tag has pointed to and what was removed, the latest change first.

    NAME:TAG shows that tag, NAME all tags of that repository and the manifests removed from it.
    What is not here any more can be brought back while its bytes are in quarantine; see registry
    undelete. Changes are remembered for [gc] history.
    """
    settings, source = read(file), file or DEFAULT_FILE
    name, tag, digest = split(what)
    if digest is not None:
        raise ControlError(f"{what}: history is that of NAME or of NAME:TAG")
    asked = {"name": name, "limit": str(limit)} | ({"tag": tag} if tag else {})
    changes = operate(settings, source, "history", asked, list[Change])
    if not changes:
        raise ControlError(f"nothing is known of {what}")
    for line in _table(changes, settings.gc.quarantine):
        click.echo(line)


@click.command()
@click.argument("what", metavar="NAME:TAG[@DIGEST]|NAME@DIGEST")
@settings_option
def undelete(what: str, file: Path | None) -> None:
    """Bring back a tag or a manifest that was removed, with all that belongs to it.

    NAME:TAG points again to what it pointed to last, NAME:TAG@DIGEST to that manifest, which also
    undoes a move. NAME@DIGEST brings back a manifest without a tag. Signatures and the like that
    were removed with it come back with it.
    """
    settings, source = read(file), file or DEFAULT_FILE
    name, tag, digest = split(what)
    if not tag and digest is None:
        raise ControlError(f"{what}: name a tag or a digest; registry history {what} lists them")
    asked = {"name": name, "tag": tag} | ({"digest": str(digest)} if digest else {})
    with shown() as report:
        found = operate(settings, source, "undelete", asked, Restored, report=report)
    shown_name = f"{name}:{tag}" if tag else name
    click.echo(f"{shown_name} {'points to' if tag else 'has'} {found.digest}.")
    if found.manifests:
        click.echo(
            f"{found.manifests} manifests and {found.blobs} blobs of {amount(found.size)} came back."
        )
    elif digest is None:
        click.echo(
            f"Its manifest was here. To have an earlier one: registry undelete {shown_name}@DIGEST;"
            f" registry history {shown_name} lists them."
        )


def split(what: str) -> tuple[str, str, Digest | None]:
    """Split NAME[:TAG][@DIGEST], the tag empty where there is none; raises ControlError."""
    named, _, digest = what.partition("@")
    name, colon, tag = named.partition(":")
    try:
        return (
            parse_name(name),
            parse_tag(tag) if colon else "",
            Digest.parse(digest) if digest else None,
        )
    except RegistryError as error:
        raise ControlError(f"{what}: {error.message}") from None


def _table(changes: list[Change], quarantine: float) -> Iterator[str]:
    width = max(len(change.tag) for change in changes)
    for change in changes:
        at = _moment(change.at)
        tag = change.tag.ljust(width)
        match change:
            case Change(digest=None):
                yield f"{at}  {tag}  removed"
            case Change(tag=""):
                yield f"{at}  {tag}  {change.digest}  removed, {_state(change, quarantine)}"
            case _:
                yield f"{at}  {tag}  {change.digest}  {_state(change, quarantine)}"


def _state(change: Change, quarantine: float) -> str:
    match change.state:
        case "here":
            return "here"
        case "kept" if change.kept_since is not None:
            return f"can be brought back until {_moment(change.kept_since + int(quarantine))}"
        case "kept":
            return "can be brought back"
        case _:
            return "gone"


def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
