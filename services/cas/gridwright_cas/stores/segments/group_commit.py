"""Group commit: what arrives while the disk is busy is written together, next."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from gridwright.errors import ResourceExhausted
from gridwright_cas.stores.segments.index import MAX_ROWS
from gridwright_cas.stores.segments.record import LargeFileRef
from gridwright_cas.stores.segments.segment_writer import Appended, SegmentWriter, Writes

#: A group of so many bytes is worth a synchronisation of its own.
_GROUP_BYTES = 8 * 1024 * 1024
#: As many rows as a group may have that is made of several requests: they share one synchronisation, though not one
#: transaction.
_GROUP_ROWS = 4 * MAX_ROWS
#: In a small store groups are small, since its index must have room for all their rows.
_GROUP_BYTES_PER_ROW = 512
#: One group comes into the index while the next one comes into a segment; more would only make groups smaller.
_GROUPS_IN_FLIGHT = 2
_MAX_WAITING_BYTES = 256 * 1024 * 1024
_RETRY_SECONDS = 1.0
#: Touches are only hints, and beyond so many the rest can wait until it is asked for again.
_MAX_TOUCHES = 100_000


class _Request(NamedTuple):
    blobs: Sequence[tuple[bytes, bytes]]
    large: Sequence[tuple[bytes, LargeFileRef]]
    size_bytes: int
    done: asyncio.Future[set[int]]

    @property
    def row_count(self) -> int:
        return len(self.blobs) + len(self.large)


class GroupCommit:
    """Collects the writes of many callers and has them written, a group at a time.

    A synchronisation and a transaction cost the same for one blob as for a thousand. Nobody
    waits for a group to fill: a group is what came while those before it were on their way
    to the disk, less than a millisecond or two. One thread appends a group while another
    commits the one before it. Touches travel along, or alone when ``flush`` finds that
    nothing else has come.

    All methods belong to the event loop.
    """

    def __init__(self, writer: SegmentWriter, *, group_bytes: int) -> None:
        self._writer = writer
        self._appender = ThreadPoolExecutor(1, thread_name_prefix="segment-appender")
        self._committer = ThreadPoolExecutor(1, thread_name_prefix="segment-committer")
        self._waiting: deque[_Request] = deque()
        self._waiting_bytes = 0
        self._in_flight = 0
        self._group_bytes = min(group_bytes, _GROUP_BYTES)
        self._group_rows = min(group_bytes // _GROUP_BYTES_PER_ROW, _GROUP_ROWS)
        #: Touches to be written, and those that are being written.
        self._touched: set[bytes] = set()
        self._touching: set[bytes] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    async def write(
        self, blobs: Sequence[tuple[bytes, bytes]] = (), large: Sequence[tuple[bytes, LargeFileRef]] = ()
    ) -> set[int]:
        """Keep keys with their payloads, and large files, all or none, at most MAX_ROWS.

        Returns the ids of large files whose blobs were there already.

        What was begun is finished also when the caller is cancelled.

        Raises:
            ResourceExhausted: there is no room, or too much waits to be written already.
            Unavailable: the disk fails.
        """
        size_bytes = sum([len(payload) for _, payload in blobs])
        if self._waiting and self._waiting_bytes + size_bytes > _MAX_WAITING_BYTES:
            raise ResourceExhausted(
                f"{self._waiting_bytes} bytes wait for the disk of the CAS", retry_after_seconds=_RETRY_SECONDS
            )
        done: asyncio.Future[set[int]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Request(blobs, large, size_bytes, done))
        self._waiting_bytes += size_bytes
        self._begin_groups()
        return await done

    def touch(self, keys: Iterable[bytes]) -> None:
        """Have it noted, soon, that these blobs were used now."""
        if len(self._touched) < _MAX_TOUCHES:
            self._touched.update(keys)

    def is_touched(self, key: bytes) -> bool:
        """Whether a use of the blob is not in the index yet; may be called from any thread."""
        return key in self._touched or key in self._touching

    def flush(self) -> None:
        """Write the touches, if nothing is under way that they can travel with."""
        if self._touched and not self._in_flight:
            self._submit([])

    async def drained(self) -> None:
        """Write all that there is to write, the touches too."""
        while self._in_flight or self._touched:
            self.flush()
            await self._idle.wait()

    def close(self) -> None:
        """Let the threads go."""
        self._appender.shutdown()
        self._committer.shutdown()

    def _begin_groups(self) -> None:
        while self._waiting and self._in_flight < _GROUPS_IN_FLIGHT:
            requests = [self._waiting.popleft()]
            rows, size_bytes = requests[0].row_count, requests[0].size_bytes
            while self._waiting:
                rows += self._waiting[0].row_count
                size_bytes += self._waiting[0].size_bytes
                if rows > self._group_rows or size_bytes > self._group_bytes:
                    break
                requests.append(self._waiting.popleft())
            self._waiting_bytes -= sum([request.size_bytes for request in requests])
            self._submit(requests)

    def _submit(self, requests: Sequence[_Request]) -> None:
        # The same blob may come twice, from two callers; the index takes one.
        blobs = [one for request in requests for one in request.blobs]
        large = [one for request in requests for one in request.large]
        touched = self._take_touches(MAX_ROWS - len(blobs) - len(large))
        self._touching.update(touched)
        self._in_flight += 1
        self._idle.clear()
        appended: Future[Appended] | None = None
        if requests:
            appended = self._appender.submit(self._writer.append, Writes(blobs, large, touched))
        loop = asyncio.get_running_loop()
        written = loop.run_in_executor(self._committer, self._commit, appended, touched)
        written.add_done_callback(partial(self._finished, requests, touched))

    def _commit(self, appended: Future[Appended] | None, touched: Sequence[bytes]) -> set[int]:
        if appended is not None:
            return self._writer.commit(appended.result())
        self._writer.touch(touched)
        return set()

    def _finished(
        self, requests: Sequence[_Request], touched: Sequence[bytes], written: asyncio.Future[set[int]]
    ) -> None:
        self._touching.difference_update(touched)
        self._in_flight -= 1
        self._begin_groups()
        if not self._in_flight:
            self._idle.set()
        error = written.exception()
        for request in requests:
            if request.done.done():
                continue  # its caller was cancelled
            if error is None:
                request.done.set_result(written.result())
            else:
                request.done.set_exception(error)

    def _take_touches(self, count: int) -> list[bytes]:
        return [self._touched.pop() for _ in range(min(max(0, count), len(self._touched)))]
