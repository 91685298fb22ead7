"""The systemd unit, as systemd itself reads it."""

import re
from pathlib import Path

import pytest

from tests.system.tools import attempt, run

_UNIT = Path(__file__).parents[2] / "systemd" / "registry.service"


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with commands that exist on a machine where nothing is installed."""
    text = re.sub(r"(?m)^(Exec\w+=[-+!:@|]*)\S+", r"\1/bin/true", _UNIT.read_text())
    copy = tmp_path / _UNIT.name
    copy.write_text(text)
    return copy


def test_systemd_understands_every_line(unit: Path) -> None:
    done = attempt("systemd-analyze", "verify", "--man=no", unit)
    assert done.returncode == 0, done
    complaints = [line for line in done.stderr.splitlines() if unit.name in line]
    assert complaints == []


def test_the_unit_is_confined(unit: Path) -> None:
    told = run("systemd-analyze", "security", "--offline=true", "--no-pager", unit)
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", told)
    assert exposure is not None, told
    print(f"\n{exposure[0]}")
    assert float(exposure[1]) < 3
