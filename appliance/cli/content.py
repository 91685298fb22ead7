"""What a registry holds, from its own machine: no account is needed, but the registry's user or root."""

from pathlib import Path
from urllib.parse import urlencode

import click

from appliance.cli.options import read, settings_option
from appliance.cli.progress import shown
from appliance.control import ControlError, ask, operate
from appliance.oci.errors import RegistryError
from appliance.oci.garbage import Totals
from appliance.oci.names import parse_name, parse_reference
from appliance.protocol.paging import PAGE_MAX
from appliance.registry.space import amount
from appliance.settings import DEFAULT_FILE

_SHOWN = 10  # tags, before a whole repository goes


@click.command()
@click.argument("name", required=False)
@settings_option
def ls(name: str | None, file: Path | None) -> None:
    """List the repositories, or the tags of the repository NAME."""
    settings, source = read(file), file or DEFAULT_FILE
    kind = "repositories" if name is None else "tags"
    target = "/v2/_catalog" if name is None else f"/v2/{_name(name)}/tags/list"
    last = ""
    while True:
        asked = f"{target}?{urlencode({'n': PAGE_MAX, 'last': last})}"
        found = ask(settings, source, "GET", asked).document()[kind]
        for entry in found:
            click.echo(entry)
        if len(found) < PAGE_MAX:
            return
        last = found[-1]


@click.command()
@click.argument("what", metavar="NAME[:TAG|@DIGEST]")
@click.option("--yes", "-y", is_flag=True, help="Do not ask before a whole repository goes.")
@settings_option
def rm(what: str, yes: bool, file: Path | None) -> None:
    """Remove a tag, a manifest with its tags, or a whole repository.

    NAME:TAG removes that tag alone, NAME@DIGEST the manifest with all its tags, NAME everything in
    that repository. A running registry answers accordingly at once; one that is stopped is changed
    where it lies. Blobs that nobody needs any more go with the next sweep; see registry gc.
    """
    settings, source = read(file), file or DEFAULT_FILE
    name, reference = _parse(what)
    if reference:
        ask(settings, source, "DELETE", f"/v2/{name}/manifests/{reference}").document()
    else:
        if not yes:
            listed = ask(settings, source, "GET", f"/v2/{name}/tags/list?n={_SHOWN}")
            # One that holds nothing but blobs yet is not listed, but can be removed.
            tags = [] if listed.status == 404 else listed.document()["tags"]
            click.confirm(_question(name, tags), abort=True)
        ask(settings, source, "DELETE", f"/v2/{name}/").document()
    click.echo(f"{what} is removed.")


@click.command()
@click.option("--dry-run", is_flag=True, help="Only tell what would go now, and how much it is.")
@settings_option
def gc(dry_run: bool, file: Path | None) -> None:
    """Remove what nobody needs any more, while clients push and pull.

    Blobs that no manifest of their repository has needed for [gc] grace go, and so do manifests
    about others that are gone. What goes is kept in quarantine for [gc] quarantine before it leaves
    the disk. A running registry does this by itself every [gc] every.
    """
    settings, source = read(file), file or DEFAULT_FILE
    operation, verb = ("gc-preview", "would go") if dry_run else ("gc", "went")
    with shown() as report:
        found = operate(settings, source, operation, {}, Totals, report=report)
    click.echo(
        f"{found.manifests} manifests and {found.links} links {verb};"
        f" {found.blobs} blobs of {amount(found.size)} to quarantine."
    )
    if not dry_run:
        click.echo(f"{amount(found.purged)} left quarantine and the disk.")


def _question(name: str, tags: list[str]) -> str:
    if not tags:
        held = "has no tags"
    elif len(tags) == _SHOWN:
        held = f"has the tags {', '.join(tags)} and perhaps more"
    else:
        held = f"has the tags {', '.join(tags)}"
    return f"{name} {held}. Remove all that is in it?"


def _parse(what: str) -> tuple[str, str]:
    """Split into name and reference, which is empty for a whole repository; raises ControlError."""
    name, at, reference = what.partition("@")
    if not at:
        name, at, reference = what.partition(":")
    try:
        return _name(name), str(parse_reference(reference)) if at else ""
    except RegistryError as error:
        raise ControlError(f"{what}: {error.message}") from None


def _name(text: str) -> str:
    try:
        return parse_name(text)
    except RegistryError as error:
        raise ControlError(f"{text}: {error.message}") from None
