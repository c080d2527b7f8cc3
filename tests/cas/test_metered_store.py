"""MeteredStore keeps the promises of a decorator, and tells what it saw."""

from __future__ import annotations

import asyncio
import os

import pytest

from gridwright.blobs.memory import MemoryStore
from gridwright.blobs.store import CHUNK_BYTES, BlobStore, write_blob
from gridwright.digest import DigestFunction
from gridwright.errors import BlobNotFound, Unavailable
from gridwright.testing.blob_store_contract import chunks_of, read_all
from gridwright.testing.broken_store import BrokenStore
from gridwright.testing.decorator_contract import DecoratorContract
from gridwright_cas.stores.metered import MeteredStore, StoreRecorder

SHA256 = DigestFunction.SHA256
ABSENT = SHA256.digest(b"absent")


class StoreRecord(StoreRecorder):
    """Keeps all that it is told."""

    def __init__(self) -> None:
        self.answers: list[tuple[str, str]] = []
        self.looked: list[tuple[int, int]] = []
        self.reads: list[tuple[int, int, int]] = []
        self.writes: list[tuple[int, int, int]] = []
        self.removals: list[int] = []

    def answered(self, method: str, outcome: str, seconds: float) -> None:
        assert seconds >= 0
        self.answers.append((method, outcome))

    def looked_up(self, found: int, missing: int) -> None:
        self.looked.append((found, missing))

    def read(self, found: int, missing: int, size_bytes: int) -> None:
        self.reads.append((found, missing, size_bytes))

    def written(self, kept: int, refused: int, size_bytes: int) -> None:
        self.writes.append((kept, refused, size_bytes))

    def removed(self, count: int) -> None:
        self.removals.append(count)


class TestMeteredStore(DecoratorContract):
    def decorate(self, inner: BlobStore) -> BlobStore:
        return MeteredStore(inner, StoreRecord())


async def test_what_goes_well_is_counted() -> None:
    record = StoreRecord()
    store = MeteredStore(MemoryStore(max_bytes=2**26), record)
    data = os.urandom(2 * CHUNK_BYTES)
    digest = SHA256.digest(data)
    await store.put(digest, chunks_of(data))
    await write_blob(store, SHA256.digest(b"small"), b"small")
    await store.missing({digest, ABSENT})
    assert await read_all(store, digest, offset=5) == data[5:]
    await store.get_many([digest, ABSENT])
    assert record.answers == [(method, "ok") for method in ("put", "put_many", "missing", "get", "get_many")]
    assert record.writes == [(1, 0, len(data)), (1, 0, 5)]
    assert record.looked == [(1, 1)]
    assert record.reads == [(1, 0, len(data) - 5), (1, 1, len(data))]


async def test_a_reader_that_leaves_has_read_what_it_got() -> None:
    record = StoreRecord()
    store = MeteredStore(MemoryStore(max_bytes=2**26), record)
    data = os.urandom(3 * CHUNK_BYTES)
    digest = SHA256.digest(data)
    await store.put(digest, chunks_of(data))
    reading = store.get(digest)
    await anext(reading)
    await reading.aclose()  # type: ignore[attr-defined]  # an iterator by its type, a generator in truth
    assert record.reads == [(1, 0, CHUNK_BYTES)]


async def test_what_fails_is_counted_by_its_kind() -> None:
    record = StoreRecord()
    with pytest.raises(BlobNotFound):
        await read_all(MeteredStore(MemoryStore(max_bytes=1), record), ABSENT)
    store = MeteredStore(BrokenStore(Unavailable("down")), record)
    for broken in (store.missing({ABSENT}), store.put(ABSENT, chunks_of(b"absent")), read_all(store, ABSENT)):
        with pytest.raises(Unavailable):
            await broken
    await store.put_many({ABSENT: b"absent"})
    await store.get_many([ABSENT])
    assert record.answers == [
        ("get", "BlobNotFound"),
        *((method, "Unavailable") for method in ("missing", "put", "get")),
        ("put_many", "ok"),
        ("get_many", "ok"),
    ]
    assert record.reads == [(0, 1, 0), (0, 0, 0)]
    assert record.writes == [(0, 1, 0), (0, 1, 0)]


async def test_an_upload_that_is_cancelled_is_counted_as_such() -> None:
    record = StoreRecord()
    store = MeteredStore(MemoryStore(max_bytes=100), record)
    begun = asyncio.Event()

    async def stalls() -> object:
        begun.set()
        await asyncio.Event().wait()
        yield b""

    upload = asyncio.create_task(store.put(ABSENT, stalls()))  # type: ignore[arg-type]
    await begun.wait()
    upload.cancel()
    await asyncio.gather(upload, return_exceptions=True)
    assert record.answers == [("put", "cancelled")]


async def test_removals_are_counted() -> None:
    record = StoreRecord()
    store = MeteredStore(MemoryStore(max_bytes=100), record)
    for _ in range(3):
        data = os.urandom(50)
        await write_blob(store, SHA256.digest(data), data)
    assert record.removals == [1]
