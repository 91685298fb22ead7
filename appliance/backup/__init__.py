"""Backups: a registry's data folder once more, in a folder or as one compressed file.

    catalogue.sqlite3                 a snapshot: every name, and which blobs there are
    blobs/<algorithm>/<ab>/<hex>      those blobs
    tls/                              keys and certificates that the registry made for itself
    etc/registry.htpasswd             the password file
    etc/registry.toml                 the settings
    backup.json                       what this is, and when it was made

A backup is made while clients push, tag and delete. Bytes of blobs never change and only a sweep
removes them, so sweeps wait: whatever the snapshot of the catalogue names is there until it is safe.
"""
