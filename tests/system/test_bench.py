"""The benchmarks run, say what they found and leave nothing behind; the figures are not judged here."""

import json
import signal
import subprocess
import sys
from pathlib import Path

from tests.bench.cases import CASES
from tests.bench.peers import PEERS
from tests.bench.results import OURS
from tests.system.tools import attempt, environment, eventually, run

_ROOT = Path(__file__).resolve().parents[2]
_BENCH = (sys.executable, "-m", "tests.bench")
_WITHIN = 300


def processes(folder: Path) -> list[str]:
    """The command lines that mention a folder."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = file.read_bytes()
        except OSError:
            continue
        if str(folder).encode() in command:
            found.append(command.replace(b"\0", b" ").decode())
    return found


def test_every_case_is_measured_at_every_registry(tmp_path: Path) -> None:
    folder, file = tmp_path / "folder", tmp_path / "results.json"
    folder.mkdir()
    table = run(*(*_BENCH, "--quick", "--dir", folder, "--json", file), within=_WITHIN, cwd=_ROOT)
    head, _, *rows = table.splitlines()
    assert [cell.strip() for cell in head.split("|")[2:6]] == [OURS, *PEERS]
    for name in CASES:
        assert any(row.startswith(f"| {name}: ") for row in rows), name
    measured = {
        (sample["case"], sample["server"]) for sample in json.loads(file.read_text())["samples"]
    }
    assert measured == {
        (name, server)
        for name, case in CASES.items()
        for server in (OURS, *PEERS)
        if server not in case.leaves_out
    }
    assert not processes(folder)
    assert not list(folder.iterdir())


def test_an_interrupted_run_leaves_nothing_behind(tmp_path: Path) -> None:
    said = tmp_path / "said"
    folder = tmp_path / "folder"
    folder.mkdir()
    with said.open("wb") as log:
        bench = subprocess.Popen(
            (*_BENCH, "--quick", "--rounds", "1000", "--cases", "small", "--dir", folder),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=_ROOT,
            env=environment(),
        )
    try:
        eventually(lambda: b"round 2 of" in said.read_bytes(), within=60, what="a second round")
        bench.send_signal(signal.SIGINT)
        assert bench.wait(60) == 128 + signal.SIGINT, said.read_text()
    finally:
        bench.kill()
        bench.wait()
    assert "| small: " in said.read_text(), "what was measured so far is shown"
    assert not processes(folder)
    assert not list(folder.iterdir())


def test_help_says_what_each_case_measures() -> None:
    said = run(*_BENCH, "--help", cwd=_ROOT)
    for name, case in CASES.items():
        assert f"  {name} " in said
        assert case.about.split()[0] in said


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    refused = attempt(*_BENCH, "--registry", tmp_path / "none", "--cases", "small", cwd=_ROOT)
    assert refused.returncode == 1
    assert f"{tmp_path / 'none'} is not here" in refused.stderr
