"""ContentAddressableStorage.FindMissingBlobs (checklist FMB)."""

from __future__ import annotations

import asyncio
import os

import grpc
import pytest

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from tests.conformance.blobs import hash_of
from tests.conformance.small_grid import MEMORY_BYTES
from tests.conformance.target import Target, digest_of, fresh, kept_open, write_requests
from tests.journeys.grid import Grid

#: Twenty of them fill the memory of the small grid.
PART_BYTES = MEMORY_BYTES // 20


def absent() -> pb.Digest:
    return digest_of(fresh())


async def test_fmb_01_what_is_absent_is_named_and_nothing_else(target: Target) -> None:
    here, missing = await target.put(fresh()), absent()
    assert await target.find_missing([here, missing]) == [missing]
    assert await target.find_missing([here]) == []


async def test_fmb_02_no_question_has_no_answer(target: Target) -> None:
    assert await target.find_missing([]) == []


async def test_fmb_03_the_empty_blob_is_never_missing(target: Target) -> None:
    for function in target.capabilities.cache_capabilities.digest_functions:
        name = pb.DigestFunction.Value.Name(function)
        empty = pb.Digest(hash=hash_of(b"", name))
        assert await target.find_missing([empty], digest_function=function) == []


async def test_fmb_04_a_digest_may_be_asked_for_twice(target: Target) -> None:
    here, missing = await target.put(fresh()), absent()
    answer = await target.find_missing([missing, here, missing, here])
    assert {one.hash for one in answer} == {missing.hash}


async def test_fmb_05_digests_come_back_exactly_as_they_were_sent(target: Target) -> None:
    asked = [absent() for _ in range(500)]
    answer = await target.find_missing([*asked, await target.put(fresh())])
    assert sorted((one.hash, one.size_bytes) for one in answer) == sorted((one.hash, one.size_bytes) for one in asked)


async def test_fmb_05_two_sizes_of_one_hash_are_two_digests(target: Target) -> None:
    one = absent()
    other = pb.Digest(hash=one.hash, size_bytes=one.size_bytes + 1)
    answer = await target.find_missing([one, other])
    assert sorted(digest.size_bytes for digest in answer) == [one.size_bytes, other.size_bytes]


async def test_fmb_06_to_be_asked_for_prolongs_a_life(small: Target) -> None:
    asked_for, forgotten = await small.put(fresh(PART_BYTES)), await small.put(fresh(PART_BYTES))
    assert await small.find_missing([asked_for]) == []
    for _ in range(19):
        await small.put(fresh(PART_BYTES))
    assert await small.find_missing([asked_for, forgotten]) == [forgotten]


async def test_fmb_07_what_is_said_to_be_present_can_be_read_while_others_go(small: Target) -> None:
    data = fresh(PART_BYTES)
    digest = await small.put(data)
    for _ in range(5):
        assert await small.find_missing([digest]) == []
        await asyncio.gather(*(small.put(fresh(PART_BYTES)) for _ in range(10)))
        assert await small.read(small.resource(digest)) == data
        (answer,) = (await small.batch_read([digest])).responses
        assert answer.data == data


@pytest.mark.parametrize("count", [4_000, 16_384, 50_000])
async def test_fmb_08_tens_of_thousands_can_be_asked_for_at_once(target: Target, count: int) -> None:
    here = await target.put(fresh())
    asked = [pb.Digest(hash=os.urandom(32).hex(), size_bytes=number) for number in range(1, count)]
    answer = await target.find_missing([*asked, here])
    assert len(answer) == count - 1


async def test_fmb_09_a_server_that_is_away_is_unavailable_and_not_empty(small: Target, small_grid: Grid) -> None:
    digest = await small.put(fresh(100_000))
    mark = small_grid.kill("cas")
    well_again = asyncio.create_task(asyncio.to_thread(small_grid.wait_well_again, mark))
    seen = set()
    while not well_again.done():
        try:
            assert await small.find_missing([digest]) == []
        except grpc.aio.AioRpcError as error:
            seen.add(error.code())
        await asyncio.wait([well_again], timeout=0.05)
    await well_again
    assert seen <= {grpc.StatusCode.UNAVAILABLE}
    assert await answered(small, digest) == []


async def answered(target: Target, digest: pb.Digest) -> list[pb.Digest]:
    """Ask again while the way to a server that has come back is not there yet."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await target.find_missing([digest])
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
            await asyncio.sleep(0.05)


async def test_fmb_10_a_blob_half_uploaded_is_missing(target: Target) -> None:
    data = fresh(200_000)
    digest = digest_of(data)
    half = list(write_requests(target.upload_name(digest), [data[:100_000]], finish=False))
    upload = asyncio.create_task(target.upload(kept_open(half)))
    try:
        done, _ = await asyncio.wait([upload], timeout=0.2)
        assert not done
        assert await target.find_missing([digest]) == [digest]
    finally:
        upload.cancel()
        await asyncio.wait([upload])
    assert await target.find_missing([digest]) == [digest]


async def test_fmb_11_a_blob_is_present_at_once_when_its_upload_was_answered(target: Target) -> None:
    async def batched() -> None:
        digest = await target.put(fresh())
        assert await target.find_missing([digest]) == []

    async def streamed() -> None:
        data = fresh(100_000)
        await target.write(target.upload_name(digest_of(data)), [data])
        assert await target.find_missing([digest_of(data)]) == []

    await asyncio.gather(*(upload() for upload in (batched, streamed) for _ in range(20)))
