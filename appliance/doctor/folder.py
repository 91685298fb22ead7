"""Files of a registry on its own machine: who may read them, whose they are, and the room they have."""

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from appliance.accounts.keys import FILE as KEYS
from appliance.accounts.signing import SIGNING_KEYS
from appliance.doctor.findings import Report
from appliance.firststart import password_note
from appliance.registry.space import amount, reserve_of
from appliance.settings import Settings

MODE, OWNER, ROOM = "mode", "owner", "room"
_LOOKED_AT_MAX = 50_000  # files: a large registry is not read to its end for this
_FREE_INODES_MIN = 0.02
_OF_THE_DISK = "lost+found"  # root's, at the top of each ext4


def _closing(path: Path, settings: Settings, source: Path) -> str:
    """Give the command that closes a file to others, and not to the registry, whose it need not be."""
    if path == source:
        with suppress(OSError, KeyError):
            owner = settings.data.stat()
            if owner.st_uid not in {0, path.stat().st_uid}:
                group = grp.getgrgid(owner.st_gid).gr_name
                return f"chgrp {group} {path} && chmod u=rw,g=r,o= {path}"
    return f"chmod o= {path}"


def examine_modes(settings: Settings, source: Path, report: Report) -> None:
    """Look for secrets that others may read, and for settings that others may write."""
    found = False
    for path in _secrets(settings, source):
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
        except FileNotFoundError:
            continue
        except OSError as error:
            report.unseen(
                MODE, path, f"cannot be looked at ({error.strerror})", "sudo registry doctor"
            )
            continue
        found = True
        if mode & stat.S_IRWXO:
            may = "read" if mode & stat.S_IROTH else "enter" if path.is_dir() else "change"
            report.fault(
                MODE,
                path,
                f"everybody on this machine may {may} it (mode {mode:04o})",
                _closing(path, settings, source),
            )
    for path in (source, Path(settings.tls.certificate or source)):
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
        except OSError:
            continue
        if mode & stat.S_IWOTH:
            report.fault(
                MODE,
                path,
                f"everybody on this machine may change it (mode {mode:04o})",
                f"chmod o-w {path}",
            )
    if found and not report.has_trouble(MODE):
        report.ok(MODE, settings.data, "keys and passwords are for the registry alone")


def examine_owners(settings: Settings, user: int | None, report: Report) -> None:
    """Look for files in the data folder that are not the service's; `user` is whose they should be."""
    try:
        owner = settings.data.stat().st_uid if user is None else user
    except FileNotFoundError:
        return
    except OSError as error:
        report.unseen(OWNER, settings.data, f"cannot be looked at ({error.strerror})")
        return
    if owner == 0:
        return  # whom nothing here keeps from anything
    strange: list[Path] = []
    looked = 0
    try:
        for looked, (path, state) in enumerate(_walk(settings.data), start=1):
            if state.st_uid != owner:
                strange.append(path)
            if looked == _LOOKED_AT_MAX:
                break
    except PermissionError as error:
        report.unseen(
            OWNER, settings.data, f"{error.filename} is closed to you", "sudo registry doctor"
        )
        return
    name = _name(owner)
    if strange:
        these = f"this one and {len(strange) - 1} more are" if len(strange) > 1 else "this one is"
        report.fault(
            OWNER,
            strange[0],
            f"of {looked} files and folders that were looked at {these} not {name}'s, as whom the registry"
            " runs",
            f"chown -R {name}: {settings.data.resolve()}",
        )
    else:
        what = f"{name}'s, as far as looked at: {looked} of its files and folders"
        report.ok(OWNER, settings.data, what)


def examine_room(settings: Settings, report: Report) -> None:
    """Look at the disk that the data folder is on: bytes, and inodes."""
    folder = next(one for one in (settings.data, *settings.data.parents) if os.access(one, os.F_OK))
    try:
        state = os.statvfs(folder)
    except OSError as error:
        report.unseen(ROOM, folder, f"cannot be looked at ({error.strerror})")
        return
    free, total = state.f_bavail * state.f_frsize, state.f_blocks * state.f_frsize
    reserve = reserve_of(settings.storage.reserve, total)
    told = f"{amount(free)} of {amount(total)} are free"
    remedy = (
        "registry gc --dry-run, then: registry gc",
        "or a larger disk, or less in [storage] reserve",
    )
    if free < reserve or free == 0:
        report.fault(
            ROOM,
            settings.data,
            f"{told}, less than the {amount(reserve)} in reserve, so that pushes are refused",
            *remedy,
        )
    elif free - reserve < total // 20:
        report.warn(
            ROOM,
            settings.data,
            f"{told}, {amount(reserve)} of them in reserve: nearly full",
            *remedy,
        )
    elif state.f_files and state.f_favail < state.f_files * _FREE_INODES_MIN:
        kind = report.warn if state.f_favail else report.fault
        kind(
            ROOM,
            settings.data,
            f"{told}, but only {state.f_favail} of {state.f_files} inodes, without which no file can be made",
            "df -i shows it; registry gc frees those of blobs nobody needs",
            "or a file system that was made with more: mkfs.ext4 -i 16384",
        )
    else:
        report.ok(ROOM, settings.data, told)


def _secrets(settings: Settings, source: Path) -> Iterator[Path]:
    if settings.failure.webhook:  # whoever knows such an address may write there
        yield source
    yield settings.data
    yield settings.htpasswd
    yield password_note(settings)
    yield settings.data / KEYS
    yield settings.data / SIGNING_KEYS
    yield from (settings.data / "tls" / name for name in ("ca.key", "server.key"))
    named = (settings.tls.key, *(pair.key for pair in settings.tls.additional))
    passwords = (settings.ldap.bind_password_file, settings.failure.smtp_password_file)
    yield from (Path(one) for one in (*named, *passwords) if one)


def _walk(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    yield folder, folder.stat()
    waiting = [folder]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.path == str(folder / _OF_THE_DISK):
                    continue
                try:
                    state = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue  # it has gone meanwhile
                yield Path(entry.path), state
                if stat.S_ISDIR(state.st_mode):
                    waiting.append(Path(entry.path))


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)
