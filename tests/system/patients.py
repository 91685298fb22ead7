"""Somewhere to plant faults: a registry in a folder of its own, and `registry doctor` over it."""

import base64
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from appliance.accounts.schemes import COST_MIN, hash_password
from appliance.cli import registry as command
from tests.system.daemon import PASSWORD, USER, Daemon
from tests.system.tools import attempt, environment


@cache
def strong_line(user: str = USER) -> str:
    """A line of a password file that nothing is wrong with."""
    return f"{user}:{hash_password(PASSWORD.encode(), COST_MIN).decode()}\n"


@dataclass(frozen=True)
class Examined:
    """What the doctor said."""

    status: int
    findings: list[dict[str, Any]]
    said: str

    def trouble(self) -> list[dict[str, Any]]:
        """The findings that are not well."""
        return [one for one in self.findings if one["status"] in ("warning", "fault")]


@dataclass(frozen=True)
class Patient:
    """What is to be examined, and how."""

    words: Sequence[str | Path] = ()
    """Arguments of `registry doctor`."""
    variables: Mapping[str, str] = field(default_factory=dict)
    given: str = ""
    prefix: Sequence[str | Path] = ()
    """Put before the command, where it runs in a namespace of its own."""

    def examine(self) -> Examined:
        """Have the doctor look; its answer for machines."""
        words = ["doctor", "--json", "--timeout", "2", *map(str, self.words)]
        known = {"HOME": "/nonexistent"} | dict(self.variables)
        if self.prefix:
            done = attempt(
                *self.prefix,
                sys.executable,
                "-m",
                "appliance",
                *words,
                given=self.given,
                env=environment(**known),
            )
            status, out, said = done.returncode, done.stdout, done.stdout + done.stderr
        else:
            cleared = {name: None for name in os.environ if name.lower().endswith("_proxy")}
            ran = CliRunner().invoke(command, words, input=self.given, env={**cleared, **known})
            status, out, said = ran.exit_code, ran.stdout, ran.output
        assert status in (0, 1), said
        assert PASSWORD not in said
        return Examined(status, json.loads(out)["findings"], said)


class Site:
    """A registry's files, and the registry itself while it runs."""

    def __init__(
        self, folder: Path, settings: Mapping[str, Mapping[str, object]] | None = None
    ) -> None:
        self.daemon = Daemon(folder, settings=settings)
        self.daemon.htpasswd.write_text(strong_line())
        self.daemon.htpasswd.chmod(0o600)
        self.data = self.daemon.storage
        self.htpasswd = self.daemon.htpasswd
        self.settings = self.daemon.settings

    def patient(self, *words: str, prefix: Sequence[str | Path] = (), **variables: str) -> Patient:
        """It, examined on its own machine."""
        return Patient(("--settings", self.settings, *words), variables, prefix=prefix)

    def start_once(self) -> None:
        """Let it make what a first start makes."""
        self.daemon.start()
        self.daemon.stop()


@contextmanager
def healthy(folder: Path) -> Iterator[Site]:
    """A registry with which nothing is wrong."""
    folder.mkdir(exist_ok=True)
    site = Site(folder)
    try:
        site.daemon.start()
        yield site
        site.daemon.stop()
    finally:
        site.daemon.kill()


def logged_in(folder: Path, address: str, login: str = f"{USER}:{PASSWORD}") -> dict[str, str]:
    """The environment of somebody whose docker keeps this login."""
    folder.mkdir(exist_ok=True)
    kept = {"auths": {address: {"auth": base64.b64encode(login.encode()).decode()}}}
    (folder / "config.json").write_text(json.dumps(kept))
    return {"DOCKER_CONFIG": str(folder)}


def disk(image: Path, folder: Path, before: str, *options: str) -> tuple[str, ...]:
    """Put before a command, shows it a small ext4, after `before` was done in a shell."""
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", *options, image], check=True)
    folder.mkdir(exist_ok=True)
    place = shlex.quote(str(folder))
    script = (
        f"mount -o loop {shlex.quote(str(image))} {place}; chmod 700 {place}; cd {place};"
        f' {before}; cd /; exec "$@"'
    )
    return ("unshare", "--mount", "--propagation", "private", "sh", "-euc", script, "sh")


def names(folder: Path, **files: str) -> tuple[str, ...]:
    """Put before a command, shows it other files below /etc: `hosts` or `resolv_conf`."""
    script = []
    for name, text in files.items():
        path = folder / name
        path.write_text(text)
        target = f"/etc/{name.replace('_', '.')}"
        script.append(f"mount --bind {shlex.quote(str(path))} {target}")
    return (
        *("unshare", "--mount", "--propagation", "private", "sh", "-euc"),
        f'{"; ".join(script)}; exec "$@"',
        "sh",
    )
