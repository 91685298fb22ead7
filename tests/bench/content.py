"""What is pushed and pulled: noise in files that every client maps, and an image of small layers.

A blob is a stretch of the noise with a mark of its own behind it. So many different blobs take no
more room than one, and the digest of each is known at once: what is in front of the mark has been
hashed already.
"""

import hashlib
import json
import mmap
import secrets
from functools import cache
from pathlib import Path
from typing import NamedTuple

import msgspec

from tests.bench.connection import Connection, Target, location_of

MEBIBYTE = 1 << 20
REPOSITORY = "bench/image"
TAG = "v1"

# What Go's io.Copy hands to a request's body at a time, which becomes one chunk.
_PIECE = 32 << 10
_FRAME = len(b"%x\r\n\r\n" % _PIECE)
_BLOCK = 4 * MEBIBYTE
_MARK = 32
_LAYERS = 8
_LAYER_BYTES = 64 << 10


class Noise(msgspec.Struct, frozen=True):
    """The files: bytes as they are, and the same in chunked coding."""

    raw: str
    chunked: str


def make_noise(folder: Path, *, raw: int, chunked: int) -> Noise:
    """Write both files, for blobs of these sizes."""
    noise = Noise(str(folder / "noise"), str(folder / "noise.chunked"))
    block = hashlib.shake_128(b"bench").digest(_BLOCK)[8:]
    with Path(noise.raw).open("wb") as file:
        count = -(-raw // _BLOCK)
        file.writelines(number.to_bytes(8, "big") + block for number in range(count))
    plain = _mapped(noise.raw)
    with Path(noise.chunked).open("wb") as file:
        pieces = (bytes(plain[at : at + _PIECE]) for at in range(0, chunked, _PIECE))
        file.writelines(b"%x\r\n%b\r\n" % (_PIECE, piece) for piece in pieces)
    return noise


@cache
def _mapped(path: str) -> memoryview:
    with Path(path).open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


@cache
def _hashed(path: str, size: int) -> "hashlib._Hash":
    return hashlib.sha256(_mapped(path)[:size])


class Blob(NamedTuple):
    """A blob: its digest, and its bytes in both forms."""

    digest: str
    size: int
    raw: tuple[memoryview | bytes, ...]
    chunked: tuple[memoryview | bytes, ...]


def blob(noise: Noise, size: int, mark: bytes | None = None) -> Blob:
    """Blob of whole pieces and a mark, which is like no other unless it is given."""
    mark = secrets.token_bytes(_MARK) if mark is None else mark
    hashed = _hashed(noise.raw, size).copy()
    hashed.update(mark)
    last = b"%x\r\n%b\r\n0\r\n\r\n" % (len(mark), mark) if mark else b"0\r\n\r\n"
    return Blob(
        digest=f"sha256:{hashed.hexdigest()}",
        size=size + len(mark),
        raw=(_mapped(noise.raw)[:size], mark),
        chunked=(_mapped(noise.chunked)[: size // _PIECE * (_PIECE + _FRAME)], last),
    )


def bare_hash(noise: Noise, size: int) -> None:
    """Hash as many bytes as a blob has, and do nothing else."""
    hashlib.sha256(_mapped(noise.raw)[:size])


def push(
    connection: Connection, repository: str, what: Blob, *, streamed: bool, rate: float = 0
) -> None:
    """Push a blob: docker's POST, streamed PATCH and PUT, or POST and one PUT with all of it."""
    target = connection.target
    kind = "Content-Type: application/octet-stream"
    start = target.request("POST", f"/v2/{repository}/blobs/uploads/", "Content-Length: 0")
    head, _ = connection.exchange(start, status=202)
    session = location_of(head)
    if streamed:
        fields = (kind, "Transfer-Encoding: chunked")
        connection.upload(target.request("PATCH", session, *fields), what.chunked, rate=rate)
        head, _ = connection.answer(202)
        session = location_of(head)
    end = f"{session}{'&' if '?' in session else '?'}digest={what.digest}"
    length = 0 if streamed else what.size
    request = target.request("PUT", end, kind, f"Content-Length: {length}")
    connection.upload(request, () if streamed else what.raw, rate=rate)
    connection.answer(201)


class Image(NamedTuple):
    """What small requests ask for, and the blobs that are pulled."""

    manifest: str
    layer: str
    bulk: str
    bulk_size: int
    block: str
    block_size: int


def seed(target: Target, noise: Noise, *, bulk: int, block: int) -> Image:
    """Push an image of small layers and two big blobs, and see that these come back as they went."""
    connection = Connection(target)
    try:
        config = json.dumps(
            {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}
        ).encode()
        layers = [blob(noise, _LAYER_BYTES, bytes([number])) for number in range(_LAYERS)]
        bottom = _loose(config)
        for part in (bottom, *layers):
            push(connection, REPOSITORY, part, streamed=False)
        manifest = _manifest(bottom, layers)
        kind = f"Content-Type: {json.loads(manifest)['mediaType']}"
        path = f"/v2/{REPOSITORY}/manifests/{TAG}"
        request = target.request("PUT", path, kind, f"Content-Length: {len(manifest)}")
        connection.exchange(request + manifest, status=201)
        for size in {bulk, block}:
            whole = blob(noise, size, b"")
            push(connection, REPOSITORY, whole, streamed=False)
            seen = hashlib.sha256()
            ask = target.request("GET", f"/v2/{REPOSITORY}/blobs/{whole.digest}")
            connection.download(ask, size, seen=seen.update)
            if f"sha256:{seen.hexdigest()}" != whole.digest:
                raise ValueError(f"{target.host}:{target.port} gave back something else")
    finally:
        connection.close()
    return Image(
        manifest=_loose(manifest).digest,
        layer=layers[0].digest,
        bulk=blob(noise, bulk, b"").digest,
        bulk_size=bulk,
        block=blob(noise, block, b"").digest,
        block_size=block,
    )


def _loose(data: bytes) -> Blob:
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    return Blob(digest, len(data), raw=(data,), chunked=())


def _manifest(config: Blob, layers: list[Blob]) -> bytes:
    docker = "application/vnd.docker"
    content = {
        "schemaVersion": 2,
        "mediaType": f"{docker}.distribution.manifest.v2+json",
        "config": {
            "mediaType": f"{docker}.container.image.v1+json",
            "size": config.size,
            "digest": config.digest,
        },
        "layers": [
            {
                "mediaType": f"{docker}.image.rootfs.diff.tar.gzip",
                "size": layer.size,
                "digest": layer.digest,
            }
            for layer in layers
        ],
    }
    return json.dumps(content, indent=3).encode()
