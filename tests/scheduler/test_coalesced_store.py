"""CoalescedStore keeps the contract of every store, and asks less often."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection, Mapping

import pytest

from gridwright.blobs.memory import MemoryStore
from gridwright.blobs.store import BlobStore, read_blob
from gridwright.digest import Digest
from gridwright.errors import GridwrightError, Unavailable
from gridwright.testing.blob_store_contract import SHA256, BlobStoreContract
from gridwright_scheduler.coalesced_store import CoalescedStore


class SlowStore(MemoryStore):
    """Counts questions, takes a moment for each, and can be broken."""

    def __init__(self) -> None:
        super().__init__(max_bytes=1024 * 1024)
        self.questions = 0
        self.broken = False

    async def get_many(self, digests: Collection[Digest]) -> Mapping[Digest, bytes | GridwrightError]:
        self.questions += 1
        await asyncio.sleep(0.01)
        if self.broken:
            raise Unavailable("broken")
        return await super().get_many(digests)


class TestContract(BlobStoreContract):
    @pytest.fixture
    def store(self) -> BlobStore:
        return CoalescedStore(MemoryStore(max_bytes=64 * 1024 * 1024))


async def test_many_readers_at_once_are_few_questions() -> None:
    inner = SlowStore()
    blobs = {SHA256.digest(data): data for data in (os.urandom(20) for _ in range(200))}
    await inner.put_many(blobs)
    store = CoalescedStore(inner)
    found = await asyncio.gather(*(read_blob(store, digest) for digest in blobs))
    assert found == list(blobs.values())
    assert inner.questions <= 2


async def test_all_who_asked_hear_of_a_failure_and_the_next_question_is_a_new_one() -> None:
    inner = SlowStore()
    store = CoalescedStore(inner)
    digest = SHA256.digest(b"x")
    await inner.put_many({digest: b"x"})
    inner.broken = True
    results = await asyncio.gather(*(read_blob(store, digest) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(result, Unavailable) for result in results)
    inner.broken = False
    assert await read_blob(store, digest) == b"x"


async def test_a_reader_that_goes_away_does_not_disturb_the_others() -> None:
    inner = SlowStore()
    store = CoalescedStore(inner)
    digest = SHA256.digest(b"x")
    await inner.put_many({digest: b"x"})
    leaving, staying = (asyncio.create_task(read_blob(store, digest)) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    assert await staying == b"x"
