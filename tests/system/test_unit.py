"""The systemd unit, as systemd itself reads it."""

import re
from pathlib import Path

import pytest

from tests.system.tools import attempt, run

_SYSTEMD = Path(__file__).parents[2] / "systemd"
_UNITS = sorted(path.name for path in _SYSTEMD.iterdir() if path.suffix != ".conf")


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """The units with commands that exist on a machine where nothing is installed."""
    for name in _UNITS:
        text = (_SYSTEMD / name).read_text()
        text = re.sub(r"(?m)^(Exec\w+=[-+!:@|]*)\S+", r"\1/bin/true", text)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("name", _UNITS)
def test_systemd_understands_every_line(units: Path, name: str) -> None:
    unit = units / name.replace("@.", "@registry.service.")
    if "@" in name:
        (units / name).rename(unit)
    done = attempt("systemd-analyze", "verify", "--man=no", unit)
    assert done.returncode == 0, done
    complaints = [line for line in done.stderr.splitlines() if "registry" in line]
    assert complaints == []


def test_the_unit_is_confined(units: Path) -> None:
    unit = units / "registry.service"
    told = run("systemd-analyze", "security", "--offline=true", "--no-pager", unit)
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", told)
    assert exposure is not None, told
    print(f"\n{exposure[0]}")
    assert float(exposure[1]) <= 1.5
