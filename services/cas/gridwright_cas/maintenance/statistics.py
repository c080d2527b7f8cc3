"""What a store holds."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gridwright_cas.maintenance.messages import Messages
from gridwright_cas.maintenance.rows import rows_of
from gridwright_cas.maintenance.stopping import Stop
from gridwright_cas.maintenance.store_directory import OpenDirectory
from gridwright_cas.stores.segments.index import Index


@dataclass(slots=True)
class _Part:
    """Some of what is there: how many, and how many bytes."""

    count: int = 0
    size_bytes: int = 0

    def add(self, sizes: Iterable[int]) -> None:
        for size_bytes in sizes:
            self.count += 1
            self.size_bytes += size_bytes

    def document(self) -> dict[str, int]:
        return {"count": self.count, "bytes": self.size_bytes}


def stats(directory: OpenDirectory, messages: Messages, stop: Stop) -> None:
    """Say how many blobs of which kind there are, how full the segments are, and since when nothing was used.

    All rows are looked at once: a few microseconds each.
    """
    engine = directory.engine
    small, large = _Part(), _Part()
    oldest_ms, newest_ms = sys.maxsize, 0
    with engine.index.reading() as txn:
        total = txn.stat(engine.index.rows)["entries"]
        states = engine.index.segments.states(txn)
    for portion in rows_of(engine.index):
        stop.check()
        rows = [row for _, row in portion]
        small.add(row.stored_bytes for row in rows if not row.is_large)
        large.add(row.stored_bytes for row in rows if row.is_large)
        oldest_ms = min(oldest_ms, *(row.touched_ms for row in rows))
        newest_ms = max(newest_ms, *(row.touched_ms for row in rows))
        messages.progress("counting", small.count + large.count, total, "blobs")
    oldest_ms = min(oldest_ms, newest_ms)
    messages.result(
        {
            "directory": str(engine.path),
            "blobs": small.count + large.count,
            "small": small.document(),
            "large": large.document(),
            "partial": _files(engine.path / "partial").document(),
            "quarantine": _files(engine.path / "quarantine").document(),
            "used_bytes": engine.room.used_bytes,
            "max_bytes": engine.room.size.max_bytes,
            "index_bytes": _index_bytes(engine.index),
            "oldest_touch": oldest_ms / 1000,
            "oldest_touch_seconds": engine.clock.now() - oldest_ms / 1000,
            "newest_touch": newest_ms / 1000,
            "segments": [
                {
                    "segment": segment,
                    "bytes": state.end,
                    "live_bytes": state.live_bytes,
                    "blobs": state.live_count,
                    "newest_touch": state.newest_touch_ms / 1000,
                    "open": state.is_open,
                }
                for segment, state in states.items()
            ],
        }
    )


def _files(path: Path) -> _Part:
    """Count the files of a directory, which another process may be changing."""
    part = _Part()
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                try:
                    part.add([entry.stat().st_blocks * 512])
                except FileNotFoundError:
                    continue
    except FileNotFoundError:
        pass
    return part


def _index_bytes(index: Index) -> int:
    return os.stat(Path(index.environment.path()) / "data.mdb").st_blocks * 512
