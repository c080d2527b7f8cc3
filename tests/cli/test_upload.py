import random
from collections.abc import AsyncIterable, Mapping
from pathlib import Path

import pytest

from gridwright.blobs.memory import MemoryStore
from gridwright.blobs.remote import RemoteStore
from gridwright.blobs.store import read_blob
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import DigestMismatch, GridwrightError, Unavailable
from gridwright.instances import Instances, InstanceSettings
from gridwright.protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as pb
from gridwright.wire.call import Call
from gridwright.wire.in_process_channel import InProcessChannel
from gridwright_cas.servicers.cas import CasServicer
from gridwright_cli.execute.input_tree import Source, UnusableInput
from gridwright_cli.execute.upload import upload

SHA256 = DigestFunction.SHA256


class CountingStore(MemoryStore):
    """Refuses bytes that are not those of their digest, and counts what comes."""

    def __init__(self) -> None:
        super().__init__(max_bytes=2**30)
        self.batches: list[int] = []

    async def put_many(self, blobs: Mapping[Digest, bytes]) -> Mapping[Digest, GridwrightError | None]:
        self.batches.append(len(blobs))
        errors: dict[Digest, GridwrightError | None] = {
            digest: DigestMismatch("not those bytes")
            for digest, blob in blobs.items()
            if digest.function.digest(blob) != digest
        }
        kept = await super().put_many({digest: blob for digest, blob in blobs.items() if digest not in errors})
        return {**kept, **errors}


async def test_only_what_is_missing_is_sent_small_ones_together_and_a_large_one_as_a_stream(tmp_path: Path) -> None:
    store = CountingStore()
    there, large = b"there", random.Random(1).randbytes(3_000_000)
    (tmp_path / "large").write_bytes(large)
    await store.put_many({SHA256.digest(there): there})
    store.batches.clear()
    small = [b"%d" % number for number in range(20)]
    blobs: dict[Digest, Source] = {SHA256.digest(blob): blob for blob in [there, *small]}
    blobs[SHA256.digest(large)] = tmp_path / "large"
    said: list[str] = []

    await upload(store, blobs, said.append)

    assert store.batches == [20]
    assert await store.missing(blobs.keys()) == set()
    assert b"".join([chunk async for chunk in store.get(SHA256.digest(large))]) == large
    assert said == ["uploading 21 of 22 blobs, 3,000,030 bytes"]


async def test_nothing_is_said_or_sent_when_all_is_there() -> None:
    store = CountingStore()
    await upload(store, {SHA256.digest(b"x"): b"x"}, lambda text: None)
    said: list[str] = []
    await upload(store, {SHA256.digest(b"x"): b"x"}, said.append)
    assert said == []


class DiskCleaner(CasServicer):
    """Deletes all files of a directory when the first batch arrives."""

    def __init__(self, directory: Path) -> None:
        super().__init__(Instances([InstanceSettings(name="main")]), {"main": MemoryStore(max_bytes=2**30)})
        self._directory = directory
        self.batches: list[int] = []

    async def batch_update_blobs(self, request: pb.BatchUpdateBlobsRequest, call: Call) -> pb.BatchUpdateBlobsResponse:
        self.batches.append(len(request.requests))
        for path in self._directory.iterdir():
            path.unlink()
        return await super().batch_update_blobs(request, call)


async def test_files_are_read_as_their_batches_go_so_a_large_tree_is_never_in_memory(tmp_path: Path) -> None:
    blobs: dict[Digest, Source] = {}
    for number in range(20):
        blob = random.Random(number).randbytes(900_000)
        (tmp_path / str(number)).write_bytes(blob)
        blobs[SHA256.digest(blob)] = tmp_path / str(number)
    cas = DiskCleaner(tmp_path)
    with pytest.raises(UnusableInput, match="No such file"):
        await upload(RemoteStore(InProcessChannel(cas), "main"), blobs, lambda text: None)
    assert cas.batches == [4]


class RestartedStore(MemoryStore):
    """Is away in the middle of the first upload."""

    def __init__(self) -> None:
        super().__init__(max_bytes=2**30)
        self.puts = 0

    async def put(self, digest: Digest, chunks: AsyncIterable[bytes]) -> None:
        self.puts += 1
        if self.puts == 1:
            await anext(aiter(chunks))
            raise Unavailable("restarting")
        await super().put(digest, chunks)


async def test_a_large_blob_whose_upload_breaks_is_sent_again_from_its_start() -> None:
    store, large = RestartedStore(), random.Random(1).randbytes(3_000_000)
    await upload(store, {SHA256.digest(large): large}, lambda text: None)
    assert store.puts == 2
    assert await read_blob(store, SHA256.digest(large)) == large


async def test_a_file_that_changed_meanwhile_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"other bytes")
    with pytest.raises(UnusableInput, match=r"/file changed while it was uploaded"):
        await upload(CountingStore(), {SHA256.digest(b"these bytes"): tmp_path / "file"}, lambda text: None)


@pytest.mark.parametrize("size_bytes", [10, 2_000_000])
async def test_a_file_that_went_away_meanwhile_is_named(tmp_path: Path, size_bytes: int) -> None:
    with pytest.raises(UnusableInput, match=r"/gone: No such file"):
        await upload(CountingStore(), {SHA256.digest(bytes(size_bytes)): tmp_path / "gone"}, lambda text: None)
