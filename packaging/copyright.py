"""Print the licences of everything a package has in it, as its file of that name on Debian.

copyright.py SITE PREFIX: SITE has the Python packages now, PREFIX will have them.
"""

import sys
from importlib.metadata import Distribution, distributions

_OURS = "registry-appliance"
_BEGINNING = f"""\
{_OURS} is a private container registry.

Copyright: 2026 the authors of {_OURS}
License: Apache-2.0

On Debian systems the text of the Apache License, version 2.0, is in
/usr/share/common-licenses/Apache-2.0.

These packages from https://pypi.org/ come with it, unchanged but for what is not needed to run them. The
texts of their licences are in"""


def main(site: str, prefix: str) -> None:
    """Print it."""
    sys.stdout.write(f"{_BEGINNING}\n{prefix}/*.dist-info/.\n\n")
    for one in sorted(distributions(path=[site]), key=lambda one: one.name.lower()):
        if one.name != _OURS:
            sys.stdout.write(_described(one))


def _described(one: Distribution) -> str:
    licence = _told(one, "License-Expression", "License").splitlines()[0]
    authors = _told(one, "Author", "Author-email") or "its authors"
    return f"{one.name} {one.version}\n  Copyright: {authors}\n  License: {licence}\n\n"


def _told(one: Distribution, *fields: str) -> str:
    return next((one.metadata[field] for field in fields if field in one.metadata), "")


main(*sys.argv[1:])
