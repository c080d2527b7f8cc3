"""What goes when room is needed, as plain decisions."""

from __future__ import annotations

import pytest

from gridwright.blobs.eviction import EvictionPolicy
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import ResourceExhausted
from gridwright_cas.stores.blob_index import BLOCK_BYTES, TOUCH_SECONDS, BlobIndex, HeldBlob, cost_of


def blob(name: str, blocks: int = 1) -> Digest:
    return Digest(DigestFunction.MD5, DigestFunction.MD5.digest(name.encode()).hash, blocks * BLOCK_BYTES)


A, B, C, D = map(blob, "abcd")


def index_of(*digests: Digest, max_blocks: int) -> BlobIndex:
    held = [HeldBlob(digest, digest.size_bytes, 0.0) for digest in digests]
    return BlobIndex(EvictionPolicy(max_bytes=max_blocks * BLOCK_BYTES), held)


@pytest.mark.parametrize(("size", "cost"), [(0, 0), (1, 4096), (4096, 4096), (4097, 8192)])
def test_sizes_count_in_whole_blocks(size: int, cost: int) -> None:
    assert cost_of(size) == cost


def test_nothing_goes_while_there_is_room() -> None:
    index = index_of(A, B, max_blocks=3)
    assert not index.reserve(BLOCK_BYTES, 0.0)
    assert index.used_bytes == 3 * BLOCK_BYTES


def test_the_least_recently_used_goes_first() -> None:
    index = index_of(A, B, C, max_blocks=3)
    assert index.touch(A, 1.0)
    assert list(index.reserve(BLOCK_BYTES, 1.0)) == [B]
    assert B not in index
    assert A in index


def test_as_many_go_as_are_needed_and_no_more() -> None:
    index = index_of(A, B, C, D, max_blocks=4)
    assert list(index.reserve(2 * BLOCK_BYTES, 0.0)) == [A, B]


def test_a_reservation_becomes_the_blob_that_it_was_for() -> None:
    index = index_of(max_blocks=2)
    index.reserve(BLOCK_BYTES, 0.0)
    index.release(BLOCK_BYTES)
    index.add(A, A.size_bytes, 0.0)
    assert index.used_bytes == BLOCK_BYTES


def test_a_blob_that_comes_twice_counts_once() -> None:
    index = index_of(A, max_blocks=2)
    index.add(A, A.size_bytes, 5.0)
    assert (len(index), index.used_bytes) == (1, BLOCK_BYTES)


def test_more_uploads_in_flight_than_there_is_room_are_refused_and_evict_nothing() -> None:
    index = index_of(A, max_blocks=2)
    index.reserve(BLOCK_BYTES, 0.0)
    with pytest.raises(ResourceExhausted):
        index.reserve(2 * BLOCK_BYTES, 0.0)
    assert A in index


def test_a_store_that_has_become_smaller_drops_what_is_too_much() -> None:
    assert list(index_of(A, B, C, max_blocks=1).evict(0.0)) == [A, B]


def test_a_use_is_written_down_at_most_every_ten_minutes() -> None:
    index = index_of(A, max_blocks=2)
    assert index.touch(A, TOUCH_SECONDS)
    assert not index.has_touches
    assert index.touch(A, TOUCH_SECONDS + 1)
    assert index.touch(A, TOUCH_SECONDS + 2)
    assert index.take_touches() == {A: TOUCH_SECONDS + 2}
    assert index.touch(A, TOUCH_SECONDS + 3)
    assert not index.has_touches


def test_what_is_not_there_cannot_be_used_or_removed() -> None:
    index = index_of(max_blocks=1)
    assert not index.touch(A, 1.0)
    index.remove(A)
    assert index.used_bytes == 0


def test_what_is_stored_counts_and_not_what_the_digest_says() -> None:
    index = BlobIndex(EvictionPolicy(max_bytes=2 * BLOCK_BYTES))
    index.add(blob("x", blocks=100), 5, 0.0)
    assert index.used_bytes == BLOCK_BYTES
    assert index.stored_bytes(blob("x", blocks=100)) == 5
    index.add(blob("x", blocks=100), BLOCK_BYTES + 1, 0.0)
    assert index.used_bytes == 2 * BLOCK_BYTES
    assert index.reserve(BLOCK_BYTES, 0.0) == {blob("x", blocks=100): BLOCK_BYTES + 1}


def test_a_store_without_bounds_keeps_everything() -> None:
    index = BlobIndex(EvictionPolicy(), [HeldBlob(A, 10**15, 0.0)])
    assert not index.reserve(10**15, 1e12)
    assert not index.evict(1e12)
