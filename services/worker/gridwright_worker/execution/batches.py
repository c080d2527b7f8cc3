"""What of many blobs travels together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gridwright.digest import Digest

#: Blobs up to this size travel in batches, larger ones as streams of their own.
SMALL_BYTES = 1024 * 1024
#: Below what one message may hold.
_BATCH_BYTES = 3 * 1024 * 1024
_BATCH_COUNT = 2000


def batches(digests: Iterable[Digest]) -> Iterator[list[Digest]]:
    """Divide small blobs into batches, each for one message and one turn of memory."""
    batch: list[Digest] = []
    used_bytes = 0
    for digest in digests:
        if batch and (used_bytes + digest.size_bytes > _BATCH_BYTES or len(batch) == _BATCH_COUNT):
            yield batch
            batch, used_bytes = [], 0
        batch.append(digest)
        used_bytes += digest.size_bytes
    if batch:
        yield batch
