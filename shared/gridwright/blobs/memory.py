"""Blobs in this process's memory."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Collection, Mapping, Set

from gridwright.blobs.eviction import EvictionOrder, EvictionPolicy
from gridwright.blobs.removals import RemovalListener, Removals
from gridwright.blobs.store import CHUNK_BYTES, BlobStore, is_empty, part_of
from gridwright.clock import Clock, SystemClock
from gridwright.digest import Digest
from gridwright.errors import BlobNotFound, GridwrightError, ResourceExhausted


class MemoryStore(BlobStore):
    """Keeps blobs in a dictionary and drops the least recently used beyond its bounds.

    For tests, and for a cache that may be lost: nothing survives the process. What has
    expired goes with the next call; until then nobody can see it. A blob that is larger than
    ``max_bytes`` by its digest is refused before it comes.

    Args:
        max_bytes: short for a policy that has this bound only.
        policy: when blobs go.
    """

    def __init__(self, *, max_bytes: int = 0, policy: EvictionPolicy | None = None, clock: Clock | None = None) -> None:
        self._policy = policy or EvictionPolicy(max_bytes=max_bytes)
        self._clock = clock or SystemClock()
        self._order = EvictionOrder[Digest](self._policy)
        self._blobs: dict[Digest, bytes] = {}
        self._removals = Removals()

    def __repr__(self) -> str:
        bound = f" of {self._policy.max_bytes}" if self._policy.max_bytes else ""
        return f"<MemoryStore {len(self._blobs)} blobs, {self._order.used_bytes}{bound} bytes>"

    async def get(self, digest: Digest, *, offset: int = 0, limit: int | None = None) -> AsyncIterator[bytes]:
        blob = self._find([digest])[digest]
        if isinstance(blob, GridwrightError):
            raise blob
        start, end = part_of(digest, len(blob), offset, limit)
        for begin in range(start, end, CHUNK_BYTES):
            yield blob[begin : min(begin + CHUNK_BYTES, end)]

    async def put(self, digest: Digest, chunks: AsyncIterable[bytes]) -> None:
        if 0 < self._policy.max_bytes < digest.size_bytes:
            raise self._too_large(digest)
        pieces: list[bytes] = []
        size_bytes = 0
        async for chunk in chunks:
            size_bytes += len(chunk)
            if 0 < self._policy.max_bytes < size_bytes:
                raise self._too_large(digest)
            pieces.append(chunk)
        self._keep(digest, b"".join(pieces), self._clock.monotonic())

    async def missing(self, digests: Set[Digest]) -> Set[Digest]:
        return {digest for digest in self._absent(digests) if not is_empty(digest)}

    async def get_many(self, digests: Collection[Digest]) -> Mapping[Digest, bytes | GridwrightError]:
        return self._find(digests)

    async def put_many(self, blobs: Mapping[Digest, bytes]) -> Mapping[Digest, GridwrightError | None]:
        kept: dict[Digest, GridwrightError | None] = {}
        now = self._clock.monotonic()
        for digest, blob in blobs.items():
            kept[digest] = None
            try:
                self._keep(digest, blob, now)
            except ResourceExhausted as error:
                kept[digest] = error
        return kept

    def on_removal(self, listener: RemovalListener) -> None:
        self._removals.listen(listener)

    def _find(self, digests: Collection[Digest]) -> Mapping[Digest, bytes | GridwrightError]:
        found: dict[Digest, bytes | GridwrightError] = {}
        absent = self._absent(digests)
        for digest in digests:
            if digest not in absent:
                found[digest] = self._blobs[digest]
            else:
                found[digest] = b"" if is_empty(digest) else BlobNotFound(digest)
        return found

    def _absent(self, digests: Collection[Digest]) -> Set[Digest]:
        """Return those of *digests* that are not kept; the others count as used."""
        now = self._clock.monotonic()
        self._drop(self._order.evict(now))
        return self._order.absent(digests, now)

    def _keep(self, digest: Digest, blob: bytes, now: float) -> None:
        if is_empty(digest) or self._order.touch(digest, now):
            return
        if 0 < self._policy.max_bytes < len(blob):
            raise self._too_large(digest)
        self._drop(self._order.evict(now, coming_bytes=len(blob), coming_count=1))
        self._blobs[digest] = blob
        self._order.add(digest, len(blob), now)

    def _drop(self, victims: Collection[Digest]) -> None:
        for digest in victims:
            del self._blobs[digest]
        self._removals.announce(victims)

    def _too_large(self, digest: Digest) -> ResourceExhausted:
        return ResourceExhausted(f"blob {digest} is larger than this memory store's {self._policy.max_bytes} bytes")
