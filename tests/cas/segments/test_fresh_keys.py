"""What was found in the index is not looked up again, as long as it is certain."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from gridwright.digest import DigestFunction
from gridwright.testing.clock import FakeClock
from gridwright_cas.stores.segments.disk import SystemDisk
from gridwright_cas.stores.segments.fresh_keys import FreshKeys
from gridwright_cas.stores.segments.index import Index
from gridwright_cas.stores.segments.key import key_of
from gridwright_cas.stores.segments.removal_log import RemovalLog
from gridwright_cas.stores.segments.row import Row, pack_row, touched_before
from gridwright_cas.stores.segments.stats import SegmentStats

HERE, ALSO, ABSENT = (key_of(DigestFunction.SHA256.digest(b"%d" % number)) for number in range(3))
TOUCHED_MS = 10_000_000
STALE_MS = TOUCHED_MS - 600_000


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    index = Index.open(tmp_path / "index", SystemDisk(), durable=False)
    yield index
    index.close()


@pytest.fixture
def log(index: Index) -> RemovalLog:
    return RemovalLog(index, FakeClock(), SegmentStats())


@pytest.fixture
def fresh(index: Index, log: RemovalLog) -> FreshKeys:
    return FreshKeys(index, log)


def write(index: Index, key: bytes, touched_ms: int = TOUCHED_MS) -> bytes:
    value = pack_row(Row(touched_ms, 1, 0, 5))
    with index.writing() as txn:
        txn.put(key, value)
    return value


def ask(fresh: FreshKeys, *keys: bytes, stale_ms: int = STALE_MS) -> dict[bytes, bytes | None]:
    return fresh.values_of_others(keys, touched_before(stale_ms), touched_before(stale_ms + 1_200_000))


def test_what_is_there_is_looked_up_once(index: Index, fresh: FreshKeys) -> None:
    value = write(index, HERE)
    assert ask(fresh, HERE, ABSENT) == {HERE: value, ABSENT: None}
    assert ask(fresh, ABSENT, HERE) == {ABSENT: None}


def test_what_was_absent_is_looked_up_again(index: Index, fresh: FreshKeys) -> None:
    assert ask(fresh, HERE) == {HERE: None}
    value = write(index, HERE)
    assert ask(fresh, HERE) == {HERE: value}


def test_what_another_removes_is_missing_at_once(index: Index, log: RemovalLog, fresh: FreshKeys) -> None:
    """FMB-07."""
    write(index, HERE)
    value = write(index, ALSO)
    ask(fresh, HERE, ALSO)
    with index.writing() as txn:
        txn.delete(HERE)
        log.append(txn, [HERE])
    assert ask(fresh, HERE, ALSO) == {HERE: None, ALSO: value}
    assert ask(fresh, HERE, ALSO) == {HERE: None}


def test_a_row_is_seen_before_it_is_stale(index: Index, fresh: FreshKeys) -> None:
    """FMB-06: whose row is stale is touched, so nobody may be spared the look at it."""
    write(index, HERE)
    for stale_ms in range(STALE_MS, TOUCHED_MS + 10_000, 7_000):
        if HERE in ask(fresh, HERE, stale_ms=stale_ms):
            continue
        assert stale_ms <= TOUCHED_MS
    assert HERE in ask(fresh, HERE, stale_ms=TOUCHED_MS + 1)


def test_a_row_that_is_about_to_be_stale_is_looked_up_each_time(index: Index, fresh: FreshKeys) -> None:
    value = write(index, HERE, touched_ms=STALE_MS + 1)
    assert ask(fresh, HERE) == ask(fresh, HERE) == {HERE: value}


def test_a_clock_that_goes_back_is_no_reason_to_trust_what_is_known(index: Index, fresh: FreshKeys) -> None:
    value = write(index, HERE)
    ask(fresh, HERE)
    assert ask(fresh, HERE, stale_ms=STALE_MS - 1) == {HERE: value}


def test_what_was_touched_by_a_clock_that_was_set_back_is_looked_up_each_time(index: Index, fresh: FreshKeys) -> None:
    value = write(index, HERE, touched_ms=STALE_MS + 1_200_000)
    assert ask(fresh, HERE) == ask(fresh, HERE) == {HERE: value}
