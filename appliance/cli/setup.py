"""Making systemd run an installation that came with pip or pipx."""

import shutil
import subprocess
from pathlib import Path

import click

from appliance.settings import SettingsError
from appliance.setup import files
from appliance.setup.files import File, State
from appliance.setup.installation import Installation, SetupError, check_system

_ETC = Path("/etc")
_DONE = {
    State.MISSING: "made",
    State.OTHER: "brought up to date",
    State.SAME: "is as it should be",
}


@click.command()
@click.option("--dry-run", is_flag=True, help="Tell what would be done, and do nothing.")
@click.option("--remove", is_flag=True, help="Take away what an earlier setup made.")
def setup(dry_run: bool, remove: bool) -> None:
    """Let systemd run what pip or pipx has installed.

    Makes units in /etc/systemd/system that start this very installation, the system user registry,
    and /etc/registry.toml if it is not there. It can be done again at any time, and is to be after
    an upgrade.
    """
    try:
        check_system(dry_run=dry_run)
        if remove:
            _remove(dry_run=dry_run)
        else:
            _install(dry_run=dry_run)
    except SetupError as error:
        raise SettingsError([f"{error}."]) from error
    except OSError as error:
        raise SettingsError([f"{error.filename}: {error.strerror}."]) from error


def _install(*, dry_run: bool) -> None:
    installation = Installation.find()
    installation.check()
    wanted = files.files(installation, _ETC)
    files.check(wanted)
    for file in wanted:
        state = file.state
        if not dry_run:
            file.write()
        click.echo(f"{file.path}: {state.value if dry_run else _DONE[state]}")
    if dry_run:
        click.echo("Then the user registry is made, and systemd reads its units again.")
        return
    _run("systemd-sysusers", "registry.conf")
    _run("systemctl", "daemon-reload")
    click.echo("\nTo start it now and with the system: systemctl enable --now registry")


def _remove(*, dry_run: bool) -> None:
    found = files.left_over(_ETC)
    if not found:
        click.echo("There is nothing that registry setup has made.")
        return
    if not dry_run:
        _stop(found)
    for file in found:
        if not dry_run:
            file.remove()
        click.echo(f"{file.path}: {'to be removed' if dry_run else 'removed'}")
    if not dry_run:
        _run("systemctl", "daemon-reload")
    click.echo("Settings, accounts and images stay, and so does the user registry.")


def _stop(found: list[File]) -> None:
    units = [file.path.name for file in found if file.path.suffix in (".service", ".socket")]
    enabled = [name for name in units if "@" not in name]
    if enabled:
        _run("systemctl", "disable", "--now", "--quiet", *enabled)


def _run(program: str, *words: str) -> None:
    path = shutil.which(program)
    if path is None:
        raise SetupError(f"{program} is missing; install systemd's own tools")
    done = subprocess.run([path, *words], capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise SetupError(f"{program} {' '.join(words)} failed: {done.stderr.strip().rstrip('.')}")
