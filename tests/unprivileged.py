"""Looking at things with the eyes of somebody who is not root."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

NOBODY = 65534


@contextmanager
def as_user(user: int = NOBODY) -> Iterator[None]:
    """Give up root's rights, if this is root, for as long as it lasts."""
    if os.getuid() != 0:
        yield
        return
    os.setresuid(user, user, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
