"""Our records: repositories, manifests, tags, links and upload sessions, in SQLite."""
