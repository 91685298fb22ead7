"""The tables, as numbered steps from an empty file to today's; `user_version` counts them.

    repository   a name, and how many manifests there are under it
    blob         a digest and its size; small manifests have their bytes here too
    link         this blob may be read in that repository
    manifest     this blob is a manifest of that repository
    tag          a movable name for a manifest of the same repository
    edge         what a manifest refers to: blobs, or the manifests of an index
    absent       what an index lists and the repository does not have (yet)
    session      an upload session: whose it is, and where it leads

A step that has been released is never edited; a new one is added after it.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

STEPS = (
    """
    CREATE TABLE repository (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE
    ) STRICT;

    CREATE TABLE blob (
        id INTEGER PRIMARY KEY,
        digest TEXT NOT NULL UNIQUE,
        size INTEGER NOT NULL,
        content BLOB
    ) STRICT;

    CREATE TABLE link (
        repository INTEGER NOT NULL REFERENCES repository,
        blob INTEGER NOT NULL REFERENCES blob,
        linked_at INTEGER NOT NULL DEFAULT (unixepoch()),
        PRIMARY KEY (repository, blob)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE manifest (
        repository INTEGER NOT NULL REFERENCES repository,
        blob INTEGER NOT NULL REFERENCES blob,
        media_type TEXT NOT NULL,
        artifact_type TEXT,
        subject TEXT,
        referrer BLOB,
        pushed_at INTEGER NOT NULL DEFAULT (unixepoch()),
        PRIMARY KEY (repository, blob)
    ) STRICT, WITHOUT ROWID;

    CREATE INDEX manifest_subject ON manifest (repository, subject, blob)
        WHERE subject IS NOT NULL;

    CREATE TABLE tag (
        repository INTEGER NOT NULL,
        name TEXT NOT NULL,
        manifest INTEGER NOT NULL,
        moved_at INTEGER NOT NULL DEFAULT (unixepoch()),
        PRIMARY KEY (repository, name),
        FOREIGN KEY (repository, manifest) REFERENCES manifest ON DELETE CASCADE
    ) STRICT, WITHOUT ROWID;

    CREATE INDEX tag_manifest ON tag (repository, manifest);

    CREATE TABLE edge (
        repository INTEGER NOT NULL,
        manifest INTEGER NOT NULL,
        target INTEGER NOT NULL REFERENCES blob,
        PRIMARY KEY (repository, manifest, target),
        FOREIGN KEY (repository, manifest) REFERENCES manifest ON DELETE CASCADE
    ) STRICT, WITHOUT ROWID;

    CREATE INDEX edge_target ON edge (repository, target);

    CREATE TABLE session (
        id TEXT PRIMARY KEY,
        repository TEXT NOT NULL,
        account TEXT NOT NULL,
        algorithm TEXT NOT NULL,
        started_at INTEGER NOT NULL DEFAULT (unixepoch())
    ) STRICT, WITHOUT ROWID;
    """,
    # A page of repositories costs that page, however many others hold no manifest.
    """
    ALTER TABLE repository ADD COLUMN manifests INTEGER NOT NULL DEFAULT 0;

    UPDATE repository SET manifests =
        (SELECT count(*) FROM manifest WHERE manifest.repository = repository.id);

    CREATE INDEX repository_listed ON repository (name) WHERE manifests > 0;

    CREATE TRIGGER manifest_added AFTER INSERT ON manifest BEGIN
        UPDATE repository SET manifests = manifests + 1 WHERE id = new.repository;
    END;

    CREATE INDEX link_blob ON link (blob);

    CREATE TABLE absent (
        repository INTEGER NOT NULL,
        digest TEXT NOT NULL,
        manifest INTEGER NOT NULL,
        PRIMARY KEY (repository, digest, manifest),
        FOREIGN KEY (repository, manifest) REFERENCES manifest ON DELETE CASCADE
    ) STRICT, WITHOUT ROWID;

    CREATE INDEX absent_manifest ON absent (repository, manifest);

    CREATE TRIGGER manifest_removed AFTER DELETE ON manifest BEGIN
        UPDATE repository SET manifests = manifests - 1 WHERE id = old.repository;

        INSERT OR IGNORE INTO absent (repository, digest, manifest)
        SELECT edge.repository, blob.digest, edge.manifest
        FROM edge JOIN blob ON blob.id = edge.target
        WHERE edge.repository = old.repository AND edge.target = old.blob
        AND NOT EXISTS
            (SELECT 1 FROM link WHERE repository = old.repository AND blob = old.blob);

        DELETE FROM edge WHERE repository = old.repository AND target = old.blob
        AND NOT EXISTS
            (SELECT 1 FROM link WHERE repository = old.repository AND blob = old.blob);
    END;
    """,
)


class SchemaTooNewError(Exception):
    """The file was written by a later version of this program."""


def check_version(path: Path) -> None:
    """Look at a database without touching it, even while another process writes to it.

    Raises SchemaTooNewError, or sqlite3.Error for a file that is no database.
    """
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?immutable=1", uri=True)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(STEPS):
        raise SchemaTooNewError


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the tables up to date, each step in a transaction of its own.

    Raises SchemaTooNewError when the file has steps that this version does not know.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(STEPS):
        raise SchemaTooNewError
    for number, step in enumerate(STEPS[version:], start=version + 1):
        connection.executescript(f"BEGIN; {step}; PRAGMA user_version = {number}; COMMIT;")
