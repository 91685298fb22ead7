"""A catalogue made anew where the last one is damaged."""

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from appliance.catalogue.schema import SchemaTooNewError
from appliance.cli.options import read, settings_option
from appliance.cli.progress import shown
from appliance.control import ControlError
from appliance.rebuild import RebuildError, Rebuilt
from appliance.rebuild import rebuild as rebuild_catalogue
from appliance.recovery import REPOSITORY
from appliance.registry.space import amount
from appliance.remains import BusyError


@click.command()
@click.option(
    "--from",
    "basis",
    metavar="FILE",
    type=click.Path(exists=True, path_type=Path),
    help="The catalogue to begin with, such as that of a backup.  [default: the newest daily"
    " snapshot that is whole]",
)
@settings_option
def rebuild(basis: Path | None, file: Path | None) -> None:
    """Make the catalogue of a stopped registry anew, from a snapshot and the files of its blobs.

    For a catalogue that is lost or damaged, where there is no recent backup. The damaged one is kept
    under another name. Tags that it still yields count where they are newer than the snapshot.
    Images that came later still go into the repository "recovered", by their digests. What had been
    removed since the snapshot is there again. The exit status is 1 if blobs are missing.
    """
    settings = read(file)
    try:
        with shown() as report:
            found = rebuild_catalogue(settings, basis, report)
    except SchemaTooNewError as error:
        raise ControlError(f"the catalogue {error}") from None
    except (RebuildError, BusyError, OSError) as error:
        raise ControlError(str(error)) from error
    for line in _table(found):
        click.echo(line)
    for lost in found.lost:
        needed = f"; needed by {', '.join(lost.images)}" if lost.images else ""
        click.echo(f"registry: {lost.digest} is not here: {lost.reason}{needed}.", err=True)
    for path in found.wrong:
        click.echo(f"registry: {path} has other bytes than its name says.", err=True)
    if found.lost or found.wrong:
        sys.exit(1)


def _table(found: Rebuilt) -> Iterator[str]:
    for label, value in (
        ("begun with", str(found.basis or "nothing: there is no whole snapshot")),
        ("damaged catalogue", f"kept as {found.aside}" if found.aside else "none was there"),
        ("blobs known and here", f"{found.blobs:,}"),
        ("of these brought back", f"{found.brought_back:,}"),
        ("blobs that are not here", f"{len(found.lost):,}"),
        ("tags taken over", f"{len(found.tags):,}"),
        (f"manifests in {REPOSITORY}", f"{found.manifests:,}"),
        ("files that nothing needs", f"{found.left:,} of {amount(found.left_size)}"),
        ("files with wrong bytes", f"{len(found.wrong):,}"),
    ):
        yield f"{label:24} {value}"
    for tag in found.tags:
        yield f"{tag.repository}:{tag.name} points to {tag.digest}, as the damaged catalogue had it."
    for digest in found.tops:
        yield f"{REPOSITORY}@{digest} is an image or artifact whose repository nobody knows."
    yield (
        "To go on: start the registry. registry verify then reads every blob; files that nothing"
        " needs go into quarantine with it."
    )
