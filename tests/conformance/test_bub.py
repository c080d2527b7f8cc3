"""ContentAddressableStorage.BatchUpdateBlobs (checklist BUB)."""

from __future__ import annotations

import os
import random

import grpc
import pytest
import zstandard

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from tests.conformance.blobs import EMPTY_SHA256
from tests.conformance.compressors import COMPRESSORS, compress
from tests.conformance.small_grid import DISK_BYTES
from tests.conformance.target import Target, codes_of, digest_of, fresh, refused
from tests.conformance.test_cmp import compressible, requires

INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT
RESOURCE_EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
OK = grpc.StatusCode.OK

Entry = pb.BatchUpdateBlobsRequest.Request


def entry(data: bytes, digest: pb.Digest | None = None, compressor: int = 0) -> Entry:
    named = digest_of(data) if digest is None else digest
    return Entry(digest=named, data=data, compressor=compressor)  # type: ignore[arg-type]


async def test_bub_01_each_entry_has_an_answer_of_its_own(target: Target) -> None:
    good, bad, also_good = fresh(), fresh(), fresh()
    wrong = digest_of(fresh())
    answer = await target.update_entries([entry(good), entry(bad, wrong), entry(also_good)])
    assert {one.digest.hash: one.status.code for one in answer.responses} == {
        digest_of(good).hash: OK.value[0],
        wrong.hash: INVALID_ARGUMENT.value[0],
        digest_of(also_good).hash: OK.value[0],
    }
    for data in (good, also_good):
        assert await target.read(target.resource(digest_of(data))) == data
    assert await target.find_missing([wrong]) == [wrong]


async def test_bub_02_the_status_is_set_also_when_it_is_ok(target: Target) -> None:
    answer = await target.update([fresh(), fresh()])
    assert [one.HasField("status") for one in answer.responses] == [True, True]


async def test_bub_03_data_that_is_not_what_its_digest_says_fails(target: Target) -> None:
    data = fresh()
    longer = pb.Digest(hash=digest_of(data).hash, size_bytes=len(data) + 1)
    for wrong in (digest_of(fresh()), longer):
        assert await codes_of(target.update_entries([entry(data, wrong)])) == [INVALID_ARGUMENT]
        assert await target.find_missing([wrong]) == [wrong]


async def test_bub_04_a_batch_may_have_as_many_bytes_as_announced_and_no_more(target: Target) -> None:
    limit = target.max_batch_bytes
    half = limit // 2
    assert await codes_of(target.update([fresh(half), fresh(limit - half)])) == [OK, OK]
    with refused(INVALID_ARGUMENT):
        await target.update([fresh(half), fresh(limit - half + 1)])


async def test_bub_05_what_is_sent_counts_not_what_it_unpacks_to(target: Target) -> None:
    requires(target, "ZSTD", "batch")
    blobs = [os.urandom(8) + bytes(target.max_batch_bytes // 2) for _ in range(4)]
    entries = [entry(zstandard.compress(blob), digest_of(blob), pb.Compressor.ZSTD) for blob in blobs]
    assert await codes_of(target.update_entries(entries)) == [OK] * 4
    assert await target.find_missing(map(digest_of, blobs)) == []


async def test_bub_06_an_entry_for_which_there_is_no_room_says_so(full: Target) -> None:
    some = [random.Random(number).randbytes(1_000_000) for number in range(DISK_BYTES // 1_000_000 + 1)]
    codes = [(await codes_of(full.update([blob])))[0] for blob in some]
    # Those that a test before this one left are taken again.
    assert codes[-1] is RESOURCE_EXHAUSTED
    assert set(codes) == {OK, RESOURCE_EXHAUSTED}


async def test_bub_07_a_compressor_that_is_not_announced_fails_its_entry(target: Target) -> None:
    offered = {*target.capabilities.cache_capabilities.supported_batch_update_compressors, pb.Compressor.IDENTITY}
    unknown = [number for number in (*pb.Compressor.Value.values(), 77) if number not in offered]
    for number in unknown:
        data, good = fresh(), fresh()
        codes = await codes_of(target.update_entries([entry(data, compressor=number), entry(good)]))
        assert codes == [INVALID_ARGUMENT, OK]
        assert await target.find_missing([digest_of(data)]) == [digest_of(data)]


@pytest.mark.parametrize("compressor", COMPRESSORS)
async def test_bub_08_the_digest_is_that_of_the_bytes_before_compression(target: Target, compressor: str) -> None:
    requires(target, compressor, "batch")
    number = pb.Compressor.Value.Value(compressor)
    data = compressible()
    packed = compress(compressor, data)
    entries = [entry(packed, digest_of(data), number), entry(packed, digest_of(packed), number)]
    assert await codes_of(target.update_entries(entries)) == [OK, INVALID_ARGUMENT]
    assert await target.read(target.resource(digest_of(data))) == data
    assert await target.find_missing([digest_of(packed)]) == [digest_of(packed)]


async def test_bub_09_a_blob_may_come_twice_in_a_batch(target: Target) -> None:
    data = fresh()
    assert await codes_of(target.update([data, data])) == [OK, OK]
    assert await target.read(target.resource(digest_of(data))) == data


async def test_bub_10_a_blob_may_be_uploaded_again(target: Target) -> None:
    data = fresh()
    for _ in range(2):
        assert await codes_of(target.update([data])) == [OK]


async def test_bub_11_a_batch_may_be_empty(target: Target) -> None:
    assert list((await target.update([])).responses) == []


@pytest.mark.parametrize(
    "bad",
    [
        pb.Digest(),
        pb.Digest(size_bytes=5),
        pb.Digest(hash="a" * 64, size_bytes=-1),
        pb.Digest(hash="a" * 63, size_bytes=5),
        pb.Digest(hash="A" * 64, size_bytes=5),
        pb.Digest(hash="ü" * 64, size_bytes=5),
        pb.Digest(hash="../" * 21 + "a", size_bytes=5),
        pb.Digest(hash="a" * 64, size_bytes=2**63 - 1),
    ],
    ids=["unset", "no hash", "negative", "short", "upper-case", "not ascii", "dots", "huge"],
)
async def test_bub_12_a_digest_that_is_none_is_invalid(target: Target, bad: pb.Digest) -> None:
    good = fresh()
    codes = await codes_of(target.update_entries([entry(b"hello", bad), entry(good)]))
    assert codes in ([INVALID_ARGUMENT], [INVALID_ARGUMENT, OK])


async def test_bub_12_an_entry_without_a_digest_is_invalid(target: Target) -> None:
    assert await codes_of(target.update_entries([Entry(data=b"hello")])) == [INVALID_ARGUMENT]


@pytest.mark.parametrize("compressor", COMPRESSORS)
async def test_bub_12_a_huge_size_of_compressed_data_is_invalid(target: Target, compressor: str) -> None:
    requires(target, compressor, "batch")
    bad = pb.Digest(hash=fresh(32).hex(), size_bytes=2**62)
    packed = entry(compress(compressor, b"hello"), bad, pb.Compressor.Value.Value(compressor))
    assert await codes_of(target.update_entries([packed])) == [INVALID_ARGUMENT]


async def test_bub_13_the_empty_blob_may_be_uploaded(target: Target) -> None:
    assert await codes_of(target.update_entries([entry(b"", pb.Digest(hash=EMPTY_SHA256))])) == [OK]


@pytest.mark.parametrize("compressor", COMPRESSORS)
async def test_bub_13_the_empty_blob_may_be_uploaded_compressed(target: Target, compressor: str) -> None:
    requires(target, compressor, "batch")
    packed = entry(compress(compressor, b""), pb.Digest(hash=EMPTY_SHA256), pb.Compressor.Value.Value(compressor))
    assert await codes_of(target.update_entries([packed])) == [OK]


async def test_bub_14_the_digest_of_an_answer_says_which_entry_it_is_for(target: Target) -> None:
    blobs = [fresh() for _ in range(100)]
    wrong = {digest_of(fresh()).hash for _ in range(3)}
    entries = [entry(blob) for blob in blobs] + [entry(b"x", pb.Digest(hash=one, size_bytes=1)) for one in wrong]
    random.shuffle(entries)
    answer = await target.update_entries(entries)
    assert len(answer.responses) == len(entries)
    failed = {one.digest.hash for one in answer.responses if one.status.code}
    assert failed == wrong
    assert {one.digest.hash for one in answer.responses} - failed == {digest_of(blob).hash for blob in blobs}
