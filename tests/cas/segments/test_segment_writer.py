"""Groups that are appended while those before them are still on their way into the index."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gridwright.blobs.eviction import EvictionPolicy
from gridwright.digest import DigestFunction
from gridwright.errors import Unavailable
from gridwright.testing.clock import FakeClock
from gridwright_cas.stores.segments.engine import Engine, SegmentSettings
from gridwright_cas.stores.segments.index import MAX_ROWS, Group, Index, Taken
from gridwright_cas.stores.segments.key import key_of
from gridwright_cas.stores.segments.segment_writer import Writes

MIB = 1024 * 1024


def blob(text: str) -> tuple[bytes, bytes]:
    payload = text.encode()
    return key_of(DigestFunction.SHA256.digest(payload)), payload


FIRST, SECOND, THIRD = blob("first"), blob("second"), blob("third")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


def opened(path: Path) -> Engine:
    return Engine.open(path, FakeClock(), SegmentSettings(EvictionPolicy(max_bytes=256 * MIB)))


@pytest.fixture
def engine(path: Path) -> Iterator[Engine]:
    engine = opened(path)
    yield engine
    engine.close()


def let_one_commit_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        monkeypatch.undo()
        raise Unavailable("the index fails once")

    monkeypatch.setattr(Index, "add", fails)


def segment_of(engine: Engine, key: bytes) -> int | None:
    row = engine.index.row_of(key)
    return None if row is None else row.segment


def test_groups_may_be_appended_before_the_first_is_committed(engine: Engine) -> None:
    writer = engine.writer
    groups = [writer.append(Writes([one])) for one in (FIRST, SECOND)]
    assert segment_of(engine, FIRST[0]) is None
    for group in groups:
        writer.commit(group)
    assert segment_of(engine, FIRST[0]) == segment_of(engine, SECOND[0]) == groups[0].segment.id


def test_a_group_behind_one_that_could_not_be_committed_is_kept_and_the_next_begins_a_segment(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = engine.writer
    first, second = [writer.append(Writes([one])) for one in (FIRST, SECOND)]
    let_one_commit_fail(monkeypatch)
    with pytest.raises(Unavailable):
        writer.commit(first)
    third = writer.append(Writes([THIRD]))  # while the second is still on its way
    writer.commit(second)
    writer.commit(third)
    assert segment_of(engine, FIRST[0]) is None
    assert segment_of(engine, SECOND[0]) == second.segment.id
    assert segment_of(engine, THIRD[0]) == third.segment.id != second.segment.id


def test_what_could_not_be_committed_is_cut_off_when_its_segment_is_sealed(
    engine: Engine, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = engine.writer
    writer.commit(first := writer.append(Writes([FIRST])))
    end = first.group.end
    failed = writer.append(Writes([SECOND]))
    let_one_commit_fail(monkeypatch)
    with pytest.raises(Unavailable):
        writer.commit(failed)
    file = path / "segments" / str(failed.segment.id)
    assert file.stat().st_size > end
    writer.commit(writer.append(Writes([THIRD])))
    assert file.stat().st_size == end
    with engine.index.reading() as txn:
        state = engine.index.segments.state(txn, failed.segment.id)
    assert state is not None
    assert not state.is_open
    assert state.end == end


def test_a_segment_is_sealed_only_when_all_its_groups_are_committed(engine: Engine, path: Path) -> None:
    writer = engine.writer
    waiting = writer.append(Writes([FIRST]))
    waiting.segment.is_given_up = True
    other = writer.append(Writes([SECOND]))
    with engine.index.reading() as txn:
        state = engine.index.segments.state(txn, waiting.segment.id)
    assert state is not None
    assert state.is_open
    writer.commit(waiting)
    writer.commit(other)
    writer.commit(writer.append(Writes([THIRD])))
    with engine.index.reading() as txn:
        state = engine.index.segments.state(txn, waiting.segment.id)
    assert state is not None
    assert not state.is_open
    assert state.live_count == 1


def test_a_group_of_more_rows_than_a_transaction_takes_comes_into_the_index_whole(
    engine: Engine, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    add = Index.add

    def counted(index: Index, txn: object, group: Group) -> Taken:
        sizes.append(len(group.blobs))
        return add(index, txn, group)  # type: ignore[arg-type]

    monkeypatch.setattr(Index, "add", counted)
    blobs = [blob(str(number)) for number in range(2 * MAX_ROWS + 500)]
    group = engine.writer.append(Writes(blobs))
    engine.writer.commit(group)
    assert sizes == [MAX_ROWS, MAX_ROWS, 500]
    assert all(segment_of(engine, key) == group.segment.id for key, _ in blobs)
    with engine.index.reading() as txn:
        state = engine.index.segments.state(txn, group.segment.id)
    assert state is not None
    assert (state.live_count, state.end) == (len(blobs), group.group.end)
    assert state.live_bytes == group.group.blob_bytes
