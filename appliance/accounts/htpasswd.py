"""Accounts in an htpasswd file, cheap to check and quick to change.

A check costs a tenth of a second or more on purpose, and clients send their password with
every request. So a check that succeeded is remembered for a while under a keyed hash of account, stored
hash and password with a key that never leaves this process: the cache holds no password, an edited
entry no longer matches it, and many requests that arrive at once share one check. The file is
compared with its last reading (a `stat`) at every request, so an edit counts at once.

An account that does not exist is checked too, against a hash nobody has the password of, so that
time does not tell which names exist. Where one file has hashes of several costs, a wrong password for
one of the cheaper is checked twice, and takes a little longer than the dearest.
"""

import hashlib
import secrets
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import bcrypt
import structlog
import trio

from appliance import work
from appliance.accounts.asking import Memory, Questions
from appliance.accounts.files import stamp
from appliance.accounts.schemes import COST, check_password, parse_hash
from appliance.protocol.credentials import Credentials

RESERVED = ("(", "@", "*")
"""What no account's name begins with: groups do, and everybody, and nobody."""

_REMEMBER_SECONDS = 300.0
_WAITING_MAX = 64  # different logins under way; more would wait longer than clients do
_NAME_MAX = 255

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Fault:
    """A line that is ignored, and why, as one sentence."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class PasswordFile:
    """What a password file says: account → hash, and the lines that say nothing usable."""

    hashes: dict[str, bytes]
    faults: tuple[Fault, ...]
    weaknesses: dict[str, str] = field(default_factory=dict)
    """Account → what is weak about its hash, as a sentence; those are not here of which nothing is."""
    names: frozenset[str] = frozenset()
    """All that stand in it, those of lines that are ignored as well."""

    @classmethod
    def parse(cls, content: bytes) -> "PasswordFile":
        """Read lines of `name:hash`; blank lines and `#` comments mean nothing."""
        hashes: dict[str, bytes] = {}
        names = set()
        faults = []
        for number, line in enumerate(content.splitlines(), start=1):
            entry = line.strip()
            if not entry or entry.startswith(b"#"):
                continue
            name, colon, value = entry.partition(b":")
            names.add(name.decode(errors="replace"))
            reason = _reason_to_ignore(name, colon, value, hashes)
            if reason:
                faults.append(Fault(number, reason))
            else:
                hashes[name.decode()] = value
        weak = {name: _weakness(name, stored) for name, stored in hashes.items()}
        weaknesses = {name: sentence for name, sentence in weak.items() if sentence}
        return cls(hashes, tuple(faults), weaknesses, frozenset(names))


def _reason_to_ignore(name: bytes, colon: bytes, value: bytes, known: dict[str, bytes]) -> str:
    if not colon or not name:
        return "it does not read name:hash"
    try:
        account = name.decode()
    except UnicodeDecodeError:
        return "its name is not UTF-8"
    if len(account) > _NAME_MAX or not account.isprintable():
        return "its name is too long or has unprintable characters"
    if account.startswith(RESERVED):
        return f"no account is called {account}: such names have a meaning of their own"
    if account in known:
        return f"{account} stands in an earlier line already"
    if parse_hash(value) is None:
        return (
            f"what stands for {account} is no hash of a scheme that is known, and plain text is not"
            f" taken; set it anew with: registry user passwd {account}"
        )
    return ""


class PasswordAccounts:
    """The accounts of one file, followed while it changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: object = None
        self._file = PasswordFile({}, ())
        self._is_readable = True
        self._nobody = b""
        self._reading = trio.Lock()
        self._key = secrets.token_bytes(32)
        self._right: Memory[bytes, bool] = Memory(_REMEMBER_SECONDS)
        self._wrong: Memory[bytes, bool] = Memory(_REMEMBER_SECONDS)
        self._checks: Questions[bytes, bool] = Questions(_WAITING_MAX)

    async def recall(self, credentials: Credentials) -> str | None:
        """Return what `verify` does for a password that was right a moment ago, at little cost."""
        if stamp(self._path) != self._stamp:
            await self.refresh()
        stored = self._stored(credentials.account)
        proof = self._proof(credentials, stored)
        return _generation(stored) if self._right.find(proof) else None

    async def verify(self, credentials: Credentials) -> str | None:
        """Return the generation that a password proves, as the file stood when this was asked.

        None if it is not the account's. Raises TOO_MANY_LOGINS.
        """
        known = await self.recall(credentials)
        if known is not None:
            return known
        stored = self._stored(credentials.account)
        proof = self._proof(credentials, stored)
        compare = partial(_compare, credentials.password, stored, self._nobody)
        same = await self._checks.answer(proof, compare)
        if same and stored is not self._nobody:
            self._right.keep(proof, True)
            return _generation(stored)
        self._wrong.keep(proof, True)
        return None

    def is_wrong(self, credentials: Credentials) -> bool:
        """Tell whether this password was found wrong a moment ago, as clients try one again."""
        proof = self._proof(credentials, self._stored(credentials.account))
        return self._wrong.find(proof) is not None

    async def generation(self, account: str) -> str | None:
        """Return what changes with an account's password; None if there is no such account."""
        if stamp(self._path) != self._stamp:
            await self.refresh()
        stored = self._file.hashes.get(account)
        return None if stored is None else _generation(stored)

    def knows(self, account: str) -> bool:
        """Tell whether there was such an account when the file was last read."""
        return account in self._file.hashes

    def decides(self, account: str) -> bool:
        """Tell whether no one else may say who has this name: a line of the file has it, even a faulty one.

        A file that cannot be read may have any.
        """
        return not self._is_readable or account in self._file.names

    def weakness(self, account: str) -> str | None:
        """Say in a sentence what is weak about an account's hash; None if nothing is."""
        return self._file.weaknesses.get(account)

    async def refresh(self) -> None:
        """Read the file again if it has changed; a file that cannot be read has no accounts."""
        found = stamp(self._path)
        if found == self._stamp:
            return
        async with self._reading:
            if found == self._stamp:
                return
            try:
                content = await work.disk(self._path.read_bytes)
                self._is_readable = True
            except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
                _log.error("password file unreadable", file=str(self._path), reason=str(error))
                content, self._is_readable = b"", False
            except OSError as error:  # a passing trouble: what was read last still counts
                _log.error("password file not read again", reason=str(error))
                return
            self._file = PasswordFile.parse(content)
            self._nobody = _hash_of_nobody(self._file)
            self._stamp = found
            for fault in self._file.faults:
                _log.warning(
                    "password line ignored",
                    file=str(self._path),
                    line=fault.line,
                    reason=fault.reason,
                )

    def _stored(self, account: str) -> bytes:
        return self._file.hashes.get(account, self._nobody)

    def _proof(self, credentials: Credentials, stored: bytes) -> bytes:
        account = credentials.account.encode()
        message = b"%d:%b%b%b" % (len(account), account, stored, credentials.password)
        return hashlib.blake2b(message, key=self._key, digest_size=32).digest()


async def _compare(password: bytes, stored: bytes, nobody: bytes) -> bool:
    same = await work.password(check_password, password, stored)
    if not same and _effort(stored) < _effort(nobody):
        # A cheap refusal would tell that the account exists.
        await work.password(check_password, password, nobody)
    return same


def _generation(stored: bytes) -> str:
    """Hash a hash, which has a salt of its own: whoever has a token learns nothing from it."""
    return hashlib.blake2b(stored, digest_size=16, person=b"generation").hexdigest()


def _weakness(account: str, stored: bytes) -> str:
    found = parse_hash(stored)
    if found is None or not found.weakness:
        return ""
    return (
        f"the password of {account} is kept as a weak hash, {found.weakness};"
        f" set it anew: registry user passwd {account}"
    )


def _effort(stored: bytes) -> float:
    found = parse_hash(stored)
    return found.effort if found else 0.0


def _hash_of_nobody(file: PasswordFile) -> bytes:
    """Make up a hash that costs as much to check as the dearest real one; no password has it."""
    dearest = parse_hash(max(file.hashes.values(), key=_effort, default=b""))
    if dearest is None:
        return bcrypt.gensalt(COST) + secrets.token_hex(16)[:31].encode()
    return dearest.like().value
