"""What one client does to a registry: ask again and again, pull, push, or hardly read at all.

Each kind of job opens its connections and looks up its bytes first, then waits for `start`, so that
nothing but the work itself falls into the measurement.
"""

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec

from tests.bench import content
from tests.bench.connection import AnswerError, Connection, Target, status_of
from tests.bench.content import Noise

Start = Callable[[], None]

_WINDOW = 32 << 10
_TRICKLE = 64
_TRICKLE_SECONDS = 1.0


class Outcome(msgspec.Struct):
    """What came of a job; times are those of the machine's monotonic clock."""

    begun: float
    ended: float
    cipher: str = ""
    milliseconds: list[float] = []
    size: int = 0
    digest: str = ""
    alive: int = 0
    refused: int = 0


class Repeat(msgspec.Struct, frozen=True, tag=True):
    """One request over and over, on one connection or each time on a new one."""

    target: Target
    method: str
    path: str
    seconds: float
    reconnect: bool = False

    def perform(self, start: Start) -> Outcome:
        """Ask until the time is over."""
        request = self.target.request(self.method, self.path)
        connection = Connection(self.target)
        cipher = connection.cipher
        connection.exchange(request)
        if self.reconnect:
            connection.close()
        start()
        taken = []
        clock = time.monotonic
        begun = now = clock()
        until = begun + self.seconds
        while now < until:
            if self.reconnect:
                connection = Connection(self.target)
            connection.exchange(request)
            if self.reconnect:
                connection.close()
            taken.append((clock() - now) * 1000)
            now = clock()
        connection.close()
        return Outcome(begun, now, cipher, milliseconds=taken)


class Probe(msgspec.Struct, frozen=True, tag=True):
    """A request at fixed times, whatever became of the one before; what it waits for that counts."""

    target: Target
    path: str
    seconds: float
    every: float
    delay: float

    def perform(self, start: Start) -> Outcome:
        """Ask at each of the times."""
        request = self.target.request("GET", self.path)
        connection = Connection(self.target)
        connection.exchange(request)
        start()
        taken = []
        begun = time.monotonic()
        due = begun + self.delay
        while due < begun + self.seconds:
            time.sleep(max(0, due - time.monotonic()))
            connection.exchange(request)
            taken.append((time.monotonic() - due) * 1000)
            due += self.every
        ended = time.monotonic()
        connection.close()
        return Outcome(begun, ended, milliseconds=taken)


class Pull(msgspec.Struct, frozen=True, tag=True):
    """A blob, or its beginning at so many bytes a second."""

    target: Target
    path: str
    size: int
    rate: float = 0

    def perform(self, start: Start) -> Outcome:
        """Read it, keeping nothing."""
        fields = (f"Range: bytes=0-{self.size - 1}",) if self.rate else ()
        request = self.target.request("GET", self.path, *fields)
        connection = Connection(self.target)
        cipher = connection.cipher
        start()
        begun = time.monotonic()
        connection.download(request, self.size, status=206 if self.rate else 200, rate=self.rate)
        ended = time.monotonic()
        connection.close()
        return Outcome(begun, ended, cipher, size=self.size)


class Push(msgspec.Struct, frozen=True, tag=True):
    """A blob like no other, perhaps at so many bytes a second."""

    target: Target
    repository: str
    noise: Noise
    size: int
    streamed: bool = True
    rate: float = 0

    def perform(self, start: Start) -> Outcome:
        """Send it in the one way or the other."""
        blob = content.blob(self.noise, self.size)
        connection = Connection(self.target)
        start()
        begun = time.monotonic()
        content.push(connection, self.repository, blob, streamed=self.streamed, rate=self.rate)
        ended = time.monotonic()
        connection.close()
        return Outcome(begun, ended, size=blob.size, digest=blob.digest)


class Dawdle(msgspec.Struct, frozen=True, tag=True):
    """Many connections that ask for a blob each and take a few bytes of it every second."""

    target: Target
    path: str
    connections: int
    seconds: float

    def perform(self, start: Start) -> Outcome:
        """Hold them for as long as it takes; how many there were in the end."""
        request = self.target.request("GET", self.path)
        held = []
        for _ in range(self.connections):
            connection = Connection(self.target, window=_WINDOW)
            connection.socket.sendall(request)
            held.append(connection)
        for connection in held:
            connection.head(200)
        start()
        begun = now = time.monotonic()
        alive = 0
        while now < begun + self.seconds:
            alive = sum(_takes(connection) for connection in held)
            time.sleep(max(0, now + _TRICKLE_SECONDS - time.monotonic()))
            now = time.monotonic()
        for connection in held:
            connection.close()
        if alive < self.connections:
            raise AnswerError(f"{alive} of {self.connections} connections are left")
        return Outcome(begun, now, alive=alive)


def _takes(connection: Connection) -> bool:
    try:
        return bool(connection.socket.recv(_TRICKLE))
    except OSError:
        return False


class Series(msgspec.Struct, frozen=True, tag=True):
    """A request for each target, one after the other, on a new connection for a new address."""

    targets: list[Target]
    path: str
    status: int = 200

    def perform(self, start: Start) -> Outcome:
        """Ask as each of them."""
        connection = Connection(self.targets[0])
        cipher = connection.cipher
        start()
        taken = []
        begun = time.monotonic()
        for target in self.targets:
            if target.source != connection.target.source:
                connection.close()
                connection = Connection(target)
            request = target.request("GET", self.path)
            asked = time.monotonic()
            connection.exchange(request, status=self.status)
            taken.append((time.monotonic() - asked) * 1000)
        ended = time.monotonic()
        connection.close()
        return Outcome(begun, ended, cipher, milliseconds=taken)


class Storm(msgspec.Struct, frozen=True, tag=True):
    """Logins at fixed times that all fail, as each target in turn, of which all have one address.

    Each takes a connection that waits for no answer, so there must be enough of them.
    """

    targets: list[Target]
    path: str
    seconds: float
    every: float
    connections: int

    def perform(self, start: Start) -> Outcome:
        """Ask at each of the times; how many were not even looked at."""
        idle = deque(Connection(self.targets[0]) for _ in range(self.connections))
        taken: list[float] = []
        refused: list[bool] = []

        def guess(number: int, due: float) -> None:
            target = self.targets[number % len(self.targets)]
            connection = idle.popleft()
            request = target.request("GET", self.path)
            head, _ = connection.exchange(request, status=401, or_else=429)
            taken.append((time.monotonic() - due) * 1000)
            refused.append(status_of(head) == 429)
            idle.append(connection)

        start()
        begun = time.monotonic()
        with ThreadPoolExecutor(self.connections) as pool:
            guesses = []
            for number in range(int(self.seconds / self.every)):
                due = begun + number * self.every
                time.sleep(max(0, due - time.monotonic()))
                guesses.append(pool.submit(guess, number, due))
        for guessed in guesses:
            guessed.result()
        ended = time.monotonic()
        for connection in idle:
            connection.close()
        return Outcome(begun, ended, milliseconds=taken, refused=sum(refused))


Job = Repeat | Probe | Pull | Push | Dawdle | Series | Storm
