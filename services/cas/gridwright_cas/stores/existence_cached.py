"""What exists in a store is remembered here."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Collection, Iterable, Iterator, Mapping, Set
from contextlib import aclosing, contextmanager

from gridwright.blobs.eviction import EvictionOrder, EvictionPolicy
from gridwright.blobs.forwarding import ForwardingStore
from gridwright.blobs.resumable import ResumableUploads
from gridwright.blobs.store import BlobStore
from gridwright.blobs.stored_frames import StoredFrames
from gridwright.clock import Clock
from gridwright.digest import Digest
from gridwright.errors import BlobNotFound, ConfigurationError, GridwrightError
from gridwright_cas.stores.touches import TOUCH_SECONDS

#: The store below hears of uses along with the next question; so many of them, or so old, are a question of their own.
_MAX_TOUCHES = 1_000
_MAX_TOUCH_WAIT_SECONDS = 60.0
#: A digest takes about 400 bytes: whatever the policy, a cache stays below a gigabyte.
_MAX_COUNT = 2_000_000


class ExistenceCachedStore(ForwardingStore):
    """Remembers which blobs are there, and asks the store behind it about the others only.

    Build tools ask whether thousands of blobs exist before every action; where the answer
    takes a disk or a network, it is worth remembering. Only presence is remembered, exactly,
    the least recently used first to be forgotten. It cannot lie:

    - the store behind announces what goes, and an announcement beats an answer that was
      under way while it came;
    - where removals cannot be heard of, ``max_seconds`` bounds the age of an answer;
    - uses are passed on, each at most every ten minutes and many at a time, so that a blob
      that is asked for all day does not look cold below. Each is a new answer as well.

    Args:
        policy: what is remembered; ``max_bytes`` counts the sizes of the blobs, as NativeLink does.

    Raises:
        ConfigurationError: *inner* does not announce removals, and there is no ``max_seconds``.
    """

    def __init__(self, inner: BlobStore, clock: Clock, policy: EvictionPolicy) -> None:
        super().__init__(inner)
        if not inner.announces_removals and not policy.max_seconds:
            raise ConfigurationError(
                "existence_cache over a store that does not announce removals needs eviction_policy.max_seconds"
            )
        self._clock = clock
        self._order: EvictionOrder[Digest] = EvictionOrder(
            policy._replace(max_count=min(policy.max_count or _MAX_COUNT, _MAX_COUNT))
        )
        self._max_age_seconds = policy.max_seconds or float("inf")
        #: When the store behind said of each that it is there.
        self._confirmed_at: dict[Digest, float] = {}
        #: What was used and should be asked for again, and since when the first of it waits.
        self._used: set[Digest] = set()
        self._used_since = 0.0
        #: For each question under way, what went since it was asked.
        self._gone: dict[object, set[Digest]] = {}
        inner.on_removal(self._hear)

    def __repr__(self) -> str:
        return f"<ExistenceCachedStore {len(self._order)} digests of {self._inner!r}>"

    async def get(self, digest: Digest, *, offset: int = 0, limit: int | None = None) -> AsyncIterator[bytes]:
        try:
            async with aclosing(self._inner.get(digest, offset=offset, limit=limit)) as chunks:  # type: ignore[type-var]
                async for chunk in chunks:
                    yield chunk
                    del chunk
        except BlobNotFound:
            self._forget([digest])
            raise

    async def put(self, digest: Digest, chunks: AsyncIterable[bytes]) -> None:
        with self._watching() as gone:
            await self._inner.put(digest, chunks)
        self._remember({digest} - gone)

    def resumable_uploads(self, digest: Digest) -> ResumableUploads | None:
        return self._inner.resumable_uploads(digest)  # what came by them is asked for, once, as anything new

    async def missing(self, digests: Set[Digest]) -> Set[Digest]:
        unknown = self._unknown(digests)
        if not unknown and not self._touches_are_due():
            return unknown
        used, self._used = self._used, set()
        return await self._ask(unknown | used) & digests

    async def get_many(self, digests: Collection[Digest]) -> Mapping[Digest, bytes | GridwrightError]:
        with self._watching() as gone:
            found = await self._inner.get_many(digests)
        self._forget([digest for digest, blob in found.items() if isinstance(blob, BlobNotFound)])
        self._remember(digest for digest, blob in found.items() if isinstance(blob, bytes) and digest not in gone)
        return found

    async def put_many(self, blobs: Mapping[Digest, bytes]) -> Mapping[Digest, GridwrightError | None]:
        with self._watching() as gone:
            kept = await self._inner.put_many(blobs)
        self._remember(digest for digest, error in kept.items() if error is None and digest not in gone)
        return kept

    @property
    def stored_frames(self) -> StoredFrames:
        return self._inner.stored_frames

    def _unknown(self, digests: Iterable[Digest]) -> Set[Digest]:
        """Return those of *digests* that must be asked for; note the use of those that may be asked for later."""
        now = self._clock.monotonic()
        self._drop(self._order.evict(now))
        touch, confirmed = self._order.touch, self._confirmed_at
        too_old_at, touch_at = now - self._max_age_seconds, now - TOUCH_SECONDS
        unknown: set[Digest] = set()
        for digest in digests:
            at = confirmed.get(digest)
            if at is None or at < too_old_at:
                unknown.add(digest)
                continue
            touch(digest, now)
            if at < touch_at:
                if not self._used:
                    self._used_since = now
                self._used.add(digest)
        return unknown

    def _touches_are_due(self) -> bool:
        return len(self._used) >= _MAX_TOUCHES or (
            bool(self._used) and self._clock.monotonic() - self._used_since >= _MAX_TOUCH_WAIT_SECONDS
        )

    async def _ask(self, digests: Set[Digest]) -> Set[Digest]:
        """Return what the store behind does not hold, remember what it does."""
        with self._watching() as gone:
            missing = await self._inner.missing(digests) | gone
        self._forget(missing)
        self._remember(digests - missing)
        return missing

    @contextmanager
    def _watching(self) -> Iterator[set[Digest]]:
        """Note what goes while a question is under way: its answer may be older than that."""
        question = object()
        gone = self._gone[question] = set()
        try:
            yield gone
        finally:
            del self._gone[question]

    def _remember(self, digests: Iterable[Digest]) -> None:
        now = self._clock.monotonic()
        for digest in digests:
            if not self._order.touch(digest, now):
                self._order.add(digest, digest.size_bytes, now)
            self._confirmed_at[digest] = now
        self._drop(self._order.evict(now))

    def _hear(self, removed: Collection[Digest]) -> None:
        self._forget(removed)
        for gone in self._gone.values():
            gone.update(removed)

    def _forget(self, digests: Iterable[Digest]) -> None:
        for digest in digests:
            if self._order.discard(digest):
                del self._confirmed_at[digest]
                self._used.discard(digest)

    def _drop(self, victims: Iterable[Digest]) -> None:
        for digest in victims:
            del self._confirmed_at[digest]
            self._used.discard(digest)
