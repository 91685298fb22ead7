"""Reading over everything that is kept."""

from collections.abc import Iterator
from pathlib import Path

import click

from appliance import log
from appliance.cli.options import read, settings_option
from appliance.cli.progress import shown
from appliance.control import ControlError, Operator
from appliance.oci.damage import Finding, Images, State, Verified
from appliance.oci.errors import RegistryError
from appliance.oci.names import parse_name
from appliance.registry.space import amount
from appliance.settings import DEFAULT_FILE
from appliance.values import Size

_ORDER: tuple[State, ...] = ("damaged", "repaired", "mended", "moved", "noted")
_COLUMN = max(map(len, _ORDER))


class _SizeType(click.ParamType[Size]):
    name = "size"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Size:
        try:
            return Size.parse(str(value))
        except ValueError:
            self.fail('a size has a unit, as in "20MiB"; "0" is no limit', param, ctx)


@click.command()
@click.argument("name", required=False)
@click.option("--repair", is_flag=True, help="Replace what is damaged from [verify] sources.")
@click.option("--rate", metavar="SIZE", type=_SizeType(), help="Bytes to read a second at most.")
@click.option("--anew", is_flag=True, help="Do not go on where an earlier one was interrupted.")
@settings_option
def verify(
    name: str | None, repair: bool, rate: Size | None, anew: bool, file: Path | None
) -> None:
    """Read all blobs over, or those of the repository NAME, and look the catalogue through.

    What can be mended with what is here is mended. A blob that is damaged counts as not there until
    it is pushed again. What nobody knows goes to quarantine. A running registry does this by itself
    every [verify] every, and goes on serving.

    Exit status 0 when all is well, 1 when something damaged remains, 2 when it could not be done.
    """
    settings, source = read(file), file or DEFAULT_FILE
    asked = {"rate": str(rate or 0)}
    if name is not None:
        asked["name"] = _name(name)
    asked |= {"repair": ""} if repair else {}
    asked |= {"anew": ""} if anew else {}
    with shown() as report, Operator(settings, source, even_damaged=True) as operator:
        if not operator.is_running:  # what would be logged is told here
            log.configure(settings.log.format, "critical")
        found = operator.operate("verify", asked, Verified, report=report)
    for line in _told(found):
        click.echo(line)
    if found.counts.get("damaged"):
        click.get_current_context().exit(1)


def _told(verified: Verified) -> Iterator[str]:
    for finding in sorted(verified.found, key=lambda one: _ORDER.index(one.state)):
        yield from _lines(finding)
    if verified.left_out:
        yield f"and {verified.left_out} more"
    for remark in verified.remarks:
        yield f"{remark[0].upper()}{remark[1:]}."
    counts = [f"{verified.counts[one]} {one}" for one in _ORDER if verified.counts.get(one)]
    yield (
        f"{verified.blobs} blobs of {amount(verified.size)} verified:"
        f" {', '.join(counts) or 'all is well'}."
    )


def _lines(finding: Finding) -> Iterator[str]:
    yield f"{finding.state:{_COLUMN}}  {finding.what}: {finding.fault}"
    if finding.images.names:
        yield f"{'':{_COLUMN}}  in {_listed(finding.images)}"


def _listed(images: Images) -> str:
    more = images.count - len(images.names)
    return ", ".join(images.names) + (f" and {more} more" if more > 0 else "")


def _name(text: str) -> str:
    try:
        return parse_name(text)
    except RegistryError as error:
        raise ControlError(f"{text}: {error.message}") from None
