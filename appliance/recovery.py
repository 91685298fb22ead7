"""Putting manifests back into repositories, out of the files of blobs.

A manifest goes in with all that it needs, those of an index before the index. What it needs and is
not here keeps it out, but for manifests of other platforms.
"""

import sqlite3
from collections.abc import Mapping
from dataclasses import replace

from appliance.catalogue.rows import link, put_blob, put_repository, put_tag, write_manifest
from appliance.catalogue.salvage import SavedTag
from appliance.oci.digest import Digest
from appliance.oci.errors import RegistryError
from appliance.oci.manifest import SIZE_MAX, PushedManifest, parse_manifest
from appliance.oci.mediatypes import IMAGES, INDEXES
from appliance.storage.files import FileStore

REPOSITORY = "recovered"
"""Where manifests go that nobody knows the repository of."""


class Recovery:
    """Writes manifests into a catalogue."""

    def __init__(
        self, connection: sqlite3.Connection, store: FileStore, strays: Mapping[Digest, int]
    ) -> None:
        """Take whole blobs that the catalogue does not know, by their digests, with their sizes."""
        self._connection = connection
        self._store = store
        self._strays = strays
        self._placed: dict[tuple[str, Digest], bool] = {}
        self._listed: set[Digest] = set()

    def restore_tag(self, tag: SavedTag) -> bool:
        """Have a tag point to what it did, unless it is known that it does or moved later."""
        known = self._connection.execute(
            "SELECT blob.digest, tag.moved_at FROM tag JOIN blob ON blob.id = tag.manifest"
            " JOIN repository ON repository.id = tag.repository"
            " WHERE repository.name = ? AND tag.name = ?",
            (tag.repository, tag.name),
        ).fetchone()
        if known is not None and (known[0] == str(tag.digest) or known[1] > tag.moved_at):
            return False
        if not self._place(tag.repository, tag.digest, tag.media_type):
            return False
        owner = put_repository(self._connection, tag.repository)
        ((manifest,),) = self._connection.execute(
            "SELECT id FROM blob WHERE digest = ?", (str(tag.digest),)
        )
        put_tag(self._connection, owner, tag.name, manifest, objection=None)
        return True

    def recover(self) -> list[Digest]:
        """Place all strays that are manifests and have no repository; list those of no index."""
        found = []
        elsewhere = {digest for (_, digest), is_there in self._placed.items() if is_there}
        for digest, size in self._strays.items():
            is_manifest = digest not in elsewhere and self._is_manifest(digest, size)
            if is_manifest and self._place(REPOSITORY, digest, None):
                found.append(digest)
        return [digest for digest in found if digest not in self._listed]

    @property
    def manifests(self) -> int:
        """How many manifests went into the repository of those that nobody knows."""
        return sum(is_there for (name, _), is_there in self._placed.items() if name == REPOSITORY)

    def is_left(self, digest: Digest) -> bool:
        """Tell whether the catalogue still does not know a blob."""
        query = "SELECT 1 FROM blob WHERE digest = ?"
        return self._connection.execute(query, (str(digest),)).fetchone() is None

    def _is_manifest(self, digest: Digest, size: int) -> bool:
        """Tell whether a whole blob is a manifest that says so itself."""
        if size > SIZE_MAX:
            return False
        try:
            manifest = parse_manifest(self._store.path(digest).read_bytes(), None)
        except (RegistryError, OSError):
            return False
        return manifest.media_type in IMAGES | INDEXES

    def _place(self, repository: str, digest: Digest, media_type: str | None) -> bool:
        """Have a manifest in a repository; False where something of it is not here."""
        key = repository, digest
        if key not in self._placed:
            self._placed[key] = False  # whoever lists itself is not there yet
            self._placed[key] = self._has(repository, digest) or self._write(
                repository, digest, media_type
            )
        return self._placed[key]

    def _write(self, repository: str, digest: Digest, media_type: str | None) -> bool:
        size = self._size(digest)
        if size is None or size > SIZE_MAX:
            return False
        try:
            content = self._store.path(digest).read_bytes()
            manifest = parse_manifest(content, media_type)
        except (RegistryError, OSError):
            return False
        sizes = {blob.digest: self._size(blob.digest) for blob in manifest.blobs}
        if Digest.of(content, digest.algorithm) != digest or None in sizes.values():
            return False
        children = [
            child.digest
            for child in manifest.manifests
            if self._place(repository, child.digest, child.media_type)
        ]
        if manifest.manifests and not children:
            return False
        self._listed.update(children)
        owner = put_repository(self._connection, repository)
        for blob, known in sizes.items():
            link(self._connection, owner, put_blob(self._connection, blob, known or 0))
        listed = frozenset(child.digest for child in manifest.manifests)
        manifest = replace(manifest, optional=listed - set(children))
        write_manifest(self._connection, PushedManifest(repository, digest, content, manifest))
        return True

    def _size(self, digest: Digest) -> int | None:
        """Return the size of a blob that is here and whole."""
        if digest in self._strays:
            return self._strays[digest]
        row = self._connection.execute(
            "SELECT size FROM blob WHERE digest = ? AND damaged = 0", (str(digest),)
        ).fetchone()
        return int(row[0]) if row else None

    def _has(self, repository: str, digest: Digest) -> bool:
        query = (
            "SELECT 1 FROM manifest JOIN blob ON blob.id = manifest.blob"
            " JOIN repository ON repository.id = manifest.repository"
            " WHERE repository.name = ? AND blob.digest = ?"
        )
        return self._connection.execute(query, (repository, str(digest))).fetchone() is not None
