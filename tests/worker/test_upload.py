"""Outputs on their way to the CAS."""

from __future__ import annotations

from collections.abc import AsyncIterable, Mapping, Set
from pathlib import Path

import pytest

from gridwright.blobs.memory import MemoryStore
from gridwright.digest import Digest
from gridwright.errors import GridwrightError, ResourceExhausted, Unavailable
from gridwright_worker.execution.upload import upload
from tests.worker.actions import SHA256

LARGE = bytes(2 * 1024 * 1024)


class WatchedStore(MemoryStore):
    """Counts calls, and breaks the first streams."""

    def __init__(self, *, breaks: int = 0) -> None:
        super().__init__(max_bytes=2**30)
        self.calls: list[str] = []
        self._breaks = breaks

    async def put(self, digest: Digest, chunks: AsyncIterable[bytes]) -> None:
        self.calls.append("put")
        if self._breaks:
            self._breaks -= 1
            raise Unavailable("the stream broke")
        await super().put(digest, chunks)

    async def missing(self, digests: Set[Digest]) -> Set[Digest]:
        self.calls.append("missing")
        return await super().missing(digests)

    async def put_many(self, blobs: Mapping[Digest, bytes]) -> Mapping[Digest, GridwrightError | None]:
        self.calls.append("put_many")
        return await super().put_many(blobs)


async def test_nothing_to_upload_costs_no_call() -> None:
    store = WatchedStore()
    await upload(store, {SHA256.empty: b""})
    assert store.calls == []


async def test_a_little_is_sent_without_asking() -> None:
    store = WatchedStore()
    blobs: dict[Digest, bytes | str] = {SHA256.digest(data): data for data in (b"a", b"b")}
    await upload(store, blobs)
    assert store.calls == ["put_many"]
    assert await store.missing(blobs.keys()) == set()


async def test_what_is_there_already_is_not_sent_again() -> None:
    store = WatchedStore()
    blobs: dict[Digest, bytes | str] = {SHA256.digest(LARGE): LARGE}
    await upload(store, blobs)
    store.calls.clear()
    await upload(store, blobs)
    assert store.calls == ["missing"]


async def test_a_stream_that_breaks_is_begun_again(tmp_path: Path) -> None:
    store = WatchedStore(breaks=2)
    path = tmp_path / "large"
    path.write_bytes(LARGE)
    await upload(store, {SHA256.digest(LARGE): str(path)})
    assert store.calls == ["missing", "put", "put", "put"]
    assert await store.missing({SHA256.digest(LARGE)}) == set()


async def test_a_full_cas_is_told_as_such() -> None:
    with pytest.raises(ResourceExhausted):
        await upload(MemoryStore(max_bytes=1), {SHA256.digest(b"ab"): b"ab"})
