"""OCI image layouts: images as files in a folder ("OCI Image Layout Specification" 1.1).

oci-layout              says that this is one
index.json              the images here; a tag is the annotation `org.opencontainers.image.ref.name`
blobs/<algorithm>/<hex> everything they consist of
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any, BinaryIO

import msgspec

from appliance.durable import make_folder, replace_file, sync_folder
from appliance.oci.digest import Digest, new_hasher
from appliance.oci.errors import RegistryError
from appliance.oci.mediatypes import OCI_INDEX

REF_NAME = "org.opencontainers.image.ref.name"
"""The annotation that holds a tag."""

CONTAINERD_NAME = "io.containerd.image.name"
"""The annotation that holds a whole name, as docker and containerd write it."""

_VERSION = b'{"imageLayoutVersion":"1.0.0"}'
_MODE = 0o644
_NAMES = {"oci-layout", "index.json", "blobs"}
_INDEX_MAX = 64 << 20


class LayoutError(Exception):
    """What is wrong with a layout: one sentence, without its final stop."""


class Entry(msgspec.Struct, rename="camel", omit_defaults=True):
    """One image, index or artifact of a layout."""

    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] = {}
    platform: dict[str, Any] | None = None
    artifact_type: str | None = None


class _Index(msgspec.Struct, rename="camel"):
    schema_version: int = 2
    media_type: str = OCI_INDEX
    manifests: list[Entry] = []


class Layout:
    """A layout in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def create(self) -> None:
        """Make an empty layout, or go on with the one that is there.

        Raises LayoutError for a folder that holds something else, and OSError.
        """
        make_folder(self.folder, mode=0o755)
        names = {path.name for path in self.folder.iterdir() if not path.name.startswith(".")}
        if names - _NAMES:
            raise LayoutError(f"{self.folder} is neither empty nor an OCI layout; name another one")
        # An earlier attempt may have been cut off after any of these.
        (self.folder / "blobs").mkdir(exist_ok=True)
        if "index.json" not in names:
            replace_file(self.folder / "index.json", msgspec.json.encode(_Index()), mode=_MODE)
        if "oci-layout" not in names:
            replace_file(self.folder / "oci-layout", _VERSION, mode=_MODE)
        self.entries()

    def entries(self) -> list[Entry]:
        """List what is in the layout; raises LayoutError."""
        try:
            with (self.folder / "index.json").open("rb") as file:
                content = file.read(_INDEX_MAX)
            (self.folder / "oci-layout").stat()
            return msgspec.json.decode(content, type=_Index).manifests
        except FileNotFoundError as error:
            raise LayoutError(
                f"{self.folder} is no OCI layout: it has no {Path(error.filename).name}"
            ) from error
        except (OSError, msgspec.DecodeError) as error:
            raise LayoutError(f"{self.folder}/index.json cannot be read: {error}") from error

    def check_names(self, names: Mapping[str, str]) -> None:
        """Raise LayoutError where one of these tags has another image's whole name here."""
        for other in self.entries():
            tag = other.annotations.get(REF_NAME, "")
            whole = other.annotations.get(CONTAINERD_NAME)
            if whole is not None and names.get(tag, whole) != whole:
                raise LayoutError(
                    f"{self.folder} has {whole} under the tag {tag}, which {names[tag]} would"
                    " replace; name another folder"
                )

    def add(self, entry: Entry) -> None:
        """Add an entry, in the place of the one that has its name, or its digest and no name.

        What it refers to is there already. Raises LayoutError and OSError.
        """
        name = entry.annotations.get(REF_NAME)
        kept = [
            other
            for other in self.entries()
            if other.annotations.get(REF_NAME) != name
            or (name is None and other.digest != entry.digest)
        ]
        index = _Index(manifests=[*kept, entry])
        replace_file(self.folder / "index.json", msgspec.json.encode(index), mode=_MODE)

    def path(self, digest: Digest) -> Path:
        """Where a blob is, or would be."""
        return self.folder / "blobs" / digest.algorithm / digest.hex

    def has(self, digest: Digest, size: int) -> bool:
        """Tell whether a blob of that size is here."""
        try:
            return self.path(digest).stat().st_size == size
        except FileNotFoundError:
            return False

    def read(self, digest: Digest, limit: int) -> bytes:
        """Return a blob's bytes; raises LayoutError where it is missing, too large or damaged."""
        with self.open(digest) as file:
            content = file.read(limit + 1)
        if len(content) > limit:
            raise LayoutError(f"{digest} has more than {limit} bytes")
        if Digest.of(content, digest.algorithm) != digest:
            raise LayoutError(f"{self.path(digest)} is damaged: its bytes have another digest")
        return content

    @contextmanager
    def open(self, digest: Digest) -> Iterator[BinaryIO]:
        """Open a blob; raises LayoutError where it is missing."""
        try:
            with self.path(digest).open("rb") as file:
                yield file
        except FileNotFoundError as error:
            raise LayoutError(f"{self.folder} lacks {digest}") from error

    @contextmanager
    def writing(self, digest: Digest) -> Iterator["Draft"]:
        """Write a blob, which is there, whole and durable, once the context has ended well.

        Raises LayoutError for bytes of another digest, and OSError.
        """
        # 1. bytes durable under another name  2. name visible  3. name durable
        path = self.path(digest)
        make_folder(path.parent, mode=0o755)
        draft = path.with_name(f".{path.name}.{token_hex(8)}")
        try:
            with draft.open("xb") as file:
                found = Draft(file, digest)
                yield found
                found.check()
                file.flush()
                os.fsync(file.fileno())
            draft.chmod(_MODE)
            draft.rename(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


class Draft:
    """A blob on its way into a layout."""

    def __init__(self, file: BinaryIO, digest: Digest) -> None:
        self._file = file
        self._digest = digest
        self._hasher = new_hasher(digest.algorithm)
        self.size = 0

    def take(self, piece: bytes) -> None:
        """Take the next bytes."""
        self._file.write(piece)
        self._hasher.update(piece)
        self.size += len(piece)

    def check(self) -> None:
        """Raise LayoutError unless all bytes have come."""
        if self._hasher.hexdigest() != self._digest.hex:
            raise LayoutError(f"the {self.size} bytes that came for {self._digest} are others")


def digest_of(entry: Entry) -> Digest:
    """Return an entry's digest; raises LayoutError where it is none."""
    try:
        return Digest.parse(entry.digest)
    except RegistryError as error:
        raise LayoutError(f"index.json: {entry.digest!r}: {error.message}") from None
