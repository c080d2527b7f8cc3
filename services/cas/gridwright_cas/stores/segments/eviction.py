"""What must go when room is wanted: decisions, without I/O and without a clock.

Segments are considered in the order in which they were sealed. A record that was not used
since its segment was sealed is at least as old as that, so it is older than all that lies in later segments: it
goes with its segment. A record that was used since then is copied forward, once: in
its new segment it counts as used before that one was sealed. So one round over all
segments ends with something to drop, however much is in use, and what was used lately
outlives what was not. Large files have their own last use each; they go when they are
older than the oldest segment. Their records, which an index that was lost is made again from, are copied forward
as long as they are there.

A clock that was set back makes what was written before look younger than all that comes after it, which
would then go at once, for as long as the clock was wrong. So segments are aged by their numbers as well,
and large files whose last use is yet to come go first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from gridwright_cas.stores.segments.record import MAX_LARGE_RECORD_BYTES

#: Copying more than so many segments to find room takes longer than uploads wait: then the oldest goes as it is.
_MAX_COPIED_SEGMENTS = 16
#: A touch is written down when the one written before is older than this.
USUAL_TOUCH_SECONDS = 600.0
#: Later than any touch.
NEVER_MS = 2**63
#: A last use that is yet to come by less than this may be a clock that was put right by a little.
FUTURE_MS = 600_000
_LONG_AGO_MS = 1
#: A segment without blobs goes at once if the records of large files take less than a quarter of it.
_DEAD_SHARE = 4


class SegmentFacts(NamedTuple):
    """A segment, as far as it matters here. Times are Unix milliseconds."""

    id: int
    size_bytes: int
    live_bytes: int
    live_count: int
    newest_touch_ms: int
    created_ms: int
    #: 0: it is still open.
    sealed_ms: int
    #: Records of large files, which are copied forward as long as the files are there.
    large_count: int = 0

    @property
    def is_dead(self) -> bool:
        """Whether it is hardly anything but records of blobs that are gone.

        One that has records of large files only would be copied forward whole, again and again, for no gain: it
        waits for its turn.
        """
        return self.live_count == 0 and self.size_bytes >= _DEAD_SHARE * self.large_count * MAX_LARGE_RECORD_BYTES


class Retention(NamedTuple):
    """How long blobs are to be kept after their last use."""

    #: What Bazel believes a remote file to live.
    min_seconds: float = 10_800.0
    #: Whether uploads are refused rather than that a younger blob goes.
    strict: bool = False


class DropSegment(NamedTuple):
    """Copy forward what was used after *keep_after_ms*; what is left goes, and the file with it."""

    segment: int
    keep_after_ms: int


class DropLarge(NamedTuple):
    """Drop the large files that were last used before *before_ms*, the oldest first, until there is room."""

    before_ms: int


class Wait(NamedTuple):
    """Nothing may go before *until_ms*."""

    until_ms: int


def next_victim(
    segments: Sequence[SegmentFacts],
    oldest_large_ms: int | None,
    retention: Retention,
    *,
    now_ms: int,
    copied_bytes: int,
    segment_bytes: int,
) -> DropSegment | DropLarge | Wait | None:
    """Return what should go next to make room; None: there is nothing.

    Args:
        segments: oldest first; open ones are left alone.
        oldest_large_ms: last use of the large file that was not used for longest, or of one that is yet to come.
        copied_bytes: how much was copied forward since room was wanted.
    """
    sealed_ms = {segment.id: segment.sealed_ms for segment in segments}
    segments = _in_order(segments)
    sealed = [segment for segment in segments if segment.sealed_ms]
    for segment in sealed:
        if segment.is_dead:
            return DropSegment(segment.id, NEVER_MS)
    if oldest_large_ms is not None and oldest_large_ms >= now_ms + FUTURE_MS:
        return DropLarge(NEVER_MS)
    retained_ms = now_ms - int(retention.min_seconds * 1000)
    if retention.strict:
        sealed = [segment for segment in sealed if segment.created_ms <= retained_ms]
        if oldest_large_ms is not None and oldest_large_ms > retained_ms:
            oldest_large_ms = None
    if not sealed and oldest_large_ms is None:
        return _wait(segments, retention) if retention.strict else None
    oldest = min(sealed, key=_sealed_ms, default=None)
    if oldest is None or (oldest_large_ms is not None and oldest_large_ms <= oldest.sealed_ms):
        limit_ms = oldest.sealed_ms if oldest is not None else NEVER_MS
        return DropLarge(min(limit_ms, retained_ms) if retention.strict else limit_ms)
    keep_after_ms = sealed_ms[oldest.id] if copied_bytes < _MAX_COPIED_SEGMENTS * segment_bytes else NEVER_MS
    return DropSegment(oldest.id, min(keep_after_ms, retained_ms) if retention.strict else keep_after_ms)


def expired_segments(segments: Sequence[SegmentFacts], expired_ms: int) -> list[int]:
    """Return the segments in which hardly anything was used at *expired_ms* or later.

    That is where nothing was, and where what was used since has outlived the segment once over. The
    few blobs that have expired elsewhere are answered as missing, and their bytes wait for their neighbours'.
    """
    return [
        segment.id
        for segment in segments
        if segment.live_count and (segment.newest_touch_ms < expired_ms or 0 < segment.sealed_ms < expired_ms)
    ]


def touch_seconds(oldest_ms: int, now_ms: int) -> float:
    """Return how old a stored touch may become before it is written again, in a store that is more than half full.

    Ten minutes cost little and say enough about a store that turns over in days. One that turns
    over in a minute would evict what is in constant use: there it is an eighth of what the oldest
    segment, begun at *oldest_ms*, has lived.
    """
    return min(USUAL_TOUCH_SECONDS, max(0.0, (now_ms - oldest_ms) / 8000))


def _in_order(segments: Sequence[SegmentFacts]) -> Sequence[SegmentFacts]:
    """Return *segments* as begun no later than those with larger numbers; sealed before all of them if by far."""
    believable: list[SegmentFacts] = []
    next_ms = NEVER_MS
    for segment in reversed(segments):
        shift_ms = max(0, segment.created_ms - next_ms)
        next_ms = segment.created_ms - shift_ms
        # Several processes that begin segments together may do so in another order than that of their numbers.
        sealed_ms = segment.sealed_ms - shift_ms if shift_ms < FUTURE_MS else _LONG_AGO_MS
        believable.append(segment._replace(created_ms=next_ms, sealed_ms=sealed_ms if segment.sealed_ms else 0))
    return believable[::-1]


def _sealed_ms(segment: SegmentFacts) -> int:
    return segment.sealed_ms


def _wait(segments: Sequence[SegmentFacts], retention: Retention) -> Wait | None:
    first_ms = min((segment.created_ms for segment in segments), default=None)
    return None if first_ms is None else Wait(first_ms + int(retention.min_seconds * 1000))
