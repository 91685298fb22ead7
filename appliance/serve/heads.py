"""The heads of HTTP/1.1 messages: requests read strictly, responses written (RFC 9112).

llhttp, by way of httptools, reads the lines; it is the parser of Node.js and refuses what two
readers could understand in two ways: a bare LF, folded lines, a space before the colon, several
lengths, a length beside a transfer coding. A complete head is given to it in one piece, and only
the head: where a body ends is for `bodies` to say. What it lets pass although we do not want it
is refused here.
"""

import re
import time
from collections.abc import Iterable
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from urllib.parse import unquote

import msgspec
from httptools import (
    HttpParserError,
    HttpParserInvalidMethodError,
    HttpParserUpgrade,
    HttpRequestParser,
)

from appliance.oci.errors import REQUEST_INVALID
from appliance.serve.connection import Fields

HEAD_MAX = 32 << 10
"""Bytes of a request's head, the empty line included."""

FIELDS_MAX = 100
"""Header fields of a request; what sits between a client and us may add some to its dozen."""

_HOST = re.compile(rb"(?:\[[0-9A-Za-z:.%]*\]|[!$%&'()*+,;=\-._~0-9A-Za-z]*)(?::[0-9]*)?")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_METHOD = re.compile(rb"[A-Z][!#$%&'*+\-.^_`|~0-9A-Za-z]* ")

END = b"\r\n\r\n"


class RefusalError(Exception):
    """A request that cannot be served as it was sent; the connection ends with the answer."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence

    @property
    def document(self) -> bytes:
        """The answer's body, the specification's error JSON."""
        code = {"code": REQUEST_INVALID.code, "message": self.sentence}
        return msgspec.json.encode({"errors": [code]})


class RequestHead:
    """What a request says before its body."""

    __slots__ = (
        "chunked",
        "expects_continue",
        "fields",
        "keep_alive",
        "length",
        "method",
        "path",
        "query",
        "raw_path",
        "version",
    )

    method: str
    path: str
    """The decoded path."""
    raw_path: bytes
    """The target up to the `?`, percent-encoded as it came."""
    query: bytes
    """What follows the `?`."""
    version: str
    """`1.0` or `1.1`."""
    fields: Fields
    """The header fields, with their names in lower case."""
    length: int
    """Bytes of the body, as far as announced; 0 for a chunked one."""
    chunked: bool
    expects_continue: bool
    """Whether the client waits to be told before it sends the body."""
    keep_alive: bool
    """Whether the client can send another request afterwards."""


class _Parsed:
    """What llhttp calls back with."""

    __slots__ = ("fields", "target")

    def __init__(self) -> None:
        self.target = b""
        self.fields: Fields = []

    def on_url(self, piece: bytes) -> None:
        self.target += piece

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value.rstrip(b" \t")))


def parse_head(head: bytes) -> RequestHead:
    """Read a whole head, from the request line to the empty line; raises RefusalError."""
    parsed = _Parsed()
    parser = HttpRequestParser(parsed)
    try:
        parser.feed_data(head)
    except HttpParserUpgrade:
        pass  # to go on with HTTP/1.1 is always a right answer (RFC 9110, 7.8)
    except HttpParserInvalidMethodError:
        if not _METHOD.match(head):
            raise malformed("this is not HTTP") from None
        raise RefusalError(HTTPStatus.NOT_IMPLEMENTED, "the method is unknown") from None
    except HttpParserError as error:
        raise malformed(str(error)) from None
    return _understood(head, parser, parsed)


def _understood(head: bytes, parser: HttpRequestParser, parsed: _Parsed) -> RequestHead:
    """Refuse what llhttp lets pass, and take what the header fields say of the message itself."""
    method, target, version = parser.get_method(), parsed.target, parser.get_http_version()
    if version not in {"1.0", "1.1"}:
        raise RefusalError(
            HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, f"HTTP/{version} is not spoken here"
        )
    # llhttp skips empty lines and spaces here, and knows other protocols by name.
    if not head.startswith(b"%b %b HTTP/%b\r\n" % (method, target, version.encode())):
        raise malformed("the request line is malformed")
    if len(parsed.fields) > FIELDS_MAX:
        raise RefusalError(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"more than {FIELDS_MAX} header fields"
        )
    found = RequestHead()
    found.method = method.decode("ascii")
    found.version = version
    found.fields = parsed.fields
    found.length = 0
    found.chunked = found.expects_continue = False
    hosts = 0
    options = b""
    for name, value in parsed.fields:
        if name == b"host":
            hosts += 1
            if not _HOST.fullmatch(value):
                raise malformed("the Host header is malformed")
        elif name == b"content-length":
            found.length = int(value)
        elif name == b"transfer-encoding":
            _require_chunked(value, version)
            found.chunked = True
        elif name == b"expect":
            found.expects_continue = version == "1.1" and value.lower() == b"100-continue"
        elif name == b"connection":
            options += b"," + value.lower()
    if hosts != 1 and (hosts or version == "1.1"):
        raise malformed("there must be one Host header")
    found.keep_alive = _keeps_alive(version, options)
    found.raw_path, _, found.query = _path(found, target).partition(b"?")
    found.path = unquote(found.raw_path)
    return found


def _keeps_alive(version: str, options: bytes) -> bool:
    """Tell what the Connection header, or its absence, means (RFC 9112, 9.3)."""
    if not options:
        return version == "1.1"
    named = {option.strip() for option in options.split(b",")}
    return b"close" not in named and (version == "1.1" or b"keep-alive" in named)


def malformed(sentence: str) -> RefusalError:
    """Make the error for a request that breaks the protocol's grammar."""
    return RefusalError(HTTPStatus.BAD_REQUEST, sentence)


def _require_chunked(coding: bytes, version: str) -> None:
    if version == "1.0":
        raise malformed("Transfer-Encoding came after HTTP/1.0")
    if coding.lower() != b"chunked":
        raise RefusalError(HTTPStatus.NOT_IMPLEMENTED, "the only transfer coding known is chunked")


def _path(head: RequestHead, target: bytes) -> bytes:
    """Give path and query of any form of target (RFC 9112, 3.2)."""
    if b"#" in target:
        raise malformed("the target contains a fragment")
    if target.startswith(b"/") or (target == b"*" and head.method == "OPTIONS"):
        return target
    scheme, separator, rest = target.partition(b"://")
    if not separator or scheme.lower() not in {b"http", b"https"}:
        raise malformed("the target is neither a path nor a URL")
    # As if to a proxy: the authority stands for the Host header, whatever that one says.
    host = re.split(rb"[/?]", rest, maxsplit=1)[0]
    if not host or not _HOST.fullmatch(host):
        raise malformed("the target names no host")
    head.fields = [(b"host", host), *(field for field in head.fields if field[0] != b"host")]
    path = rest[len(host) :]
    return path if path.startswith(b"/") else b"/" + path


def check_partial(received: bytearray) -> None:
    """Refuse what cannot become a head, however it goes on; raises RefusalError.

    Waiting for the end of a head that has no proper line ends would be waiting for the deadline.
    """
    if received[:1] and not 0x41 <= received[0] <= 0x5A:
        raise malformed("this is not HTTP")
    if received.count(b"\n") > FIELDS_MAX + 1:
        raise RefusalError(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"more than {FIELDS_MAX} header fields"
        )
    if _BARE_LF.search(received):
        raise malformed("a line ends with a bare LF")
    if len(received) > HEAD_MAX:
        raise RefusalError(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"more than {HEAD_MAX} bytes of header"
        )


_REASONS = {status.value: status.phrase for status in HTTPStatus}


@lru_cache(maxsize=128)
def _status_line(status: int) -> bytes:
    return b"HTTP/1.1 %d %b\r\n" % (status, _REASONS.get(status, "").encode("ascii"))


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode("ascii")


def date() -> bytes:
    """Give the value of the Date header, which is made anew once a second."""
    return _date(int(time.time()))


def response_head(status: int, fields: Iterable[tuple[bytes, bytes]], *extra: bytes) -> bytes:
    """Write a head; `extra` are whole lines, CRLF included. The Date header is added."""
    lines = [_status_line(status)]
    lines += [b"%b: %b\r\n" % field for field in fields]
    lines += extra
    lines += (b"date: ", date(), END)
    return b"".join(lines)


def refusal(error: RefusalError) -> bytes:
    """Write the whole answer to a request that is refused; the connection ends with it."""
    content = error.document
    fields = (
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(content)),
        (b"connection", b"close"),
    )
    return response_head(error.status, fields) + content


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
