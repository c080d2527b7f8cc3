"""From a digest's key to the bytes of the blob, whatever becomes of it meanwhile."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from gridwright.clock import Clock
from gridwright.digest import Digest
from gridwright.errors import BlobCorrupted, BlobNotFound, GridwrightError
from gridwright_cas.stores.disk_errors import disk_errors
from gridwright_cas.stores.segments.eviction import FUTURE_MS
from gridwright_cas.stores.segments.index import Index
from gridwright_cas.stores.segments.large_file import BLOCK_BYTES
from gridwright_cas.stores.segments.large_files import LargeFiles
from gridwright_cas.stores.segments.large_read import LargeRead
from gridwright_cas.stores.segments.record import Damaged
from gridwright_cas.stores.segments.row import Row, pack_row, touched_before, unpack_row
from gridwright_cas.stores.segments.segment_reader import Payload, Run, SegmentReader, places_of, runs_of

#: So many blocks of a large blob are being read while one travels ...
_READ_AHEAD = 2
#: ... while all reads together have no more than this ahead: what many slow readers have ahead only takes memory.
_ALL_READ_AHEAD = 16
#: What has moved twice while it was read is left to whoever asks again.
_LOOKS = 2


class Moments(NamedTuple):
    """What the last touch of a packed row is compared with."""

    #: Rows smaller than this are to be touched.
    stale: bytes
    #: Rows smaller than this stand for blobs that have expired, and count as absent.
    expired: bytes
    #: Rows from here on were touched by a clock that has been set back since, and are to be touched again.
    future: bytes


class BlobReader:
    """Looks blobs up and reads them, and has those removed that are rotten.

    A record may move, or its segment go, between look-up and read. So what is not where it
    should be is looked up once more; if its row still says the same it is lost, its row
    is removed, and it is answered as not found.

    Args:
        touch: is told the keys of blobs whose use should be noted.
        quarantine: removes a blob that is not what was written, in a thread.
        moments: returns what is stale, and what has expired, now.
    """

    def __init__(
        self,
        index: Index,
        segments: SegmentReader,
        large_files: LargeFiles,
        threads: ThreadPoolExecutor,
        *,
        moments: Callable[[], Moments],
        touch: Callable[[Collection[bytes]], None],
        quarantine: Callable[[bytes, Row], None],
    ) -> None:
        self._index = index
        self._segments = segments
        self._large_files = large_files
        self._threads = threads
        self._moments = moments
        self._touch = touch
        self._quarantine = quarantine
        #: How many large blobs are being read.
        self._large_reads = 0

    def values_of(self, keys: Collection[bytes]) -> dict[bytes, bytes]:
        """Return the packed rows of those blobs that are there; they count as used now."""
        stale, expired, future = self._moments()
        values: dict[bytes, bytes] = {}
        touched: list[bytes] = []
        for key, value in zip(keys, self._index.values_of(keys), strict=True):
            if value is None or value < expired:
                continue
            values[key] = value
            if not stale <= value < future:
                touched.append(key)
        if touched:
            self._touch(touched)
        return values

    async def small(self, values: Mapping[bytes, bytes]) -> dict[bytes, bytes | GridwrightError]:
        """Return the bytes of small blobs, given as keys and packed rows, or why they cannot be had.

        Those that are gone, or are large, are left out.
        """
        found: dict[bytes, bytes | GridwrightError] = {}
        for _ in range(_LOOKS):
            payloads = await self._payloads(values)
            suspects = {key: values[key] for key, payload in payloads.items() if isinstance(payload, Damaged)}
            found.update({key: one for key, one in payloads.items() if not isinstance(one, Damaged)})
            if not suspects:
                break
            values = await self._looked_up_again(suspects)
        return found

    async def large(self, key: bytes, row: Row, digest: Digest, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of a large blob from *start* to *end*.

        Raises:
            BlobNotFound: it is gone, or rotten from the first byte on.
            BlobCorrupted: it is rotten further on.
        """
        begun = False
        for look in range(_LOOKS):
            read = LargeRead(self._large_files, row.offset, digest)
            reads: deque[Future[bytes]] = deque()
            self._large_reads += 1
            try:
                for block in _blocks(start, end):
                    reads.append(self._threads.submit(read.read, *block))
                    while len(reads) > min(_READ_AHEAD, _ALL_READ_AHEAD // self._large_reads):
                        chunk = await asyncio.wrap_future(reads.popleft())
                        begun = True
                        yield chunk
                        del chunk
                while reads:
                    chunk = await asyncio.wrap_future(reads.popleft())
                    begun = True
                    yield chunk
                    del chunk
                return
            except (BlobNotFound, BlobCorrupted):
                again = (await self._looked_up_again({key: pack_row(row)})).get(key)
                if begun:
                    raise BlobCorrupted(digest) from None
                if again is None or look == _LOOKS - 1:
                    raise BlobNotFound(digest) from None
                row = unpack_row(again)
            finally:
                self._large_reads -= 1
                self._threads.submit(read.close)

    async def _looked_up_again(self, suspects: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
        """Return where suspects are that have moved; those that have not are removed."""
        values = self.values_of(suspects)
        for key, value in suspects.items():
            row = unpack_row(value)
            if key in values and row.is_same_place(unpack_row(values[key])):
                del values[key]
                await asyncio.wrap_future(self._threads.submit(self._quarantine, key, row))
        return values

    async def _payloads(self, values: Mapping[bytes, bytes]) -> dict[bytes, Payload | GridwrightError]:
        payloads: dict[bytes, Payload | GridwrightError] = {}
        waiting: list[Run] = []
        for run in runs_of(places_of(values)):
            answer = _attempt(self._segments.read_cached, run)
            if answer is None:
                waiting.append(run)
            else:
                payloads.update(answer)
        reads = [asyncio.wrap_future(self._threads.submit(_attempt, self._segments.read, run)) for run in waiting]
        for answer in await asyncio.gather(*reads):
            payloads.update(answer or {})
        return payloads


def moments(clock: Clock, *, touch_seconds: float, max_seconds: float) -> Moments:
    """Return what is stale and what has expired now; blobs expire only where *max_seconds* is not 0."""
    now = clock.now()
    expired = touched_before(int((now - max_seconds) * 1000)) if max_seconds else b""
    stale = touched_before(int((now - touch_seconds) * 1000))
    return Moments(stale, expired, touched_before(int(now * 1000) + FUTURE_MS))


def _attempt(
    read: Callable[[Run], Mapping[bytes, Payload] | None], run: Run
) -> Mapping[bytes, Payload | GridwrightError] | None:
    """Return what *read* returns; a segment that is gone makes suspects, a disk that fails makes errors."""
    try:
        with disk_errors():
            try:
                return read(run)
            except FileNotFoundError:
                gone = Damaged("no such segment")
                return {place[3]: gone for place in run.places}
    except GridwrightError as error:
        return {place[3]: error for place in run.places}


def _blocks(start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the bytes from *start* to *end* as they lie in blocks."""
    while start < end:
        block_end = min(end, start - start % BLOCK_BYTES + BLOCK_BYTES)
        yield start, block_end
        start = block_end
