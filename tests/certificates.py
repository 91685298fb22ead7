"""Certificates of a server, right and wrong, each with its key in one file."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme


def server_pem(
    folder: Path, authority: trustme.CA, *names: str, starts_in_days: float = -1, days: float = 30
) -> Path:
    """Issue a certificate that is valid for some days; the file it is in, followed by its issuers."""
    pem = folder / "server.pem"
    start = datetime.now(UTC) + timedelta(days=starts_in_days)
    end = start + timedelta(days=days)
    certificate = authority.issue_cert(*names, not_before=start, not_after=end)
    certificate.private_key_and_cert_chain_pem.write_to_path(pem)
    return pem
