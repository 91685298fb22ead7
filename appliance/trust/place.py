"""Where a registry is, as a person types it: a URL, HOST:PORT, or HOST alone."""

import ipaddress
import re
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

_DEFAULT_PORTS = {"https": 443, "http": 80}
_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?")


@dataclass(frozen=True, slots=True)
class Place:
    """A registry's address."""

    scheme: str
    """`https`, or `http` for one without TLS."""
    host: str
    """A name or an IP address, without brackets."""
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what somebody typed; raises ValueError with one sentence."""
        url = text if "://" in text else f"https://{text}"
        wanted = "give a registry as HOST, HOST:PORT or https://HOST:PORT"
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError as error:
            raise ValueError(f"{text!r} is no address ({error}); {wanted}") from None
        if parts.scheme not in _DEFAULT_PORTS:
            raise ValueError(f"{text!r} is neither https nor http; {wanted}")
        if parts.username is not None:
            raise ValueError("a password does not belong into an address; use --user")
        if parts.path not in ("", "/") or parts.query or parts.fragment:
            raise ValueError(f"{text!r} says more than where the registry is; {wanted}")
        return cls(parts.scheme, _host(host, text, wanted), port or _DEFAULT_PORTS[parts.scheme])

    @property
    def name(self) -> str:
        """HOST, or HOST:PORT where the port is not the usual one: what images are named after."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def is_private(self) -> bool:
        """Tell whether nobody reads on the way: it is encrypted, or does not leave this machine."""
        return self.scheme == "https" or is_loopback(self.host)

    @property
    def url(self) -> str:
        """The address with its scheme, without a path."""
        return f"{self.scheme}://{self.name}"


def _host(host: str, text: str, wanted: str) -> str:
    if is_address(host):
        return str(ipaddress.ip_address(host))
    try:
        name = host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError:
        name = ""
    if _HOST.fullmatch(name) is None:
        raise ValueError(f"{text!r} names no host; {wanted}")
    return name.lower()


def is_address(host: str) -> bool:
    """Tell whether a host is an IP address, which no resolver is asked for."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine itself, whatever a resolver says."""
    return host == "localhost" or (is_address(host) and ipaddress.ip_address(host).is_loopback)
