"""The command `registry`: verbs a person types."""

import sys

import click

from appliance import __version__
from appliance.accounts.files import AccountError
from appliance.cli.access import access
from appliance.cli.accounts import user
from appliance.cli.backup import backup, restore
from appliance.cli.content import gc, ls, rm
from appliance.cli.doctor import doctor
from appliance.cli.failure import report_failure
from appliance.cli.layouts import exporting, importing
from appliance.cli.past import history, undelete
from appliance.cli.rebuild import rebuild
from appliance.cli.service import check, info, serve
from appliance.cli.setup import setup
from appliance.cli.token import token
from appliance.cli.trust import trust
from appliance.cli.verify import verify
from appliance.control import ControlError
from appliance.settings import SettingsError
from appliance.trust.authority import TrustError


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="To begin: registry serve. What it needs and does not find, it makes.",
)
@click.version_option(__version__, prog_name="registry")
def registry() -> None:
    """Run a private container registry: one process, one settings file (/etc/registry.toml)."""


for command in (
    serve,
    check,
    info,
    report_failure,
    doctor,
    ls,
    rm,
    history,
    undelete,
    gc,
    verify,
    backup,
    restore,
    rebuild,
    exporting,
    importing,
    user,
    token,
    access,
    trust,
    setup,
):
    registry.add_command(command)


def main() -> None:
    """Run the command; an operator's mistake ends with its sentences and status 2."""
    try:
        registry(prog_name="registry")
    except SettingsError as error:
        for fault in error.faults:
            click.echo(f"registry: {fault}", err=True)
        sys.exit(2)
    except (AccountError, ControlError, TrustError) as error:
        click.echo(f"registry: {error}.", err=True)
        sys.exit(2)
