"""What goes when room is wanted: pure decisions."""

from __future__ import annotations

from gridwright_cas.stores.segments.eviction import (
    NEVER_MS,
    USUAL_TOUCH_SECONDS,
    DropLarge,
    DropSegment,
    Retention,
    SegmentFacts,
    Wait,
    expired_segments,
    next_victim,
    touch_seconds,
)

HOUR_MS = 3_600_000
NOW_MS = 1_000 * HOUR_MS
SEGMENT_BYTES = 1_000


def segment(
    number: int,
    *,
    created_hours: float,
    sealed_hours: float | None = None,
    live_count: int = 10,
    newest_hours: float = 0,
) -> SegmentFacts:
    """A segment that was begun and sealed so many hours ago."""
    sealed = 0 if sealed_hours is None else NOW_MS - int(sealed_hours * HOUR_MS)
    created, newest = (NOW_MS - int(hours * HOUR_MS) for hours in (created_hours, newest_hours))
    return SegmentFacts(number, SEGMENT_BYTES, 900, live_count, newest, created, sealed)


def victim(
    *segments: SegmentFacts,
    large_hours: float | None = None,
    retention: Retention = Retention(),  # noqa: B008  # immutable
    copied_bytes: int = 0,
) -> object:
    large_ms = None if large_hours is None else NOW_MS - int(large_hours * HOUR_MS)
    return next_victim(
        segments, large_ms, retention, now_ms=NOW_MS, copied_bytes=copied_bytes, segment_bytes=SEGMENT_BYTES
    )


OLD, MIDDLE = segment(1, created_hours=10, sealed_hours=9), segment(2, created_hours=6, sealed_hours=5)
YOUNG, OPEN = segment(3, created_hours=2, sealed_hours=1), segment(4, created_hours=1)
STRICT = Retention(strict=True)


def test_the_oldest_segment_goes_but_for_what_was_used_since_it_was_sealed() -> None:
    assert victim(OLD, MIDDLE, YOUNG, OPEN) == DropSegment(1, OLD.sealed_ms)


def test_segments_go_in_the_order_in_which_they_were_sealed() -> None:
    long_open = segment(1, created_hours=20, sealed_hours=2)
    assert victim(long_open, MIDDLE) == DropSegment(2, MIDDLE.sealed_ms)


def test_a_segment_in_which_nothing_lives_goes_first() -> None:
    dead = segment(3, created_hours=2, sealed_hours=1, live_count=0)
    assert victim(OLD, MIDDLE, dead) == DropSegment(3, NEVER_MS)


def test_a_large_file_that_is_older_than_the_oldest_segment_goes_before_it() -> None:
    assert victim(OLD, MIDDLE, large_hours=9.5) == DropLarge(OLD.sealed_ms)
    assert victim(OLD, MIDDLE, large_hours=8.5) == DropSegment(1, OLD.sealed_ms)


def test_open_segments_are_left_alone() -> None:
    assert victim(OPEN) is None
    assert victim(OPEN, large_hours=0) == DropLarge(NEVER_MS)


def test_an_empty_store_has_nothing_to_give() -> None:
    assert victim() is None


def test_when_copying_takes_too_long_the_oldest_goes_as_it_is() -> None:
    assert victim(OLD, copied_bytes=15 * SEGMENT_BYTES) == DropSegment(1, OLD.sealed_ms)
    assert victim(OLD, copied_bytes=16 * SEGMENT_BYTES) == DropSegment(1, NEVER_MS)


def test_when_nothing_is_older_than_the_retention_the_oldest_goes_anyway() -> None:
    assert victim(YOUNG, OPEN) == DropSegment(3, YOUNG.sealed_ms)


def test_strict_retention_keeps_what_was_used_within_it_and_says_until_when() -> None:
    assert victim(YOUNG, OPEN, large_hours=2.9, retention=STRICT) == Wait(YOUNG.created_ms + 3 * HOUR_MS)
    assert victim(YOUNG, large_hours=3.1, retention=STRICT) == DropLarge(NOW_MS - 3 * HOUR_MS)


def test_strict_retention_copies_what_was_used_within_it_from_a_segment_that_is_partly_older() -> None:
    straddling = segment(1, created_hours=4, sealed_hours=2)
    assert victim(straddling, retention=STRICT) == DropSegment(1, NOW_MS - 3 * HOUR_MS)
    assert victim(straddling, retention=STRICT, copied_bytes=99 * SEGMENT_BYTES) == DropSegment(1, NOW_MS - 3 * HOUR_MS)


def test_a_segment_expires_once_hardly_anything_in_it_was_used_lately() -> None:
    idle = segment(5, created_hours=10, newest_hours=9)
    segments = [OLD, MIDDLE, OPEN, idle]
    assert expired_segments(segments, NOW_MS - 8 * HOUR_MS) == [1, 5]
    assert expired_segments(segments, NOW_MS - 12 * HOUR_MS) == []


def test_an_old_store_writes_touches_every_ten_minutes_and_one_that_turns_over_fast_more_often() -> None:
    assert touch_seconds(NOW_MS - 24 * HOUR_MS, NOW_MS) == USUAL_TOUCH_SECONDS
    assert touch_seconds(NOW_MS - 8_000, NOW_MS) == 1.0
    assert touch_seconds(NOW_MS + 5, NOW_MS) == 0.0


def test_what_was_written_before_the_clock_was_set_back_goes_before_what_came_after() -> None:
    month_ahead = segment(1, created_hours=-720, sealed_hours=-721)
    after = segment(2, created_hours=2, sealed_hours=1)
    assert victim(month_ahead, after, OPEN) == DropSegment(1, month_ahead.sealed_ms)


def test_a_process_that_was_slow_to_begin_its_segment_loses_no_more_than_that_time() -> None:
    begun_late = segment(1, created_hours=9.9, sealed_hours=1)
    assert victim(begun_late, segment(2, created_hours=10, sealed_hours=2)) == DropSegment(2, NOW_MS - 2 * HOUR_MS)


def test_large_files_whose_last_use_is_yet_to_come_go_first() -> None:
    assert victim(OLD, large_hours=-720) == DropLarge(NEVER_MS)
    assert victim(OLD, large_hours=-0.001) == DropSegment(1, OLD.sealed_ms)


def test_strict_retention_waits_for_a_clock_that_was_set_back_no_longer_than_usual() -> None:
    month_ahead = segment(1, created_hours=-720, sealed_hours=-721)
    assert victim(month_ahead, segment(2, created_hours=1), retention=STRICT) == Wait(NOW_MS + 2 * HOUR_MS)
