"""What a decorator promises beyond any BlobStore."""

from __future__ import annotations

import os
from abc import abstractmethod

import pytest

from gridwright.blobs.memory import MemoryStore
from gridwright.blobs.store import BlobStore, write_blob
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import GridwrightError, InternalError, NotFound, ResourceExhausted, Unavailable
from gridwright.testing.blob_store_contract import BlobStoreContract, chunks_of, read_all
from gridwright.testing.broken_store import BrokenStore
from gridwright.testing.counting_store import CountingStore

SHA256 = DigestFunction.SHA256
FAULTS = [Unavailable("down"), ResourceExhausted("full"), InternalError("a fault of ours")]


class DecoratorContract(BlobStoreContract):
    """A decorator forwards bulk as bulk, faults as faults, and what it hears of removals."""

    @abstractmethod
    def decorate(self, inner: BlobStore) -> BlobStore:
        """Return the decorator around *inner*, the store that decides what is missing."""
        ...

    @pytest.fixture
    def store(self) -> BlobStore:
        return self.decorate(MemoryStore(max_bytes=2**27))

    async def test_bulk_is_forwarded_as_bulk(self) -> None:
        counted = CountingStore(MemoryStore(max_bytes=2**27))
        store = self.decorate(counted)
        blobs = {SHA256.digest(data): data for data in (os.urandom(5000) for _ in range(100))}
        await store.put_many(blobs)
        await store.missing(set(blobs))
        await store.get_many(blobs)
        absent = {SHA256.digest(os.urandom(20)) for _ in range(100)}
        await store.missing(absent)
        await store.get_many(absent)
        assert counted.calls["put"] == counted.calls["get"] == 0
        assert counted.calls["put_many"] == 1
        assert counted.calls["get_many"] <= 2
        assert counted.calls["missing"] <= 3

    @pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
    async def test_a_fault_of_the_store_below_is_never_absence(self, fault: GridwrightError) -> None:
        store = self.decorate(BrokenStore(fault))
        data = os.urandom(1000)
        digest = SHA256.digest(data)
        with pytest.raises(type(fault)):
            await store.missing({digest})
        with pytest.raises(type(fault)):
            await read_all(store, digest)
        with pytest.raises(type(fault)):
            await store.put(digest, chunks_of(data))
        for answer in ((await store.get_many([digest]))[digest], (await store.put_many({digest: data}))[digest]):
            assert isinstance(answer, type(fault))
            assert not isinstance(answer, NotFound)

    async def test_removals_are_announced(self) -> None:
        store = self.decorate(MemoryStore(max_bytes=50_000))
        heard: set[Digest] = set()
        store.on_removal(heard.update)
        assert store.announces_removals
        blobs = [os.urandom(10_000) for _ in range(10)]
        for blob in blobs:
            await write_blob(store, SHA256.digest(blob), blob)
        digests = set(map(SHA256.digest, blobs))
        assert len(heard) >= 5
        assert heard == await store.missing(digests)

    def test_what_cannot_announce_removals_is_not_said_to(self) -> None:
        assert not self.decorate(BrokenStore(Unavailable("down"))).announces_removals
