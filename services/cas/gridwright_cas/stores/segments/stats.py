"""What the engine counts; the service makes metrics of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class SegmentStats:
    """Counters of one process since it started, and the last known state."""

    evicted_blobs: int = 0
    evicted_bytes: int = 0
    #: Blobs that went although they were used within ``min_retention_seconds``: an alert hangs on it.
    retention_violations: int = 0
    #: Seconds between last use and eviction of the blob that was kept shortest; None: nothing was evicted yet.
    youngest_evicted_seconds: float | None = None
    #: Records of old segments that were written once more because they were used lately.
    copied_blobs: int = 0
    copied_bytes: int = 0
    #: Uploads that found no room in time.
    refused_uploads: int = 0
    #: Blobs found rotten by reader or scrubber, and what the scrubber has read.
    corrupt_blobs: int = 0
    scrubbed_bytes: int = 0
    #: Segments and large files that the scrubber could not read to their end.
    scrub_failures: int = 0
    #: Full rounds of the scrubber.
    scrub_rounds: int = 0
    #: Times that this process slept through announcements of removed blobs.
    missed_removals: int = 0
    #: Times that eviction, scrubbing or clearing up failed, as where the disk does.
    housekeeping_failures: int = 0
    #: The last of them, for ``/status``.
    last_housekeeping_failure: str | None = None
