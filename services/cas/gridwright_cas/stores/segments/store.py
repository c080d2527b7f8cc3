"""The segment engine as a BlobStore."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Set,
)
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Self

from gridwright.blobs.packed_digests import PackedDigests
from gridwright.blobs.removals import RemovalListener, Removals
from gridwright.blobs.resumable import ResumableUploads
from gridwright.blobs.store import CHUNK_BYTES, BlobStore, is_empty, part_of
from gridwright.clock import Clock
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import BlobNotFound, GridwrightError, Unavailable
from gridwright_cas.stores.segments.blob_reader import BlobReader, Moments, moments
from gridwright_cas.stores.segments.disk import Disk
from gridwright_cas.stores.segments.engine import Engine, SegmentSettings
from gridwright_cas.stores.segments.fresh_keys import FreshKeys
from gridwright_cas.stores.segments.group_commit import GroupCommit
from gridwright_cas.stores.segments.index import MAX_ROWS
from gridwright_cas.stores.segments.key import digest_of, key_of, keys_of
from gridwright_cas.stores.segments.record import MAX_PAYLOAD_BYTES
from gridwright_cas.stores.segments.resumable import SegmentUploads
from gridwright_cas.stores.segments.row import Row, unpack_row
from gridwright_cas.stores.segments.uploader import Uploader

_THREADS = 16
#: How often touches are written, and removals by other processes heard of.
_TICK_SECONDS = 1.0
_MAINTENANCE_TICKS = 60


#: They are always there (checklist LIF-05), and never kept.
_EMPTY_BLOBS = frozenset(function.empty for function in DigestFunction)
_EMPTY_KEYS = frozenset(keys_of(_EMPTY_BLOBS))


class SegmentStore(BlobStore):
    """Keeps blobs in a log with an index; the store to use on a disk.

    A thousand small blobs cost one append and one transaction, ten million take no time to
    open, and what was acknowledged survives a power cut. See the package for how.

    Look-ups are made where they are asked for, also a thousand at once: about 1 ms, against ten times
    that in a thread while the event loop is busy (see ``Index.values_of``). So are reads of
    what the page cache holds. Other reads, and all writes, run in threads.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._index = engine.index
        self._loop = asyncio.get_running_loop()
        self._commit = GroupCommit(engine.writer, group_bytes=engine.settings.segment_bytes)
        self._uploader = Uploader(engine, self._commit)
        self._uploads = SegmentUploads(engine.partials, self._uploader)
        self._readers = ThreadPoolExecutor(_THREADS, thread_name_prefix="segment-reads")
        self._removals = Removals()
        self._fresh_keys = FreshKeys(engine.index, engine.removal_log)
        self._reader = BlobReader(
            engine.index,
            engine.reader,
            engine.large_files,
            self._readers,
            moments=self._moments,
            touch=self._commit.touch,
            quarantine=self._quarantine,
        )
        self._is_closing = False

    @classmethod
    @asynccontextmanager
    async def opened(
        cls, path: Path, clock: Clock, settings: SegmentSettings, *, disk: Disk | None = None
    ) -> AsyncIterator[Self]:
        """Keep blobs in the directory *path* until the block ends; other processes may do so as well.

        Raises:
            ConfigurationError: the directory cannot be used.
        """
        engine = await asyncio.to_thread(Engine.open, path, clock, settings, disk, may_shrink_index=True)
        store = cls(engine)
        engine.start_housekeeping(store._commit.is_touched, store._announce_removals_soon)
        ticking = asyncio.create_task(store._tick())
        try:
            yield store
        finally:
            ticking.cancel()
            await asyncio.gather(ticking, store._uploader.drained(), return_exceptions=True)
            await store._commit.drained()
            store._is_closing = True
            await asyncio.to_thread(store._close)

    def __repr__(self) -> str:
        engine = self._engine
        try:
            with self._index.reading() as txn:
                count = txn.stat(self._index.rows)["entries"]
            failure = engine.stats.last_housekeeping_failure
            trouble = f", housekeeping failed: {failure}" if failure else ""
            return f"<SegmentStore {engine.path}: {count} blobs, {engine.room!r}{trouble}>"
        except GridwrightError as error:
            return f"<SegmentStore {engine.path}: {error}>"

    @property
    def engine(self) -> Engine:
        """What it is made of, for those who tell how it does."""
        return self._engine

    def on_removal(self, listener: RemovalListener) -> None:
        self._removals.listen(listener)

    async def get(self, digest: Digest, *, offset: int = 0, limit: int | None = None) -> AsyncIterator[bytes]:
        if is_empty(digest):
            part_of(digest, 0, offset, limit)
            return
        key = key_of(digest)
        value = self._reader.values_of([key]).get(key)
        if value is None:
            raise BlobNotFound(digest)
        row = unpack_row(value)
        start, end = part_of(digest, row.stored_bytes, offset, limit)
        if row.is_large:
            async with aclosing(self._reader.large(key, row, digest, start, end)) as chunks:
                async for chunk in chunks:
                    yield chunk
                    del chunk
            return
        blob = (await self._reader.small({key: value})).get(key, BlobNotFound(digest))
        if isinstance(blob, GridwrightError):
            raise blob
        if start < end:
            yield blob[start:end]

    async def put(self, digest: Digest, chunks: AsyncIterable[bytes]) -> None:
        if self._is_there(digest):
            async for _ in chunks:
                continue  # to its end, where whoever checks it says so if it is wrong
            if not self._is_there(digest):
                raise Unavailable(f"blob {digest} went while it came once more; send it again")
            return
        blob = await self._uploader.put(digest, chunks)
        if blob is not None and (error := (await self.put_many({digest: blob}))[digest]):
            raise error

    def resumable_uploads(self, digest: Digest) -> ResumableUploads:
        return self._uploads

    async def missing(self, digests: Set[Digest]) -> Set[Digest]:
        keys = keys_of(digests)
        stale, expired, future = self._moments()
        values = self._fresh_keys.values_of_others(keys, max(stale, expired), future)
        self._commit.touch(
            [key for key, value in values.items() if value and value >= expired and not stale <= value < future]
        )
        missing = {key for key, value in values.items() if value is None or value < expired}
        missing -= _EMPTY_KEYS
        if isinstance(digests, PackedDigests):
            return PackedDigests(missing)
        return {digest for digest, key in zip(digests, keys, strict=True) if key in missing}

    async def get_many(self, digests: Collection[Digest]) -> Mapping[Digest, bytes | GridwrightError]:
        digests = list(digests)
        keys = keys_of(digests)
        values = self._reader.values_of(keys)
        found = await self._reader.small(values)
        answers: dict[Digest, bytes | GridwrightError] = {}
        for digest, key in zip(digests, keys, strict=True):
            answer = found.get(key)
            if answer is None:
                answer = BlobNotFound(digest)
                if key in values or is_empty(digest):
                    answer = await self._whole(digest)
            answers[digest] = answer
        return answers

    async def put_many(self, blobs: Mapping[Digest, bytes]) -> Mapping[Digest, GridwrightError | None]:
        digests = list(blobs)
        keys = keys_of(digests)
        stale, expired, future = self._moments()
        small: list[tuple[bytes, bytes]] = []
        large: list[Digest] = []
        touched: list[bytes] = []
        for digest, key, value in zip(digests, keys, self._index.values_of(keys), strict=True):
            if value is None or value < expired:
                blob = blobs[digest]
                if len(blob) > MAX_PAYLOAD_BYTES:
                    large.append(digest)
                elif digest not in _EMPTY_BLOBS:
                    small.append((key, blob))
            elif not stale <= value < future:
                touched.append(key)
        self._commit.touch(touched)
        kept: dict[Digest, GridwrightError | None] = dict.fromkeys(digests)
        for batch in self._batches(small):
            try:
                await self._commit.write(batch)
            except GridwrightError as error:
                kept.update(dict.fromkeys([digest_of(key) for key, _ in batch], error))
        for digest in large:
            try:
                await self.put(digest, _chunks_of(blobs[digest]))
            except GridwrightError as error:
                kept[digest] = error
        return kept

    def _is_there(self, digest: Digest) -> bool:
        """Whether there is nothing to be written; the blob counts as used now."""
        return is_empty(digest) or bool(self._reader.values_of([key_of(digest)]))

    async def _whole(self, digest: Digest) -> bytes | GridwrightError:
        """Return a blob that ``get`` can serve, which may have moved since it was looked up."""
        try:
            return b"".join([chunk async for chunk in self.get(digest)])
        except GridwrightError as error:
            return error

    def _batches(self, blobs: Iterable[tuple[bytes, bytes]]) -> Iterator[list[tuple[bytes, bytes]]]:
        """Yield keys and their small *blobs* in such portions as are written at once."""
        batch: list[tuple[bytes, bytes]] = []
        left_bytes = max_bytes = self._engine.settings.segment_bytes
        for one in blobs:
            size_bytes = len(one[1])
            left_bytes -= size_bytes
            if batch and (left_bytes < 0 or len(batch) == MAX_ROWS):
                yield batch
                batch, left_bytes = [], max_bytes - size_bytes
            batch.append(one)
        if batch:
            yield batch

    def _moments(self) -> Moments:
        engine = self._engine
        return moments(
            engine.clock,
            touch_seconds=engine.room.touch_seconds,
            max_seconds=engine.settings.policy.max_seconds,
        )

    async def _tick(self) -> None:
        """Write touches, hear of removals, and clean up, until cancelled."""
        for number in itertools.count(1):
            await asyncio.sleep(_TICK_SECONDS)
            self._commit.flush()
            self._announce_removals()
            try:
                if number % _MAINTENANCE_TICKS == 0:
                    await asyncio.wrap_future(self._readers.submit(self._engine.maintain))
            except GridwrightError:
                continue  # the disk fails, which those who read or write will hear

    def _quarantine(self, key: bytes, row: Row) -> None:
        self._engine.quarantine(key, row)
        self._announce_removals_soon()

    def _announce_removals_soon(self) -> None:
        """Have the event loop look at the removal log; may be called from any thread."""
        self._loop.call_soon_threadsafe(self._announce_removals)

    def _announce_removals(self) -> None:
        if self._is_closing:
            return
        try:
            removed = self._engine.removal_log.poll()
        except GridwrightError:
            return  # the index does not answer; it is asked again in a second
        self._engine.reader.forget(removed.segments)
        self._removals.announce([digest_of(key) for key in removed.keys])

    def _close(self) -> None:
        self._uploader.close()
        self._readers.shutdown()
        self._commit.close()
        self._engine.close()


async def _chunks_of(blob: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(blob), CHUNK_BYTES):
        yield blob[start : start + CHUNK_BYTES]
