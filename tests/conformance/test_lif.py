"""How long blobs live in the CAS, and what becomes of them in trouble (checklist LIF)."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import grpc
import pytest

from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from tests.conformance.actions import Script, run_action, upload_action
from tests.conformance.blobs import hash_of
from tests.conformance.compressors import compress, decompress
from tests.conformance.small_grid import DISK_BYTES, MEMORY_BYTES
from tests.conformance.target import Target, chunks_of, digest_of, fresh, kept_open, refused, write_requests
from tests.conformance.test_cmp import requires
from tests.conformance.test_fmb import answered
from tests.journeys.grid import Grid

DATA_LOSS, NOT_FOUND = grpc.StatusCode.DATA_LOSS, grpc.StatusCode.NOT_FOUND
RESOURCE_EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
#: Twenty of them fill the memory of the small grid.
PART_BYTES = MEMORY_BYTES // 20


async def test_lif_01_the_empty_blob_is_there_on_every_path(target: Target) -> None:
    for function in target.capabilities.cache_capabilities.digest_functions:
        name = pb.DigestFunction.Value.Name(function)
        empty = pb.Digest(hash=hash_of(b"", name))
        assert await target.find_missing([empty], digest_function=function) == []
        (answer,) = (await target.batch_read([empty], digest_function=function)).responses
        assert (answer.status.code, answer.data) == (0, b"")
        assert await target.read(target.resource(empty, function=name)) == b""
        request = pb.GetTreeRequest(instance_name=target.instance, root_digest=empty, digest_function=function)
        answers = target.streamed("ContentAddressableStorage/GetTree", request, pb.GetTreeResponse)
        assert [list(page.directories) async for page in answers] == [[pb.Directory()]]


async def test_lif_01_the_empty_blob_is_there_compressed(target: Target) -> None:
    requires(target, "ZSTD")
    read = await target.read(target.resource(digest_of(b""), compressor="zstd"))
    assert decompress("ZSTD", read) == b""


async def test_lif_02_an_action_may_have_empty_inputs_that_nobody_uploaded(target: Target) -> None:
    root = pb.Directory()
    root.directories.add(name="directory", digest=digest_of(b""))
    root.files.add(name="empty", digest=digest_of(b""))
    root.files.add(name="salt", digest=await target.put(fresh()))
    input_root = await target.put(root.SerializeToString(deterministic=True))
    script = Script("test -f empty && test ! -s empty && test -d directory")
    response = await run_action(target, await upload_action(target, script, input_root))
    assert (response.status.code, response.result.exit_code) == (0, 0), response


async def test_lif_03_what_is_used_outlives_what_is_not(small: Target) -> None:
    new, read, unused = [await small.put(fresh(PART_BYTES)) for _ in range(3)]
    for _ in range(40):
        await small.put(fresh(PART_BYTES))
        await small.read(small.resource(read))
        (answer,) = (await small.batch_read([new])).responses
        assert answer.status.code == 0
    assert await small.find_missing([new, read, unused]) == [unused]


async def test_lif_04_a_full_store_says_so_and_is_still_read(full: Target) -> None:
    some = [random.Random(number).randbytes(1_000_000) for number in range(DISK_BYTES // 1_000_000 + 1)]
    with refused(RESOURCE_EXHAUSTED):
        for blob in some:
            await full.write(full.upload_name(digest_of(blob)), chunks_of(blob))
    assert await full.read(full.resource(digest_of(some[0]))) == some[0]
    assert await full.find_missing([digest_of(some[0])]) == []


async def test_lif_05_several_clients_may_upload_one_blob_at_once(target: Target) -> None:
    compressed = pb.Compressor.ZSTD in target.capabilities.cache_capabilities.supported_compressors
    data = fresh(400_000) + bytes(2_000_000)
    digest = digest_of(data)
    plain = [target.write(target.upload_name(digest), chunks_of(data)) for _ in range(10)]
    packed = compress("ZSTD", data)
    in_zstd = [
        target.write(target.upload_name(digest, compressor="zstd"), chunks_of(packed)) for _ in range(10 * compressed)
    ]
    await asyncio.gather(*plain, *in_zstd)
    assert await target.read(target.resource(digest)) == data


async def test_lif_06_a_crash_leaves_no_part_of_a_blob(small: Target, small_grid: Grid) -> None:
    data = fresh(500_000)
    digest = digest_of(data)
    half = write_requests(small.upload_name(digest), chunks_of(data[:300_000]), finish=False)
    upload = asyncio.create_task(small.upload(kept_open(half)))
    done, _ = await asyncio.wait([upload], timeout=0.3)
    assert not done
    mark = small_grid.kill("cas")
    with refused(grpc.StatusCode.UNAVAILABLE):
        await upload
    await asyncio.to_thread(small_grid.wait_well_again, mark)
    assert await answered(small, digest) == [digest]
    with refused(NOT_FOUND):
        await small.read(small.resource(digest))
    (answer,) = (await small.batch_read([digest])).responses
    assert (answer.status.code, answer.data) == (NOT_FOUND.value[0], b"")


@pytest.mark.parametrize("size", [200_000, 1_500_000])
async def test_lif_07_a_blob_that_has_rotted_is_never_served(small: Target, small_grid: Grid, size: int) -> None:
    data = fresh(size)
    digest = await small.put(data)
    assert await small.read(small.resource(digest)) == data
    spoil(small_grid.data / "cas", data[size // 2 : size // 2 + 64])
    with refused(NOT_FOUND, DATA_LOSS):
        await small.read(small.resource(digest))
    (answer,) = (await small.batch_read([digest])).responses
    assert answer.status.code in (NOT_FOUND.value[0], DATA_LOSS.value[0])
    assert answer.data == b""
    assert await small.find_missing([digest]) == [digest]


def spoil(directory: Path, part: bytes) -> None:
    """Flip a bit of *part*, which is in one of the files in *directory*."""
    for path in directory.rglob("*"):
        if path.is_file() and (at := path.read_bytes().find(part)) >= 0:
            with path.open("r+b") as file:
                file.seek(at)
                file.write(bytes([part[0] ^ 1]))
            return
    raise AssertionError(f"no file in {directory} holds the blob as it is")
