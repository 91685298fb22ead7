"""What is written about the command while it is packaged: manual pages and completions of shells."""

import sys
from pathlib import Path

import man_registry
import man_settings
from click.shell_completion import get_completion_class

SHELLS = {
    "bash": "share/bash-completion/completions/registry",
    "zsh": "share/zsh/site-functions/_registry",
    "fish": "share/fish/vendor_completions.d/registry.fish",
}
"""Where each shell looks, below a prefix."""


def write(checkout: Path, folder: Path) -> dict[str, str]:
    """Write them all into a folder; where each is, and where it goes below a prefix."""
    sys.path.insert(0, str(checkout))
    from appliance import __version__  # noqa: PLC0415  only now can it be found
    from appliance.cli import registry  # noqa: PLC0415

    settings = (checkout / "packaging" / "registry.toml").read_text(encoding="utf-8")
    texts = {
        "share/man/man1/registry.1": man_registry.page(registry, __version__),
        "share/man/man5/registry.toml.5": man_settings.page(settings, __version__),
    }
    for shell, place in SHELLS.items():
        kind = get_completion_class(shell)
        if kind is None:
            raise LookupError(f"click completes nothing for {shell}")
        completion = kind(registry, {}, "registry", "_REGISTRY_COMPLETE")
        texts[place] = completion.source_template % completion.source_vars()
    places = {}
    for place, text in texts.items():
        file = folder / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        places[str(file)] = place
    return places
