"""ContentAddressableStorage.BatchReadBlobs (checklist BRB)."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from tests.conformance.blobs import hash_of
from tests.conformance.compressors import decompress
from tests.conformance.target import Target, digest_of, fresh, refused
from tests.conformance.test_cmp import compressible

INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND

Response = pb.BatchReadBlobsResponse.Response


def unpacked(response: Response) -> bytes:
    """Return the blob that *response* holds, whichever way."""
    if response.compressor == pb.Compressor.IDENTITY:
        return response.data
    return decompress(pb.Compressor.Value.Name(response.compressor), response.data)


async def uploaded(target: Target, count: int, size: int) -> dict[str, bytes]:
    """Upload *count* blobs of *size* bytes; return them by their hashes."""
    blobs = {digest_of(data).hash: data for data in (fresh(size) for _ in range(count))}
    some = list(blobs.values())
    at_once = min(1000, target.max_batch_bytes // size)
    batches = [some[start : start + at_once] for start in range(0, count, at_once)]
    for answer in await asyncio.gather(*map(target.update, batches)):
        assert {one.status.code for one in answer.responses} == {0}
    return blobs


async def test_brb_01_each_digest_has_an_answer_of_its_own(target: Target) -> None:
    data, absent = fresh(), digest_of(fresh())
    here = await target.put(data)
    answers = {one.digest.hash: one for one in (await target.batch_read([here, absent])).responses}
    assert answers.keys() == {here.hash, absent.hash}
    assert (answers[here.hash].status.code, answers[here.hash].data) == (0, data)
    assert (answers[absent.hash].status.code, answers[absent.hash].data) == (NOT_FOUND.value[0], b"")


async def test_brb_02_the_status_is_set_also_when_it_is_ok(target: Target) -> None:
    (answer,) = (await target.batch_read([await target.put(fresh())])).responses
    assert answer.HasField("status")


async def test_brb_03_a_batch_may_have_as_many_bytes_as_announced_and_no_more(target: Target) -> None:
    limit = target.max_batch_bytes
    half = limit // 2
    whole = [await target.put(fresh(half)), await target.put(fresh(limit - half))]
    assert [one.status.code for one in (await target.batch_read(whole)).responses] == [0, 0]
    with refused(INVALID_ARGUMENT):
        await target.batch_read([*whole, await target.put(fresh(8))])


@pytest.mark.parametrize("acceptable", [["ZSTD"], ["DEFLATE"], ["BROTLI"], ["IDENTITY"], ["IDENTITY", "ZSTD"], []])
async def test_brb_04_data_comes_as_the_client_takes_it(target: Target, acceptable: list[str]) -> None:
    blobs = [compressible(50_000), compressible(1_000), fresh(10_000), fresh(10), b"x" * 3]
    digests = [await target.put(blob) for blob in blobs]
    numbers = [pb.Compressor.Value.Value(name) for name in acceptable]
    answers = (await target.batch_read(digests, acceptable_compressors=numbers)).responses
    assert {one.digest.hash: unpacked(one) for one in answers} == {digest_of(blob).hash: blob for blob in blobs}
    assert {one.compressor for one in answers} <= {pb.Compressor.IDENTITY, *numbers}
    assert {one.status.code for one in answers} == {0}


async def test_brb_04_a_missing_blob_is_missing_whatever_is_acceptable(target: Target) -> None:
    absent = digest_of(fresh())
    (answer,) = (await target.batch_read([absent], acceptable_compressors=[pb.Compressor.ZSTD])).responses
    assert (answer.status.code, answer.data) == (NOT_FOUND.value[0], b"")


async def test_brb_05_compressors_that_nobody_knows_are_ignored(target: Target) -> None:
    data = compressible()
    digest = await target.put(data)
    (answer,) = (await target.batch_read([digest], acceptable_compressors=[77])).responses
    assert (answer.status.code, answer.compressor, answer.data) == (0, pb.Compressor.IDENTITY, data)


async def test_brb_06_the_empty_blob_can_be_read(target: Target) -> None:
    for function in target.capabilities.cache_capabilities.digest_functions:
        empty = pb.Digest(hash=hash_of(b"", pb.DigestFunction.Value.Name(function)))
        (answer,) = (await target.batch_read([empty], digest_function=function)).responses
        assert (answer.status.code, answer.data) == (0, b"")


async def test_brb_06_the_empty_blob_can_be_read_by_who_takes_it_compressed(target: Target) -> None:
    empty = digest_of(b"")
    (answer,) = (await target.batch_read([empty], acceptable_compressors=[pb.Compressor.ZSTD])).responses
    assert (answer.status.code, unpacked(answer)) == (0, b"")


async def test_brb_07_nothing_comes_that_was_not_asked_for(target: Target) -> None:
    await target.put(fresh())
    asked = [await target.put(fresh()) for _ in range(5)] + [digest_of(fresh())]
    answers = (await target.batch_read(asked)).responses
    assert {(one.digest.hash, one.digest.size_bytes) for one in answers} == {(d.hash, d.size_bytes) for d in asked}


async def test_brb_08_a_digest_may_be_asked_for_twice(target: Target) -> None:
    data = fresh()
    digest = await target.put(data)
    answers = (await target.batch_read([digest, digest])).responses
    assert answers
    assert all((one.status.code, one.data) == (0, data) for one in answers)


@pytest.mark.parametrize("acceptable", [[], [pb.Compressor.ZSTD]], ids=["as it is", "in zstd"])
async def test_brb_09_a_full_batch_of_small_blobs_fits_the_clients_4_mib(target: Target, acceptable: list[int]) -> None:
    blobs = await uploaded(target, 4000, target.max_batch_bytes // 4000)
    digests = map(digest_of, blobs.values())
    answers = (await target.batch_read(digests, acceptable_compressors=acceptable)).responses
    assert {one.digest.hash: unpacked(one) for one in answers} == blobs


async def test_brb_10_four_thousand_digests_can_be_asked_for(target: Target) -> None:
    blobs = await uploaded(target, 4000, 8)
    answers = (await target.batch_read(map(digest_of, blobs.values()))).responses
    assert {one.digest.hash: one.data for one in answers} == blobs
