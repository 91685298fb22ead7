"""Rows as they are written within a transaction, whatever it is for."""

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec

from appliance.oci.digest import Digest
from appliance.oci.errors import MANIFEST_BLOB_UNKNOWN, Objection, RegistryError
from appliance.oci.manifest import Manifest, PushedManifest

_Read = Callable[[str, Sequence[object]], list[tuple[Any, ...]]]

CONTENT_MAX = 64 << 10
"""Bytes of a manifest that the catalogue holds itself; larger ones are in the store alone."""


def known_blobs(read: _Read, digests: Iterable[Digest]) -> set[Digest]:
    """Return those of some digests of which there is a blob, in whatever repository."""
    query = "SELECT digest FROM blob WHERE digest IN (SELECT value FROM json_each(?))"
    wanted = msgspec.json.encode([str(digest) for digest in digests]).decode()
    return {Digest.parse(digest) for (digest,) in read(query, (wanted,))}


def unopposed(tag: str) -> None:
    """Let any tag move, and go."""


def write_manifest(
    connection: sqlite3.Connection, pushed: PushedManifest, objection: Objection = unopposed
) -> None:
    """Record a manifest, and move tags to it.

    Raises MANIFEST_BLOB_UNKNOWN listing what is required and the repository lacks, and
    what stands against a tag that would move.
    """
    manifest = pushed.manifest
    targets, absent = resolve(
        lambda query, parameters: connection.execute(query, parameters).fetchall(),
        pushed.repository,
        manifest,
    )
    owner = put_repository(connection, pushed.repository)
    size = len(pushed.content)
    blob = put_blob(
        connection, pushed.digest, size, pushed.content if size <= CONTENT_MAX else None
    )
    subject = manifest.subject
    connection.execute(
        "INSERT INTO manifest"
        " (repository, blob, media_type, artifact_type, subject, referrer)"
        " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
        " media_type = excluded.media_type, artifact_type = excluded.artifact_type,"
        " subject = excluded.subject, referrer = excluded.referrer",
        (
            owner,
            blob,
            manifest.media_type,
            manifest.artifact_type,
            str(subject.digest) if subject else None,
            msgspec.json.encode(manifest.referrer(pushed.digest, size)) if subject else None,
        ),
    )
    connection.executemany(
        "INSERT INTO absent (repository, manifest, digest) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        [(owner, blob, str(listed)) for listed in absent],
    )
    # Some index may have been waiting for this manifest.
    waiting = connection.execute(
        "DELETE FROM absent WHERE repository = ? AND digest = ? RETURNING manifest",
        (owner, str(pushed.digest)),
    ).fetchall()
    connection.executemany(
        "INSERT INTO edge (repository, manifest, target) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        [
            *((owner, blob, target) for target in targets),
            *((owner, index, blob) for (index,) in waiting),
        ],
    )
    for tag in pushed.tags:
        put_tag(connection, owner, tag, blob, objection=objection(tag))


def put_tag(
    connection: sqlite3.Connection,
    repository: int,
    name: str,
    manifest: int,
    *,
    objection: RegistryError | None,
) -> None:
    """Have a tag point to a manifest; raises what stands against it where it would move."""
    moved = connection.execute(
        "INSERT INTO tag (repository, name, manifest) VALUES (:repository, :name, :manifest)"
        " ON CONFLICT DO UPDATE SET manifest = excluded.manifest, moved_at = unixepoch()"
        " WHERE manifest = excluded.manifest OR NOT :fixed",
        {
            "repository": repository,
            "name": name,
            "manifest": manifest,
            "fixed": objection is not None,
        },
    ).rowcount
    if not moved and objection is not None:
        raise objection


def check_removal(tags: Iterable[tuple[str]], objection: Objection) -> None:
    """Raise what stands against the going of one of these tags."""
    for (tag,) in tags:
        if (found := objection(tag)) is not None:
            raise found


def put_repository(connection: sqlite3.Connection, name: str) -> int:
    """Return the number of a repository, which is made if it is not there."""
    connection.execute("INSERT INTO repository (name) VALUES (?) ON CONFLICT DO NOTHING", (name,))
    ((found,),) = connection.execute("SELECT id FROM repository WHERE name = ?", (name,))
    return int(found)


def put_blob(
    connection: sqlite3.Connection, digest: Digest, size: int, content: bytes | None = None
) -> int:
    """Return the number of a blob whose file has just been stored, and which is whole therefore."""
    connection.execute(
        "INSERT INTO blob (digest, size, content) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET"
        " content = coalesce(excluded.content, content), damaged = 0",
        (str(digest), size, content),
    )
    ((found,),) = connection.execute("SELECT id FROM blob WHERE digest = ?", (str(digest),))
    return int(found)


def link(connection: sqlite3.Connection, repository: int, blob: int) -> None:
    """Let a blob be read in a repository; its grace begins anew."""
    connection.execute(
        "INSERT INTO link (repository, blob) VALUES (?, ?)"
        " ON CONFLICT DO UPDATE SET idle_since = unixepoch()",
        (repository, blob),
    )


def resolve(read: _Read, repository: str, manifest: Manifest) -> tuple[list[int], list[Digest]]:
    """Find what a manifest refers to, and which of the manifests it lists are absent and may be.

    Raises MANIFEST_BLOB_UNKNOWN with what is missing.
    """
    targets: list[int] = []
    absent: list[Digest] = []
    missing: list[str] = []
    for table, references in (("link", manifest.blobs), ("manifest", manifest.manifests)):
        query = (
            f"SELECT blob.id FROM blob JOIN {table} AS held ON held.blob = blob.id"  # noqa: S608  two fixed words
            " JOIN repository ON repository.id = held.repository"
            " WHERE blob.digest = ? AND repository.name = ? AND blob.damaged = 0"
        )
        for digest in {reference.digest for reference in references}:
            rows = read(query, (str(digest), repository))
            targets += [row[0] for row in rows]
            if not rows:
                if digest in manifest.optional:
                    absent.append(digest)
                else:
                    missing.append(str(digest))
    if missing:
        raise MANIFEST_BLOB_UNKNOWN.error(
            f"the manifest refers to content that this repository does not have: {missing[0]}"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else ""),
            details=tuple({"digest": digest} for digest in sorted(missing)),
        )
    return targets, absent
