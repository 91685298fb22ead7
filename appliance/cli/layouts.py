"""Images into a registry and out of it, as files."""

from pathlib import Path

import click

from appliance.cli.options import read, settings_option
from appliance.cli.past import split
from appliance.cli.progress import shown
from appliance.control import ControlError, Operator
from appliance.layout import Layout, LayoutError
from appliance.registry.space import amount
from appliance.settings import DEFAULT_FILE
from appliance.transfer import Moved, export_images, import_images


@click.group("export")
def exporting() -> None:
    """Write what a registry holds in the formats of others."""


@click.group("import")
def importing() -> None:
    """Take over what others hold."""


@exporting.command("oci")
@click.argument("what", metavar="NAME[:TAG]")
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@settings_option
def export_oci(what: str, folder: Path, file: Path | None) -> None:
    """Write an image, or all images of NAME, into DIR as an OCI layout.

    Signatures and whatever else is attached to an image come with it. A layout that is there
    already is added to, and what it has is not written again. skopeo, podman and buildah read it as
    oci:DIR:TAG.
    """
    settings, source = read(file), file or DEFAULT_FILE
    name, tag, digest = split(what)
    if digest is not None:
        raise ControlError(
            f"{what}: a layout names its images by their tags; name NAME or NAME:TAG"
        )
    try:
        with Operator(settings, source) as operator, shown() as report:
            moved = export_images(operator, name, [tag] if tag else [], Layout(folder), report)
    except (LayoutError, OSError) as error:
        raise ControlError(str(error)) from error
    _tell(moved, f"in {folder}")


@importing.command("oci")
@click.argument("folder", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@click.argument("what", metavar="[NAME[:TAG]]", required=False)
@settings_option
def import_oci(folder: Path, what: str | None, file: Path | None) -> None:
    """Push the images of an OCI layout, with all that is attached to them.

    They go into NAME under their own tags, one alone under TAG if that is given. Without a name each
    goes where its annotations say. What the registry has already is not sent again.
    """
    settings, source = read(file), file or DEFAULT_FILE
    name, tag, digest = split(what) if what else ("", "", None)
    if digest is not None:
        raise ControlError(f"{what}: name NAME or NAME:TAG")
    try:
        with Operator(settings, source) as operator, shown() as report:
            moved = import_images(operator, Layout(folder), name, tag, report)
    except (LayoutError, OSError) as error:
        raise ControlError(str(error)) from error
    _tell(moved, "in the registry")


def _tell(moved: Moved, where: str) -> None:
    for name in moved.names:
        click.echo(f"{name} is {where}.")
    click.echo(f"{moved.blobs} blobs of {amount(moved.size)} were brought over.")
