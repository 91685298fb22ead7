"""Nothing acknowledged is lost when the daemon is killed; `python -m tests.soak` goes on for longer."""

import secrets
import time
from pathlib import Path

from tests.soak.loop import Soak


def test_nothing_is_lost_in_a_few_kills(tmp_path: Path) -> None:
    soak = Soak(tmp_path, secrets.token_hex(4))
    assert soak.run(20, until=time.monotonic() + 20)
    assert soak.figures.checks["keys"]
    assert soak.figures.answered["image"]
