"""The tables, as numbered steps from an empty file to today's; `user_version` counts them.

    repository   a name, and how many manifests there are under it
    blob         a digest and its size; small manifests have their bytes here too
    link         this blob may be read in that repository
    manifest     this blob is a manifest of that repository
    tag          a movable name for a manifest of the same repository
    edge         what a manifest refers to: blobs, or the manifests of an index
    absent       what an index lists and the repository does not have (yet)
    session      an upload session: whose it is, and where it leads
    quarantine   a blob that nobody held any more, and when it was put away
    history      what a tag came to mean, and which manifests were removed
    chore        how far work that goes on for days has come

A step that has been released is never edited; a new one is added after it.
"""

import sqlite3
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
    # What nobody needs is found by these counts, so that finding garbage costs the garbage:
    # uses (edges that lead here), tags, holders (links and manifests that are this blob), bound
    # (its subject is here), orphan (its subject was here and is gone), and idle_since, the moment
    # at which the last of them went.
    """
    ALTER TABLE link ADD COLUMN uses INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE link ADD COLUMN idle_since INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE manifest ADD COLUMN uses INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE manifest ADD COLUMN tags INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE manifest ADD COLUMN bound INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE manifest ADD COLUMN orphan INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE manifest ADD COLUMN idle_since INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE blob ADD COLUMN holders INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE blob ADD COLUMN idle_since INTEGER NOT NULL DEFAULT 0;

    UPDATE link SET idle_since = unixepoch(), uses =
        (SELECT count(*) FROM edge WHERE repository = link.repository AND target = link.blob);

    UPDATE manifest SET idle_since = unixepoch(),
        uses = (SELECT count(*) FROM edge
            WHERE repository = manifest.repository AND target = manifest.blob),
        tags = (SELECT count(*) FROM tag
            WHERE repository = manifest.repository AND tag.manifest = manifest.blob),
        bound = EXISTS (SELECT 1 FROM blob JOIN manifest AS other ON other.blob = blob.id
            WHERE blob.digest = manifest.subject AND other.repository = manifest.repository);

    UPDATE blob SET idle_since = unixepoch(), holders =
        (SELECT count(*) FROM link WHERE link.blob = blob.id)
        + (SELECT count(*) FROM manifest WHERE manifest.blob = blob.id);

    CREATE INDEX link_idle ON link (idle_since) WHERE uses = 0;
    CREATE INDEX manifest_idle ON manifest (idle_since)
        WHERE tags = 0 AND uses = 0 AND bound = 0;
    CREATE INDEX manifest_orphan ON manifest (idle_since)
        WHERE tags = 0 AND uses = 0 AND orphan = 1;
    CREATE INDEX blob_idle ON blob (idle_since) WHERE holders = 0;

    -- To remove a blob is to look for what refers to it.
    CREATE INDEX manifest_blob ON manifest (blob);
    DROP INDEX edge_target;
    CREATE INDEX edge_target ON edge (target, repository);

    CREATE TABLE quarantine (
        digest TEXT PRIMARY KEY,
        size INTEGER NOT NULL,
        moved_at INTEGER NOT NULL DEFAULT (unixepoch())
    ) STRICT, WITHOUT ROWID;

    CREATE INDEX quarantine_age ON quarantine (moved_at);

    CREATE TRIGGER link_counted AFTER INSERT ON link BEGIN
        UPDATE link SET idle_since = unixepoch(), uses =
            (SELECT count(*) FROM edge WHERE repository = new.repository AND target = new.blob)
        WHERE repository = new.repository AND blob = new.blob;
        UPDATE blob SET holders = holders + 1 WHERE id = new.blob;
    END;

    CREATE TRIGGER link_discounted AFTER DELETE ON link BEGIN
        UPDATE blob SET holders = holders - 1, idle_since = unixepoch() WHERE id = old.blob;
    END;

    CREATE TRIGGER manifest_counted AFTER INSERT ON manifest BEGIN
        UPDATE manifest SET idle_since = unixepoch(),
            uses = (SELECT count(*) FROM edge
                WHERE repository = new.repository AND target = new.blob),
            bound = EXISTS (SELECT 1 FROM blob JOIN manifest AS other ON other.blob = blob.id
                WHERE blob.digest = new.subject AND other.repository = new.repository)
        WHERE repository = new.repository AND blob = new.blob;
        UPDATE blob SET holders = holders + 1 WHERE id = new.blob;
        UPDATE manifest SET bound = 1, orphan = 0 WHERE repository = new.repository
            AND subject = (SELECT digest FROM blob WHERE id = new.blob);
    END;

    CREATE TRIGGER manifest_discounted AFTER DELETE ON manifest BEGIN
        UPDATE blob SET holders = holders - 1, idle_since = unixepoch() WHERE id = old.blob;
        UPDATE manifest SET bound = 0, orphan = 1, idle_since = unixepoch()
            WHERE repository = old.repository
            AND subject = (SELECT digest FROM blob WHERE id = old.blob);
    END;

    CREATE TRIGGER edge_counted AFTER INSERT ON edge BEGIN
        UPDATE link SET uses = uses + 1
            WHERE repository = new.repository AND blob = new.target;
        UPDATE manifest SET uses = uses + 1
            WHERE repository = new.repository AND blob = new.target;
    END;

    CREATE TRIGGER edge_discounted AFTER DELETE ON edge BEGIN
        UPDATE link SET uses = uses - 1, idle_since = unixepoch()
            WHERE repository = old.repository AND blob = old.target;
        UPDATE manifest SET uses = uses - 1, idle_since = unixepoch()
            WHERE repository = old.repository AND blob = old.target;
    END;

    CREATE TRIGGER tag_counted AFTER INSERT ON tag BEGIN
        UPDATE manifest SET tags = tags + 1
            WHERE repository = new.repository AND blob = new.manifest;
    END;

    CREATE TRIGGER tag_discounted AFTER DELETE ON tag BEGIN
        UPDATE manifest SET tags = tags - 1, idle_since = unixepoch()
            WHERE repository = old.repository AND blob = old.manifest;
    END;

    CREATE TRIGGER tag_moved AFTER UPDATE OF manifest ON tag BEGIN
        UPDATE manifest SET tags = tags - 1, idle_since = unixepoch()
            WHERE repository = old.repository AND blob = old.manifest;
        UPDATE manifest SET tags = tags + 1
            WHERE repository = new.repository AND blob = new.manifest;
    END;
    """,
    # History has names and digests in full, as repositories and blobs come back under other
    # numbers. Its tag is empty for a manifest that was removed, its digest NULL for a tag.
    # A repository's size is what its links and manifests come to, whoever else has them too.
    # What is damaged counts as not there, so that whoever has it pushes it again.
    """
    CREATE TABLE history (
        id INTEGER PRIMARY KEY,
        at INTEGER NOT NULL DEFAULT (unixepoch()),
        repository TEXT NOT NULL,
        tag TEXT NOT NULL,
        digest TEXT,
        media_type TEXT,
        subject TEXT
    ) STRICT;

    CREATE INDEX history_tag ON history (repository, tag, id);
    CREATE INDEX history_digest ON history (repository, digest, id) WHERE tag = '';
    CREATE INDEX history_subject ON history (repository, subject, id) WHERE subject IS NOT NULL;
    CREATE INDEX history_age ON history (at);

    INSERT INTO history (at, repository, tag, digest)
    SELECT tag.moved_at, repository.name, tag.name, blob.digest
    FROM tag JOIN repository ON repository.id = tag.repository JOIN blob ON blob.id = tag.manifest
    ORDER BY tag.moved_at;

    CREATE TRIGGER tag_remembered AFTER INSERT ON tag BEGIN
        INSERT INTO history (repository, tag, digest)
        SELECT repository.name, new.name, blob.digest FROM repository, blob
        WHERE repository.id = new.repository AND blob.id = new.manifest;
    END;

    CREATE TRIGGER tag_move_remembered AFTER UPDATE OF manifest ON tag
    WHEN old.manifest != new.manifest BEGIN
        INSERT INTO history (repository, tag, digest)
        SELECT repository.name, new.name, blob.digest FROM repository, blob
        WHERE repository.id = new.repository AND blob.id = new.manifest;
    END;

    CREATE TRIGGER tag_removal_remembered AFTER DELETE ON tag BEGIN
        INSERT INTO history (repository, tag)
        SELECT name, old.name FROM repository WHERE id = old.repository;
    END;

    CREATE TRIGGER manifest_removal_remembered AFTER DELETE ON manifest BEGIN
        INSERT INTO history (repository, tag, digest, media_type, subject)
        SELECT repository.name, '', blob.digest, old.media_type, old.subject
        FROM repository, blob WHERE repository.id = old.repository AND blob.id = old.blob;
    END;

    ALTER TABLE repository ADD COLUMN size INTEGER NOT NULL DEFAULT 0;

    UPDATE repository SET size = (
        SELECT coalesce(sum(blob.size), 0) FROM (
            SELECT blob FROM link WHERE link.repository = repository.id
            UNION ALL SELECT blob FROM manifest WHERE manifest.repository = repository.id
        ) AS held JOIN blob ON blob.id = held.blob
    );

    CREATE INDEX repository_size ON repository (name, size);

    CREATE TRIGGER link_weighed AFTER INSERT ON link BEGIN
        UPDATE repository SET size = size + (SELECT size FROM blob WHERE id = new.blob)
        WHERE id = new.repository;
    END;

    CREATE TRIGGER link_lifted AFTER DELETE ON link BEGIN
        UPDATE repository SET size = size - (SELECT size FROM blob WHERE id = old.blob)
        WHERE id = old.repository;
    END;

    CREATE TRIGGER manifest_weighed AFTER INSERT ON manifest BEGIN
        UPDATE repository SET size = size + (SELECT size FROM blob WHERE id = new.blob)
        WHERE id = new.repository;
    END;

    CREATE TRIGGER manifest_lifted AFTER DELETE ON manifest BEGIN
        UPDATE repository SET size = size - (SELECT size FROM blob WHERE id = old.blob)
        WHERE id = old.repository;
    END;

    ALTER TABLE blob ADD COLUMN damaged INTEGER NOT NULL DEFAULT 0;

    CREATE INDEX blob_damaged ON blob (damaged) WHERE damaged = 1;

    CREATE TABLE chore (
        name TEXT PRIMARY KEY,
        place TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    """,
)


# The file format of SQLite, "The Database Header".
_HEADER = 100
_MAGIC = b"SQLite format 3\0"
_USER_VERSION = slice(60, 64)


class SchemaTooOldError(Exception):
    """The file needs steps while another version of this program is at work in it."""

    def __str__(self) -> str:
        return (
            "has to be brought up to date, which cannot be while the version before still works"
            " with it; a restart is needed"
        )


class SchemaTooNewError(Exception):
    """The file was written by a later version of this program, or its version is damaged."""

    def __str__(self) -> str:
        return (
            "was written by a later version of this program; install that version or a later one."
            " If there never was one, the file is damaged: move it away, and bring a backup back"
            " (registry restore), or make it anew from the blobs (registry rebuild)"
        )


def check_version(path: Path) -> None:
    """Look at a database without touching it, even while another process writes to it.

    Only its header is read: the rest is not one state without the journal beside it, which a crash
    may have left. Raises SchemaTooNewError, or sqlite3.Error for a file that is no database.
    """
    with path.open("rb") as file:
        header = file.read(_HEADER)
    if not header:
        return  # made, and a crash came before anything was written
    if len(header) < _HEADER or not header.startswith(_MAGIC):
        raise sqlite3.DatabaseError("file is not a database")
    if int.from_bytes(header[_USER_VERSION], "big") > len(STEPS):
        raise SchemaTooNewError


def is_blank(path: Path) -> bool:
    """Tell whether a database has no tables, apart from what its journal may hold."""
    with path.open("rb") as file:
        header = file.read(_HEADER)
    return not header or (
        len(header) == _HEADER
        and header.startswith(_MAGIC)
        and int.from_bytes(header[_USER_VERSION], "big") == 0
    )


def migrate(connection: sqlite3.Connection, *, as_it_is: bool = False) -> None:
    """Bring the tables up to date, each step in a transaction of its own.

    Raises SchemaTooNewError when the file has steps that this version does not know, and
    SchemaTooOldError when it lacks some although it is to be left `as_it_is`.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(STEPS):
        raise SchemaTooNewError
    if as_it_is and version < len(STEPS):
        raise SchemaTooOldError
    for number, step in enumerate(STEPS[version:], start=version + 1):
        connection.executescript(f"BEGIN; {step}; PRAGMA user_version = {number}; COMMIT;")
