"""Values that settings are written in, each read from text by its own `parse`."""

import ipaddress
import math
import re
from typing import Self

_ADDRESS = re.compile(
    r"(?:\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<four>[^:\[\]\s/]*)):(?P<port>\d{1,5})", re.ASCII
)
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,3})?) ?(ms|s|m|h|d|w)", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_SIZE = re.compile(r"0|(\d{1,9}) ?([KMGT]i?B)", re.ASCII)
_BYTES = {
    f"{letter}{ending}": base**power
    for power, letter in enumerate("KMGT", start=1)
    for ending, base in (("B", 1000), ("iB", 1024))
}
_NETWORK = re.compile(r"[0-9a-fA-F:.]+(?:/\d{1,3})?", re.ASCII)
_MAPPED_BITS = 96


class Address(str):
    """Where to listen, `HOST:PORT`; no host, or `[::]`, stands for every address of the machine."""

    __slots__ = ("host", "port")

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an address; raises ValueError."""
        parts = _ADDRESS.fullmatch(text)
        if parts is None or int(parts["port"]) > 65535:
            raise ValueError(text)
        if parts["six"]:
            ipaddress.IPv6Address(parts["six"])
        return cls.of(parts["six"] or parts["four"] or "::", int(parts["port"]))

    @classmethod
    def of(cls, host: str, port: int) -> Self:
        """Join host and port."""
        address = cls(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        address.host, address.port = host, port
        return address


class Duration(float):
    """Seconds, written as text with a unit: `"500ms"`, `"10s"`, `"2m"`, `"24h"`, `"7d"`."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a duration; raises ValueError."""
        parts = _DURATION.fullmatch(text)
        if parts is None or not float(parts[1]):
            raise ValueError(text)
        return cls(float(parts[1]) * _SECONDS[parts[2]])


class Age(float):
    """Seconds, written like a duration; or `"keep"`, which is for ever."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an age; raises ValueError."""
        return cls(math.inf if text == "keep" else Duration.parse(text))


class Interval(float):
    """Seconds, written like a duration; or `"never"`, or `"0"`, which are for ever."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an interval; raises ValueError."""
        return cls(math.inf if text in {"never", "0"} else Duration.parse(text))


class Size(int):
    """Bytes, written as text with a unit: `"512KiB"`, `"20MiB"`, `"5GB"`; or `"0"`."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a size; raises ValueError."""
        parts = _SIZE.fullmatch(text)
        if parts is None:
            raise ValueError(text)
        return cls(int(parts[1]) * _BYTES[parts[2]] if parts[1] else 0)


class Network(str):
    """An address, or a network as address and prefix length, `10.0.0.0/8`."""

    __slots__ = ("network",)

    network: ipaddress.IPv4Network | ipaddress.IPv6Network

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a network, IPv4-mapped IPv6 as IPv4; raises ValueError, also for set host bits."""
        if _NETWORK.fullmatch(text) is None:
            raise ValueError(text)
        found = ipaddress.ip_network(text)
        mapped = getattr(found.network_address, "ipv4_mapped", None)
        if mapped is not None and found.prefixlen >= _MAPPED_BITS:
            found = ipaddress.IPv4Network((mapped, found.prefixlen - _MAPPED_BITS))
        network = cls(found)
        network.network = found
        return network
