"""ByteStream.QueryWriteStatus (group BSQ)."""

from __future__ import annotations

import grpc
import pytest

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from tests.conformance.compressors import compress
from tests.conformance.target import Target, chunks_of, digest_of, fresh, refused, write_requests
from tests.conformance.uploads import begun, committed, cut_off, settled

MIB = 1024 * 1024


@pytest.mark.parametrize("size", [300_000, 3 * MIB])
async def test_bsq_01_an_upload_that_broke_off_is_where_it_was(target: Target, size: int) -> None:
    data = fresh(size)
    name = target.upload_name(digest_of(data))
    await cut_off(target, name, data[: size * 6 // 10])
    assert 0 <= await settled(target, name) <= size * 6 // 10


async def test_bsq_02_an_upload_that_is_finished_is_complete(target: Target) -> None:
    data = fresh(3000)
    name = target.upload_name(digest_of(data))
    await target.write(name, chunks_of(data))
    answer = await target.query(name)
    assert (answer.committed_size, answer.complete) == (3000, True)


async def test_bsq_02_a_blob_that_came_otherwise_is_complete(target: Target) -> None:
    digest = await target.put(fresh(50))
    answer = await target.query(target.upload_name(digest))
    assert (answer.committed_size, answer.complete) == (50, True)


async def test_bsq_03_what_is_committed_never_becomes_less(target: Target) -> None:
    data = fresh(24 * MIB)
    name = target.upload_name(digest_of(data))
    seen = []
    chunks = chunks_of(data, MIB)
    async with begun(target, write_requests(name, chunks[:1], finish=False)) as call:
        for index, chunk in enumerate(chunks[1:-1], start=1):
            (request,) = write_requests("", [chunk], finish=False, offset=index * MIB)
            await call.write(request)
            seen.append(await committed(target, name))
        assert seen == sorted(seen)
    seen.append(await settled(target, name))
    assert seen == sorted(seen)
    await target.write(name, chunks_of(data[seen[-1] :]), offset=seen[-1])
    answer = await target.query(name)
    assert (answer.committed_size, answer.complete) == (len(data), True)


async def test_bsq_04_an_upload_never_heard_of_is_at_its_beginning(target: Target) -> None:
    answer = await target.query(target.upload_name(digest_of(fresh())))
    assert (answer.committed_size, answer.complete) == (0, False)


@pytest.mark.parametrize("name", ["", "nonsense", "uploads/u/blobs/xyz/5"])
async def test_bsq_05_a_malformed_name_is_refused(target: Target, name: str) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT):
        await target.query(name)


async def test_bsq_05_the_name_of_a_read_is_refused(target: Target) -> None:
    digest = await target.put(fresh())
    with refused(grpc.StatusCode.INVALID_ARGUMENT):
        await target.query(target.resource(digest))


async def test_bsq_06_a_compressed_upload_is_asked_for_in_offsets_of_the_blob(target: Target) -> None:
    if pb.Compressor.ZSTD not in target.capabilities.cache_capabilities.supported_compressors:
        pytest.skip("not testable here: this endpoint does not offer zstd")
    data = fresh(1000) * 1000
    digest = digest_of(data)
    name = target.upload_name(digest, compressor="zstd")
    assert (await target.query(name)).committed_size == 0
    await target.write(name, [compress("ZSTD", data)])
    answer = await target.query(name)
    assert (answer.committed_size, answer.complete) == (len(data), True)
