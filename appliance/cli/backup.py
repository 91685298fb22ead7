"""Backups: making one, and having a registry made of one."""

import sys
from pathlib import Path

import click

from appliance.backup import archive, folder
from appliance.backup.archive import SUFFIX
from appliance.backup.parts import ETC, PASSWORDS, SETTINGS, BackupError, Outcome
from appliance.backup.restore import restore as restore_backup
from appliance.cli.options import read, settings_option
from appliance.cli.progress import shown
from appliance.control import ControlError, Operator
from appliance.registry.space import amount
from appliance.remains import BusyError
from appliance.settings import DEFAULT_FILE, Settings


@click.command()
@click.argument("target", metavar="DIR|FILE.tar.zst", type=click.Path(path_type=Path))
@settings_option
def backup(target: Path, file: Path | None) -> None:
    """Make a backup of all images, while clients push and pull, or of a stopped registry.

    In DIR only what is new is added, and DIR is a whole backup at every moment: of now, or, if this
    is interrupted, of the last time. On the disk of the registry itself blobs are hard links, which
    take no room, but share the fate of that disk; name a folder on another one. FILE.tar.zst is
    written anew.

    In it are every image and tag, the settings file, the password file, and the keys and
    certificates that the registry has made for itself ([tls] mode "auto"), so keep it secret.
    Certificates of your own and uploads that are not finished are not in it.

    Blobs that are damaged or missing are listed, the rest is saved, and the exit status is 1.
    """
    settings, source = read(file), file or DEFAULT_FILE
    back_up = archive.back_up if target.name.endswith(SUFFIX) else folder.back_up
    try:
        with Operator(settings, source) as operator, shown() as report:
            made = back_up(operator, settings, source, target, report)
    except (BackupError, OSError) as error:
        raise ControlError(str(error)) from error
    click.echo(
        f"{target} holds {made.blobs} blobs of {amount(made.size)};"
        f" {made.added} of {amount(made.added_size)} are new."
    )
    _tell_lost(made, "is not in the backup as it should be")


@click.command()
@click.argument("source", metavar="DIR|FILE.tar.zst", type=click.Path(exists=True, path_type=Path))
@click.option("--no-verify", is_flag=True, help="Do not hash the blobs while they are copied.")
@settings_option
def restore(source: Path, no_verify: bool, file: Path | None) -> None:
    """Make a registry of a backup, in a data folder that has none.

    Everything is copied, and checked on the way. If this is interrupted, the same command goes on.
    Blobs that are damaged in the backup are listed with the images that need them, which count as
    not being here until somebody pushes them again; the exit status is 1 then.
    """
    settings = read(file)
    try:
        with shown() as report:
            found = restore_backup(source, settings, verify=not no_verify, report=report)
    except (BackupError, BusyError, OSError) as error:
        raise ControlError(str(error)) from error
    click.echo(f"{settings.data} holds {found.blobs} blobs of {amount(found.size)}.")
    for line in _beside(source, settings, file or DEFAULT_FILE):
        click.echo(line)
    _tell_lost(found, "could not be restored")


def _beside(source: Path, settings: Settings, file: Path) -> list[str]:
    lines = []
    if source.is_dir():
        for what, name, place in (
            ("passwords", PASSWORDS, settings.htpasswd),
            ("settings", SETTINGS, file),
        ):
            kept = source / ETC / name
            if kept.exists() and not place.exists():
                lines.append(f"Its {what} are not there yet: cp -p {kept} {place}")
            elif kept.exists() and kept.read_bytes() != place.read_bytes():
                lines.append(f"Its {what} are in {kept}; those in {place} are others.")
    else:
        lines.append(
            f"Its passwords and settings are in the archive: tar --zstd -xf {source} {ETC}"
        )
    lines.append("To go on: registry check, then systemctl start registry, or registry serve")
    return lines


def _tell_lost(outcome: Outcome, what: str) -> None:
    for lost in outcome.lost:
        needed = f"; needed by {', '.join(lost.images)}" if lost.images else ""
        click.echo(f"registry: {lost.digest} {what}: {lost.reason}{needed}.", err=True)
    if outcome.lost:
        sys.exit(1)
