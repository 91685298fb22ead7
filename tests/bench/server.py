"""A registry as processes of its own: its start, its end, and what it keeps."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.bench.connection import AnswerError, Connection, Target
from tests.system.tools import environment

_READY_SECONDS = 30
_STOP_SECONDS = 20
_POLL_SECONDS = 0.002


class Server:
    """One of the registries, of as many processes as it needs."""

    def __init__(self, name: str, target: Target, folder: Path, *commands: Sequence[str]) -> None:
        self.name = name
        self.target = target
        self.ciphers: set[str] = set()
        self._folder = folder
        self._commands = commands
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def roots(self) -> list[int]:
        """The processes all its others descend from."""
        return [process.pid for process in self._processes]

    @property
    def alive(self) -> bool:
        """Whether it has been started and nothing of it has ended."""
        return bool(self._processes) and all(process.poll() is None for process in self._processes)

    def start(self) -> float:
        """Start it; the seconds until its first good answer."""
        begun = time.monotonic()
        with (self._folder / "log").open("ab") as log:
            for command in self._commands:
                self._processes.append(
                    subprocess.Popen(
                        command,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        cwd=self._folder,
                        env=environment(HOME=str(self._folder)),
                        process_group=0,
                    )
                )
        while not self._answers():
            if not self.alive or time.monotonic() > begun + _READY_SECONDS:
                raise RuntimeError(f"{self.name} does not start:\n{self._last_words()}")
            time.sleep(_POLL_SECONDS)
        return time.monotonic() - begun

    def stop(self) -> None:
        """Ask it to stop, and see that nothing of it is left."""
        while self._processes:
            process = self._processes.pop()
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                pass
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    @property
    def data(self) -> Path:
        """Where it keeps everything."""
        return self._folder / "data"

    def world(self, name: str) -> Path:
        """Where another folder of data for it lies."""
        return self._folder / f"data.{name}"

    @contextmanager
    def serving(self, name: str) -> Iterator[None]:
        """Let it serve another folder of data for a while."""
        self.stop()
        own = self._folder / "data.own"
        self.data.rename(own)
        self.world(name).rename(self.data)
        try:
            self.start()
            yield
        finally:
            self.stop()
            self.data.rename(self.world(name))
            own.rename(self.data)
            self.start()

    def forget(self, repository: str, digest: str) -> None:
        """Have a blob deleted, and free its room at once, whatever the server does about that."""
        connection = Connection(self.target)
        path = f"/v2/{repository}/blobs/{digest}"
        connection.exchange(self.target.request("DELETE", path), status=202)
        connection.close()
        for path_ in self.data.rglob(digest.partition(":")[2]):
            if path_.is_dir():
                shutil.rmtree(path_)
            else:
                path_.unlink()

    def _answers(self) -> bool:
        try:
            connection = Connection(self.target)
        except OSError:
            return False
        try:
            connection.exchange(self.target.request("GET", "/v2/"))
            return True
        except (OSError, AnswerError):
            return False
        finally:
            connection.close()

    def _last_words(self) -> str:
        return (self._folder / "log").read_text(errors="replace")[-3000:]
