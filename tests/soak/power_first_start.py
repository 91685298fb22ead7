"""A first start that is watched: what it tells its operator must outlive a power cut.

The data folder, the certificate authority that clients are told to trust, and the administrator
with the password that stands in a file: once the daemon has said that it serves, they stay. Before
that, wherever a cut comes, the next start makes of what it finds a registry that can be used.
"""

import random
import shutil
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from tempfile import mkdtemp

from tests.soak.model import Violation
from tests.soak.power_careless import Place, left_out
from tests.soak.recording import Settings, Watched
from tests.soak.replay import Disk, Step
from tests.system.daemon import Daemon
from tests.system.wire import Client

_BLOB = b"the first of all"


class FirstStart:
    """A first start, and the system calls that it led to."""

    def __init__(
        self, folder: Path, seed: str, *, careless: str = "", accounts: bool = False
    ) -> None:
        """Start once and stop; where there are no `accounts` yet, an administrator is made."""
        self._folder = folder
        self._random = random.Random(seed)  # noqa: S311 - repeatable on purpose
        self._accounts = accounts
        self._top = folder / "disk"
        self._top.mkdir(parents=True)
        registry = folder / "registry"
        registry.mkdir()
        storage = self._storage(self._top)
        self._daemon = Watched(
            registry, folder / "trace", careless, self._settings(storage), storage
        )
        try:
            self._daemon.start()
            self._authority = self._daemon.ca.read_bytes()
            self._password = "" if accounts else _password(self._daemon)
            digest = _client(self._daemon).push_blob("first/app", _BLOB)
            self._digest = digest
            self._steps = self._daemon.end()
        finally:
            self._daemon.kill()
        self.told = next(position for position, step in enumerate(self._steps) if self._tells(step))
        """The step at which it is said that it serves."""

    def cuts(self, number: int) -> list[int]:
        """Moments for a power cut: when it has just been said that it serves, and before and after."""
        return sorted(
            {
                self.told,
                len(self._steps) - 1,
                *self._random.sample(range(self.told), number // 2),
                *self._random.sample(range(self.told, len(self._steps)), number // 2),
            }
        )

    def promises(self) -> list[int]:
        """When it has just been said that it serves, and the end."""
        return [self.told, len(self._steps) - 1]

    def examine(self, cuts: Mapping[int, str], place: Place | None = None) -> None:
        """Replay it, without the syncs of a place if one is named, and at each cut start anew.

        Raises Violation.
        """
        disk = Disk(self._top)
        skipped = left_out(self._steps, place)
        for position, step in enumerate(self._steps):
            if position not in skipped:
                disk.take(step)
            if position in cuts:
                self._check_rebuilt(disk, position, cuts[position])

    def _check_rebuilt(self, disk: Disk, position: int, rule: str) -> None:
        folder = Path(mkdtemp(prefix=f"cut-{position}-{rule}-", dir=self._folder))
        top = folder / "disk"
        disk.rebuild(top, rule, self._random)
        storage = self._storage(top)
        daemon = Daemon(folder, settings=self._settings(storage), storage=storage)
        try:
            daemon.start()
            if position >= self.told:
                self._check_told(daemon)
            client = _client(daemon)
            if position == len(self._steps) - 1:
                assert client.get_blob("first/app", self._digest).expect(200).body == _BLOB
            client.push_blob("first/app", b"life goes on")
        except (AssertionError, OSError, HTTPException) as error:
            raise Violation(f"cut at step {position}, {rule}: {error}") from error
        finally:
            daemon.kill()
        shutil.rmtree(folder)

    def _check_told(self, daemon: Daemon) -> None:
        assert daemon.ca.read_bytes() == self._authority, "the authority is another one"
        if not self._accounts:
            assert _password(daemon) == self._password, "the password is another one"

    def _tells(self, step: Step) -> bool:
        file = step.call.file()
        return step.call.name == "write" and file is not None and file.name == "banner"

    @staticmethod
    def _storage(top: Path) -> Path:
        return top / "var" / "registry"

    def _settings(self, storage: Path) -> Settings:
        return {} if self._accounts else {"auth": {"htpasswd": str(storage / "htpasswd")}}


def _password(daemon: Daemon) -> str:
    """Whom the first start has made, as its operator finds the password."""
    return (daemon.storage / "admin-password").read_text().strip()


def _client(daemon: Daemon) -> Client:
    note = daemon.storage / "admin-password"
    return daemon.client(f"admin:{_password(daemon)}") if note.exists() else daemon.client()
