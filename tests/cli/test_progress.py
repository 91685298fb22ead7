"""Progress as a person sees it."""

import pytest

from appliance.cli.progress import described, shown
from appliance.registry.progress import Progress


@pytest.mark.parametrize(
    ("progress", "line"),
    [
        (Progress("waiting", 0), "waiting"),
        (Progress("removing", 12345, unit="links"), "removing  12,345 links"),
        (
            Progress("verifying", 512 << 20, 1 << 30, "bytes"),
            "verifying  [############------------]  50%  512 MiB of 1 GiB",
        ),
        (
            Progress("copying", 7, 7, "blobs"),
            "copying  [########################] 100%  7 blobs of 7 blobs",
        ),
        (Progress("copying", 9, 7), "copying"),
    ],
)
def test_progress_reads_well(progress: Progress, line: str) -> None:
    assert described(progress).startswith(line)


def test_nothing_is_shown_to_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    with shown() as report:
        report(Progress("removing", 1, unit="links"))
    assert capsys.readouterr() == ("", "")


def test_a_terminal_shows_one_line_and_is_clean_afterwards(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with shown() as report:
        report(Progress("removing", 1, unit="links"))
        report(Progress("removing", 2, unit="links"))  # too soon to be read
    assert capsys.readouterr().err == "\rremoving  1 links\x1b[K\r\x1b[K"
