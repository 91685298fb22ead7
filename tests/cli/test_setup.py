"""Setup: what it writes, what it leaves alone, and when it refuses."""

import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from appliance.cli import registry
from appliance.settings import SettingsError
from appliance.setup import files
from appliance.setup import installation as place
from appliance.setup.files import File, State
from appliance.setup.installation import Installation, SetupError, check_place, check_readable
from tests.unprivileged import as_user

UNIT = """\
[Service]
ExecStartPre=-registry check
ExecStart=registry serve
ExecReload=/bin/kill -HUP $MAINPID
ExecStop=/usr/bin/registry-else stop
Environment=registry serve
"""


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    """An installation as pip leaves it in a virtual environment."""
    environment = tmp_path / "environment"
    units = environment / "lib" / "systemd" / "system"
    units.mkdir(parents=True)
    (units / "registry.service").write_text(UNIT)
    (units / "registry.socket").write_text("[Socket]\nListenStream=443\n")
    sysusers = environment / "registry.conf"
    sysusers.write_text("u registry - - /var/lib/registry\n")
    settings = environment / "registry.toml"
    settings.write_text("# All of it is a comment.\n")
    return Installation(
        program=environment / "bin" / "registry",
        units=(units / "registry.service", units / "registry.socket"),
        sysusers=sysusers,
        settings=settings,
    )


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    return tmp_path / "etc"


def set_up(installation: Installation, etc: Path) -> list[File]:
    found = files.files(installation, etc)
    files.check(found)
    for file in found:
        file.write()
    return found


def test_the_units_start_this_very_installation(installation: Installation, etc: Path) -> None:
    set_up(installation, etc)
    lines = (etc / "systemd" / "system" / "registry.service").read_text().splitlines()
    assert lines[0].startswith("# Made by registry setup")
    assert lines[1:] == [
        "[Service]",
        f"ExecStartPre=-{installation.program} check",
        f"ExecStart={installation.program} serve",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "ExecStop=/usr/bin/registry-else stop",
        "Environment=registry serve",
    ]


def test_whatever_is_written_can_be_read_by_everybody(
    installation: Installation, etc: Path
) -> None:
    for file in set_up(installation, etc):
        assert stat.S_IMODE(file.path.stat().st_mode) == 0o644


def test_doing_it_again_changes_nothing_and_an_upgrade_changes_what_is_ours(
    installation: Installation, etc: Path
) -> None:
    first = set_up(installation, etc)
    before = {file.path: file.path.stat().st_ino for file in first}
    assert {file.path: file.path.stat().st_ino for file in set_up(installation, etc)} == before
    (etc / "registry.toml").write_text('[log]\nlevel = "debug"\n')
    installation.units[0].write_text("[Service]\nExecStart=registry serve --more\n")
    changed = files.files(installation, etc)
    assert [file.state for file in changed] == [State.OTHER, *[State.SAME] * 3]
    set_up(installation, etc)
    unit = (etc / "systemd" / "system" / "registry.service").read_text()
    assert unit.endswith(f"{installation.program} serve --more\n")
    assert (etc / "registry.toml").read_text() == '[log]\nlevel = "debug"\n'


def test_a_unit_of_somebody_else_stays(installation: Installation, etc: Path) -> None:
    folder = etc / "systemd" / "system"
    folder.mkdir(parents=True)
    (folder / "registry.service").write_text("[Service]\n")
    with pytest.raises(SetupError, match=r"registry\.service is there and not from registry setup"):
        set_up(installation, etc)
    assert [path.name for path in folder.iterdir()] == ["registry.service"]
    assert files.left_over(etc) == []


def test_removing_takes_away_what_setup_made_and_nothing_else(
    installation: Installation, etc: Path
) -> None:
    set_up(installation, etc)
    folder = etc / "systemd" / "system"
    (folder / "registry.service.d").mkdir()
    (folder / "registry-backup.service").write_text("[Service]\n")
    for file in files.left_over(etc):
        file.remove()
    kept = {path.relative_to(etc).as_posix() for path in etc.rglob("*") if not path.is_dir()}
    assert kept == {"registry.toml", "systemd/system/registry-backup.service"}
    assert files.left_over(etc) == []


def test_a_program_with_a_percent_sign_is_named_as_systemd_reads_it() -> None:
    text = files.naming("ExecStart=registry serve\n", Path("/opt/100%/bin/registry"))
    assert text == "ExecStart=/opt/100%%/bin/registry serve\n"
    with pytest.raises(SetupError, match="a blank"):
        files.naming("ExecStart=registry serve\n", Path("/opt/two words/bin/registry"))


def test_units_that_systemd_finds_by_itself_are_not_written_again(
    installation: Installation, etc: Path
) -> None:
    found = Installation(
        program=Path("/usr/local/bin/registry"),
        units=(Path("/usr/local/lib/systemd/system/registry.service"),),
        sysusers=installation.sysusers,
        settings=installation.settings,
    )
    assert [file.path for file in files.files(found, etc)] == [etc / "registry.toml"]


@pytest.mark.parametrize(
    "path", ["/root/.venv/bin/registry", "/home/a/.local/pipx/registry", "/run/user/7/bin/registry"]
)
def test_an_installation_that_the_service_does_not_see_is_refused(path: str) -> None:
    with pytest.raises(SetupError, match=r"the service does not see .*; make the virtual"):
        check_place(Path(path))
    check_place(Path("/opt/root/home/bin/registry"))


def test_an_installation_that_is_closed_to_others_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o700)
    (folder / "registry").write_text("")
    with pytest.raises(SetupError, match=r"closed is closed to the user registry; chmod -R o\+rX"):
        check_readable(folder / "registry")


def run(*words: str) -> Result:
    return CliRunner().invoke(registry, ["setup", *words])


def refusal(result: Result) -> str:
    assert isinstance(result.exception, SettingsError)
    (sentence,) = result.exception.faults
    return sentence


def test_a_system_without_systemd_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, "_BOOTED", tmp_path / "missing")
    assert refusal(run()).startswith("systemd does not run this system; start registry serve")


def test_somebody_who_is_not_root_may_only_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, "_BOOTED", Path("/"))
    with as_user():
        assert refusal(run()).startswith("only root may set up the system")
        assert refusal(run("--dry-run")).startswith("this installation has no systemd units")


def test_a_checkout_has_no_units_to_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "_BOOTED", Path("/"))
    assert "until it is installed with pip install" in refusal(run("--dry-run"))
