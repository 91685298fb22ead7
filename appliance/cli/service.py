"""Running the registry, and asking about it."""

import os
from datetime import UTC, datetime
from pathlib import Path

import click

from appliance import daemon, preflight
from appliance.banner import describe
from appliance.cli.options import read, settings_option
from appliance.lock import holder
from appliance.serve.certificates import Authority, CertificateError
from appliance.settings import DEFAULT_FILE, Address, SettingsError


@click.command()
@settings_option
def serve(file: Path | None) -> None:
    """Run the registry in the foreground.

    Needs no settings: data goes to /var/lib/registry (or the user's data folder), a certificate
    authority and the account admin are made, and what was printed tells how to go on. SIGHUP
    reads the settings again, SIGTERM lets running transfers end.
    """
    daemon.run(file, os.environ, click.echo)


@click.command()
@settings_option
def check(file: Path | None) -> None:
    """Look at the settings and everything they point to, without starting.

    Exit status 0 when the registry would start (or is running), 2 otherwise.
    """
    source = file or DEFAULT_FILE
    settings = read(file)
    findings = preflight.examine(settings, source, thorough=True)
    for warning in findings.warnings:
        click.echo(f"warning: {warning}")
    if findings.faults:
        raise SettingsError(findings.faults)
    if findings.running is not None:
        click.echo(f"The registry is running (process {findings.running.pid}).")
    click.echo(f"{source if source.exists() else 'The default settings'}: no faults.")


@click.command()
@settings_option
def info(file: Path | None) -> None:
    """Tell where the registry is and what its clients type."""
    settings = read(file)
    try:
        running = holder(settings.data)
        authority = None
        if settings.tls.mode == "auto" and (settings.data / "tls" / "ca.crt").exists():
            authority = Authority.open(settings.data / "tls", now=datetime.now(UTC))
    except (CertificateError, OSError) as error:
        raise SettingsError([f"{settings.data}: {error}."]) from error
    listen: list[Address] = list(settings.server.listen)
    if running is not None and (running.listen or running.plain):
        listen = [Address.parse(text) for text in (running.listen or running.plain)]
    click.echo(describe(settings, listen, authority))
    if running is None:
        click.echo("\nIt is not running now; start it: systemctl start registry, or registry serve")
