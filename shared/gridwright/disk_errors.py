"""What the operating system says of a disk, in words of our family."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from gridwright.errors import GridwrightError, InternalError, ResourceExhausted, Unavailable

#: What a disk, a quota or a limit on the size of files says when there is no more room.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NEVER_POSSIBLE = frozenset({errno.ENAMETOOLONG, errno.EINVAL})


def disk_error(whose: str, error: OSError) -> GridwrightError:
    """Return *error* as a caller should hear it: a failing disk is never absence.

    Args:
        whose: what keeps its things there, as in "the disk of …".
    """
    if error.errno in FULL:
        return ResourceExhausted(f"the disk of {whose} is full ({error.strerror}); free some space, or lower max_bytes")
    if error.errno in _NEVER_POSSIBLE:
        return InternalError(f"the file system of {whose} refuses a file: {error.strerror}")
    return Unavailable(f"the disk of {whose} does not answer: {error.strerror}")


@contextmanager
def disk_errors(whose: str) -> Iterator[None]:
    """Raise what the block raises as an error of our family.

    Raises:
        ResourceExhausted: the disk is full.
        Unavailable: it does not answer.
        InternalError: it cannot do what it was asked.
    """
    try:
        yield
    except OSError as error:
        raise disk_error(whose, error) from error
