"""Who may do what, and why."""

import sys
from pathlib import Path

import click

from appliance.cli.options import read, settings_option
from appliance.oci.errors import RegistryError
from appliance.oci.names import parse_name
from appliance.protocol.routes import Action
from appliance.registry.policy import ANONYMOUS, RIGHTS
from appliance.rulebook import policy


@click.group()
def access() -> None:
    """Look at who may do what."""


@access.command()
@click.argument("account")
@click.argument("repository")
@click.argument("action", type=click.Choice([right.value for right in RIGHTS]))
@settings_option
def explain(account: str, repository: str, action: str, file: Path | None) -> None:
    """Tell whether ACCOUNT may do ACTION in REPOSITORY, and which rules say so.

    The settings file is what is asked, as a running registry knows it after its next reload. Whoever
    has no account is called "(anonymous)". The exit status is 1 for what is not allowed.
    """
    try:
        parse_name(repository)
    except RegistryError as error:
        raise click.BadParameter(error.message, param_hint="REPOSITORY") from None
    rules = policy(read(file))
    name = "" if account == ANONYMOUS else account
    decision = rules.decide(name, Action(action), repository)
    groups = rules.groups(name)
    member = f" (in {', '.join(groups)})" if groups else ""
    verb = "may" if decision.allowed else "may not"
    click.echo(f"{account}{member} {verb} {action} in {repository}:")
    for rule in decision.rules:
        says = "allows" if decision.allowed else "denies"
        patterns = ", ".join(rule.repositories)
        click.echo(f"  {rule.name} {says} it to {', '.join(rule.accounts)} in {patterns}")
    if not decision.rules:
        click.echo("  no rule allows it")
    if not decision.allowed:
        sys.exit(1)
