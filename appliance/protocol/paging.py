"""Pages of tags, repositories and referrers ("Listing Tags"; RFC 8288 for the `Link` header)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from appliance.oci.errors import PAGINATION_INVALID

PAGE_MAX = 1000
"""Entries in one answer, however many were asked for; the rest follows by `Link`."""

_NUMBER = re.compile(r"\d{1,32}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Page:
    """A wanted page: at most `limit` entries that sort after `last`."""

    limit: int
    last: str

    @classmethod
    def parse(cls, number: str | None, last: str | None) -> "Page":
        """Read the parameters `n` and `last`; raises PAGINATION_INVALID if `n` is no count."""
        if number is None:
            return cls(PAGE_MAX, last or "")
        if _NUMBER.fullmatch(number) is None:
            raise PAGINATION_INVALID.error("n is a whole number, 0 or more")
        return cls(min(int(number), PAGE_MAX), last or "")


def next_link(path: str, parameters: Sequence[tuple[str, str]]) -> tuple[str, str]:
    """Make the `Link` header that leads to the next page."""
    return "Link", f'<{path}?{urlencode(parameters)}>; rel="next"'
