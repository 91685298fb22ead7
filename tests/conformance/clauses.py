"""What the OCI Distribution Specification asks of a registry: one row for each normative sentence.

The sentences are shortened and in our own words, under the titles the specification uses. Where it
only permits something ("a registry MAY …"), the permission is a row of level MAY and what follows
from using it is a row of its own. A registry without the feature holds neither: absent is not held.
What it says without a key word, as in its table of endpoints, is taken for a MUST. A few more rows
of level MAY are about what the text leaves open and clients or the official suite rely on: streams
without a length, empty blobs, Docker's manifests, layers that are kept elsewhere, digests and sizes
in headers, parameters that nobody knows. Rows on Range and HEAD are those of HTTP (RFC 9110), which
the text refers to and builds on.

Left out are sentences that bind clients, and those that nobody can observe from outside or in a
reasonable time: that unfinished uploads time out, that 429 comes with Retry-After, that several
filters of one list are named together (there is but one filter), that whatever a registry claims to
support it supports as a whole (a claim is nothing that can be asked for). That any answer
may be a redirect is taken for granted: the client here follows what it can send again.
"""

from collections.abc import Callable
from typing import Any

import pytest

from tests.conformance.clause import Clause
from tests.conformance.table_service import SERVICE
from tests.conformance.table_transfer import TRANSFER

TABLE: tuple[tuple[Clause, ...], ...] = (*TRANSFER, *SERVICE)
"""The rows, section by section."""

CLAUSES: dict[str, Clause] = {clause.id: clause for section in TABLE for clause in section}
"""The same by their ids."""


def clause(*ids: str) -> pytest.MarkDecorator:
    """Say which rows a test is about."""
    return pytest.mark.clause(*ids)


def by_algorithm(*sha256: str, sha512: str) -> pytest.MarkDecorator:
    """Run a test for both algorithms: what it says of sha256, and of sha512, which is optional."""
    return pytest.mark.parametrize(
        "algorithm",
        [
            pytest.param("sha256", marks=clause(*sha256)),
            pytest.param("sha512", marks=clause(sha512)),
        ],
    )


def named_by(test: Callable[..., Any]) -> set[str]:
    """Collect the ids that a test names, its parameters included."""
    ids: set[str] = set()
    for mark in getattr(test, "pytestmark", ()):
        if mark.name == "clause":
            ids.update(mark.args)
        elif mark.name == "parametrize":
            for values in mark.args[1]:
                for inner in getattr(values, "marks", ()):
                    ids.update(inner.args if inner.name == "clause" else ())
    return ids
