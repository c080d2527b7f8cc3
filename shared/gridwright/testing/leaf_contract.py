"""What a leaf promises beyond any BlobStore."""

from __future__ import annotations

import os

import pytest

from gridwright.blobs.store import CHUNK_BYTES, BlobStore
from gridwright.digest import DigestFunction
from gridwright.errors import OutOfRange
from gridwright.testing.blob_store_contract import BlobStoreContract, chunks_of, read_all

SHA256 = DigestFunction.SHA256
STORED = [0, 1, 99, 101, 5000, 2**16 + 1, CHUNK_BYTES + 1, 3 * CHUNK_BYTES]


class LeafContract(BlobStoreContract):
    """A leaf keeps whatever comes under a digest; a decorator may keep frames, headers and footers there."""

    @pytest.mark.parametrize("stored", STORED)
    @pytest.mark.parametrize("named", [100, 2 * CHUNK_BYTES])
    async def test_bytes_of_another_length_than_their_digest_are_kept(
        self, store: BlobStore, stored: int, named: int
    ) -> None:
        data = os.urandom(stored)
        digest = SHA256.digest(os.urandom(20))._replace(size_bytes=named)
        await store.put(digest, chunks_of(data))
        assert await store.missing({digest}) == set()
        assert await read_all(store, digest) == data
        assert await read_all(store, digest, offset=stored // 2) == data[stored // 2 :]
        assert await read_all(store, digest, offset=-8) == data[-8:]
        assert (await store.get_many([digest]))[digest] == data
        with pytest.raises(OutOfRange):
            await read_all(store, digest, offset=stored + 1)

    async def test_bytes_of_another_length_are_kept_in_bulk(self, store: BlobStore) -> None:
        blobs = {
            SHA256.digest(os.urandom(20))._replace(size_bytes=named): os.urandom(stored)
            for stored in STORED
            for named in (1, 100, 2 * CHUNK_BYTES)
        }
        assert await store.put_many(blobs) == dict.fromkeys(blobs)
        assert await store.get_many(blobs) == blobs
        for digest, data in blobs.items():
            assert await read_all(store, digest, offset=-len(data) or 0) == data
