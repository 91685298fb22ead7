"""Commands with deadlines, and waiting that is neither blind nor endless."""

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

# What a client may inherit from whoever runs the tests: where programs are, and nothing about proxies,
# certificates or passwords.
_INHERITED = ("PATH", "LANG", "LC_ALL", "TMPDIR")


def environment(**extra: str) -> dict[str, str]:
    """The environment of every program a test starts."""
    return {name: os.environ[name] for name in _INHERITED if name in os.environ} | extra


def attempt(
    *argv: str | Path,
    within: float = 60,
    given: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, whatever it answers."""
    return subprocess.run(
        argv,
        check=False,
        timeout=within,
        input="" if given is None else given,
        capture_output=True,
        text=True,
        errors="replace",
        env=env if env is not None else environment(),
        cwd=cwd,
    )


def run(
    *argv: str | Path,
    within: float = 60,
    given: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> str:
    """Run a command that must succeed; its standard output."""
    done = attempt(*argv, within=within, given=given, env=env, cwd=cwd)
    assert done.returncode == 0, _account(done)
    return done.stdout


def refused(
    *argv: str | Path,
    within: float = 60,
    given: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> str:
    """Run a command that must fail; everything it said."""
    done = attempt(*argv, within=within, given=given, env=env, cwd=cwd)
    assert done.returncode != 0, f"this should have failed: {_account(done)}"
    return done.stdout + done.stderr


def _account(done: subprocess.CompletedProcess[str]) -> str:
    words = " ".join(str(word) for word in done.args)
    return f"{words}\nended with {done.returncode}\n{done.stdout}\n{done.stderr}"


def eventually(holds: Callable[[], bool], *, within: float, what: str | Callable[[], str]) -> None:
    """Wait until a condition holds, and fail with a sentence when it does not in time."""
    deadline = time.monotonic() + within
    while not holds():
        if time.monotonic() > deadline:
            sentence = what if isinstance(what, str) else what()
            raise AssertionError(f"not within {within:g} seconds: {sentence}")
        time.sleep(0.02)


@contextmanager
def background(
    *argv: str | Path,
    log: Path,
    up: Callable[[], bool],
    within: float = 60,
    cwd: Path | None = None,
) -> Iterator[None]:
    """Keep a program running for a while, from when `up` holds; its home is where its log is."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment(HOME=str(log.parent)),
            cwd=cwd,
        )
    try:
        eventually(
            lambda: process.poll() is not None or up(),
            within=within,
            what=lambda: f"{argv[0]} answers\n{log.read_text()}",
        )
        assert process.poll() is None, log.read_text()
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        finally:
            process.kill()
            process.wait(10)


def free_port(host: str = "127.0.0.1") -> int:
    """A port nobody listens on at the moment."""
    with socket.create_server((host, 0)) as server:
        port: int = server.getsockname()[1]
        return port


class Network:
    """A network of two addresses, neither of them loopback: ours and one in its own namespace."""

    def __init__(self, name: str, ours: str, theirs: str) -> None:
        self.name = name
        self.ours = ours
        self.theirs = theirs

    @property
    def prefix(self) -> tuple[str, ...]:
        """Put before a command, lets it run in the namespace."""
        return ("nsenter", f"--net=/run/netns/{self.name}", "--")


@contextmanager
def network() -> Iterator[Network]:
    """Make a network namespace joined to ours by a cable; it goes with the context."""
    mark = os.getpid()
    subnet = f"10.213.{mark % 256}"
    there = Network(f"registry-test-{mark}", f"{subnet}.1", f"{subnet}.2")
    cable, plug = f"rt{mark}a", f"rt{mark}b"
    run("ip", "netns", "add", there.name)
    try:
        run("ip", "link", "add", cable, "type", "veth", "peer", "name", plug, "netns", there.name)
        run("ip", "address", "add", f"{there.ours}/30", "dev", cable)
        run("ip", "link", "set", cable, "up")
        inside = ("ip", "-netns", there.name)
        run(*inside, "address", "add", f"{there.theirs}/30", "dev", plug)
        run(*inside, "link", "set", plug, "up")
        run(*inside, "link", "set", "lo", "up")
        yield there
    finally:
        attempt("ip", "link", "delete", cable)
        attempt("ip", "netns", "delete", there.name)
