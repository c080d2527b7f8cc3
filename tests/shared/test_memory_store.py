"""MemoryStore keeps the promises of a BlobStore, and its bound."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest

from gridwright.blobs.eviction import EvictionPolicy
from gridwright.blobs.memory import MemoryStore
from gridwright.blobs.store import BlobStore, read_blob, write_blob
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import ResourceExhausted
from gridwright.testing.blob_store_contract import chunks_of
from gridwright.testing.clock import FakeClock
from gridwright.testing.eviction_contract import EvictionContract
from gridwright.testing.leaf_contract import LeafContract

SHA256 = DigestFunction.SHA256


class TestMemoryStore(LeafContract, EvictionContract):
    @pytest.fixture
    def store(self) -> BlobStore:
        return MemoryStore(max_bytes=2**26)

    @pytest.fixture
    def bounded_store(self) -> BlobStore:
        return MemoryStore(max_bytes=self.capacity_bytes)


async def test_the_least_recently_used_go_first() -> None:
    store = MemoryStore(max_bytes=300)
    blobs = [os.urandom(100) for _ in range(4)]
    old, used, newer, newest = map(SHA256.digest, blobs)
    for blob in blobs[:3]:
        await write_blob(store, SHA256.digest(blob), blob)
    assert await store.missing({old}) == set()  # which counts as a use
    await write_blob(store, newest, blobs[3])
    assert await store.missing({old, used, newer, newest}) == {used}


async def test_what_was_not_used_for_too_long_goes_and_is_announced() -> None:
    clock = FakeClock()
    store = MemoryStore(policy=EvictionPolicy(max_seconds=100), clock=clock)
    heard: list[Digest] = []
    store.on_removal(heard.extend)
    old, used = SHA256.digest(b"old"), SHA256.digest(b"used")
    await store.put_many({old: b"old", used: b"used"})
    clock.advance(60)
    assert await read_blob(store, used) == b"used"
    clock.advance(60)
    assert await store.missing({old, used}) == {old}
    assert heard == [old]


async def test_at_most_so_many_are_kept() -> None:
    store = MemoryStore(policy=EvictionPolicy(max_count=2))
    digests = [SHA256.digest(data) for data in (b"a", b"b", b"c")]
    await store.put_many(dict(zip(digests, (b"a", b"b", b"c"), strict=True)))
    assert await store.missing(set(digests)) == {digests[0]}


async def test_more_bytes_than_the_store_may_hold_are_refused_while_they_come() -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield b"x" * 60

    with pytest.raises(ResourceExhausted):
        await MemoryStore(max_bytes=100).put(SHA256.digest(b"x"), endless())
    assert sent == 2


async def test_a_blob_larger_than_the_store_is_refused() -> None:
    store = MemoryStore(max_bytes=99)
    blob = os.urandom(100)
    digest = SHA256.digest(blob)
    with pytest.raises(ResourceExhausted):
        await store.put(digest, chunks_of(blob))
    assert isinstance((await store.put_many({digest: blob}))[digest], ResourceExhausted)
    assert await store.missing({digest}) == {digest}
