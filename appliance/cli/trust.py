"""Having the clients of this machine believe a registry."""

import os
from pathlib import Path

import click

from appliance.trust import authority, install
from appliance.trust.authority import Offered, TrustError
from appliance.trust.install import Done
from appliance.trust.place import Place
from appliance.trust.shelves import CLIENTS

_ROOT = Path("/")


@click.command()
@click.argument("host", metavar="HOST[:PORT]")
@click.option(
    "--for",
    "clients",
    default=",".join(CLIENTS),
    show_default=True,
    metavar="CLIENTS",
    help="Whom to tell; podman stands for buildah and skopeo too.",
)
@click.option("--system", is_flag=True, help="Tell the system too: curl and everything else.")
@click.option("--fingerprint", metavar="SHA256", help="Refuse an authority that has another one.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--remove", is_flag=True, help="Take away what was written for this registry.")
@click.option(
    "--root",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=_ROOT,
    metavar="DIR",
    help="Write below DIR, as for the image of another machine.  [default: /]",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.1, max=600),
    default=5.0,
    show_default=True,
    help="Seconds to wait for each answer.",
)
def trust(
    host: str,
    clients: str,
    fingerprint: str | None,
    root: Path,
    timeout: float,
    *,
    system: bool,
    yes: bool,
    remove: bool,
) -> None:
    """Have docker, podman and containerd here believe the registry at HOST.

    Fetches its certificate authority, checks that its certificate is good with it, shows it, and once you
    have compared the fingerprint with what registry info shows there, puts it where the clients look.
    """
    try:
        place = Place.parse(host)
        wanted = None if fingerprint is None else authority.parse_fingerprint(fingerprint)
    except ValueError as error:
        raise click.UsageError(f"{error}.") from None
    if place.scheme != "https":
        raise click.UsageError(
            f"{host} has no TLS, so there is nothing to trust; name it by https."
        )
    chosen = _chosen(clients)
    root = root.absolute()
    if root == _ROOT and os.geteuid() != 0:
        raise TrustError(
            f"what clients trust is written by root; run: sudo registry trust {place.name}"
        )
    if remove:
        told = install.remove(place, chosen, system=system, root=root)
        _report(told, f"There was nothing of registry trust for {place.name}.")
        return
    if root == _ROOT and wanted is None and authority.is_trusted_already(place, timeout):
        click.echo(f"This system trusts {place.name} as it is; there is nothing to do.")
        return
    offered = authority.fetch(place, timeout)
    _show(place, offered)
    if wanted is None:
        if not yes:
            question = "Is this the fingerprint that registry info shows there?"
            click.confirm(question, abort=True)
    elif wanted != offered.fingerprint:
        raise TrustError(
            f"{place.name} has the authority {offered.fingerprint}, not {wanted}; nothing was written"
        )
    _report(install.install(place, offered, chosen, system=system, root=root), "")
    click.echo(f"Next: docker login {place.name}")


def _chosen(text: str) -> list[str]:
    chosen = [name.strip() for name in text.split(",") if name.strip()]
    for name in chosen:
        if name not in CLIENTS:
            raise click.UsageError(f"--for takes {', '.join(CLIENTS)}, not {name}.")
    if not chosen:
        raise click.UsageError(f"--for names nobody; give some of {', '.join(CLIENTS)}.")
    return list(dict.fromkeys(chosen))


def _show(place: Place, offered: Offered) -> None:
    certificate = offered.certificate
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    click.echo(f"The certificate authority of {place.name}:")
    click.echo(f"  subject   {offered.subject}")
    click.echo(f"  valid     {first:%Y-%m-%d} to {last:%Y-%m-%d}")
    click.echo(f"  SHA-256   {offered.fingerprint}")


def _report(told: Done, nothing: str) -> None:
    for sentence in told.done:
        click.echo(f"{sentence}.")
    for sentence in told.left:
        click.echo(sentence.rstrip("\n"))
    if nothing and not told.done and not told.left:
        click.echo(nothing)
