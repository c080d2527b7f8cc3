"""MemoryStore keeps the promises of a BlobStore, and its bound."""

from __future__ import annotations

import os

import pytest

from gridwright.blobs.memory import MemoryStore
from gridwright.blobs.store import BlobStore, write_blob
from gridwright.digest import DigestFunction
from gridwright.errors import ResourceExhausted
from gridwright.testing.blob_store_contract import BlobStoreContract, chunks_of

SHA256 = DigestFunction.SHA256


class TestMemoryStore(BlobStoreContract):
    @pytest.fixture
    def store(self) -> BlobStore:
        return MemoryStore(max_bytes=2**26)


async def test_the_least_recently_used_go_first() -> None:
    store = MemoryStore(max_bytes=300)
    blobs = [os.urandom(100) for _ in range(4)]
    old, used, newer, newest = map(SHA256.digest, blobs)
    for blob in blobs[:3]:
        await write_blob(store, SHA256.digest(blob), blob)
    assert await store.missing({old}) == set()  # which counts as a use
    await write_blob(store, newest, blobs[3])
    assert await store.missing({old, used, newer, newest}) == {used}


async def test_a_blob_larger_than_the_store_is_refused() -> None:
    store = MemoryStore(max_bytes=99)
    blob = os.urandom(100)
    digest = SHA256.digest(blob)
    with pytest.raises(ResourceExhausted):
        await store.put(digest, chunks_of(blob))
    assert isinstance((await store.put_many({digest: blob}))[digest], ResourceExhausted)
    assert await store.missing({digest}) == {digest}
