"""What every test of a refusal says: this row, and no other."""

from collections.abc import Callable
from typing import TypeVar

import pytest

from appliance.oci.errors import ErrorRow, RegistryError

T = TypeVar("T")


def refused(row: ErrorRow, message: str | None = None) -> pytest.RaisesExc[RegistryError]:
    """Expect a RegistryError of exactly this row; `message` is a regular expression."""
    return pytest.raises(RegistryError, match=message, check=lambda error: error.row is row)


def attempt(function: Callable[[], T]) -> T | ErrorRow:
    """Return what a function returns, or the row it refuses with; anything else it raises is a bug."""
    try:
        return function()
    except RegistryError as error:
        return error.row
