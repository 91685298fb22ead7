"""What follows from a manifest's bytes, compared with the rows that were written when it was pushed.

The bytes have been compared with their digest before, so where the two differ, the rows are wrong.
A row too few would let the sweep take what an image needs.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import msgspec

from appliance.oci.descriptor import ReferrerDescriptor
from appliance.oci.digest import Digest
from appliance.oci.errors import RegistryError
from appliance.oci.manifest import Manifest, parse_manifest

_HELD = """
    SELECT blob.id,
        EXISTS (SELECT 1 FROM link WHERE link.repository = :repository AND link.blob = blob.id),
        EXISTS (SELECT 1 FROM manifest
            WHERE manifest.repository = :repository AND manifest.blob = blob.id)
    FROM blob WHERE digest = :digest
"""

_INSERT_EDGE = (
    "INSERT INTO edge (repository, manifest, target) VALUES (:repository, :manifest, :target)"
    " ON CONFLICT DO NOTHING"
)
_INSERT_LINK = (
    "INSERT INTO link (repository, blob) VALUES (:repository, :target) ON CONFLICT DO NOTHING"
)
_INSERT_ABSENT = (
    "INSERT INTO absent (repository, manifest, digest) VALUES (:repository, :manifest, :digest)"
    " ON CONFLICT DO NOTHING"
)
_DELETE_EDGE = (
    "DELETE FROM edge WHERE repository = :repository AND manifest = :manifest AND target = :target"
)
_DELETE_ABSENT = (
    "DELETE FROM absent"
    " WHERE repository = :repository AND manifest = :manifest AND digest = :digest"
)
_UPDATE_MANIFEST = (
    "UPDATE manifest SET media_type = :media_type, artifact_type = :artifact_type,"
    " subject = :subject, referrer = :referrer"
    " WHERE repository = :repository AND blob = :manifest"
)


@dataclass(frozen=True, slots=True)
class Correction:
    """A row that is not what a manifest says, and the statement that sets it right."""

    fault: str
    statement: str = ""
    """Empty where nothing here can."""
    parameters: Mapping[str, object] | None = None


def corrections(
    connection: sqlite3.Connection, digest: Digest, content: bytes
) -> Iterator[Correction]:
    """Find what has to change in the rows of a manifest, in every repository that has it."""
    # By its digest: a blob's number may meanwhile be that of another one.
    rows = connection.execute(
        "SELECT blob.id, manifest.repository, repository.name,"
        " media_type, artifact_type, subject, referrer"
        " FROM blob JOIN manifest ON manifest.blob = blob.id"
        " JOIN repository ON repository.id = manifest.repository WHERE blob.digest = ?",
        (str(digest),),
    ).fetchall()
    for blob, repository, name, media_type, *described in rows:
        manifest = _parsed(content, media_type)
        if manifest is None:
            continue  # pushed when other rules held; nothing can be derived from it
        place = {"repository": repository, "manifest": blob}
        expected = _described(manifest, digest, len(content))
        if (media_type, *_comparable(described)) != (
            expected["media_type"],
            *_comparable([expected[one] for one in ("artifact_type", "subject", "referrer")]),
        ):
            fault = f"its description in {name} was wrong"
            yield Correction(fault, _UPDATE_MANIFEST, place | expected)
        yield from _references(connection, name, place, manifest)


def _parsed(content: bytes, media_type: str) -> Manifest | None:
    for stated in (media_type, None):  # what the document says of itself goes before a wrong row
        try:
            return parse_manifest(content, stated)
        except RegistryError:
            continue
    return None


def _described(manifest: Manifest, digest: Digest, size: int) -> dict[str, object]:
    subject = manifest.subject
    return {
        "media_type": manifest.media_type,
        "artifact_type": manifest.artifact_type,
        "subject": str(subject.digest) if subject else None,
        "referrer": msgspec.json.encode(manifest.referrer(digest, size)) if subject else None,
    }


def _comparable(described: list[object]) -> tuple[object, ...]:
    artifact_type, subject, referrer = described
    if isinstance(referrer, bytes):
        try:
            return artifact_type, subject, msgspec.json.decode(referrer, type=ReferrerDescriptor)
        except msgspec.DecodeError:
            return artifact_type, subject, None
    return artifact_type, subject, referrer


def _references(
    connection: sqlite3.Connection, name: str, place: Mapping[str, object], manifest: Manifest
) -> Iterator[Correction]:
    edges = dict(
        connection.execute(
            "SELECT blob.digest, edge.target FROM edge JOIN blob ON blob.id = edge.target"
            " WHERE edge.repository = :repository AND edge.manifest = :manifest",
            place,
        ).fetchall()
    )
    absent = {
        digest
        for (digest,) in connection.execute(
            "SELECT digest FROM absent WHERE repository = :repository AND manifest = :manifest",
            place,
        )
    }
    blobs = {str(one.digest) for one in manifest.blobs}
    listed = {str(one.digest) for one in manifest.manifests}
    for digest in sorted(blobs | listed):
        yield from _reference(
            connection,
            name,
            {**place, "digest": digest},
            has_edge=digest in edges,
            is_absent=digest in absent,
            is_blob=digest in blobs,
        )
    for digest in sorted(edges.keys() - blobs - listed):
        fault = f"in {name} it was said to need {digest}, which it does not"
        yield Correction(fault, _DELETE_EDGE, {**place, "target": edges[digest]})
    for digest in sorted(absent - listed):
        fault = f"in {name} it was said to list {digest}, which it does not"
        yield Correction(fault, _DELETE_ABSENT, {**place, "digest": digest})


def _reference(
    connection: sqlite3.Connection,
    name: str,
    place: Mapping[str, object],
    *,
    has_edge: bool,
    is_absent: bool,
    is_blob: bool,
) -> Iterator[Correction]:
    """Compare one thing that a manifest refers to."""
    if has_edge and not is_blob:
        return
    held = connection.execute(_HELD, place).fetchone()
    target, is_linked, is_manifest = held or (None, False, False)
    found = {**place, "target": target}
    unsaid = f"in {name} it was not recorded that it needs {place['digest']}"
    if is_blob:
        if target is None:
            yield Correction(f"{name} has no record of {place['digest']}, which it needs")
            return
        if not is_linked:
            fault = f"in {name} {place['digest']} could not be read, which it needs"
            yield Correction(fault, _INSERT_LINK, found)
        if not has_edge:
            yield Correction(unsaid, _INSERT_EDGE, found)
    elif is_manifest:
        yield Correction(unsaid, _INSERT_EDGE, found)
        if is_absent:
            fault = f"in {name} {place['digest']} was taken for absent, which it lists"
            yield Correction(fault, _DELETE_ABSENT, found)
    elif not is_absent:
        yield Correction(unsaid, _INSERT_ABSENT, found)
