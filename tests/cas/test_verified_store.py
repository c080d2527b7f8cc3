"""VerifiedStore keeps the promises of a BlobStore, and lets nothing wrong through."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest

from gridwright.blobs.memory import MemoryStore
from gridwright.blobs.store import CHUNK_BYTES, BlobStore
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import DigestMismatch
from gridwright.testing.blob_store_contract import chunks_of, read_all
from gridwright.testing.decorator_contract import DecoratorContract
from gridwright_cas.stores.verified import VerifiedStore

SHA256 = DigestFunction.SHA256


class TestVerifiedStore(DecoratorContract):
    def decorate(self, inner: BlobStore) -> BlobStore:
        return VerifiedStore(inner)


@pytest.mark.parametrize("function", list(DigestFunction))
@pytest.mark.parametrize("size", [1, 1000, 3 * CHUNK_BYTES])
@pytest.mark.parametrize("chunk", [1000, CHUNK_BYTES])
async def test_other_bytes_of_the_same_size_are_refused(function: DigestFunction, size: int, chunk: int) -> None:
    inner = MemoryStore(max_bytes=2**26)
    data = os.urandom(size)
    digest = function.digest(data)
    wrong = bytes([data[0] ^ 1]) + data[1:]
    with pytest.raises(DigestMismatch, match="have the hash"):
        await VerifiedStore(inner).put(digest, chunks_of(wrong, chunk))
    assert await inner.missing({digest}) == {digest}


async def test_one_flipped_bit_in_the_middle_is_found() -> None:
    data = bytearray(os.urandom(3 * CHUNK_BYTES))
    digest = SHA256.digest(bytes(data))
    data[CHUNK_BYTES + 5] ^= 1
    store = VerifiedStore(MemoryStore(max_bytes=2**26))
    with pytest.raises(DigestMismatch):
        await store.put(digest, chunks_of(bytes(data)))


@pytest.mark.parametrize("kept", [0, 1, CHUNK_BYTES, 2 * CHUNK_BYTES - 1])
async def test_too_few_bytes_are_refused(kept: int) -> None:
    data = os.urandom(2 * CHUNK_BYTES)
    store = VerifiedStore(MemoryStore(max_bytes=2**26))
    with pytest.raises(DigestMismatch, match=f"only {kept} bytes"):
        await store.put(SHA256.digest(data), chunks_of(data[:kept]))


async def test_too_many_bytes_are_refused_as_soon_as_they_come() -> None:
    data = os.urandom(100)
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 60
            yield os.urandom(60)

    with pytest.raises(DigestMismatch, match="more than 100 bytes"):
        await VerifiedStore(MemoryStore(max_bytes=2**26)).put(SHA256.digest(data), endless())
    assert sent == 120


@pytest.mark.parametrize("size", [50, 200_000])
async def test_in_bulk_the_right_ones_are_kept_and_the_wrong_ones_refused(size: int) -> None:
    inner = MemoryStore(max_bytes=2**26)
    blobs = {SHA256.digest(data): data for data in (os.urandom(size) for _ in range(10))}
    right = list(blobs)[:7]
    uploads = {digest: blob if digest in right else blob + b"!" for digest, blob in blobs.items()}
    kept = await VerifiedStore(inner).put_many(uploads)
    assert {digest for digest, error in kept.items() if error is None} == set(right)
    assert {type(kept[digest]) for digest in list(blobs)[7:]} == {DigestMismatch}
    assert await inner.missing(set(blobs)) == set(list(blobs)[7:])


async def test_a_wrong_hash_of_nothing_is_not_the_empty_blob() -> None:
    store = VerifiedStore(MemoryStore(max_bytes=100))
    digest = Digest(SHA256, "0" * 64, 0)
    with pytest.raises(DigestMismatch):
        await store.put(digest, chunks_of(b""))
    assert isinstance((await store.put_many({digest: b""}))[digest], DigestMismatch)
    assert await store.missing({digest}) == {digest}


async def test_a_part_is_read_as_a_part() -> None:
    store = VerifiedStore(MemoryStore(max_bytes=2**20))
    data = os.urandom(1000)
    digest = SHA256.digest(data)
    await store.put(digest, chunks_of(data))
    assert await read_all(store, digest, offset=10, limit=20) == data[10:30]


@pytest.mark.parametrize("bulk", [True, False])
@pytest.mark.parametrize(
    ("verify_size", "verify_hash", "wrong", "refused"),
    [
        (True, False, b"same size", False),
        (True, False, b"another size", True),
        (False, True, b"same size", True),
        (False, False, b"another size", False),
    ],
)
async def test_each_check_can_be_left_out(
    verify_size: bool, verify_hash: bool, wrong: bytes, refused: bool, bulk: bool
) -> None:
    store = VerifiedStore(MemoryStore(max_bytes=1000), verify_size=verify_size, verify_hash=verify_hash)
    digest = SHA256.digest(b"good data")
    if bulk:
        assert isinstance((await store.put_many({digest: wrong}))[digest], DigestMismatch) is refused
    elif refused:
        with pytest.raises(DigestMismatch):
            await store.put(digest, chunks_of(wrong))
    else:
        await store.put(digest, chunks_of(wrong))
    assert await store.missing({digest}) == ({digest} if refused else set())
