"""What every command shares: which settings it works with."""

import os
from pathlib import Path

import click

from appliance.settings import DEFAULT_FILE, Settings, load

settings_option = click.option(
    "--settings",
    "file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help=f"The settings file.  [default: {DEFAULT_FILE}, if it is there]",
)


def read(file: Path | None) -> Settings:
    """Read the settings a command was pointed to; raises SettingsError."""
    return load(file, os.environ)
