"""What the operating system says of a disk, in words of our family."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from gridwright.errors import GridwrightError, ResourceExhausted, Unavailable

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def disk_error(error: OSError) -> GridwrightError:
    """Return *error* as a caller should hear it; a failing disk is never absence."""
    if error.errno in _FULL:
        return ResourceExhausted(
            f"the disk of the action cache is full ({error.strerror}); free some space, or lower max_bytes"
        )
    return Unavailable(f"the disk of the action cache does not answer: {error.strerror}")


@contextmanager
def disk_errors() -> Iterator[None]:
    """Raise what the block raises as an error of our family.

    Raises:
        ResourceExhausted: the disk is full.
        Unavailable: it does not answer.
    """
    try:
        yield
    except OSError as error:
        raise disk_error(error) from error
