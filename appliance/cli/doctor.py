"""Finding out what is wrong with a registry."""

import os
import sys
from pathlib import Path

import click
import msgspec

from appliance.cli.options import settings_option
from appliance.doctor.credentials import Login
from appliance.doctor.findings import Report, Status
from appliance.doctor.here import examine_here
from appliance.doctor.there import examine_from_outside
from appliance.oci.errors import RegistryError
from appliance.oci.names import parse_name
from appliance.trust.place import Place


@click.command()
@click.argument("url", required=False)
@click.option("--user", metavar="NAME", help="Log in as NAME; asks for the password.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@click.option(
    "--repository",
    metavar="NAME",
    help="Push the tiny image there, for an account that may push to some repositories alone.",
)
@click.option("--json", "as_json", is_flag=True, help="Print it for machines.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.1, max=600),
    default=5.0,
    show_default=True,
    help="Seconds to wait for each answer.",
)
@settings_option
def doctor(
    url: str | None,
    user: str | None,
    repository: str | None,
    file: Path | None,
    timeout: float,
    *,
    password_stdin: bool,
    as_json: bool,
) -> None:
    """Look for what is wrong, and tell what to do about it.

    Without URL, on the registry's machine: settings, files, passwords, disk, certificate, ports, firewall and
    service, and then what clients see. With URL (or HOST, HOST:PORT), from a client: name, connection, TLS and
    who trusts it, clocks, login, and a push and a pull of a tiny image, which is deleted again.

    The exit status is 1 if there is a fault; warnings leave it 0.
    """
    login = _login(user, password_stdin=password_stdin)
    if repository is not None:
        try:
            parse_name(repository)
        except RegistryError as error:
            raise click.BadParameter(error.message, param_hint="--repository") from None
    report = Report()
    if url is None:
        examine_here(file, os.environ, timeout, report, login=login, repository=repository)
    else:
        try:
            place = Place.parse(url)
        except ValueError as error:
            raise click.UsageError(f"{error}.") from None
        examine_from_outside(place, timeout, report, login=login, repository=repository)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(report.document())))
    else:
        for line in report.lines():
            click.echo(line)
    if report.worst is Status.FAULT:
        sys.exit(1)


def _login(user: str | None, *, password_stdin: bool) -> Login | None:
    if user is None:
        if password_stdin:
            raise click.UsageError("--password-stdin needs --user NAME.")
        return None
    if password_stdin:
        password = sys.stdin.readline().rstrip("\r\n")
    else:
        password = click.prompt("Password", hide_input=True, err=True)
    if not user or ":" in user or not password:
        raise click.UsageError(
            "--user takes a name without a colon, and a password that is not empty."
        )
    return Login(user, password, "--user", is_asked_for=True)
