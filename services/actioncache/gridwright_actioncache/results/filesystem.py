"""Results as files of a directory, bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ParamSpec, Self, TypeVar

from gridwright.blobs.eviction import EvictionOrder, EvictionPolicy
from gridwright.clock import Clock
from gridwright.digest import Digest
from gridwright.errors import ConfigurationError, GridwrightError, ResourceExhausted
from gridwright_actioncache.results.disk_errors import disk_error, disk_errors
from gridwright_actioncache.results.grouped_changes import Change, GroupedChanges
from gridwright_actioncache.results.result_directory import ResultDirectory, ResultKey, cost_of, folder_of
from gridwright_actioncache.results.store import PAGE_RESULTS, ResultStore

P = ParamSpec("P")
T = TypeVar("T")

#: To read so few files takes less time than handing them to a thread (about 50 µs).
_READ_INLINE = 4
_READERS = 4
#: How often what has expired goes, and uses are written down.
_UPKEEP_SECONDS = 60.0
_MAX_TOUCHED = 100_000
_GROUP_BYTES = 16 * 1024 * 1024


class FilesystemResultStore(ResultStore):
    """Keeps each result in a file of its own and drops the least recently used beyond the bounds of a policy.

    What it holds can be looked at with ``ls``; an ``lmdb`` store holds the same in less room
    and serves several processes. ``ResultDirectory`` knows the files. Which there are, and in
    what order they go, is known in memory, and changed on the event loop only; one thread
    writes, so what was decided here happens there in the same order.
    """

    def __init__(self, directory: ResultDirectory, order: EvictionOrder[ResultKey], clock: Clock) -> None:
        self._directory = directory
        self._order = order
        self._clock = clock
        max_bytes = order.policy.max_bytes
        group_bytes = max_bytes // 8 if max_bytes else _GROUP_BYTES
        self._changes = GroupedChanges(self._write, cost_of=cost_of, max_group_bytes=group_bytes)
        #: Dropped from the order, and to be removed before anything is written.
        self._leaving: list[ResultKey] = []
        self._touched: dict[ResultKey, float] = {}
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="results-writer")
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="results-reader")
        #: Files that were found to be no results any more.
        self.malformed = 0

    @classmethod
    @asynccontextmanager
    async def opened(
        cls,
        path: Path,
        clock: Clock,
        *,
        policy: EvictionPolicy,
        temp_path: Path | None = None,
        durable: bool = True,
    ) -> AsyncIterator[Self]:
        """Index the results below *path* and keep the directory until the block ends.

        Args:
            temp_path: where files are written before they get their names, on the same file
                system; a directory in *path* by default.

        Raises:
            ConfigurationError: a directory cannot be used.
        """
        directory = await asyncio.to_thread(
            ResultDirectory.open, path, temp_path=temp_path or path / "tmp", durable=durable
        )
        try:
            try:
                found = await asyncio.to_thread(lambda: sorted(directory.scan(), key=lambda file: file.used_at))
            except OSError as error:
                raise ConfigurationError(f"cannot read the results in {path}: {error}") from None
            order = EvictionOrder[ResultKey](policy)
            for file in found:
                order.add(file.key, file.cost_bytes, file.used_at)
            store = cls(directory, order, clock)
            upkeep = asyncio.create_task(store._upkeep(), name="upkeep of results")
            try:
                yield store
            finally:
                upkeep.cancel()
                await asyncio.wait([upkeep])
                await store._close()
        finally:
            directory.close()

    def __repr__(self) -> str:
        order = self._order
        bound = f" of {order.policy.max_bytes}" if order.policy.max_bytes else ""
        return f"<FilesystemResultStore {self._directory.path}: {len(order)} results, {order.used_bytes}{bound} bytes>"

    async def get_many(self, instance: str, action_digests: Collection[Digest]) -> Mapping[Digest, bytes]:
        now = self._clock.now()
        self._expire(now)
        folder = folder_of(instance)
        keys = [key for digest in action_digests if self._order.touch(key := ResultKey(folder, digest), now)]
        if len(self._touched) < _MAX_TOUCHED:
            self._touched.update(dict.fromkeys(keys, now))
        with disk_errors():
            if len(keys) <= _READ_INLINE:
                found = self._directory.read_many(keys)
            else:
                found = await self._in_thread(self._readers, self._directory.read_many, keys)
        results = {digest: result for digest, result in found.items() if result is not None}
        # They stay until they are written anew or evicted; nobody is answered with them.
        self.malformed += len(found) - len(results)
        return results

    async def put(self, instance: str, action_digest: Digest, result: bytes) -> None:
        max_bytes = self._order.policy.max_bytes
        if 0 < max_bytes < cost_of(len(result)):
            raise ResourceExhausted(f"a result of {len(result)} bytes is larger than this store's {max_bytes}")
        await self._changes.make(instance, {action_digest: result})

    async def remove(self, instance: str, action_digests: Collection[Digest]) -> None:
        await self._changes.make(instance, dict.fromkeys(action_digests))

    async def walk(self, instance: str) -> AsyncIterator[Mapping[Digest, bytes]]:
        with disk_errors():
            keys = await self._in_thread(self._readers, self._directory.keys_in, folder_of(instance))
        for start in range(0, len(keys), PAGE_RESULTS):
            with disk_errors():
                found = await self._in_thread(
                    self._readers, self._directory.read_many, keys[start : start + PAGE_RESULTS]
                )
            yield {digest: result for digest, result in found.items() if result is not None}

    async def _write(self, group: Sequence[Change]) -> None:
        now = self._clock.now()
        wanted = {ResultKey(folder_of(change.instance), change.digest): change.result for change in group}
        puts = {key: result for key, result in wanted.items() if result is not None}
        removed = [key for key, result in wanted.items() if result is None]
        await self._make_room(puts, now)
        with disk_errors():
            await self._in_thread(self._writer, self._remove, removed)
        for key in removed:
            self._order.discard(key)
        failed = await self._in_thread(self._writer, self._directory.keep_many, puts, now)
        for key, result in puts.items():
            if key not in failed or self._directory.holds(key):
                self._order.add(key, cost_of(len(result)), now)
        for change in group:
            if error := failed.get(ResultKey(folder_of(change.instance), change.digest)):
                change.tell(disk_error(error))

    async def _make_room(self, puts: Mapping[ResultKey, bytes], now: float) -> None:
        # What is replaced is to be there until it is, so it is the last to go.
        new = [key for key in puts if not self._order.touch(key, now)]
        coming_bytes = sum(cost_of(len(result)) for result in puts.values())
        self._leaving += self._order.evict(now, coming_bytes=coming_bytes, coming_count=len(new))
        leaving, self._leaving = [key for key in self._leaving if key not in self._order], []
        try:
            with disk_errors():
                await self._in_thread(self._writer, self._directory.remove_many, leaving)
        except GridwrightError:
            self._leaving += leaving
            raise

    def _remove(self, keys: Collection[ResultKey]) -> None:
        self._directory.remove_many(keys)
        self._directory.sync(keys)

    def _expire(self, now: float) -> None:
        if expired := self._order.evict(now):
            self._leaving += expired
            self._changes.wake()

    async def _upkeep(self) -> None:
        while True:
            self._expire(self._clock.now())
            await self._note_used()
            await asyncio.sleep(_UPKEEP_SECONDS)

    async def _note_used(self) -> None:
        touched, self._touched = self._touched, {}
        await self._in_thread(self._writer, self._directory.note_used, touched)

    async def _close(self) -> None:
        await self._changes.drain()
        await self._note_used()
        self._writer.shutdown()
        self._readers.shutdown()

    def _in_thread(
        self, threads: ThreadPoolExecutor, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> asyncio.Future[T]:
        return asyncio.wrap_future(threads.submit(work, *args, **kwargs))
