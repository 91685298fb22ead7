"""What the wheel has beside the package: data that pip puts below the prefix it installs to.

Below /usr/local systemd finds units, and the system user they need, by itself.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class SharedData(BuildHookInterface[Any]):
    """Adds units, the settings file, manual pages and completions."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add them, unless the installation is one that stays in its checkout."""
        if version == "editable":
            return
        checkout = Path(self.root)
        sys.path.insert(0, str(checkout / "packaging"))
        import documents  # noqa: PLC0415  only now can it be found

        self._folder = tempfile.TemporaryDirectory()
        shared = build_data["shared_data"]
        for unit in sorted((checkout / "systemd").iterdir()):
            if unit.suffix in (".service", ".socket"):
                shared[str(unit)] = f"lib/systemd/system/{unit.name}"
        shared[str(checkout / "systemd" / "sysusers.conf")] = "lib/sysusers.d/registry.conf"
        shared[str(checkout / "packaging" / "registry.toml")] = (
            "share/registry-appliance/registry.toml"
        )
        shared.update(documents.write(checkout, Path(self._folder.name)))

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove what was written for the build alone."""
        del build_data, artifact_path
        if version != "editable":
            self._folder.cleanup()
