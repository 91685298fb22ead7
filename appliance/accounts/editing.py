"""Changing a password file: one account at a time, everything else in it left as it stands."""

import stat
from pathlib import Path

from appliance.accounts.files import AccountError, locked
from appliance.accounts.htpasswd import RESERVED, PasswordFile
from appliance.durable import replace_file


def check_name(name: str) -> None:
    """Refuse names that a password file or a Basic header cannot carry."""
    if not name or ":" in name or name.startswith("#") or name != name.strip():
        raise AccountError(f"{name!r} cannot be an account: no colon, leading # or outer spaces")
    if name.startswith(RESERVED):
        raise AccountError(f"{name!r} cannot be an account: it begins with one of ( @ *")
    if len(name) > 255 or not name.isprintable():  # a stray byte of the command line is neither
        raise AccountError(f"{name!r} cannot be an account: at most 255 printable characters")


def accounts(path: Path) -> PasswordFile:
    """Read a password file; one that does not exist has no accounts. Raises AccountError."""
    return PasswordFile.parse(_read(path))


def require(path: Path, name: str) -> None:
    """Raise AccountError if there is no such account."""
    check_name(name)
    _require(path, _read(path).splitlines(), name)


def add(path: Path, name: str, hashed: bytes) -> None:
    """Add an account; raises AccountError if it is there already."""
    check_name(name)
    with locked(path):
        lines = _read(path).splitlines()
        if _find(lines, name) is not None:
            raise AccountError(
                f"{name} is in {path} already; to set another password: registry user passwd {name}"
            )
        _write(path, [*lines, _entry(name, hashed)])


def set_password(path: Path, name: str, hashed: bytes) -> None:
    """Give an account another password; raises AccountError if there is no such account."""
    check_name(name)
    with locked(path):
        lines = _read(path).splitlines()
        first = _require(path, lines, name)
        kept = _without(lines[first + 1 :], name)
        _write(path, [*lines[:first], _entry(name, hashed), *kept])


def remove(path: Path, name: str) -> None:
    """Remove an account; raises AccountError if there is no such account."""
    check_name(name)
    with locked(path):
        lines = _read(path).splitlines()
        _require(path, lines, name)
        _write(path, _without(lines, name))


def _entry(name: str, hashed: bytes) -> bytes:
    return name.encode() + b":" + hashed


def _find(lines: list[bytes], name: str) -> int | None:
    for number, line in enumerate(lines):
        if _is_of(line, name):
            return number
    return None


def _without(lines: list[bytes], name: str) -> list[bytes]:
    return [line for line in lines if not _is_of(line, name)]


def _is_of(line: bytes, name: str) -> bool:
    return line.strip().partition(b":")[0] == name.encode()


def _require(path: Path, lines: list[bytes], name: str) -> int:
    number = _find(lines, name)
    if number is None:
        raise AccountError(f"{name} is not in {path}; to add it: registry user add {name}")
    return number


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise AccountError(f"{path} cannot be read: {error.strerror}") from error


def _write(path: Path, lines: list[bytes]) -> None:
    try:
        mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o600
        replace_file(path, b"".join(line + b"\n" for line in lines), mode=mode)
    except OSError as error:
        raise AccountError(f"{path} cannot be written: {error.strerror}") from error
