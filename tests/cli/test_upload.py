import random
from collections.abc import Mapping
from pathlib import Path

import pytest

from gridwright.blobs.memory import MemoryStore
from gridwright.blobs.store import read_blob
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import DigestMismatch, GridwrightError
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


async def test_many_blobs_travel_in_batches_of_bounded_size() -> None:
    store = CountingStore()
    blobs = [random.Random(number).randbytes(900_000) for number in range(20)]
    await upload(store, {SHA256.digest(blob): blob for blob in blobs}, lambda text: None)
    assert store.batches == [9, 9, 2]
    assert await read_blob(store, SHA256.digest(blobs[-1])) == blobs[-1]


async def test_a_file_that_changed_meanwhile_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"other bytes")
    with pytest.raises(UnusableInput, match=r"/file changed while it was uploaded"):
        await upload(CountingStore(), {SHA256.digest(b"these bytes"): tmp_path / "file"}, lambda text: None)


@pytest.mark.parametrize("size_bytes", [10, 2_000_000])
async def test_a_file_that_went_away_meanwhile_is_named(tmp_path: Path, size_bytes: int) -> None:
    with pytest.raises(UnusableInput, match=r"/gone: No such file"):
        await upload(CountingStore(), {SHA256.digest(bytes(size_bytes)): tmp_path / "gone"}, lambda text: None)
