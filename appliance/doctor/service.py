"""The registry as systemd has it, and the clock that systemd minds."""

from pathlib import Path

from appliance.doctor.findings import Report
from appliance.doctor.programs import said_by
from appliance.lock import Note

SERVICE, CLOCK = "service", "clock"
_UNIT = "registry.service"
_PROPERTIES = (
    "LoadState",
    "ActiveState",
    "SubState",
    "UnitFileState",
    "Result",
    "ExecMainStatus",
    "User",
)


def unit_state(within: float) -> dict[str, str] | None:
    """Ask systemd for the registry's unit; None where no systemd runs, or none that has the unit."""
    told = _ask(("systemctl", "show", _UNIT, f"--property={','.join(_PROPERTIES)}"), within)
    if told is None:
        return None
    state = dict(line.split("=", 1) for line in told.splitlines() if "=" in line)
    return state if state.get("LoadState") == "loaded" else None


def examine_service(state: dict[str, str] | None, running: Note | None, report: Report) -> None:
    """Tell whether the registry runs and is started again, and how it failed last."""
    if state is None:
        if running is None:
            report.unseen(
                SERVICE, _UNIT, "systemd does not know it here, and no registry is seen to run"
            )
        else:
            report.ok(
                SERVICE, f"process {running.pid}", "a registry runs that systemd did not start"
            )
        return
    active, result = state.get("ActiveState", ""), state.get("Result", "success")
    if active == "failed" or (active == "activating" and state.get("SubState") == "auto-restart"):
        report.fault(
            SERVICE,
            _UNIT,
            f"it failed ({result}, exit status {state.get('ExecMainStatus', 'unknown')})",
            "journalctl -u registry -n 50",
            "registry check, then: systemctl restart registry",
        )
    elif active not in ("active", "reloading"):
        if running is None:
            report.fault(
                SERVICE, _UNIT, f"it is not running ({active})", "systemctl start registry"
            )
        else:
            report.ok(
                SERVICE, f"process {running.pid}", "a registry runs that systemd did not start"
            )
    else:
        report.ok(SERVICE, _UNIT, "it is running")
    if state.get("UnitFileState") == "disabled":
        report.warn(
            SERVICE, _UNIT, "it will not start with this machine", "systemctl enable registry"
        )


def examine_clock(within: float, report: Report) -> None:
    """Tell whether this machine's clock follows anybody's."""
    told = _ask(("timedatectl", "show", "--property=NTPSynchronized", "--value"), within)
    match (told or "").strip():
        case "yes":
            report.ok(CLOCK, "this machine", "its clock is synchronised")
        case "no":
            report.warn(
                CLOCK,
                "this machine",
                "its clock is not synchronised; tokens and certificates are only as right as it is",
                "timedatectl set-ntp true",
            )
        case _:
            report.unseen(CLOCK, "this machine", "timedatectl does not say whether it is right")


def start_command(state: dict[str, str] | None) -> str:
    """Say how one starts the registry here."""
    return "registry serve" if state is None else "systemctl start registry"


def _ask(command: tuple[str, ...], within: float) -> str | None:
    if not Path("/run/systemd/system").is_dir():
        return None  # systemd is installed, and something else was booted
    return said_by(command, within)
