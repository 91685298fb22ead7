"""The clients' processes, started as they are needed and kept from one measurement to the next."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import msgspec

from tests.bench.load import Job, Outcome

_ROOT = Path(__file__).resolve().parents[2]
_STOP_SECONDS = 5
# What a server still has to do for the last request when its answer is here already.
_SETTLE_SECONDS = 0.05

# Most clients of registries are written in Go, and these are the preferences of its TLS. OpenSSL's are
# others, and decide about the cipher wherever a server leaves that to its clients.
_PREFERENCES = """\
openssl_conf = all
[all]
ssl_conf = tls
[tls]
system_default = client
[client]
Ciphersuites = TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256
Groups = X25519:P-256:P-384:P-521
"""


class ClientError(Exception):
    """A client has given up; why stands on standard error."""


class _Client:
    def __init__(self, preferences: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.client"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_ROOT,
            env=os.environ | {"OPENSSL_CONF": str(preferences)},
        )

    def tell(self, line: bytes) -> None:
        try:
            self._pipe(self._process.stdin).write(line + b"\n")
            self._pipe(self._process.stdin).flush()
        except BrokenPipeError:
            raise ClientError("a client is gone") from None

    def hear(self) -> bytes:
        if not (line := self._pipe(self._process.stdout).readline()):
            raise ClientError("a client has given up")
        return line

    def stop(self) -> None:
        self._process.kill()
        self._process.wait(_STOP_SECONDS)
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(BrokenPipeError):
                self._pipe(pipe).close()

    @staticmethod
    def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
        assert pipe is not None
        return pipe


class Crew:
    """All the clients; they end with the context."""

    def __init__(self, folder: Path) -> None:
        self._preferences = folder / "openssl.cnf"
        self._preferences.write_text(_PREFERENCES)
        self._clients: list[_Client] = []
        self._decoder = msgspec.json.Decoder(Outcome)

    def perform(
        self, jobs: Sequence[Job], *, before: Callable[[], None], after: Callable[[], None]
    ) -> list[Outcome]:
        """Let each job be done by a process of its own, all at once; say when it begins and ends."""
        while len(self._clients) < len(jobs):
            self._clients.append(_Client(self._preferences))
        busy = self._clients[: len(jobs)]
        try:
            for client, job in zip(busy, jobs, strict=True):
                client.tell(msgspec.json.encode(job))
            for client in busy:
                client.hear()
            before()
            for client in busy:
                client.tell(b"go")
            outcomes = [self._decoder.decode(client.hear()) for client in busy]
            time.sleep(_SETTLE_SECONDS)
            after()
        except ClientError:
            self.dismiss()
            raise
        return outcomes

    def dismiss(self) -> None:
        """End all of them, in whatever they are."""
        while self._clients:
            self._clients.pop().stop()
