"""Programs of the system that are asked what they know; they only look."""

import os
import shutil
import subprocess


def said_by(command: tuple[str, ...], within: float) -> str | None:
    """Run a program and return what it prints; None where it is missing, fails or takes too long."""
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))
    program = shutil.which(command[0], path=path)
    if program is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603  fixed commands
            [program, *command[1:]],
            check=True,
            capture_output=True,
            text=True,
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=within,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout
