"""How the memory of a process that serves messages is looked after."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: So many new objects call for the youngest of them to be looked through for cycles. A batch makes thousands that go
#: with its answer: by Python's own number, 700, a tenth of the time of FindMissingBlobs is spent looking at them.
_COLLECT_AFTER = 50_000
#: glibc gives blocks that are as large as this back to the system when they are freed, and other free memory at the
#: end of its heap when it is more than the second number. By its own numbers each message of a MiB is made of fresh
#: pages, several times over, and the kernel takes as long to clear them as SHA-256 takes to hash the message.
_RETURNED_BLOCK_BYTES = 32 * 1024 * 1024
#: While many large streams share the heap, each of them leaves holes in it that the messages of others do not fit
#: into; then it is better that messages have pages of their own and give them back. What gRPC receives comes in pieces
#: of 64 KiB. 32 uploads and downloads took 25 MB less like this, and no more of the processor.
_MANY_STREAMS = 16
_RETURNED_MESSAGE_BYTES = 64 * 1024
_KEPT_BYTES = 64 * 1024 * 1024
#: How often it is looked, while large blobs come and go, whether the process has grown by so much since memory was
#: given back last. To do so takes some milliseconds of a thread, and the next messages are made of fresh pages.
_LOOK_SECONDS = 0.5
#: After so many looks it is done in any case.
_LOOKS = 10
_GROWN_BYTES = 32 * 1024 * 1024
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8


def suit_messages() -> None:
    """Let this process keep memory for the next message, and look for cycles less often; asked again, it is as before.

    A heap thus keeps up to ``_KEPT_BYTES`` that nobody uses. Elsewhere than with glibc only the latter is done.
    """
    gc.set_threshold(_COLLECT_AFTER, *gc.get_threshold()[1:])
    _mallopt(_M_MMAP_THRESHOLD, _RETURNED_BLOCK_BYTES)
    _mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def share_one_heap() -> None:
    """Let all threads of this process have one heap; to be called before there is a second thread.

    By default each may have its own, up to eight for each core, and what one has freed the others cannot use: with
    32 uploads and downloads at once four heaps had 60 MB that nobody used, and one had 35 MB. It was as fast, since
    the interpreter lets one thread run at a time, and has a way of its own to keep small objects. Elsewhere than with
    glibc nothing is done.
    """
    _mallopt(_M_ARENA_MAX, 1)


class LargeStreams:
    """Counts the streams that large blobs go through, and has memory that they used given back to the system.

    What many streams have used at once lies free between what is still in use, and glibc gives none of that back by
    itself: of 300 uploads that stood still it kept four times what they held.
    """

    def __init__(self) -> None:
        self._count = 0
        #: What the process had when memory was given back last.
        self._trimmed_bytes = 0
        self._looks = 0
        self._looking: asyncio.TimerHandle | None = None

    @contextmanager
    def one(self) -> Iterator[None]:
        """Count one while the block runs."""
        self._count += 1
        if self._count == _MANY_STREAMS:
            _mallopt(_M_MMAP_THRESHOLD, _RETURNED_MESSAGE_BYTES)
        self._look_soon()
        try:
            yield
        finally:
            if self._count == _MANY_STREAMS:
                _mallopt(_M_MMAP_THRESHOLD, _RETURNED_BLOCK_BYTES)
            self._count -= 1

    def _look_soon(self) -> None:
        if self._looking is None:
            self._looking = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._looking = None
        is_idle = not self._count
        self._looks += 1
        if is_idle or self._looks >= _LOOKS or resident_bytes() - self._trimmed_bytes > _GROWN_BYTES:
            self._looks = 0
            asyncio.get_running_loop().run_in_executor(None, self._trim)
        if not is_idle:
            self._look_soon()

    def _trim(self) -> None:
        give_back()
        self._trimmed_bytes = resident_bytes()


def _mallopt(option: int, value: int) -> None:
    # Python has no function for it, and the environment variables are read before it runs.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(option, value)


def give_back() -> None:
    """Give the memory that nobody uses back to the system; with glibc, elsewhere nothing is done."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def resident_bytes() -> int:
    """Return how much memory this process has of its own; 0 where the system does not tell."""
    try:
        resident, shared = Path("/proc/self/statm").read_text().split()[1:3]
    except OSError:
        return 0
    return (int(resident) - int(shared)) * _PAGE_BYTES
