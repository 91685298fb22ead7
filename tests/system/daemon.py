"""The product as an operator runs it: a process, a settings file, a password file, a data folder."""

import base64
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import bcrypt

from tests.system.tools import attempt, environment, eventually, free_port
from tests.system.wire import Client

USER = "tester"
PASSWORD = "correct:horse-battery"

# What no daemon of any test may ever say.
SECRETS = (
    PASSWORD,
    base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode(),
    '"d":"',
    "PRIVATE KEY",
)

# A process that cannot be asked to stop within this is broken: nothing here transfers for so long.
_STOP_SECONDS = 30
_READY_SECONDS = 30

# Those running now, so that a failing test can show what they had to say.
alive: list["Daemon"] = []


def account(user: str, password: str) -> str:
    """A line of a password file, hashed as cheaply as bcrypt allows."""
    return f"{user}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()}\n"


class Daemon:
    """One `registry serve`, and what can be seen of it from outside."""

    def __init__(
        self,
        folder: Path,
        *,
        host: str = "127.0.0.1",
        port: int | None = None,
        settings: Mapping[str, Mapping[str, object]] | None = None,
        storage: Path | None = None,
        ca: Path | None = None,
        prefix: Sequence[str | Path] = (),
    ) -> None:
        self.folder = folder
        self.address = f"{host}:{port or free_port()}"
        self.storage = storage or folder / "data"
        self.settings = folder / "registry.toml"
        self.htpasswd = folder / "registry.htpasswd"
        self.login = f"{USER}:{PASSWORD}"
        self._prefix = prefix
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / "log"
        self._banner = folder / "banner"
        sections: dict[str, dict[str, object]] = {
            "server": {"listen": [self.address]},
            "tls": {"mode": "auto"},
            "storage": {"path": str(self.storage)},
            "auth": {"htpasswd": str(self.htpasswd), "admins": [USER]},
            "log": {"format": "json"},
        }
        for name, values in (settings or {}).items():
            sections.setdefault(name, {}).update(values)
        self.plain = sections["tls"]["mode"] == "off"
        self.ca = ca or self.storage / "tls" / "ca.crt"
        self.htpasswd.write_text(account(USER, PASSWORD))
        self.settings.write_text(_toml(sections))

    # -- its life

    def start(self) -> None:
        """Start, and return once it says that it is ready."""
        with self._banner.open("ab") as banner, self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._prefix, *self._program(), "serve", "--settings", self.settings],
                stdin=subprocess.DEVNULL,
                stdout=banner,
                stderr=log,
                env=environment(HOME=str(self.folder)),
                cwd=self.folder,
            )
        alive.append(self)
        eventually(self._ready, within=_READY_SECONDS, what=f"{self.address} answers /readyz")

    def terminate(self) -> None:
        """Ask it to stop, without waiting."""
        self._running().send_signal(signal.SIGTERM)

    def wait(self, within: float = _STOP_SECONDS) -> int:
        """Wait for its end; the exit status."""
        status = self._running().wait(within)
        self._process = None
        alive.remove(self)
        said = self.log()
        assert not any(secret in said for secret in SECRETS), "a secret is in the log"
        return status

    def stop(self) -> None:
        """Stop as systemd does; a clean end and a log without surprises are part of the promise."""
        self.terminate()
        status = self.wait()
        assert status == 0, f"stopping ended with {status}\n{self.log()[-5000:]}"
        _, *surprise = self.log().partition("Traceback")
        assert not any(surprise), "".join(surprise)[:3000].replace("\\n", "\n")

    def kill(self) -> None:
        """End it without notice; nothing when it has ended already."""
        if self._process is not None:
            self._process.kill()
            self.wait()

    def restart(self) -> None:
        """Stop and start again."""
        self.stop()
        self.start()

    @property
    def running(self) -> bool:
        """Whether it was started and nobody has seen its end."""
        return self._process is not None

    # -- what it is asked

    def client(self, login: str | None = "") -> Client:
        """Somebody to talk to it, with the right password unless told otherwise."""
        return Client(
            self.address,
            ca=None if self.plain else self.ca,
            login=self.login if login == "" else login,
        )

    def command(self, *words: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run one of its other verbs over the same settings, whatever it answers."""
        argv = [*self._prefix, *self._program(), *words, "--settings", self.settings]
        return attempt(*argv, given=given, env=environment(HOME=str(self.folder)), cwd=self.folder)

    # -- what can be seen

    @property
    def pid(self) -> int:
        """The process."""
        return self._running().pid

    def peak_memory(self) -> int:
        """The most it ever held in memory at once, in bytes."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("the kernel does not say")

    def open_files(self) -> int:
        """How many files and sockets it holds."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))  # noqa: PTH208 - names only, and fast

    def log(self) -> str:
        """Everything it has logged."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def blob_path(self, digest: str) -> Path:
        """Where the bytes behind a digest are kept."""
        algorithm, _, hexadecimal = digest.partition(":")
        return self.storage / "blobs" / algorithm / hexadecimal[:2] / hexadecimal

    def blobs(self) -> list[Path]:
        """Every blob it keeps."""
        return [path for path in (self.storage / "blobs").rglob("*") if path.is_file()]

    def uploads(self) -> list[Path]:
        """Every upload under way, or left over."""
        return [path for path in (self.storage / "uploads").rglob("*") if path.is_file()]

    # -- how

    @staticmethod
    def _program() -> list[str]:
        return [sys.executable, "-m", "appliance"]

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the daemon is not running"
        return self._process

    def _ready(self) -> bool:
        process = self._running()
        if process.poll() is not None:
            alive.remove(self)
            self._process = None
            raise AssertionError(f"ended with {process.returncode} at once\n{self.log()[-5000:]}")
        if not self.plain and not self.ca.exists():
            return False
        try:
            return self.client(login=None).request("GET", "/readyz").status == 200
        except OSError:
            return False


@contextmanager
def running(
    folder: Path,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    settings: Mapping[str, Mapping[str, object]] | None = None,
    storage: Path | None = None,
    ca: Path | None = None,
    prefix: Sequence[str | Path] = (),
    keep: bool = False,
    more: str = "",
) -> Iterator[Daemon]:
    """Keep a daemon running for a while; it must stop cleanly, and its data goes unless kept.

    `more` is what its settings hold beside their tables.
    """
    folder.mkdir(parents=True, exist_ok=True)
    daemon = Daemon(
        folder, host=host, port=port, settings=settings, storage=storage, ca=ca, prefix=prefix
    )
    with daemon.settings.open("a") as file:
        file.write(more)
    try:
        daemon.start()
        yield daemon
        if daemon.running:
            daemon.stop()
    finally:
        daemon.kill()
        if not keep:
            shutil.rmtree(daemon.storage, ignore_errors=True)


def _toml(sections: Mapping[str, Mapping[str, object]]) -> str:
    # A JSON value of the kinds used here is a TOML value too.
    return "\n".join(
        f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())
        for name, values in sections.items()
    )
