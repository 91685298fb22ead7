"""Accounts in the password file. A running registry sees every change at once."""

import secrets
import sys
from pathlib import Path

import click

from appliance.accounts import editing
from appliance.accounts.files import AccountError
from appliance.accounts.schemes import hash_password
from appliance.cli.options import read, settings_option
from appliance.firststart import forget_password_note

_stdin_option = click.option(
    "--password-stdin", "from_stdin", is_flag=True, help="Read the password from standard input."
)
_generate_option = click.option("--generate", is_flag=True, help="Make up a password and print it.")


@click.group()
def user() -> None:
    """Add, change, remove and list accounts."""


@user.command()
@click.argument("name")
@_stdin_option
@_generate_option
@settings_option
def add(name: str, from_stdin: bool, generate: bool, file: Path | None) -> None:
    """Add the account NAME."""
    path = read(file).htpasswd
    editing.check_name(name)
    if name in editing.accounts(path).hashes:
        raise AccountError(
            f"{name} is in {path} already; to set another password: registry user passwd {name}"
        )
    editing.add(path, name, _hashed(from_stdin=from_stdin, generate=generate))
    click.echo(f"{name} can log in now.", err=generate)


@user.command()
@click.argument("name")
@_stdin_option
@_generate_option
@settings_option
def passwd(name: str, from_stdin: bool, generate: bool, file: Path | None) -> None:
    """Give the account NAME another password; the old one ends at once."""
    settings = read(file)
    editing.require(settings.htpasswd, name)
    hashed = _hashed(from_stdin=from_stdin, generate=generate)
    editing.set_password(settings.htpasswd, name, hashed)
    forget_password_note(settings, name)
    click.echo(f"{name} has a new password.", err=generate)


@user.command()
@click.argument("name")
@settings_option
def remove(name: str, file: Path | None) -> None:
    """Remove the account NAME; it is locked out at once."""
    settings = read(file)
    editing.remove(settings.htpasswd, name)
    forget_password_note(settings, name)
    click.echo(f"{name} is removed.")


@user.command("list")
@settings_option
def list_(file: Path | None) -> None:
    """List the accounts, and the lines of the file that count for nothing."""
    path = read(file).htpasswd
    found = editing.accounts(path)
    for name in sorted(found.hashes):
        click.echo(name)
    for fault in found.faults:
        click.echo(f"warning: {path}, line {fault.line}, is ignored: {fault.reason}.", err=True)
    if not found.hashes:
        click.echo(f"{path} has no accounts; add one: registry user add NAME", err=True)


def _hashed(*, from_stdin: bool, generate: bool) -> bytes:
    if from_stdin and generate:
        raise AccountError("--password-stdin and --generate exclude each other")
    if generate:
        password = secrets.token_urlsafe(18).encode()
        click.echo(password)
    elif from_stdin:
        password = sys.stdin.buffer.readline().rstrip(b"\r\n")
    else:
        password = click.prompt("Password", hide_input=True, confirmation_prompt=True).encode()
    try:
        password.decode()  # as clients send it
        return hash_password(password)
    except ValueError as error:
        raise AccountError(f"the password cannot be used: {error}") from None
