"""With which password the clients of this machine log in: what docker and podman have kept."""

import base64
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from appliance.doctor.findings import Report
from appliance.trust.place import Place

KEPT = "password"
_HELPER_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class Login:
    """An account and its password, and where they were found."""

    account: str
    password: str = field(repr=False)
    source: str
    is_asked_for: bool = False
    """Somebody gave it for this registry, as it is reached now."""

    @property
    def basic(self) -> str:
        """The header that says both."""
        return "Basic " + base64.b64encode(f"{self.account}:{self.password}".encode()).decode()


class _Entry(msgspec.Struct):
    auth: str = ""
    username: str = ""
    password: str = ""
    identitytoken: str = ""


class _Kept(msgspec.Struct, rename="camel"):
    auths: dict[str, _Entry] = {}
    cred_helpers: dict[str, str] = {}
    creds_store: str = ""


class _Helped(msgspec.Struct):
    username: str = msgspec.field(name="Username", default="")
    secret: str = msgspec.field(name="Secret", default="")


def find_login(
    place: Place, environment: Mapping[str, str], within: float, report: Report
) -> Login | None:
    """Find the password that docker, or else podman, has kept for a registry.

    What is there and cannot be read is told.
    """
    for path in _files(environment):
        try:
            kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
        except FileNotFoundError:
            continue
        except OSError as error:
            report.unseen(KEPT, path, f"cannot be read ({error.strerror})")
            continue
        except msgspec.DecodeError as error:
            report.fault(
                KEPT, path, f"is not what docker writes ({error})", f"mend it, or: rm {path}"
            )
            continue
        login = _of(place, path, kept, within, report)
        if login is not None:
            return login
    return None


def _files(environment: Mapping[str, str]) -> Iterator[Path]:
    home = Path(environment.get("HOME") or "/root")
    yield Path(environment.get("DOCKER_CONFIG") or home / ".docker") / "config.json"
    if named := environment.get("REGISTRY_AUTH_FILE"):
        yield Path(named)
    if runtime := environment.get("XDG_RUNTIME_DIR"):
        yield Path(runtime) / "containers/auth.json"
    yield Path(f"/run/containers/{os.getuid()}/auth.json")
    yield home / ".config/containers/auth.json"


def _of(place: Place, path: Path, kept: _Kept, within: float, report: Report) -> Login | None:
    names = (place.name, place.url, f"{place.url}/", f"{place.url}/v2/", f"{place.url}/v1/")
    helper = next((kept.cred_helpers[name] for name in names if name in kept.cred_helpers), "")
    entry = next((kept.auths[name] for name in names if name in kept.auths), None)
    if helper or (entry is not None and kept.creds_store):
        return _from_helper(place, path, helper or kept.creds_store, within, report)
    if entry is None:
        return None
    if entry.identitytoken:
        report.unseen(KEPT, path, f"has a token for {place.name}, which only docker can use")
        return None
    account, password = entry.username, entry.password
    if entry.auth:
        try:
            decoded = base64.b64decode(entry.auth, validate=True).decode().rstrip("\0")
        except ValueError:
            decoded = ""
        account, _, password = decoded.partition(":")
    if not account or not password:
        report.fault(
            KEPT,
            path,
            f"what it has for {place.name} is no name with a password",
            f"docker logout {place.name} && docker login {place.name}",
        )
        return None
    return Login(account, password, str(path))


def _from_helper(
    place: Place, path: Path, helper: str, within: float, report: Report
) -> Login | None:
    program = f"docker-credential-{helper}"
    found = shutil.which(program) if "/" not in helper else None
    if found is None:
        report.fault(
            KEPT,
            path,
            f"names {program} as where the password is, and that is not installed",
            f"install it, or take credsStore and credHelpers out of {path} and: docker login {place.name}",
        )
        return None
    for name in (place.name, place.url):
        try:
            done = subprocess.run(  # noqa: S603  the program that docker runs for this
                [found, "get"],
                input=name.encode(),
                capture_output=True,
                timeout=within,
                check=True,
            )
            helped = msgspec.json.decode(done.stdout[:_HELPER_MAX], type=_Helped)
        except (OSError, subprocess.SubprocessError, msgspec.DecodeError):
            continue
        if helped.username and helped.secret and helped.username != "<token>":
            return Login(helped.username, helped.secret, program)
    report.unseen(
        KEPT, path, f"{program} gives no password for {place.name}", f"docker login {place.name}"
    )
    return None
