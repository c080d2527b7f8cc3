"""What every BlobStore promises, as tests: subclass it, give a ``store`` fixture, and pass.

What leaves, decorators and bounded stores promise beyond that is in ``leaf_contract``,
``decorator_contract`` and ``eviction_contract``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from typing import ClassVar

import pytest

from gridwright.blobs.store import CHUNK_BYTES, BlobStore, read_blob, write_blob
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import BlobNotFound, InvalidRequest, OutOfRange

SHA256 = DigestFunction.SHA256
#: Around the boundaries of pages, of what is small, of chunks, of batches.
SIZES = [
    *(0, 1, 4095, 4096, 4097),
    *(2**16 - 1, 2**16, 2**16 + 1),
    *(CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 17),
    *(4 * CHUNK_BYTES - 1, 4 * CHUNK_BYTES + 1),
]


async def chunks_of(data: bytes, size: int = 65536) -> AsyncIterator[bytes]:
    """Yield *data* in pieces of *size*."""
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def read_all(store: BlobStore, digest: Digest, *, offset: int = 0, limit: int | None = None) -> bytes:
    """Return what the store streams."""
    return b"".join([chunk async for chunk in store.get(digest, offset=offset, limit=limit)])


async def _refused(data: bytes) -> AsyncIterator[bytes]:
    """Yield *data*, and find it wrong."""
    async for chunk in chunks_of(data):
        yield chunk
    raise InvalidRequest("these bytes are wrong")


class BlobStoreContract:
    """Tests of one store, which takes some 64 MiB; the subclass provides the fixture ``store``."""

    #: Whether ``get`` takes negative offsets; a CAS over gRPC cannot.
    reads_from_the_end: ClassVar[bool] = True

    @pytest.mark.parametrize("size", SIZES)
    async def test_a_blob_streamed_in_comes_out_the_same(self, store: BlobStore, size: int) -> None:
        data = os.urandom(size)
        digest = SHA256.digest(data)
        await store.put(digest, chunks_of(data))
        assert await read_all(store, digest) == data
        assert await read_blob(store, digest) == data

    @pytest.mark.parametrize("size", SIZES)
    async def test_a_blob_put_in_bulk_comes_out_the_same(self, store: BlobStore, size: int) -> None:
        data = os.urandom(size)
        digest = SHA256.digest(data)
        assert await store.put_many({digest: data}) == {digest: None}
        assert await read_all(store, digest) == data

    @pytest.mark.parametrize("function", list(DigestFunction))
    async def test_every_digest_function_serves(self, store: BlobStore, function: DigestFunction) -> None:
        data = os.urandom(100)
        digest = function.digest(data)
        await write_blob(store, digest, data)
        assert await store.missing({digest}) == set()
        assert await read_blob(store, digest) == data

    async def test_the_same_bytes_under_another_function_are_another_blob(self, store: BlobStore) -> None:
        data = os.urandom(100)
        await write_blob(store, SHA256.digest(data), data)
        other = DigestFunction.BLAKE3.digest(data)
        assert await store.missing({other}) == {other}

    @pytest.mark.parametrize(("offset", "limit"), [(0, 5), (3, None), (3, 5), (CHUNK_BYTES - 1, 2), (10, 0)])
    async def test_a_part_of_a_blob_can_be_read(self, store: BlobStore, offset: int, limit: int | None) -> None:
        data = os.urandom(2 * CHUNK_BYTES + 5)
        digest = SHA256.digest(data)
        await store.put(digest, chunks_of(data))
        end = None if limit is None else offset + limit
        assert await read_all(store, digest, offset=offset, limit=limit) == data[offset:end]

    @pytest.mark.parametrize("size", [100, 2**16 + 1, 2 * CHUNK_BYTES + 5])
    async def test_a_part_can_be_counted_from_the_end(self, store: BlobStore, size: int) -> None:
        if not self.reads_from_the_end:
            return
        data = os.urandom(size)
        digest = SHA256.digest(data)
        await store.put(digest, chunks_of(data))
        for length in (1, 8, size - 1, size):
            assert await read_all(store, digest, offset=-length) == data[-length:]
        assert await read_all(store, digest, offset=-size - 1) == data
        assert await read_all(store, digest, offset=-50, limit=20) == data[-50:-30]

    @pytest.mark.parametrize("size", [2**16 + 1, 4 * CHUNK_BYTES + 1])
    async def test_a_part_may_begin_and_end_anywhere(self, store: BlobStore, size: int) -> None:
        data = os.urandom(size)
        digest = SHA256.digest(data)
        await store.put(digest, chunks_of(data))
        edges = sorted({0, 1, 4095, 4096, 2**16 - 1, 2**16, size // 2, size - 1, size})
        for start in edges:
            for end in edges:
                if start <= end:
                    assert await read_all(store, digest, offset=start, limit=end - start) == data[start:end]
        assert await read_all(store, digest, offset=size - 10, limit=10**6) == data[-10:]

    async def test_reading_from_the_very_end_yields_nothing(self, store: BlobStore) -> None:
        data = os.urandom(100)
        digest = SHA256.digest(data)
        await write_blob(store, digest, data)
        assert await read_all(store, digest, offset=100) == b""

    async def test_reading_from_beyond_the_end_is_out_of_range(self, store: BlobStore) -> None:
        data = os.urandom(100)
        digest = SHA256.digest(data)
        await write_blob(store, digest, data)
        with pytest.raises(OutOfRange):
            await read_all(store, digest, offset=101)

    async def test_what_was_never_put_is_missing(self, store: BlobStore) -> None:
        absent = SHA256.digest(os.urandom(20))
        assert await store.missing({absent}) == {absent}
        with pytest.raises(BlobNotFound):
            await read_all(store, absent)
        found = await store.get_many([absent])
        assert isinstance(found[absent], BlobNotFound)

    @pytest.mark.parametrize("function", list(DigestFunction))
    async def test_the_empty_blob_is_always_there(self, store: BlobStore, function: DigestFunction) -> None:
        assert await store.missing({function.empty}) == set()
        assert await read_all(store, function.empty) == b""
        assert await read_blob(store, function.empty) == b""

    async def test_the_size_is_part_of_the_identity(self, store: BlobStore) -> None:
        data = os.urandom(100)
        digest = SHA256.digest(data)
        await write_blob(store, digest, data)
        other = digest._replace(size_bytes=99)
        assert await store.missing({other}) == {other}
        with pytest.raises(BlobNotFound):
            await read_all(store, other)

    @pytest.mark.parametrize("size", [2, 2**17, 2 * CHUNK_BYTES])
    @pytest.mark.parametrize("came", [0.0, 0.5, 1.0])
    async def test_an_upload_that_is_refused_leaves_nothing(self, store: BlobStore, size: int, came: float) -> None:
        data = os.urandom(size)
        digest = SHA256.digest(data)
        with pytest.raises(InvalidRequest, match="these bytes are wrong"):
            await store.put(digest, _refused(data[: int(size * came)]))
        await self.assert_absent(store, digest)
        await store.put(digest, chunks_of(data))
        assert await read_all(store, digest) == data

    @pytest.mark.parametrize("size", [2, 2**17, 2 * CHUNK_BYTES])
    async def test_an_upload_that_is_cut_leaves_nothing(self, store: BlobStore, size: int) -> None:
        data = os.urandom(size)
        digest = SHA256.digest(data)
        half_way = asyncio.Event()

        async def stalls() -> AsyncIterator[bytes]:
            yield data[: size // 2]
            half_way.set()
            await asyncio.Event().wait()

        upload = asyncio.create_task(store.put(digest, stalls()))
        await half_way.wait()
        upload.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upload
        await self.assert_absent(store, digest)
        await store.put(digest, chunks_of(data))
        assert await read_all(store, digest) == data

    @pytest.mark.parametrize("size", [100, 2 * CHUNK_BYTES])
    async def test_a_refused_upload_does_no_harm_to_what_is_there(self, store: BlobStore, size: int) -> None:
        data = os.urandom(size)
        digest = SHA256.digest(data)
        await store.put(digest, chunks_of(data))
        with contextlib.suppress(InvalidRequest):  # a store may take what it has instead of hearing the rest
            await store.put(digest, _refused(os.urandom(size // 2)))
        assert await store.missing({digest}) == set()
        assert await read_all(store, digest) == data

    async def assert_absent(self, store: BlobStore, digest: Digest) -> None:
        """Every way to ask says the same."""
        assert await store.missing({digest}) == {digest}
        assert isinstance((await store.get_many([digest]))[digest], BlobNotFound)
        with pytest.raises(BlobNotFound):
            await read_all(store, digest)

    async def test_many_writers_of_one_blob_all_succeed(self, store: BlobStore) -> None:
        data = os.urandom(CHUNK_BYTES + 1)
        digest = SHA256.digest(data)
        await asyncio.gather(*(store.put(digest, chunks_of(data)) for _ in range(8)))
        assert await read_all(store, digest) == data

    async def test_a_blob_comes_in_pieces_that_fit_any_message(self, store: BlobStore) -> None:
        data = os.urandom(5 * CHUNK_BYTES + 1)
        digest = SHA256.digest(data)
        await store.put(digest, chunks_of(data, 4 * CHUNK_BYTES))
        assert max([len(chunk) async for chunk in store.get(digest)]) <= 2 * CHUNK_BYTES

    @pytest.mark.parametrize("size", [0, 100, 2 * CHUNK_BYTES])
    async def test_empty_chunks_are_no_harm(self, store: BlobStore, size: int) -> None:
        data = os.urandom(size)
        digest = SHA256.digest(data)

        async def with_gaps() -> AsyncIterator[bytes]:
            yield b""
            async for chunk in chunks_of(data):
                yield chunk
                yield b""

        await store.put(digest, with_gaps())
        assert await read_all(store, digest) == data

    async def test_what_is_there_can_be_put_again(self, store: BlobStore) -> None:
        for size in (100, 2 * CHUNK_BYTES):
            data = os.urandom(size)
            digest = SHA256.digest(data)
            await store.put(digest, chunks_of(data))
            await store.put(digest, chunks_of(data))
            assert await store.put_many({digest: data}) == {digest: None}
            assert await read_all(store, digest) == data

    async def test_a_reader_may_leave_half_way(self, store: BlobStore) -> None:
        data = os.urandom(4 * CHUNK_BYTES)
        digest = SHA256.digest(data)
        await store.put(digest, chunks_of(data))
        for _ in range(20):
            async for chunk in store.get(digest):
                assert data.startswith(chunk)
                break
        assert await read_all(store, digest) == data

    async def test_many_readers_of_one_blob_do_not_disturb_each_other(self, store: BlobStore) -> None:
        data = os.urandom(3 * CHUNK_BYTES)
        digest = SHA256.digest(data)
        await store.put(digest, chunks_of(data))
        offsets = range(0, len(data), CHUNK_BYTES // 2)
        parts = await asyncio.gather(*(read_all(store, digest, offset=offset) for offset in offsets))
        assert parts == [data[offset:] for offset in offsets]

    @pytest.mark.parametrize("size", [1000, CHUNK_BYTES + 1])
    async def test_readers_beside_writers_see_all_of_a_blob_or_none(self, store: BlobStore, size: int) -> None:
        blobs = {SHA256.digest(data): data for data in (os.urandom(size) for _ in range(8))}
        seen: list[Digest] = []

        async def read(digest: Digest) -> None:
            while digest not in seen:
                try:
                    assert await read_all(store, digest) == blobs[digest]
                except BlobNotFound:
                    await asyncio.sleep(0)
                else:
                    seen.append(digest)

        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            for digest, data in blobs.items():
                tasks.create_task(read(digest))
                tasks.create_task(store.put(digest, chunks_of(data)))
                tasks.create_task(read(digest))
                tasks.create_task(store.put_many({digest: data}))
        assert await store.get_many(blobs) == blobs

    async def test_asking_for_nothing_is_answered_with_nothing(self, store: BlobStore) -> None:
        assert await store.missing(set()) == set()
        assert await store.get_many([]) == {}
        assert await store.put_many({}) == {}

    async def test_bulk_may_be_large(self, store: BlobStore) -> None:
        blobs = {SHA256.digest(data): data for data in (os.urandom(10_000 + number) for number in range(1000))}
        assert await store.put_many(blobs) == dict.fromkeys(blobs)
        assert await store.missing(set(blobs)) == set()
        assert await store.get_many(blobs) == blobs

    async def test_bulk_may_name_a_blob_twice_and_the_empty_one(self, store: BlobStore) -> None:
        data = os.urandom(100)
        digest, absent = SHA256.digest(data), SHA256.digest(os.urandom(100))
        assert await store.put_many({digest: data, SHA256.empty: b""}) == {digest: None, SHA256.empty: None}
        found = await store.get_many([digest, SHA256.empty, absent, digest])
        assert set(found) == {digest, SHA256.empty, absent}
        assert found[digest] == data
        assert found[SHA256.empty] == b""

    async def test_bulk_answers_for_each_digest(self, store: BlobStore) -> None:
        blobs = {SHA256.digest(data): data for data in (os.urandom(50) for _ in range(20))}
        absent = SHA256.digest(os.urandom(20))
        assert await store.put_many(blobs) == dict.fromkeys(blobs)
        assert await store.missing({*blobs, absent}) == {absent}
        found = await store.get_many([*blobs, absent])
        assert {digest: found[digest] for digest in blobs} == blobs
        assert isinstance(found[absent], BlobNotFound)
