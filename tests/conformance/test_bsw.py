"""ByteStream.Write (group BSW)."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import grpc
import pytest

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.protos.google.bytestream import bytestream_pb2 as bs
from tests.conformance.compressors import COMPRESSORS, compress
from tests.conformance.target import Target, chunks_of, digest_of, fresh, refused, write_requests
from tests.conformance.uploads import begun, cut_off, settled

INVALID = grpc.StatusCode.INVALID_ARGUMENT
MIB = 1024 * 1024


async def is_missing(target: Target, digest: pb.Digest) -> bool:
    return len(await target.find_missing([digest])) == 1


async def test_bsw_01_the_first_message_carries_the_name(target: Target) -> None:
    data = fresh(300)
    requests = list(write_requests(target.upload_name(digest_of(data)), chunks_of(data, 100)))
    requests[0].resource_name = ""
    with refused(INVALID):
        await target.upload(requests)


async def test_bsw_01_later_messages_may_repeat_the_name(target: Target) -> None:
    data = fresh(300)
    requests = list(write_requests(target.upload_name(digest_of(data)), chunks_of(data, 100)))
    for request in requests:
        request.resource_name = requests[0].resource_name
    assert (await target.upload(requests)).committed_size == 300


async def test_bsw_01_later_messages_may_not_change_the_name(target: Target) -> None:
    data = fresh(300)
    digest = digest_of(data)
    requests = list(write_requests(target.upload_name(digest), chunks_of(data, 100)))
    requests[1].resource_name = target.upload_name(digest)
    with refused(INVALID):
        await target.upload(requests)
    assert await is_missing(target, digest)


@pytest.mark.parametrize("size", [1, 1000, MIB, 5 * MIB + 3])
async def test_bsw_02_an_upload_is_committed(target: Target, size: int) -> None:
    data = fresh(size)
    digest = digest_of(data)
    assert (await target.write(target.upload_name(digest), chunks_of(data))).committed_size == size
    assert await target.read(target.resource(digest)) == data


@pytest.mark.parametrize("offset", [99, 101, 0, -1, 2**40])
async def test_bsw_03_a_gap_or_an_overlap_is_refused(target: Target, offset: int) -> None:
    data = fresh(300)
    digest = digest_of(data)
    requests = list(write_requests(target.upload_name(digest), chunks_of(data, 100)))
    requests[1].write_offset = offset
    with refused(INVALID, grpc.StatusCode.OUT_OF_RANGE):
        await target.upload(requests)
    assert await is_missing(target, digest)


@pytest.mark.parametrize("offset", [1, 10, 299, 300, -1])
async def test_bsw_04_an_upload_begins_at_its_beginning(target: Target, offset: int) -> None:
    data = fresh(300)
    with refused(INVALID, grpc.StatusCode.OUT_OF_RANGE):
        await target.write(target.upload_name(digest_of(data)), [data[max(0, offset) :]], offset=offset)
    assert await is_missing(target, digest_of(data))


async def test_bsw_04_an_upload_that_broke_off_goes_on_where_it_was_and_nowhere_else(target: Target) -> None:
    data = fresh(3 * MIB)
    name = target.upload_name(digest_of(data))
    await target.write(name, chunks_of(data[:MIB]), finish=False)
    with refused(INVALID, grpc.StatusCode.OUT_OF_RANGE):
        await target.write(name, chunks_of(data[MIB + 1 :]), offset=MIB + 1)
    await target.write(name, chunks_of(data[MIB:]), offset=MIB)
    assert not await is_missing(target, digest_of(data))


@pytest.mark.parametrize("size", [300_000, 3 * MIB])
async def test_bsw_05_an_upload_that_broke_off_may_begin_again(target: Target, size: int) -> None:
    data = fresh(size)
    digest = digest_of(data)
    name = target.upload_name(digest)
    await cut_off(target, name, data[: size // 2])
    assert (await target.write(name, chunks_of(data))).committed_size == size
    assert await target.read(target.resource(digest)) == data


@pytest.mark.parametrize("size", [300_000, 20 * MIB + 5])
async def test_bsw_06_an_upload_that_broke_off_goes_on(target: Target, size: int) -> None:
    data = fresh(size)
    digest = digest_of(data)
    name = target.upload_name(digest)
    await cut_off(target, name, data[: size * 6 // 10])
    offset = await settled(target, name)
    assert 0 < offset <= size * 6 // 10
    assert (await target.write(name, chunks_of(data[offset:]), offset=offset)).committed_size == size
    assert await target.read(target.resource(digest)) == data


async def test_bsw_07_a_message_after_the_last_is_refused(target: Target) -> None:
    data = fresh(300)
    requests = list(write_requests(target.upload_name(digest_of(data)), chunks_of(data, 100)))
    with refused(INVALID):
        await target.upload([*requests, bs.WriteRequest(write_offset=300, data=b"more")])


@pytest.mark.parametrize("size", [300, 4 * MIB])
async def test_bsw_08_an_upload_may_be_left_unfinished(target: Target, size: int) -> None:
    data = fresh(size)
    digest = digest_of(data)
    name = target.upload_name(digest)
    half = size // 2
    assert (await target.write(name, chunks_of(data[:half]), finish=False)).committed_size == half
    assert await is_missing(target, digest)
    answer = await target.query(name)
    assert (answer.committed_size, answer.complete) == (half, False)
    assert (await target.write(name, chunks_of(data[half:]), offset=half)).committed_size == size
    assert not await is_missing(target, digest)


async def test_bsw_09_an_upload_without_a_message_is_refused(target: Target) -> None:
    with refused(INVALID):
        await target.upload([])


@pytest.mark.parametrize("size", [10, 3 * MIB])
async def test_bsw_10_other_bytes_are_refused_and_let_go(target: Target, size: int) -> None:
    digest = digest_of(fresh(size))
    name = target.upload_name(digest)
    with refused(INVALID):
        await target.write(name, chunks_of(fresh(size)))
    assert await is_missing(target, digest)
    answer = await target.query(name)
    assert (answer.committed_size, answer.complete) == (0, False)


@pytest.mark.parametrize(("size", "said"), [(9, 10), (11, 10), (3 * MIB - 1, 3 * MIB), (3 * MIB + 1, 3 * MIB)])
async def test_bsw_11_fewer_or_more_bytes_than_the_size_are_refused(target: Target, size: int, said: int) -> None:
    data = fresh(size)
    digest = pb.Digest(hash=digest_of(data).hash, size_bytes=said)
    with refused(INVALID):
        await target.write(target.upload_name(digest), chunks_of(data))
    assert await is_missing(target, digest)


async def test_bsw_11_too_many_bytes_are_refused_before_the_end(target: Target) -> None:
    digest = digest_of(fresh(10))
    requests = write_requests(target.upload_name(digest), [fresh(11)], finish=False)
    async with begun(target, requests) as call:
        with refused(INVALID):
            await call


@pytest.mark.parametrize("size", [1000, 40 * MIB])
async def test_bsw_12_an_upload_of_what_is_there_ends_early(target: Target, size: int) -> None:
    data = fresh(size)
    digest = await target.put(data)
    requests = write_requests(target.upload_name(digest), [data[:100]], finish=False)
    async with begun(target, requests) as call:
        assert (await call).committed_size == size


@pytest.mark.parametrize("compressor", COMPRESSORS)
async def test_bsw_12_a_compressed_upload_of_what_is_there_says_so(target: Target, compressor: str) -> None:
    _skip_unless_offered(target, compressor)
    data = fresh(1000)
    digest = await target.put(data)
    name = target.upload_name(digest, compressor=compressor.lower())
    async with begun(target, write_requests(name, [compress(compressor, data)[:10]], finish=False)) as call:
        assert (await call).committed_size == -1


@pytest.mark.parametrize("size", [3 * MIB])
async def test_bsw_13_an_upload_of_what_is_there_may_go_on_to_its_end(target: Target, size: int) -> None:
    data = fresh(size)
    digest = await target.put(data)
    async with begun(target, write_requests(target.upload_name(digest), chunks_of(data))) as call:
        assert (await call).committed_size == size


@pytest.mark.parametrize("compressor", COMPRESSORS)
async def test_bsw_14_a_compressed_upload_commits_what_was_sent(target: Target, compressor: str) -> None:
    _skip_unless_offered(target, compressor)
    data = fresh(50_000) * 4
    sent = compress(compressor, data)
    answer = await target.write(
        target.upload_name(digest_of(data), compressor=compressor.lower()), chunks_of(sent, 10_000)
    )
    assert answer.committed_size == len(sent)
    assert not await is_missing(target, digest_of(data))


async def test_bsw_15_a_compressed_upload_goes_on_at_an_offset_of_the_blob(target: Target) -> None:
    """Where it goes on another compressed stream begins; what follows counts what is sent."""
    _skip_unless_offered(target, "ZSTD")
    data = fresh(3 * MIB)
    digest = digest_of(data)
    name = target.upload_name(digest, compressor="zstd")
    sent = compress("ZSTD", data[: 2 * MIB])
    await target.write(name, chunks_of(sent), finish=False)
    offset = (await target.query(name)).committed_size
    assert 0 <= offset <= 2 * MIB
    rest = compress("ZSTD", data[offset:])
    answer = await target.write(name, chunks_of(rest), offset=offset)
    assert answer.committed_size == offset + len(rest)
    assert await target.read(target.resource(digest)) == data


async def test_bsw_16_empty_messages_change_nothing(target: Target) -> None:
    data = fresh(300)
    requests = list(write_requests(target.upload_name(digest_of(data)), chunks_of(data, 100), finish=False))
    requests[1:1] = [bs.WriteRequest(write_offset=100)]
    last = bs.WriteRequest(write_offset=300, finish_write=True)
    assert (await target.upload([*requests, last])).committed_size == 300
    assert not await is_missing(target, digest_of(data))


async def test_bsw_17_the_empty_blob_is_uploaded(target: Target) -> None:
    assert (await target.write(target.upload_name(digest_of(b"")), [b""])).committed_size == 0


async def test_bsw_18_a_blob_beyond_the_limit_is_refused_at_once(limited: Target) -> None:
    limit = limited.capabilities.cache_capabilities.max_cas_blob_size_bytes
    assert limit > 0
    name = limited.upload_name(pb.Digest(hash="a" * 64, size_bytes=limit + 1))
    async with begun(limited, write_requests(name, [b"x"], finish=False)) as call:
        with refused(INVALID):
            await call


async def test_bsw_19_a_message_may_be_as_large_as_a_batch(target: Target) -> None:
    data = fresh(target.max_batch_bytes)
    assert (await target.write(target.upload_name(digest_of(data)), [data])).committed_size == len(data)


@pytest.mark.parametrize("size", [1000, 3 * MIB])
async def test_bsw_20_two_uploads_of_one_name_do_no_harm(target: Target, size: int) -> None:
    data = fresh(size)
    digest = digest_of(data)
    name = target.upload_name(digest)

    async def one() -> int | grpc.StatusCode:
        try:
            return (await target.write(name, chunks_of(data))).committed_size
        except grpc.aio.AioRpcError as error:
            return error.code()

    answers = await asyncio.gather(*(one() for _ in range(4)))
    assert size in answers
    assert set(answers) <= {size, grpc.StatusCode.ABORTED}
    assert await target.read(target.resource(digest)) == data


async def test_bsw_21_slow_uploads_do_not_hold_up_a_fast_one(target: Target) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(100):
            data = fresh(3000)
            requests = write_requests(target.upload_name(digest_of(data)), [data[:1000]], finish=False)
            await stack.enter_async_context(begun(target, requests))
        data = fresh(3 * MIB)
        name = target.upload_name(digest_of(data))
        async with asyncio.timeout(10):
            assert (await target.write(name, chunks_of(data))).committed_size == len(data)


async def test_bsw_22_what_was_left_unfinished_is_in_nobodys_way(target: Target) -> None:
    """That it goes after an hour is for the tests of the stores: here, many of them do not fill the server."""
    for _ in range(20):
        data = fresh(300_000)
        name = target.upload_name(digest_of(data))
        await target.write(name, chunks_of(data[:200_000]), finish=False)
        assert await is_missing(target, digest_of(data))
    data = fresh(300_000)
    assert (await target.write(target.upload_name(digest_of(data)), chunks_of(data))).committed_size == 300_000


async def test_bsw_23_where_nobody_may_write_an_upload_is_refused(read_only: Target) -> None:
    data = fresh()
    with refused(grpc.StatusCode.PERMISSION_DENIED):
        await read_only.write(read_only.upload_name(digest_of(data)), [data])


async def test_bsw_24_a_log_stream_is_no_blob(target: Target) -> None:
    with refused(INVALID, grpc.StatusCode.NOT_FOUND):
        await target.write(f"{target.instance}/logstreams/0123/write", [b"line"])


def _skip_unless_offered(target: Target, compressor: str) -> None:
    if pb.Compressor.Value.Value(compressor) not in target.capabilities.cache_capabilities.supported_compressors:
        pytest.skip(f"not testable here: this endpoint does not offer {compressor}")
