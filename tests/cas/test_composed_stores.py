"""Stores composed as operators compose them keep the promises of one store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gridwright.blobs.eviction import EvictionPolicy
from gridwright.blobs.memory import MemoryStore
from gridwright.blobs.store import BlobStore
from gridwright.testing.blob_store_contract import BlobStoreContract
from gridwright.testing.clock import FakeClock
from gridwright.testing.decorator_contract import DecoratorContract
from gridwright_cas.stores.codecs import Lz4Codec, ZstdCodec
from gridwright_cas.stores.compressed import CompressedStore
from gridwright_cas.stores.existence_cached import ExistenceCachedStore
from gridwright_cas.stores.fast_slow import FastSlowStore
from gridwright_cas.stores.filesystem import FilesystemStore
from gridwright_cas.stores.noop import NoopStore
from gridwright_cas.stores.size_partitioned import SizePartitionedStore
from gridwright_cas.stores.verified import VerifiedStore


def existence_cached(inner: BlobStore) -> BlobStore:
    return ExistenceCachedStore(inner, FakeClock(), EvictionPolicy(max_count=10_000, max_seconds=3600))


def main_store(leaf: BlobStore) -> BlobStore:
    """The CAS_MAIN_STORE of a NativeLink deployment."""
    fast = SizePartitionedStore(64_000, MemoryStore(max_bytes=2**24), NoopStore())
    slow = CompressedStore(leaf, Lz4Codec())
    return VerifiedStore(existence_cached(FastSlowStore(fast, slow, FakeClock())))


class TestMainStoreInMemory(DecoratorContract):
    def decorate(self, inner: BlobStore) -> BlobStore:
        return main_store(inner)


class TestMainStoreOnDisk(BlobStoreContract):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[BlobStore]:
        async with FilesystemStore.opened(tmp_path, FakeClock(), EvictionPolicy(2**28), durable=False) as leaf:
            yield main_store(leaf)


class TestCompressionOverTwoTiers(DecoratorContract):
    def decorate(self, inner: BlobStore) -> BlobStore:
        tiers = FastSlowStore(MemoryStore(max_bytes=100_000), inner, FakeClock())
        return CompressedStore(existence_cached(tiers), ZstdCodec())
