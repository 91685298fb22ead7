"""The header that a proxy puts before a connection it passes on unread (PROXY protocol, 1 and 2).

It follows HAProxy's specification "The PROXY protocol", sections 2.1 (one line of text) and 2.2
(binary). The header comes before TLS, from a peer that the caller trusts and knows to send one:
guessing whether it is there would let anybody forge an address (section 2).

What follows the header belongs to TLS and must stay in the socket. So `read_header` never asks for
more than what is certain to belong to the header: at first the length of the shortest one, then
what version 2 announces, or of the line of version 1 the two bytes that can end it. That is some
forty reads of a line at most, once in a connection, and unlike peeking it needs no wait that ends
at once as long as a partial header lies unread.
"""

import re
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

import trio

from appliance.protocol.addresses import unmapped

LINE_MAX = 107
"""Bytes of a header of version 1, its CRLF included (2.1)."""

BLOCK_MAX = 4096
"""Bytes that a header of version 2 may announce; addresses take 216, the rest are extensions."""

_LINE_MIN = len(b"PROXY UNKNOWN\r\n")
_PREFIX = 16
_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_GREETING = b"PROXY "
_LINE = re.compile(
    rb"PROXY (?:UNKNOWN(?: .*)?|(?P<family>TCP4|TCP6)"
    rb" (?P<source>[0-9A-Fa-f:.]+) (?P<destination>[0-9A-Fa-f:.]+)"
    rb" (?P<port>0|[1-9]\d{0,4}) (?P<other_port>0|[1-9]\d{0,4}))",
    re.DOTALL,
)
_LOCAL, _PROXY = 0x20, 0x21
_TCP_OVER_IPV4, _TCP_OVER_IPV6 = 0x11, 0x21
_FAMILY_MAX, _TRANSPORT_MAX = 3, 2


class ProxyHeaderError(Exception):
    """What a proxy sent is no PROXY header; the connection is to be dropped (section 2)."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """A header that has been read."""

    source: tuple[str, int] | None
    """The client's address and port, IPv4-mapped IPv6 as IPv4.

    None when the connection is the proxy's own (LOCAL) or of a kind that has no such address; the
    real peer counts then.
    """
    size: int
    """Bytes that the header took."""


def parse(buffer: bytes) -> ProxyHeader | None:
    """Read the header that bytes begin with; None until it is there as a whole.

    Raises ProxyHeaderError when no bytes that follow can make it one.
    """
    if buffer.startswith(_SIGNATURE):
        return _parse_block(buffer)
    if buffer.startswith(_GREETING):
        return _parse_line(buffer)
    if not (_SIGNATURE.startswith(buffer) or _GREETING.startswith(buffer)):
        raise ProxyHeaderError("it begins with something else")
    return None


async def read_header(sock: socket.socket) -> ProxyHeader:
    """Take the header out of a connected socket that does not block, and not a byte more.

    Waits as long as it takes, so the caller sets a deadline. Raises ProxyHeaderError, also when
    the connection ends before the header does, and OSError when it breaks.
    """
    await trio.lowlevel.checkpoint()
    buffer = b""
    while (header := parse(buffer)) is None:
        try:
            piece = sock.recv(_certain(buffer))
        except BlockingIOError:
            await trio.lowlevel.wait_readable(sock)
            continue
        if not piece:
            raise ProxyHeaderError("the connection ended before it did")
        buffer += piece
    return header


def _certain(buffer: bytes) -> int:
    """Count the bytes that an incomplete header still needs at least."""
    if len(buffer) < _LINE_MIN:
        return _LINE_MIN - len(buffer)
    if not buffer.startswith(_SIGNATURE):
        return 1 if buffer.endswith(b"\r") else 2
    return _size(buffer) - len(buffer)


def _size(block: bytes) -> int:
    """Return the length of a header of version 2, as far as it is known."""
    return _PREFIX + (int.from_bytes(block[14:16]) if len(block) >= _PREFIX else 0)


def _parse_line(buffer: bytes) -> ProxyHeader | None:
    end = buffer.find(b"\r\n", 0, LINE_MAX)
    if end < 0:
        if len(buffer) >= LINE_MAX:
            raise ProxyHeaderError(f"its line does not end within {LINE_MAX} bytes")
        return None
    line = _LINE.fullmatch(buffer[:end])
    if line is None:
        raise ProxyHeaderError("its line is malformed")
    family, source, destination, port, other_port = line.groups()
    if family is None:
        return ProxyHeader(None, end + 2)
    read = IPv4Address if family == b"TCP4" else IPv6Address
    try:
        read(destination.decode())
        address = unmapped(read(source.decode()))
    except ValueError:
        raise ProxyHeaderError(f"its line has addresses that are not {family.decode()}") from None
    if max(int(port), int(other_port)) > 65535:
        raise ProxyHeaderError("its line has a port above 65535")
    return ProxyHeader((str(address), int(port)), end + 2)


def _parse_block(buffer: bytes) -> ProxyHeader | None:
    if len(buffer) < _PREFIX:
        return None
    command, kind = buffer[12:14]
    size = _size(buffer)
    if command not in {_LOCAL, _PROXY}:
        raise ProxyHeaderError(f"its version and command are unknown: {command:#04x}")
    is_local = command == _LOCAL  # of such a one the kind is ignored
    if not is_local and (kind >> 4 > _FAMILY_MAX or kind & 0xF > _TRANSPORT_MAX):
        raise ProxyHeaderError(f"its family and transport are unknown: {kind:#04x}")
    if size > _PREFIX + BLOCK_MAX:
        raise ProxyHeaderError(f"it announces more than {BLOCK_MAX} bytes")
    if len(buffer) < size:
        return None
    source = None if is_local else _source(kind, buffer[_PREFIX:size])
    return ProxyHeader(source, size)


def _source(kind: int, addresses: bytes) -> tuple[str, int] | None:
    if kind not in {_TCP_OVER_IPV4, _TCP_OVER_IPV6}:
        return None
    width = 4 if kind == _TCP_OVER_IPV4 else 16
    if len(addresses) < 2 * width + 4:
        raise ProxyHeaderError("its addresses are cut short")
    read = IPv4Address if kind == _TCP_OVER_IPV4 else IPv6Address
    address = unmapped(read(addresses[:width]))
    return str(address), int.from_bytes(addresses[2 * width : 2 * width + 2])
