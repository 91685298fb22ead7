"""Acting as the user whose a data folder is, for root, whose commands it is to leave no trace in it.

What root makes there, that user could not open. What root follows there, that user could have made
to lead elsewhere.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def acting_as(owner: os.stat_result) -> Iterator[None]:
    """Do as the owner what root does meanwhile; anybody else stays who they are."""
    if os.geteuid() != 0 or owner.st_uid == 0:
        yield
        return
    groups, group = os.getgroups(), os.getegid()
    os.setgroups([])
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)
