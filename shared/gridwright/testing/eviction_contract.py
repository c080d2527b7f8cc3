"""What a bounded store promises about what goes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection
from contextlib import aclosing
from typing import ClassVar

from gridwright.blobs.store import BlobStore, write_blob
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import BlobNotFound
from gridwright.testing.blob_store_contract import chunks_of, read_all

SHA256 = DigestFunction.SHA256


class EvictionContract:
    """Tests of one store that holds about ``capacity_bytes``; the subclass provides the fixture ``bounded_store``.

    Within these bounds a store may evict in steps as large as it likes.
    """

    capacity_bytes: ClassVar[int] = 8 * 1024 * 1024

    async def fill(self, store: BlobStore, times: float, size: int = 40_000) -> list[Digest]:
        """Write *times* the capacity in small batches; return what was written, in this order."""
        written: list[Digest] = []
        for _ in range(int(self.capacity_bytes * times / size / 10)):
            blobs = {SHA256.digest(data): data for data in (os.urandom(size) for _ in range(10))}
            assert await store.put_many(blobs) == dict.fromkeys(blobs)
            written += blobs
        return written

    async def test_old_blobs_make_room_for_new_ones(self, bounded_store: BlobStore) -> None:
        written = await self.fill(bounded_store, 4)
        missing = await bounded_store.missing(set(written))
        assert missing >= set(written[: len(written) // 2])
        assert not missing & set(written[-10:])

    async def test_every_blob_that_goes_is_announced(self, bounded_store: BlobStore) -> None:
        heard: set[Digest] = set()
        changed = asyncio.Event()

        def hear(digests: Collection[Digest]) -> None:
            heard.update(digests)
            changed.set()

        bounded_store.on_removal(hear)
        assert bounded_store.announces_removals
        written = await self.fill(bounded_store, 3)
        async with asyncio.timeout(10):
            while not heard.issuperset(await bounded_store.missing(set(written))):
                changed.clear()
                await changed.wait()
        assert await bounded_store.missing(heard) == heard

    async def test_a_read_that_has_begun_ends_well_though_the_blob_goes(self, bounded_store: BlobStore) -> None:
        data = os.urandom(self.capacity_bytes // 3)
        digest = SHA256.digest(data)
        await bounded_store.put(digest, chunks_of(data))
        async with aclosing(bounded_store.get(digest)) as chunks:  # type: ignore[type-var]
            read = await anext(chunks)
            await self.fill(bounded_store, 3)
            assert await bounded_store.missing({digest}) == {digest}
            read += b"".join([chunk async for chunk in chunks])
        assert read == data

    async def test_readers_beside_eviction_see_all_of_a_blob_or_none(self, bounded_store: BlobStore) -> None:
        data = {SHA256.digest(one): one for one in (os.urandom(self.capacity_bytes // 16) for _ in range(4))}
        filling = asyncio.create_task(self.fill(bounded_store, 4))
        while not filling.done():
            await asyncio.sleep(0)  # a store in memory waits for nothing
            for digest, one in data.items():
                try:
                    assert await read_all(bounded_store, digest) == one
                except BlobNotFound:
                    await write_blob(bounded_store, digest, one)
                found = (await bounded_store.get_many([digest]))[digest]
                assert found == one or isinstance(found, BlobNotFound)
        await filling

    async def test_a_blob_that_went_can_come_again(self, bounded_store: BlobStore) -> None:
        data = os.urandom(1000)
        digest = SHA256.digest(data)
        await write_blob(bounded_store, digest, data)
        await self.fill(bounded_store, 3)
        assert await bounded_store.missing({digest}) == {digest}
        await write_blob(bounded_store, digest, data)
        assert await read_all(bounded_store, digest) == data

    async def test_what_is_used_stays_while_older_blobs_go(self, bounded_store: BlobStore) -> None:
        data = os.urandom(1000)
        digest = SHA256.digest(data)
        await write_blob(bounded_store, digest, data)
        for _ in range(10):
            await self.fill(bounded_store, 0.3)
            assert await bounded_store.missing({digest}) == set()
