"""SizePartitionedStore keeps the promises of a decorator, and each blob in its place."""

from __future__ import annotations

import os

import pytest

from gridwright.blobs.memory import MemoryStore
from gridwright.blobs.store import BlobStore
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import Unavailable
from gridwright.testing.blob_store_contract import chunks_of
from gridwright.testing.broken_store import BrokenStore
from gridwright.testing.counting_store import CountingStore
from gridwright.testing.decorator_contract import DecoratorContract
from gridwright_cas.stores.size_partitioned import SizePartitionedStore

SHA256 = DigestFunction.SHA256
BLOBS = {SHA256.digest(data): data for data in (os.urandom(size) for size in (1, 98, 99, 100, 101, 5000))}
SMALL = {digest for digest in BLOBS if digest.size_bytes < 100}
LARGE = set(BLOBS) - SMALL


class TestSizePartitionedStoreOfSmallBlobs(DecoratorContract):
    def decorate(self, inner: BlobStore) -> BlobStore:
        return SizePartitionedStore(15_000, inner, MemoryStore(max_bytes=2**27))


class TestSizePartitionedStoreOfLargeBlobs(DecoratorContract):
    def decorate(self, inner: BlobStore) -> BlobStore:
        return SizePartitionedStore(50, MemoryStore(max_bytes=2**27), inner)


@pytest.mark.parametrize("bulk", [True, False])
async def test_each_blob_is_kept_by_its_size_and_nowhere_else(bulk: bool) -> None:
    lower, upper = MemoryStore(max_bytes=2**20), MemoryStore(max_bytes=2**20)
    store = SizePartitionedStore(100, lower, upper)
    if bulk:
        await store.put_many(BLOBS)
    else:
        for digest, data in BLOBS.items():
            await store.put(digest, chunks_of(data))
    assert await lower.missing(set(BLOBS)) == LARGE
    assert await upper.missing(set(BLOBS)) == SMALL
    assert await store.get_many(BLOBS) == BLOBS


async def test_a_half_that_is_not_concerned_is_not_asked() -> None:
    lower, upper = CountingStore(MemoryStore(max_bytes=2**20)), CountingStore(MemoryStore(max_bytes=2**20))
    store = SizePartitionedStore(100, lower, upper)
    await store.put_many({digest: BLOBS[digest] for digest in LARGE})
    await store.missing(SMALL)
    await store.get_many(SMALL)
    assert dict(lower.calls) == {"missing": 1, "get_many": 1}
    assert dict(upper.calls) == {"put_many": 1}


async def test_when_one_half_fails_the_blobs_of_the_other_are_served() -> None:
    for halves in ((MemoryStore(max_bytes=2**20), RaisingStore()), (RaisingStore(), MemoryStore(max_bytes=2**20))):
        store = SizePartitionedStore(100, *halves)
        served, failed = (SMALL, LARGE) if isinstance(halves[1], RaisingStore) else (LARGE, SMALL)
        kept = await store.put_many(BLOBS)
        assert {digest for digest, error in kept.items() if error is None} == served
        assert all(isinstance(kept[digest], Unavailable) for digest in failed)
        found = await store.get_many(BLOBS)
        assert {digest: found[digest] for digest in served} == {digest: BLOBS[digest] for digest in served}
        assert all(isinstance(found[digest], Unavailable) for digest in failed)
        with pytest.raises(Unavailable):
            await store.missing(set(BLOBS))
        assert await store.missing(served) == set()


def test_removals_are_announced_if_both_halves_do() -> None:
    heard: list[Digest] = []
    silent, announcing = BrokenStore(Unavailable("down")), MemoryStore(max_bytes=1)
    for halves in ((silent, announcing), (announcing, silent)):
        store = SizePartitionedStore(100, *halves)
        store.on_removal(heard.extend)
        assert not store.announces_removals
    assert SizePartitionedStore(100, announcing, announcing).announces_removals


class RaisingStore(BrokenStore):
    """Raises also where others answer for each blob."""

    def __init__(self) -> None:
        super().__init__(Unavailable("down"))

    async def get_many(self, digests: object) -> dict[Digest, bytes]:
        raise self._error

    async def put_many(self, blobs: object) -> dict[Digest, None]:
        raise self._error
