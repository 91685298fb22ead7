"""Accounts of an LDAP directory, which alone knows their passwords and is asked as seldom as can be.

A login is a search for the one entry that the operator's filter finds for the name, then a bind as
that entry with the password. What was right is remembered for a while under a keyed hash, as in
`htpasswd`; which generation an account is of is asked again every minute, so whoever is removed is
out by then, tokens included. A directory that does not answer never makes a password wrong: that
is an error of ours, and meanwhile what was known last counts for a few minutes.

LDAP compares more loosely than the registry's rules do: an entry counts only if it has the name
letter by letter, or Alice and alice would be two accounts of one password. It also takes an empty
password for no login at all and says yes (RFC 4513, 5.1.2), and `libldap` ends a password at its
first NUL: both are wrong here before anybody is asked.
"""

import hashlib
import re
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import structlog
import trio

from appliance.accounts.asking import Memory, Questions, too_many_logins
from appliance.accounts.editing import check_name
from appliance.accounts.files import AccountError
from appliance.accounts.ldap import (
    DirectoryError,
    Entry,
    LdapWire,
    OutageError,
    SeveralEntriesError,
    Terms,
)
from appliance.oci.errors import DIRECTORY_UNAVAILABLE, RegistryError
from appliance.protocol.credentials import PASSING, Credentials, is_jwt
from appliance.protocol.keys import PREFIX

_RIGHT_SECONDS = 300.0
_WRONG_SECONDS = 30.0  # clients try one again at once; nothing tells when it becomes the right one
_KNOWN_SECONDS = 60.0
_LAST_KNOWN_SECONDS = 600.0
_PAUSE_SECONDS = 5.0  # in an outage, between questions whose last answer still counts
_SIDE_BY_SIDE = 8
_WAITING_MAX = 64  # as in htpasswd

_PASSWORD_MARKS = ("pwdchangedtime", "pwdlastset")
_MARKS = ("entryuuid", "objectguid", *_PASSWORD_MARKS)
"""Attributes, where a directory has them, that tell an entry from a later one, and its passwords."""

_NAMED = re.compile(r"\(\s*([A-Za-z][A-Za-z0-9-]*)\s*=\{account\}\)")

_log = structlog.get_logger()

T = TypeVar("T")


class Wire(Protocol):
    """The two questions that a directory is asked; the one who asks sets a deadline."""

    async def search(self, expression: str, attributes: Sequence[str]) -> Sequence[Entry]:
        """Return what matches, two at most; raises SeveralEntriesError or OutageError."""

    async def proves(self, dn: str, password: bytes) -> bool:
        """Tell whether a password, which is not empty, is that of an entry; raises OutageError."""


class Directory:
    """The accounts of one directory."""

    def __init__(self, terms: Terms, *, connect: Callable[[Terms], Wire] | None = None) -> None:
        names = {name.lower() for name in _NAMED.findall(terms.filter)}
        if not names:
            raise DirectoryError(
                f"{terms.filter} names no attribute: it needs one (uid={{account}})"
            )
        if (terms.bind_dn or terms.bind_password) and not (
            terms.bind_dn and is_password(terms.bind_password)
        ):
            raise DirectoryError("the account to search with needs a DN and a password in UTF-8")
        self._terms = terms
        self._names = sorted(names)
        self._wire = (connect or LdapWire)(terms)
        self._key = secrets.token_bytes(32)
        self._right: Memory[bytes, str] = Memory(_RIGHT_SECONDS)
        self._wrong: Memory[bytes, bool] = Memory(_WRONG_SECONDS)
        self._known: Memory[str, _Known] = Memory(_LAST_KNOWN_SECONDS)
        self._logins: Questions[bytes, str | None] = Questions(_WAITING_MAX)
        self._lookups: Questions[str, str | None] = Questions()
        # Guesses at passwords must not stand before the tokens of those who are in.
        self._login_turns = trio.CapacityLimiter(_SIDE_BY_SIDE)
        self._lookup_turns = trio.CapacityLimiter(_SIDE_BY_SIDE)
        self._answers = True
        self._pause_until = 0.0

    async def recall(self, credentials: Credentials) -> str | None:
        """Return what `verify` does for a password that was right a moment ago, at little cost."""
        proved = self._right.find(self._proof(credentials))
        if proved is None or proved != await self.generation(credentials.account):
            return None
        return proved

    def is_wrong(self, credentials: Credentials) -> bool:
        """Tell whether this password was found wrong a moment ago, as clients try one again."""
        return self._wrong.find(self._proof(credentials)) is not None

    async def verify(self, credentials: Credentials) -> str | None:
        """Return the generation that a password proves; None if it is not the account's.

        Raises TOO_MANY_LOGINS, and DIRECTORY_UNAVAILABLE where the directory does not answer.
        """
        if not _is_name(credentials.account) or not _is_for_it(credentials.password):
            return None
        known = await self.recall(credentials)
        if known is not None:
            return known
        proof = self._proof(credentials)
        ask = partial(self._ask, self._login_turns, partial(self._log_in, credentials))
        generation = await self._logins.answer(proof, ask)
        if generation is None:
            self._wrong.keep(proof, True)
        else:
            self._right.keep(proof, generation)
        return generation

    async def generation(self, account: str) -> str | None:
        """Return what changes with an account's password; None if there is no such account.

        It is a minute old at most, and ten where the directory does not answer; then this raises
        DIRECTORY_UNAVAILABLE.
        """
        if not _is_name(account):
            return None
        known = self._known.find(account)
        if known is not None:
            now = trio.current_time()
            if now < max(known.asked + _KNOWN_SECONDS, self._pause_until):
                return known.generation
        ask = partial(self._ask, self._lookup_turns, partial(self._look_up, account))
        try:
            return await self._lookups.answer(account, ask)
        except RegistryError:
            if known is None:
                raise
            return known.generation

    def knows(self, account: str) -> bool:
        """Tell whether there was such an account when it was last asked for."""
        known = self._known.find(account)
        return known is not None and known.generation is not None

    def weakness(self, account: str) -> str | None:
        """Say in a sentence what is weak about how an account proves itself: nothing is."""
        return None

    # -- what is asked

    async def _log_in(self, credentials: Credentials) -> str | None:
        asked = trio.current_time()
        entry = await self._entry(credentials.account)
        # A name that nobody has costs a bind too, or time would tell which names there are.
        dn = entry.dn if entry else f"cn={secrets.token_hex(8)},{self._terms.base}".rstrip(",")
        is_right = await self._wire.proves(dn, credentials.password)
        generation = self._generation(entry)
        self._note(credentials.account, generation, asked)
        return generation if is_right else None

    async def _look_up(self, account: str) -> str | None:
        asked = trio.current_time()
        generation = self._generation(await self._entry(account))
        self._note(account, generation, asked)
        return generation

    async def _entry(self, account: str) -> Entry | None:
        expression = self._terms.filter.replace("{account}", escaped(account))
        found: Sequence[Entry] | None
        try:
            found = await self._wire.search(expression, [*self._names, *_MARKS])
        except SeveralEntriesError:
            found = None
        if found is None or len(found) > 1:
            _log.warning("several entries for one account", account=account)
            return None
        for entry in found:
            values = (entry.values.get(name, ()) for name in self._names)
            # An empty DN would bind as nobody, and succeed.
            if entry.dn and any(account.encode() in held for held in values):
                return entry
        return None

    def _generation(self, entry: Entry | None) -> str | None:
        if entry is None:
            return None
        terms = self._terms
        parts = [text.encode() for text in (terms.url, terms.base, terms.filter, entry.dn)]
        for name in _MARKS:
            parts += [name.encode(), *sorted(entry.values.get(name, ()))]
        message = b"".join(b"%d:%b" % (len(part), part) for part in parts)
        proof = hashlib.blake2b(message, digest_size=16, person=b"generation").hexdigest()
        return proof if any(entry.values.get(name) for name in _PASSWORD_MARKS) else PASSING + proof

    def _note(self, account: str, generation: str | None, asked: float) -> None:
        known = self._known.find(account)
        if known is None and generation is None:
            return  # strangers take no room
        if known is None or known.asked <= asked:
            self._known.keep(account, _Known(generation, asked), since=asked)

    def _proof(self, credentials: Credentials) -> bytes:
        account = credentials.account.encode()
        message = b"%d:%b%b" % (len(account), account, credentials.password)
        return hashlib.blake2b(message, key=self._key, digest_size=32).digest()

    # -- asking

    async def _ask(self, turns: trio.CapacityLimiter, question: Callable[[], Awaitable[T]]) -> T:
        seconds = self._terms.timeout_seconds
        if trio.current_time() < self._pause_until:
            raise _unavailable()
        try:
            with trio.fail_after(seconds):
                await turns.acquire()
        except trio.TooSlowError:
            raise too_many_logins() from None
        try:
            with trio.fail_after(seconds):
                answer = await question()
        except trio.TooSlowError:
            raise self._outage(f"no answer within {seconds:g} seconds") from None
        except OutageError as outage:
            raise self._outage(str(outage)) from outage
        finally:
            turns.release()
        if not self._answers:
            self._answers = True
            _log.info("directory answers again", url=self._terms.url)
        self._pause_until = 0.0
        return answer

    def _outage(self, reason: str) -> RegistryError:
        if self._answers:
            self._answers = False
            _log.error("directory does not answer", url=self._terms.url, reason=reason)
        self._pause_until = trio.current_time() + _PAUSE_SECONDS
        return _unavailable()


def escaped(value: str) -> str:
    r"""Make a value stand for itself in a filter (RFC 4515, 3)."""
    return re.sub(r"[*()\\\0]", lambda found: f"\\{ord(found[0]):02x}", value)


def _is_name(account: str) -> bool:
    try:
        check_name(account)
    except AccountError:
        return False
    return " " not in account


def is_password(password: bytes) -> bool:
    """Tell whether it can be one: an empty one is none, and not all of one with a NUL is sent."""
    if not password or b"\0" in password:
        return False
    try:
        password.decode()
    except UnicodeDecodeError:  # LDAP's are UTF-8 (RFC 4513, 5.1.3)
        return False
    return True


def _is_for_it(password: bytes) -> bool:
    """Tell whether a directory may see a password: it need not learn keys and tokens of ours."""
    return is_password(password) and not password.startswith(PREFIX) and not is_jwt(password)


def _unavailable() -> RegistryError:
    return DIRECTORY_UNAVAILABLE.error(headers=(("Retry-After", "10"),))


@dataclass(frozen=True, slots=True)
class _Known:
    generation: str | None
    asked: float
