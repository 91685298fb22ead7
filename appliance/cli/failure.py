"""Telling people of a failure, in the place of a registry that cannot."""

import os
from pathlib import Path

import click

from appliance.cli.options import settings_option
from appliance.failure import UntoldError, look, tell
from appliance.settings import SettingsError, load_failure


@click.command("report-failure", hidden=True)
@click.argument("unit", default="registry.service")
@settings_option
def report_failure(unit: str, file: Path | None) -> None:
    """Tell those whom [failure] names that UNIT has failed; for registry-failure@.service.

    Run by hand it shows whether mail and webhook arrive.
    """
    failure = load_failure(file, os.environ)
    if not failure.mail_to and not failure.webhook:
        click.echo("Nobody is to be told: failure.mail_to and failure.webhook are not set.")
        return
    try:
        told = tell(failure, look(unit))
    except UntoldError as error:
        raise SettingsError([f"failure: {error}; see the keys of [failure]."]) from error
    click.echo(f"Told {', '.join(told)}.")
