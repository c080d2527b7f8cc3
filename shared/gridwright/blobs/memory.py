"""Blobs in this process's memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterable, AsyncIterator, Collection, Mapping, Set

from gridwright.blobs.store import CHUNK_BYTES, BlobStore
from gridwright.digest import Digest
from gridwright.errors import BlobNotFound, GridwrightError, OutOfRange, ResourceExhausted


class MemoryStore(BlobStore):
    """Keeps blobs in a dictionary and drops the least recently used beyond *max_bytes*.

    For tests, and for a cache that may be lost: nothing survives the process.
    """

    def __init__(self, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._blobs: OrderedDict[Digest, bytes] = OrderedDict()
        self._used_bytes = 0

    def __repr__(self) -> str:
        return f"<MemoryStore {len(self._blobs)} blobs, {self._used_bytes} of {self._max_bytes} bytes>"

    async def get(self, digest: Digest, *, offset: int = 0, limit: int | None = None) -> AsyncIterator[bytes]:
        blob = self._touch(digest)
        if blob is None:
            raise BlobNotFound(digest)
        if offset > len(blob):
            raise OutOfRange(f"offset {offset} is beyond the end of blob {digest}")
        end = len(blob) if limit is None else min(len(blob), offset + limit)
        for start in range(offset, end, CHUNK_BYTES):
            yield blob[start : min(start + CHUNK_BYTES, end)]

    async def put(self, digest: Digest, chunks: AsyncIterable[bytes]) -> None:
        if digest.size_bytes > self._max_bytes:
            raise ResourceExhausted(f"blob {digest} is larger than this memory store's {self._max_bytes} bytes")
        self._keep(digest, b"".join([chunk async for chunk in chunks]))

    async def missing(self, digests: Set[Digest]) -> Set[Digest]:
        return {digest for digest in digests if self._touch(digest) is None}

    async def get_many(self, digests: Collection[Digest]) -> Mapping[Digest, bytes | GridwrightError]:
        found: dict[Digest, bytes | GridwrightError] = {}
        for digest in digests:
            blob = self._touch(digest)
            found[digest] = BlobNotFound(digest) if blob is None else blob
        return found

    async def put_many(self, blobs: Mapping[Digest, bytes]) -> Mapping[Digest, GridwrightError | None]:
        kept: dict[Digest, GridwrightError | None] = {}
        for digest, blob in blobs.items():
            if len(blob) > self._max_bytes:
                kept[digest] = ResourceExhausted(
                    f"blob {digest} is larger than this memory store's {self._max_bytes} bytes"
                )
                continue
            self._keep(digest, blob)
            kept[digest] = None
        return kept

    def _touch(self, digest: Digest) -> bytes | None:
        if digest.size_bytes == 0 and digest == digest.function.empty:
            return b""
        blob = self._blobs.get(digest)
        if blob is not None:
            self._blobs.move_to_end(digest)
        return blob

    def _keep(self, digest: Digest, blob: bytes) -> None:
        if digest in self._blobs:
            self._blobs.move_to_end(digest)
            return
        self._blobs[digest] = blob
        self._used_bytes += len(blob)
        while self._used_bytes > self._max_bytes:
            _, dropped = self._blobs.popitem(last=False)
            self._used_bytes -= len(dropped)
