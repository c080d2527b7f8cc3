"""Makes room: carries out what ``eviction`` decides."""

from __future__ import annotations

from gridwright.blobs.eviction import EvictionPolicy
from gridwright.errors import ResourceExhausted
from gridwright_cas.stores.segments.eviction import (
    FUTURE_MS,
    NEVER_MS,
    DropLarge,
    DropSegment,
    Retention,
    SegmentFacts,
    Wait,
    expired_segments,
    next_victim,
)
from gridwright_cas.stores.segments.index_size import IndexSize
from gridwright_cas.stores.segments.large_file import file_bytes
from gridwright_cas.stores.segments.parts import Parts
from gridwright_cas.stores.segments.remover import Remover, Tally
from gridwright_cas.stores.segments.room import Room
from gridwright_cas.stores.segments.row import Row

#: Room is made ahead, so that uploads need not wait: when less than one segment is free, until three are.
_LOW_SEGMENTS = 1
_GOAL_SEGMENTS = 3
#: So many large files go at once.
_LARGE_BATCH = 200
_MAX_REFUSAL_SECONDS = 60.0
#: What a copy of the index may take beside the pages of its tables: LMDB's own pages, the pages that survivors of the
#: eviction still change, the file system's blocks. Up to 44 KiB were seen.
_COPY_EXTRA_BYTES = 128 * 1024


class Evictor:
    """Keeps a directory within its bounds; run by one thread of the process that keeps house."""

    def __init__(self, parts: Parts, remover: Remover, policy: EvictionPolicy, retention: Retention) -> None:
        self._parts = parts
        self._remover = remover
        self._policy = policy
        self._retention = retention
        #: There is nothing to be found before this moment (monotonic seconds), unless somebody else makes room.
        self._stuck_until = 0.0

    def run(self) -> None:
        """Finish what was begun before, drop what has expired or is too much, and make room ahead.

        Raises:
            Unavailable, ResourceExhausted: the disk or the index fails; try again.
        """
        self._remover.finish_doomed()
        if self._policy.max_seconds:
            self._expire()
        if self._policy.max_count:
            self._reduce_count()
        self.make_room()

    def make_room(self) -> None:
        """Evict until there is room for what was asked for, and some ahead."""
        room = self._parts.room
        wanted_bytes = room.wanted_bytes()
        low_bytes = max(wanted_bytes, _LOW_SEGMENTS * room.size.segment_bytes)
        if room.free_bytes < low_bytes:
            goal_bytes = max(wanted_bytes, self._policy.evict_bytes, _GOAL_SEGMENTS * room.size.segment_bytes)
            self._remover.seal_old_survivors()
            tally = self._tally()
            while room.free_bytes < goal_bytes and self._evict_next(tally, goal_bytes - room.free_bytes):
                # Whoever waits need not wait for all of it.
                room.announce()
            self._report(tally)
        if wanted_bytes:
            # Whoever still waits says so again; a wish that nobody has any more must not empty the store.
            room.forget_wish()
        if room.free_bytes >= low_bytes:
            room.refuse_no_more()

    def make_room_for_copy(self) -> None:
        """Evict until the index is within its share, and the directory has room for a compact copy beside it.

        That is for who opens a directory: blobs beyond a bound that was lowered go later.

        Raises:
            ResourceExhausted: nothing may go that would make room for the copy.
        """
        room = self._parts.room
        self._remover.finish_doomed()
        tally = self._tally()
        while (missing_bytes := _missing_for_copy(room)) > 0 and self._evict_next(tally, missing_bytes):
            continue
        self._report(tally)
        if _missing_beside(room, room.index_size()) > 0:
            raise ResourceExhausted("there is no room for a copy of the index")

    def _evict_next(self, tally: Tally, needed_bytes: int) -> bool:
        """Drop what should go next; return whether there was anything."""
        parts = self._parts
        now = parts.clock.now()
        if parts.clock.monotonic() < self._stuck_until:
            return False
        segments, oldest_large = self._segments(), self._first_large(1)
        victim = next_victim(
            segments,
            oldest_large[0][1].touched_ms if oldest_large else None,
            self._retention,
            now_ms=parts.now_ms(),
            copied_bytes=tally.copied_bytes,
            segment_bytes=parts.room.size.segment_bytes,
        )
        match victim:
            case DropSegment(segment, keep_after_ms):
                try:
                    self._remover.drop_segment(
                        segment, tally, keep_after_ms=keep_after_ms, must_keep=self._retention.strict
                    )
                except ResourceExhausted:
                    # To look again means to read the segment again.
                    self._stuck_until = parts.clock.monotonic() + _MAX_REFUSAL_SECONDS
                    parts.room.refuse_until(now, _MAX_REFUSAL_SECONDS)
                    return False
            case DropLarge(before_ms):
                self._drop_large(before_ms, needed_bytes, tally)
            case Wait(until_ms):
                parts.room.refuse_until(now, min(_MAX_REFUSAL_SECONDS, max(1.0, until_ms / 1000 - now)))
                return False
            case None:
                return False
        return True

    def _drop_large(self, before_ms: int, needed_bytes: int, tally: Tally) -> None:
        rows: list[tuple[bytes, Row]] = []
        for key, row in self._first_large(_LARGE_BATCH):
            if needed_bytes <= 0 or row.touched_ms > before_ms:
                break
            rows.append((key, row))
            needed_bytes -= file_bytes(row.stored_bytes)
        self._remover.drop_large(rows, tally, used_before_ms=min(NEVER_MS, before_ms + 1))

    def _expire(self) -> None:
        """Drop what was not used for ``max_seconds``."""
        expired_ms = self._parts.now_ms() - int(self._policy.max_seconds * 1000)
        tally = Tally()
        while (rows := self._oldest_large(_LARGE_BATCH)) and rows[0][1].touched_ms < expired_ms:
            before = tally.blobs
            old = [(key, row) for key, row in rows if row.touched_ms < expired_ms]
            self._remover.drop_large(old, tally, used_before_ms=expired_ms)
            if tally.blobs == before:
                break  # all of them are in use just now
        segments = self._segments()
        open_ones = {segment.id for segment in segments if not segment.sealed_ms}
        for segment in expired_segments(segments, expired_ms):
            if segment in open_ones:
                self._remover.thin_segment(segment, tally, used_before_ms=expired_ms)
            else:
                self._remover.drop_segment(segment, tally, keep_after_ms=expired_ms - 1)
        self._report(tally)

    def _reduce_count(self) -> None:
        """Drop the oldest blobs beyond ``max_count``; those that were used since they were written last."""
        index = self._parts.index
        with index.reading() as txn:
            excess = txn.stat(index.rows)["entries"] - self._policy.max_count
        if excess <= 0:
            return
        tally = self._tally()
        segments = self._segments()
        for spare_touched in (True, False):
            for segment in segments:
                before_ms = segment.sealed_ms + 1 if spare_touched and segment.sealed_ms else NEVER_MS
                older_ms = min(before_ms, segment.sealed_ms or segment.created_ms)
                rows = self._oldest_large(min(_LARGE_BATCH, excess - tally.blobs))
                self._remover.drop_large([one for one in rows if one[1].touched_ms < older_ms], tally)
                if tally.blobs < excess and segment.live_count:
                    self._remover.thin_segment(segment.id, tally, used_before_ms=before_ms, max_count=excess)
                if tally.blobs >= excess:
                    break
        while tally.blobs < excess and (rows := self._oldest_large(min(_LARGE_BATCH, excess - tally.blobs))):
            self._remover.drop_large(rows, tally)
        self._report(tally)

    def _segments(self) -> list[SegmentFacts]:
        index = self._parts.index
        with index.reading() as txn:
            states = index.segments.states(txn)
            large = {segment: index.segments.large_count(txn, segment) for segment in states}
        return [
            SegmentFacts(segment, state.end, state.live_bytes, *state[2:], large[segment])
            for segment, state in states.items()
        ]

    def _first_large(self, count: int) -> list[tuple[bytes, Row]]:
        """Return the large files to go first: those of a clock that has been set back since, or the oldest."""
        index = self._parts.index
        future = (self._parts.now_ms() + FUTURE_MS).to_bytes(8, "big")
        with index.reading() as txn:
            return index.oldest_large(txn, count, start=future) or index.oldest_large(txn, count)

    def _oldest_large(self, count: int) -> list[tuple[bytes, Row]]:
        index = self._parts.index
        with index.reading() as txn:
            return index.oldest_large(txn, count)

    def _tally(self) -> Tally:
        return Tally(retained_ms=self._parts.now_ms() - int(self._retention.min_seconds * 1000))

    def _report(self, tally: Tally) -> None:
        stats = self._parts.stats
        stats.evicted_blobs += tally.blobs
        stats.evicted_bytes += tally.size_bytes
        stats.retention_violations += tally.young
        stats.copied_blobs += tally.copied_blobs
        stats.copied_bytes += tally.copied_bytes
        if tally.blobs:
            stats.youngest_evicted_seconds = max(0.0, (self._parts.now_ms() - tally.newest_ms) / 1000)


def _missing_for_copy(room: Room) -> int:
    """Return how much must go before the index can be copied."""
    index = room.index_size()
    missing_bytes = _missing_beside(room, index)
    return max(missing_bytes, index.needed_bytes() - room.size.max_index_bytes + room.size.spare_index_bytes)


def _missing_beside(room: Room, index: IndexSize) -> int:
    """Return how much must go before a copy of the index fits beside it: nothing where there is too much already."""
    beside_bytes = room.size.max_bytes - room.used_bytes
    return index.used_bytes + _COPY_EXTRA_BYTES - beside_bytes if beside_bytes >= 0 else 0
