"""Which images need a blob: from it up to the manifests, and from those to the tags."""

import json
import sqlite3
from collections.abc import Collection
from typing import NamedTuple

from appliance.oci.damage import Images
from appliance.oci.digest import Digest

WALKED_MAX = 10_000
"""Manifests that are gone through before the rest is left out."""

_IMAGES = """
    WITH RECURSIVE {instead} needed (repository, blob) AS (
        SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(:needs)
    ),
    needing (repository, manifest) AS (
        SELECT manifest.repository, manifest.blob FROM needed
            CROSS JOIN manifest ON manifest.blob = needed.blob
            AND manifest.repository = coalesce(needed.repository, manifest.repository)
        UNION SELECT edge.repository, edge.manifest FROM needed
            CROSS JOIN edge ON edge.target = needed.blob
            AND edge.repository = coalesce(needed.repository, edge.repository)
        UNION SELECT edge.repository, edge.manifest FROM needing
            JOIN edge ON edge.target = needing.manifest AND edge.repository = needing.repository
        LIMIT :walked
    ),
    named (name) AS (
        SELECT repository.name || ':' || tag.name FROM needing
        JOIN repository ON repository.id = needing.repository
        JOIN tag ON tag.repository = needing.repository AND tag.manifest = needing.manifest
        UNION ALL
        SELECT repository.name || '@' || blob.digest FROM needing
        JOIN repository ON repository.id = needing.repository
        JOIN blob ON blob.id = needing.manifest
        WHERE NOT EXISTS (SELECT 1 FROM tag
            WHERE tag.repository = needing.repository AND tag.manifest = needing.manifest)
        AND NOT EXISTS (SELECT 1 FROM edge
            WHERE edge.repository = needing.repository AND edge.target = needing.manifest)
    )
    SELECT name, count(*) OVER () FROM named ORDER BY name LIMIT :limit
"""


class Need(NamedTuple):
    """A blob, by its number, where it is needed."""

    repository: int | None
    """The number of one repository; None for all that have it."""
    blob: int


def images_with(connection: sqlite3.Connection, digest: Digest, limit: int) -> Images:
    """Name images that need a blob, by the tags that lead to it."""
    row = connection.execute("SELECT id FROM blob WHERE digest = ?", (str(digest),)).fetchone()
    return images_needing(connection, [Need(None, row[0])], limit) if row else Images()


def images_needing(
    connection: sqlite3.Connection, needs: Collection[Need], limit: int, *, instead: str = ""
) -> Images:
    """Name images that need one of some blobs: by tag, or by digest where they have none.

    What is read instead of a table may be given as common table expressions of its name, with a
    comma after each.
    """
    asked = {"needs": json.dumps([*needs]), "limit": limit, "walked": WALKED_MAX}
    rows = connection.execute(_IMAGES.format(instead=instead), asked).fetchall()
    return Images(tuple(name for name, _ in rows), rows[0][1] if rows else 0)
