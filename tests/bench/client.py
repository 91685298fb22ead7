"""A process that does jobs: `python -m tests.bench.client`, one JSON line for each step.

In comes a job, out goes `ready`; in comes `go`, out goes the outcome. A job that fails ends the process,
and whoever started it reads on standard error why.
"""

import signal
import sys

import msgspec

from tests.bench.load import Job


def _say(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()


def _start() -> None:
    _say(b"ready")
    if not sys.stdin.buffer.readline():
        sys.exit("nobody is left to work for")


def main() -> None:
    # What interrupts the whole group is for the first process to act upon.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    decoder: msgspec.json.Decoder[Job] = msgspec.json.Decoder(Job)
    while line := sys.stdin.buffer.readline():
        _say(msgspec.json.encode(decoder.decode(line).perform(_start)))


if __name__ == "__main__":
    main()
