"""Errors of the CAS, as the client of an action is to hear them."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Collection, Mapping, Set

import pytest

from gridwright.blobs.memory import MemoryStore
from gridwright.blobs.store import BlobStore
from gridwright.digest import Digest
from gridwright.errors import (
    BlobNotFound,
    DeadlineExceeded,
    DigestMismatch,
    GridwrightError,
    InternalError,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
    UnknownInstance,
)
from gridwright.testing.blob_store_contract import BlobStoreContract, chunks_of
from gridwright_worker.execution.blameless import BlamelessStore
from tests.worker.actions import SHA256

DIGEST = SHA256.digest(b"x")


class TestBlamelessStore(BlobStoreContract):
    @pytest.fixture
    def store(self) -> BlobStore:
        return BlamelessStore(MemoryStore(max_bytes=2**30))


class FailingStore(BlobStore):
    """Fails in every way with the same error."""

    def __init__(self, error: GridwrightError) -> None:
        self._error = error

    async def get(self, digest: Digest, *, offset: int = 0, limit: int | None = None) -> AsyncIterator[bytes]:
        raise self._error
        yield b""  # type: ignore[unreachable]  # makes it a generator

    async def put(self, digest: Digest, chunks: AsyncIterable[bytes]) -> None:
        raise self._error

    async def missing(self, digests: Set[Digest]) -> Set[Digest]:
        raise self._error

    async def get_many(self, digests: Collection[Digest]) -> Mapping[Digest, bytes | GridwrightError]:
        return dict.fromkeys(digests, self._error)

    async def put_many(self, blobs: Mapping[Digest, bytes]) -> Mapping[Digest, GridwrightError | None]:
        return dict.fromkeys(blobs, self._error)


@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        (DeadlineExceeded("slow"), Unavailable),
        (UnknownInstance("x", ["main"]), InternalError),
        (PermissionDenied("no"), InternalError),
        (DigestMismatch("other bytes"), InternalError),
        (Unavailable("away"), Unavailable),
        (BlobNotFound(DIGEST), BlobNotFound),
        (ResourceExhausted("full"), ResourceExhausted),
    ],
    ids=lambda one: type(one).__name__ if isinstance(one, GridwrightError) else one.__name__,
)
async def test_an_error_of_the_cas_never_reads_as_a_fault_of_the_action(
    error: GridwrightError, becomes: type[GridwrightError]
) -> None:
    store = BlamelessStore(FailingStore(error))
    with pytest.raises(becomes):
        [chunk async for chunk in store.get(DIGEST)]
    with pytest.raises(becomes):
        await store.put(DIGEST, chunks_of(b"x"))
    with pytest.raises(becomes):
        await store.missing({DIGEST})
    assert isinstance((await store.get_many([DIGEST]))[DIGEST], becomes)
    assert isinstance((await store.put_many({DIGEST: b"x"}))[DIGEST], becomes)
