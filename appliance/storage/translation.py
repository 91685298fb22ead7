"""What the operating system says of files, in the registry's words."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from appliance.oci.errors import STORE_FULL, STORE_UNAVAILABLE, ErrorRow

_FULL = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def translated(missing: ErrorRow) -> Iterator[None]:
    """Raise RegistryError for OSError, of the row `missing` for what is not there."""
    try:
        yield
    except FileNotFoundError as error:
        raise missing.error() from error
    except OSError as error:
        row = STORE_FULL if error.errno in _FULL else STORE_UNAVAILABLE
        raise row.error() from error
