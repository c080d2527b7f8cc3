"""Compressors (checklist CMP)."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable, Mapping
from functools import cache

import grpc
import pytest
import zstandard

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.google.bytestream import bytestream_pb2 as bs
from tests.conformance.compressors import COMPRESSORS, compress, decompress
from tests.conformance.target import Target, chunks_of, codes_of, digest_of, fresh, refused, write_requests

INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT
OK = grpc.StatusCode.OK
#: The ways in which a compressed blob can be sent.
WAYS = ("batch", "stream")


def compressible(size: int = 200_000) -> bytes:
    """Return bytes that nobody has uploaded, and that shrink to about a tenth."""
    return os.urandom(size // 10 + 1).hex().encode().ljust(size, b".")[:size]


def requires(target: Target, compressor: str, way: str = "stream") -> None:
    """Skip what an endpoint does not offer; our own grid offers all."""
    cache = target.capabilities.cache_capabilities
    offered = cache.supported_batch_update_compressors if way == "batch" else cache.supported_compressors
    if pb.Compressor.Value.Value(compressor) not in offered:
        assert target.kind == "endpoint", f"{compressor} is not announced"
        pytest.skip(f"not testable here: {compressor} is not offered")


async def sent(target: Target, way: str, compressor: str, data: bytes, digest: pb.Digest) -> grpc.StatusCode:
    """Upload *data* as the compressed blob *digest*; return with which status that ended."""
    requires(target, compressor, way)
    if way == "batch":
        entry = pb.BatchUpdateBlobsRequest.Request(digest=digest, data=data, compressor=compressor)
        (code,) = await codes_of(target.update_entries([entry]))
        return code
    try:
        await target.write(target.upload_name(digest, compressor=compressor.lower()), chunks_of(data))
    except grpc.aio.AioRpcError as error:
        return error.code()
    return OK


async def assert_missing(target: Target, digest: pb.Digest) -> None:
    assert await target.find_missing([digest]) == [digest]


async def test_cmp_01_what_is_not_compressed_is_taken_on_every_path(target: Target) -> None:
    batched, streamed = fresh(), fresh()
    number = pb.Compressor.IDENTITY
    entry = pb.BatchUpdateBlobsRequest.Request(digest=digest_of(batched), data=batched, compressor=number)
    assert await codes_of(target.update_entries([entry])) == [OK]
    await target.write(target.upload_name(digest_of(streamed)), [streamed])
    for data in (batched, streamed):
        digest = digest_of(data)
        assert await target.read(target.resource(digest)) == data
        (answer,) = (await target.batch_read([digest])).responses
        assert (answer.data, answer.compressor) == (data, number)


def _two_frames(data: bytes) -> bytes:
    half = len(data) // 2
    return zstandard.compress(data[:half]) + zstandard.compress(data[half:])


def _without_size(data: bytes) -> bytes:
    stream = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    return stream.compress(data) + stream.flush()


def _with_window(log: int, data: bytes) -> bytes:
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=log, write_content_size=False)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return stream.compress(data) + stream.flush()


_SKIPPABLE = b"\x50\x2a\x4d\x18\x05\x00\x00\x00hello"
ZSTD_STREAMS: Mapping[str, Callable[[bytes], bytes]] = {
    "one frame": zstandard.compress,
    "two frames": _two_frames,
    "an empty frame between": lambda data: (
        zstandard.compress(data[:9]) + zstandard.compress(b"") + zstandard.compress(data[9:])
    ),
    "no size": _without_size,
    "no size, two frames": lambda data: _without_size(data[:1000]) + _without_size(data[1000:]),
    "checksum": lambda data: zstandard.ZstdCompressor(write_checksum=True).compress(data),
    "a frame to skip": lambda data: _SKIPPABLE + zstandard.compress(data) + _SKIPPABLE,
    "level 19": lambda data: zstandard.ZstdCompressor(level=19).compress(data),
    "window of 8 MiB": lambda data: _with_window(23, data),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("form", ZSTD_STREAMS)
async def test_cmp_02_zstandard_is_taken_in_every_form(target: Target, form: str, way: str) -> None:
    data = compressible()
    digest = digest_of(data)
    assert await sent(target, way, "ZSTD", ZSTD_STREAMS[form](data), digest) is OK
    assert await target.read(target.resource(digest)) == data


@pytest.mark.parametrize("way", WAYS)
async def test_cmp_02_a_window_that_is_too_large_is_taken_or_refused_clearly(target: Target, way: str) -> None:
    data = compressible()
    assert await sent(target, way, "ZSTD", _with_window(27, data), digest_of(data)) in (OK, INVALID_ARGUMENT)


@pytest.mark.parametrize("way", WAYS)
async def test_cmp_03_deflate_is_raw(target: Target, way: str) -> None:
    data = compressible()
    digest = digest_of(data)
    assert await sent(target, way, "DEFLATE", zlib.compress(data), digest) is INVALID_ARGUMENT
    assert await sent(target, way, "DEFLATE", gzip.compress(data), digest) is INVALID_ARGUMENT
    await assert_missing(target, digest)
    assert await sent(target, way, "DEFLATE", compress("DEFLATE", data), digest) is OK
    assert await target.read(target.resource(digest)) == data


async def test_cmp_03_deflate_is_read_raw(target: Target) -> None:
    requires(target, "DEFLATE")
    data = compressible()
    digest = await target.put(data)
    stream = zlib.decompressobj(wbits=-15)
    assert stream.decompress(await target.read(target.resource(digest, compressor="deflate"))) == data
    assert (stream.eof, stream.unused_data) == (True, b"")


@pytest.mark.parametrize("way", WAYS)
async def test_cmp_04_brotli_makes_the_round_trip(target: Target, way: str) -> None:
    data = compressible()
    digest = digest_of(data)
    assert await sent(target, way, "BROTLI", compress("BROTLI", data), digest) is OK
    assert decompress("BROTLI", await target.read(target.resource(digest, compressor="brotli"))) == data


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("compressor", COMPRESSORS)
async def test_cmp_05_hash_and_size_are_those_of_the_blob(target: Target, compressor: str, way: str) -> None:
    data = compressible()
    digest = digest_of(data)
    other = digest_of(compressible(len(data)))
    larger, smaller = (pb.Digest(hash=digest.hash, size_bytes=len(data) + by) for by in (1, -1))
    packed = compress(compressor, data)
    for wrong in (other, larger, smaller, digest_of(packed)):
        assert await sent(target, way, compressor, packed, wrong) is INVALID_ARGUMENT
        await assert_missing(target, wrong)


def _flipped(packed: bytes) -> bytes:
    middle = len(packed) // 2
    return packed[:middle] + bytes([packed[middle] ^ 0x55]) + packed[middle + 1 :]


DAMAGE: Mapping[str, Callable[[bytes], bytes]] = {
    "flipped": _flipped,
    "cut": lambda packed: packed[: len(packed) // 2],
    "cut by a byte": lambda packed: packed[:-1],
    "followed by garbage": lambda packed: packed + b"garbage",
    "not compressed": lambda packed: b"this is no compressed data at all" * 3,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("compressor", COMPRESSORS)
async def test_cmp_06_damaged_data_is_the_callers_fault(target: Target, compressor: str, damage: str, way: str) -> None:
    data = compressible(20_000)
    digest = digest_of(data)
    assert await sent(target, way, compressor, DAMAGE[damage](compress(compressor, data)), digest) is INVALID_ARGUMENT
    await assert_missing(target, digest)


@cache
def bomb(compressor: str) -> bytes:
    """Return some kilobytes that become 16 MiB; it takes seconds to make them."""
    return compress(compressor, bytes(2**24))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("compressor", COMPRESSORS)
async def test_cmp_07_a_bomb_is_refused(target: Target, compressor: str, way: str) -> None:
    assert await sent(target, way, compressor, bomb(compressor), digest_of(fresh(10))) is INVALID_ARGUMENT


@pytest.mark.parametrize("way", WAYS)
async def test_cmp_07_a_gigabyte_of_nothing_is_refused_before_it_is_all_there(target: Target, way: str) -> None:
    gigabyte = zstandard.compress(bytes(2**20)) * 1024
    assert await sent(target, way, "ZSTD", gigabyte, digest_of(fresh(10))) is INVALID_ARGUMENT


@pytest.mark.parametrize("came", ["identity", *COMPRESSORS])
async def test_cmp_08_a_blob_is_read_in_every_compressor_however_it_came(target: Target, came: str) -> None:
    data = compressible()
    digest = digest_of(data)
    if came == "identity":
        await target.put(data)
    else:
        assert await sent(target, "stream", came, compress(came, data), digest) is OK
    assert await target.read(target.resource(digest)) == data
    for compressor in COMPRESSORS:
        requires(target, compressor)
        read = await target.read(target.resource(digest, compressor=compressor.lower()))
        assert decompress(compressor, read) == data


async def test_cmp_09_whatever_the_level_the_round_trip_is_exact(target: Target) -> None:
    data = compressible(300_000)
    digest = digest_of(data)
    assert await sent(target, "stream", "ZSTD", zstandard.ZstdCompressor(level=9).compress(data), digest) is OK
    assert decompress("ZSTD", await target.read(target.resource(digest, compressor="zstd"))) == data


async def test_cmp_10_compression_by_grpc_is_taken_too(target: Target) -> None:
    data = compressible()
    digest = digest_of(data)
    requires(target, "ZSTD")
    (request,) = write_requests(target.upload_name(digest, compressor="zstd"), [zstandard.compress(data)])
    call = target.channel.stream_unary(
        "/google.bytestream.ByteStream/Write", bs.WriteRequest.SerializeToString, bs.WriteResponse.FromString
    )
    await call(iter([request]), timeout=30, compression=grpc.Compression.Gzip)
    assert await target.read(target.resource(digest)) == data


async def test_cmp_10_a_batch_compressed_by_grpc_is_taken_too(target: Target) -> None:
    data = compressible()
    request = pb.BatchUpdateBlobsRequest(instance_name=target.instance)
    request.requests.add(digest=digest_of(data), data=data)
    method = "ContentAddressableStorage/BatchUpdateBlobs"
    gzip_ = grpc.Compression.Gzip
    assert await codes_of(target.unary(method, request, pb.BatchUpdateBlobsResponse, compression=gzip_)) == [OK]
    with refused(grpc.StatusCode.NOT_FOUND):
        await target.read(target.resource(digest_of(fresh())))
