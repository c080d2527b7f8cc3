"""ByteStream.Read (group BSR)."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.google.bytestream import bytestream_pb2 as bs
from tests.conformance.compressors import COMPRESSORS, decompress
from tests.conformance.target import Target, digest_of, fresh, refused

INVALID = grpc.StatusCode.INVALID_ARGUMENT
OUT_OF_RANGE = grpc.StatusCode.OUT_OF_RANGE
NOT_FOUND = grpc.StatusCode.NOT_FOUND
MIB = 1024 * 1024
MAX_MESSAGE_BYTES = 2 * MIB


@pytest.mark.parametrize("size", [1, 4 * MIB - 1, 4 * MIB, 100 * MIB])
async def test_bsr_01_a_blob_is_streamed(target: Target, size: int) -> None:
    data = fresh(size)
    digest = await target.put(data)
    assert await target.read(target.resource(digest)) == data


async def test_bsr_02_a_blob_that_is_not_there_is_not_found(target: Target) -> None:
    with refused(NOT_FOUND):
        await target.read(target.resource(digest_of(fresh())))


async def test_bsr_02_the_right_hash_with_another_size_is_not_found(target: Target) -> None:
    digest = await target.put(fresh())
    with refused(NOT_FOUND):
        await target.read(target.resource(pb.Digest(hash=digest.hash, size_bytes=digest.size_bytes + 1)))


@pytest.mark.parametrize("offset", [0, 1, 1_500_000, 2_999_999])
async def test_bsr_03_a_read_begins_at_its_offset(target: Target, offset: int) -> None:
    data = fresh(3_000_000)
    digest = await target.put(data)
    assert await target.read(target.resource(digest), offset) == data[offset:]


async def test_bsr_04_a_read_from_the_end_is_empty(target: Target) -> None:
    digest = await target.put(fresh(100))
    assert await target.read(target.resource(digest), 100) == b""


@pytest.mark.parametrize("offset", [-1, 101, 2**62])
@pytest.mark.parametrize("compressor", ["", "zstd"])
async def test_bsr_05_an_offset_outside_the_blob_is_out_of_range(target: Target, offset: int, compressor: str) -> None:
    _skip_unless_offered(target, compressor)
    digest = await target.put(fresh(100))
    with refused(OUT_OF_RANGE):
        await target.read(target.resource(digest, compressor=compressor), offset)


@pytest.mark.parametrize("size", [1000, 3_000_000])
@pytest.mark.parametrize(
    ("offset", "limit"), [(0, 3), (0, 0), (0, 30_000_000), (500, 100), (900, 200), (998, 1), (1, 0)]
)
async def test_bsr_06_a_limit_bounds_what_comes(target: Target, size: int, offset: int, limit: int) -> None:
    data = fresh(size)
    digest = await target.put(data)
    expected = data[offset : offset + limit] if limit else data[offset:]
    assert await target.read(target.resource(digest), offset, limit) == expected


async def test_bsr_07_a_negative_limit_is_refused(target: Target) -> None:
    digest = await target.put(fresh())
    with refused(INVALID, OUT_OF_RANGE):
        await target.read(target.resource(digest), 0, -1)


@pytest.mark.parametrize("compressor", COMPRESSORS)
async def test_bsr_08_a_compressed_read_has_no_limit(target: Target, compressor: str) -> None:
    _skip_unless_offered(target, compressor)
    digest = await target.put(fresh())
    with refused(INVALID):
        await target.read(target.resource(digest, compressor=compressor.lower()), 0, 1)


@pytest.mark.parametrize("compressor", COMPRESSORS)
@pytest.mark.parametrize("offset", [0, 1, 1_048_576, 2_500_000, 3_000_000])
async def test_bsr_09_a_compressed_read_begins_at_an_offset_of_the_blob(
    target: Target, compressor: str, offset: int
) -> None:
    _skip_unless_offered(target, compressor)
    data = fresh(1_500_000) + b"text " * 300_000
    digest = await target.put(data)
    name = target.resource(digest, compressor=compressor.lower())
    assert decompress(compressor, await target.read(name, offset)) == data[offset:]


@pytest.mark.parametrize("compressor", ["", *COMPRESSORS])
async def test_bsr_10_the_empty_blob_is_read(target: Target, compressor: str) -> None:
    """As nothing, or as the compressor's empty stream."""
    _skip_unless_offered(target, compressor)
    read = await target.read(target.resource(digest_of(b""), compressor=compressor.lower()))
    assert (decompress(compressor, read) if compressor and read else read) == b""


@pytest.mark.parametrize("compressor", ["", *COMPRESSORS])
async def test_bsr_11_messages_are_small_enough_for_every_client(target: Target, compressor: str) -> None:
    _skip_unless_offered(target, compressor)
    digest = await target.put(fresh(9_000_000))
    name = target.resource(digest, compressor=compressor.lower())
    answers = target.streamed("ByteStream/Read", bs.ReadRequest(resource_name=name), bs.ReadResponse)
    assert max([len(answer.data) async for answer in answers]) <= MAX_MESSAGE_BYTES


async def test_bsr_12_empty_messages_change_nothing(target: Target) -> None:
    """Nobody need send them; what comes is the blob either way."""
    data = fresh(2_500_000)
    digest = await target.put(data)
    request = bs.ReadRequest(resource_name=target.resource(digest))
    answers = target.streamed("ByteStream/Read", request, bs.ReadResponse)
    assert b"".join([answer.data async for answer in answers]) == data


async def test_bsr_13_readers_that_leave_are_no_harm(target: Target) -> None:
    data = fresh(20 * MIB)
    digest = await target.put(data)
    request = bs.ReadRequest(resource_name=target.resource(digest))

    async def leave_early() -> None:
        answers = target.streamed("ByteStream/Read", request, bs.ReadResponse)
        async for answer in answers:
            assert data.startswith(answer.data)
            break
        await answers.aclose()  # type: ignore[attr-defined]

    for _ in range(10):
        await asyncio.gather(*(leave_early() for _ in range(10)))
    assert await target.read(target.resource(digest), 20 * MIB - 5) == data[-5:]


async def test_bsr_14_reading_is_a_use(target: Target) -> None:
    """What eviction makes of it is for the tests of the stores: here, what is read again and again stays."""
    data = fresh()
    digest = await target.put(data)
    for _ in range(3):
        assert await target.read(target.resource(digest)) == data
    assert await target.find_missing([digest]) == []


async def test_bsr_15_the_name_of_an_upload_cannot_be_read(target: Target) -> None:
    digest = await target.put(fresh())
    with refused(INVALID):
        await target.read(target.upload_name(digest))


def _skip_unless_offered(target: Target, compressor: str) -> None:
    if compressor:
        number = pb.Compressor.Value.Value(compressor.upper())
        if number not in target.capabilities.cache_capabilities.supported_compressors:
            pytest.skip(f"not testable here: this endpoint does not offer {compressor}")
