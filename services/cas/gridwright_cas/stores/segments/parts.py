"""What the parts of the engine that keep house work on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gridwright.clock import Clock
from gridwright_cas.stores.segments.disk import Disk
from gridwright_cas.stores.segments.index import Index
from gridwright_cas.stores.segments.large_files import LargeFiles
from gridwright_cas.stores.segments.removal_log import RemovalLog
from gridwright_cas.stores.segments.room import Room
from gridwright_cas.stores.segments.segment_file import SegmentDirectory
from gridwright_cas.stores.segments.stats import SegmentStats


@dataclass(frozen=True)
class Parts:
    """One open directory."""

    #: The store's directory, which has ``locks`` and ``quarantine`` in it.
    root: Path
    index: Index
    segments: SegmentDirectory
    large: LargeFiles
    room: Room
    removals: RemovalLog
    clock: Clock
    stats: SegmentStats

    @property
    def disk(self) -> Disk:
        return self.segments.disk

    @property
    def locks(self) -> Path:
        return self.root / "locks"

    def now_ms(self) -> int:
        """Unix milliseconds, as rows have them."""
        return int(self.clock.now() * 1000)
