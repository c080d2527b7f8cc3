"""What BatchUpdateBlobs makes of its entries before the store sees them."""

from __future__ import annotations

import os

import pytest
import zstandard

from gridwright.digest import Digest, DigestFunction
from gridwright.errors import DigestMismatch, InvalidRequest
from gridwright.instances import Instance, InstanceSettings
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.wire.digests import digest_message
from gridwright_cas.servicers.batch_entries import Entry, read_entries, unpacked_bytes
from gridwright_cas.servicers.compression.unpacking import MAX_UNPACKED_BYTES

SHA256 = DigestFunction.SHA256
MAIN = Instance.from_settings(InstanceSettings(name="main"))
BLOB = bytes(3_000_000)


def packed(digest: Digest, data: bytes) -> Entry:
    return Entry(digest=digest_message(digest), data=data, compressor=pb.Compressor.ZSTD)


async def test_an_entry_that_is_refused_holds_nothing_that_was_unpacked() -> None:
    """Thousands of bombs in one batch cost a piece each, one after the other (CMP-07)."""
    bomb = packed(SHA256.digest(b"x"), zstandard.compress(BLOB) * 2)
    _, (error,) = await read_entries([bomb], MAIN, 0)
    assert isinstance(error, DigestMismatch)
    assert (error.__traceback__, error.__context__) == (None, None)


@pytest.mark.parametrize("size", [10, 100_000])
async def test_the_room_that_a_batch_needs_is_what_its_entries_say(size: int) -> None:
    blobs = [os.urandom(size) for _ in range(3)]
    entries = [packed(SHA256.digest(blob), zstandard.compress(blob)) for blob in blobs]
    assert unpacked_bytes(entries) == 3 * size
    read = await read_entries(entries, MAIN, 0)
    assert read.blobs == {SHA256.digest(blob): blob for blob in blobs}
    assert list(read.verdicts) == list(read.blobs)


async def test_no_entry_says_that_it_needs_more_than_all_room() -> None:
    huge = packed(SHA256.digest(b"x")._replace(size_bytes=2**62), zstandard.compress(b"x"))
    negative = Entry(digest=pb.Digest(hash="a" * 64, size_bytes=-5), compressor=pb.Compressor.ZSTD)
    most = packed(SHA256.digest(b"x")._replace(size_bytes=MAX_UNPACKED_BYTES), zstandard.compress(b"x"))
    assert unpacked_bytes([huge, negative]) == 0
    assert unpacked_bytes([most, most]) == MAX_UNPACKED_BYTES
    read = await read_entries([huge, negative, most], MAIN, 0)
    assert read.blobs == {}
    assert all(isinstance(verdict, InvalidRequest) for verdict in read.verdicts)


async def test_a_limit_of_the_instance_is_kept_compressed_or_not() -> None:
    limited = Instance.from_settings(InstanceSettings.model_validate({"name": "main", "max_blob_bytes": 1000}))
    small, large = bytes(1000), bytes(1001)
    for entries in (
        [Entry(digest=digest_message(SHA256.digest(blob)), data=blob) for blob in (small, large)],
        [packed(SHA256.digest(blob), zstandard.compress(blob)) for blob in (small, large)],
    ):
        read = await read_entries(entries, limited, 0)
        assert list(read.blobs) == [SHA256.digest(small)]
        assert isinstance(read.verdicts[1], InvalidRequest)
