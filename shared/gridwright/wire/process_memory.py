"""How the memory of a process that serves messages is looked after."""

from __future__ import annotations

import ctypes
import gc

#: So many new objects call for the youngest of them to be looked through for cycles. A batch makes thousands that go
#: with its answer: by Python's own number, 700, a tenth of the time of FindMissingBlobs is spent looking at them.
_COLLECT_AFTER = 50_000
#: glibc gives blocks that are as large as this back to the system when they are freed, and other free memory at the
#: end of its heap when it is more than the second number. By its own numbers each message of a MiB is made of fresh
#: pages, several times over, and the kernel takes as long to clear them as SHA-256 takes to hash the message.
_RETURNED_BLOCK_BYTES = 32 * 1024 * 1024
_KEPT_BYTES = 64 * 1024 * 1024
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def suit_messages() -> None:
    """Let this process keep memory for the next message, and look for cycles less often; asked again, it is as before.

    A heap thus keeps up to ``_KEPT_BYTES`` that nobody uses. Elsewhere than with glibc only the latter is done.
    """
    gc.set_threshold(_COLLECT_AFTER, *gc.get_threshold()[1:])
    # Python has no function for it, and the environment variables are read before it runs.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _RETURNED_BLOCK_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
