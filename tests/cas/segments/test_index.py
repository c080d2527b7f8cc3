"""The index keeps rows, segments and their accounts together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gridwright.digest import DigestFunction
from gridwright.errors import ConfigurationError
from gridwright_cas.stores.segments.disk import SystemDisk
from gridwright_cas.stores.segments.index import Group, Index
from gridwright_cas.stores.segments.key import key_of
from gridwright_cas.stores.segments.record import record_size
from gridwright_cas.stores.segments.row import Row, SegmentState, pack_row

NOW = 1_700_000_000_000
SIZE = 100


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    index = Index.open(tmp_path / "index", SystemDisk())
    yield index
    index.close()


def key(number: int) -> bytes:
    return key_of(DigestFunction.SHA256.digest(str(number).encode()))


RECORD_BYTES = record_size(key(0), SIZE)


def opened_segment(index: Index) -> int:
    with index.writing() as txn:
        segment = index.segments.new_id(txn)
        index.segments.put(txn, segment, SegmentState(0, 0, 0, NOW, NOW, 0))
    return segment


def add(index: Index, segment: int, numbers: range, *, large: dict[int, int] | None = None) -> set[bytes]:
    """Add blobs as if their records had been appended one after the other; return the keys that were there."""
    with index.writing() as txn:
        state = index.segments.state(txn, segment)
        assert state is not None
        rows = [
            (key(number), pack_row(Row(NOW, segment, state.end + at * RECORD_BYTES, SIZE)))
            for at, number in enumerate(numbers)
        ]
        files = [(key(number), Row(NOW, 0, file, SIZE)) for number, file in (large or {}).items()]
        size = len(rows) * RECORD_BYTES
        taken = index.add(txn, Group(segment, state.end + size, sorted(rows), size, NOW, files))
    return taken.keys


def state_of(index: Index, segment: int) -> SegmentState:
    with index.reading() as txn:
        state = index.segments.state(txn, segment)
    assert state is not None
    return state


def row_of(index: Index, number: int) -> Row:
    row = index.row_of(key(number))
    assert row is not None
    return row


def large_by_touch(index: Index) -> list[bytes]:
    with index.reading() as txn, txn.cursor(db=index.large_by_touch) as cursor:
        return [entry[8:] for entry in cursor.iternext(values=False)]


def test_what_was_added_is_found(index: Index) -> None:
    segment = opened_segment(index)
    assert add(index, segment, range(5), large={9: 77}) == set()
    found = index.values_of([key(3), key(9), key(50)])
    assert found == [pack_row(Row(NOW, segment, 3 * RECORD_BYTES, SIZE)), pack_row(Row(NOW, 0, 77, SIZE)), None]


def test_a_row_comes_with_the_replay_offset_and_the_account_of_its_segment(index: Index) -> None:
    segment = opened_segment(index)
    add(index, segment, range(5))
    assert state_of(index, segment) == SegmentState(5 * RECORD_BYTES, 5 * RECORD_BYTES, 5, NOW, NOW, 0)


def test_who_comes_second_leaves_the_first_row_alone(index: Index) -> None:
    first, second = opened_segment(index), opened_segment(index)
    add(index, first, range(5), large={9: 77})
    assert add(index, second, range(3, 8), large={9: 78}) == {key(3), key(4), key(9)}
    assert row_of(index, 4).segment == first
    assert row_of(index, 9).offset == 77
    assert state_of(index, second) == SegmentState(5 * RECORD_BYTES, 3 * RECORD_BYTES, 3, NOW, NOW, 0)


def test_the_same_group_may_be_added_twice(index: Index) -> None:
    segment = opened_segment(index)
    rows = [(key(1), pack_row(Row(NOW, segment, 0, SIZE)))]
    files = [(key(9), Row(NOW, 0, 77, SIZE))]
    group = Group(segment, RECORD_BYTES, rows, RECORD_BYTES, NOW, files)
    with index.writing() as txn:
        index.add(txn, group)
    with index.writing() as txn:
        taken = index.add(txn, group)
    assert taken.files == set()
    assert row_of(index, 1).segment == segment


def test_of_two_files_of_one_blob_in_a_group_one_is_kept(index: Index) -> None:
    segment = opened_segment(index)
    with index.writing() as txn:
        files = [(key(9), Row(NOW, 0, 77, SIZE)), (key(9), Row(NOW, 0, 78, SIZE))]
        taken = index.add(txn, Group(segment, 10, [], 0, NOW, files))
    assert taken.files == {78}
    assert row_of(index, 9).offset == 77


def test_a_touch_is_told_to_the_segment_too(index: Index) -> None:
    segment = opened_segment(index)
    add(index, segment, range(2), large={8: 77, 9: 78})
    with index.writing() as txn:
        index.touch(txn, [key(0), key(8), key(50)], NOW + 5)
    assert row_of(index, 0).touched_ms == NOW + 5
    assert row_of(index, 1).touched_ms == NOW
    assert row_of(index, 8).touched_ms == NOW + 5
    assert index.row_of(key(50)) is None
    assert state_of(index, segment).newest_touch_ms == NOW + 5
    assert large_by_touch(index) == [key(9), key(8)]


def test_a_touch_never_goes_back(index: Index) -> None:
    add(index, opened_segment(index), range(1))
    with index.writing() as txn:
        index.touch(txn, [key(0)], NOW - 5)
    assert row_of(index, 0).touched_ms == NOW


def test_a_touch_from_the_future_is_written_anew(index: Index) -> None:
    add(index, opened_segment(index), range(1), large={9: 77})
    keys = [key(0), key(9)]
    with index.writing() as txn:
        index.touch(txn, keys, NOW + 3_600_000)
    with index.writing() as txn:
        index.touch(txn, keys, NOW + 3_599_000)
    assert {row_of(index, number).touched_ms for number in (0, 9)} == {NOW + 3_600_000}, "a clock put right by a little"
    with index.writing() as txn:
        index.touch(txn, keys, NOW + 5)
    assert {row_of(index, number).touched_ms for number in (0, 9)} == {NOW + 5}
    assert large_by_touch(index) == [key(9)]


def test_a_row_is_removed_only_from_the_place_that_was_meant(index: Index) -> None:
    segment = opened_segment(index)
    add(index, segment, range(3), large={9: 77})
    row, large = row_of(index, 1), row_of(index, 9)
    with index.writing() as txn:
        gone = [(key(1), row), (key(2), row), (key(9), large), (key(50), row)]
        assert index.remove(txn, gone) == [key(1), key(9)]
        assert index.remove(txn, gone) == []
    assert index.row_of(key(1)) is None
    assert row_of(index, 2).segment == segment
    assert large_by_touch(index) == []
    assert state_of(index, segment)[:3] == (3 * RECORD_BYTES, 2 * RECORD_BYTES, 2)


def test_a_row_is_moved_with_its_last_touch(index: Index) -> None:
    first, second = opened_segment(index), opened_segment(index)
    add(index, first, range(2))
    old = row_of(index, 0)
    with index.writing() as txn:
        index.touch(txn, [key(0)], NOW + 5)
        assert index.move(txn, [(key(0), old, Row(0, second, 40, SIZE)), (key(1), old, Row(0, second, 80, SIZE))]) == [
            key(0)
        ]
    assert row_of(index, 0) == Row(NOW + 5, second, 40, SIZE)
    assert row_of(index, 1).segment == first
    assert state_of(index, first)[1:3] == (RECORD_BYTES, 1)
    assert state_of(index, second)[1:4] == (RECORD_BYTES, 1, NOW + 5)


def test_ids_of_segments_are_never_used_again(index: Index) -> None:
    first = opened_segment(index)
    with index.writing() as txn:
        index.segments.forget(txn, first)
    assert opened_segment(index) > first
    with index.reading() as txn:
        assert first not in index.segments.states(txn)


def test_a_sealed_segment_stays_sealed(index: Index) -> None:
    segment = opened_segment(index)
    with index.writing() as txn:
        index.segments.seal(txn, segment, NOW + 1)
        index.segments.seal(txn, segment, NOW + 2)
    assert state_of(index, segment).sealed_ms == NOW + 1


def test_a_transaction_that_is_left_by_an_error_changes_nothing(index: Index) -> None:
    segment = opened_segment(index)
    with pytest.raises(ZeroDivisionError), index.writing() as txn:  # noqa: PT012  # it must come from inside
        index.add(txn, Group(segment, 10, [(key(1), pack_row(Row(NOW, segment, 0, SIZE)))], 10, NOW, []))
        raise ZeroDivisionError
    assert index.row_of(key(1)) is None
    assert state_of(index, segment).end == 0


def test_the_index_of_another_version_is_refused(tmp_path: Path, index: Index) -> None:
    with index.writing() as txn:
        txn.put(b"format", b"gridwright segments 99", db=index.counters)
    index.close()
    with pytest.raises(ConfigurationError, match="segments 99"):
        Index.open(tmp_path / "index", SystemDisk())
