"""ReadOnlyStore reads like any store, and takes nothing new."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Mapping

import pytest

from gridwright.blobs.forwarding import ForwardingStore
from gridwright.blobs.memory import MemoryStore
from gridwright.blobs.store import BlobStore, write_blob
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import GridwrightError, PermissionDenied
from gridwright.testing.blob_store_contract import BlobStoreContract, chunks_of
from gridwright_cas.stores.read_only import ReadOnlyStore

SHA256 = DigestFunction.SHA256


class FilledFromElsewhere(ForwardingStore):
    """Reads from one store, and uploads into the one behind it."""

    def __init__(self, reads: BlobStore, writes: BlobStore) -> None:
        super().__init__(reads)
        self._writes = writes

    async def put(self, digest: Digest, chunks: AsyncIterable[bytes]) -> None:
        await self._writes.put(digest, chunks)

    async def put_many(self, blobs: Mapping[Digest, bytes]) -> Mapping[Digest, GridwrightError | None]:
        return await self._writes.put_many(blobs)


class TestReadOnlyStore(BlobStoreContract):
    @pytest.fixture
    def store(self) -> BlobStore:
        leaf = MemoryStore(max_bytes=2**27)
        return FilledFromElsewhere(ReadOnlyStore(leaf), leaf)


async def test_new_blobs_are_refused_and_those_that_are_there_accepted() -> None:
    leaf = MemoryStore(max_bytes=2**20)
    store = ReadOnlyStore(leaf)
    old, new = os.urandom(10), os.urandom(10)
    await write_blob(leaf, SHA256.digest(old), old)
    await store.put(SHA256.digest(old), chunks_of(old))
    with pytest.raises(PermissionDenied, match="read-only"):
        await store.put(SHA256.digest(new), chunks_of(new))
    kept = await store.put_many({SHA256.digest(old): old, SHA256.digest(new): new, SHA256.empty: b""})
    assert [type(error) for error in kept.values()] == [type(None), PermissionDenied, type(None)]
    assert await leaf.missing({SHA256.digest(new)}) == {SHA256.digest(new)}


async def test_removals_are_announced() -> None:
    heard: list[Digest] = []
    leaf = MemoryStore(max_bytes=10)
    store = ReadOnlyStore(leaf)
    store.on_removal(heard.extend)
    for data in (b"0123456789", b"abcdefghij"):
        await write_blob(leaf, SHA256.digest(data), data)
    assert heard == [SHA256.digest(b"0123456789")]
