"""The local cache of input files, which actions get as hard links."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import structlog

from gridwright.blobs.store import BlobStore
from gridwright.digest import Digest
from gridwright.errors import (
    BlobNotFound,
    FailedPrecondition,
    GridwrightError,
    InternalError,
    MissingBlobs,
    Unavailable,
)
from gridwright_worker.execution.batches import SMALL_BYTES, batches
from gridwright_worker.execution.concurrently import all_of
from gridwright_worker.execution.inputs.files import CacheFiles
from gridwright_worker.execution.inputs.sharing import Sharing
from gridwright_worker.execution.inputs.tree import InputFile
from gridwright_worker.execution.threads import in_thread

log = structlog.get_logger(__name__)

#: So many batches or streams at once, for all slots: what bounds memory.
_MAX_TRANSFERS = 8
#: Up to so many files, looking at them takes less than a hop to a thread.
_FEW = 40


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """How full the cache is."""

    files: int
    used_bytes: int
    max_bytes: int
    pinned_files: int
    hits: int
    misses: int


class InputCache:
    """Has input files on disk, each under its digest, once for each value of the executable bit.

    Slots share it. A blob is downloaded once, however many actions want it at the same time;
    its hash is checked on the way in. What a running action uses is pinned; of the rest, the
    least recently used goes when room is needed. Before a file is handed out, and when an
    action lets go of it, its size, time and mode are looked at: what an action wrote through
    its hard link, or a disk cut short, is not handed out again (checklist DIR-08, DIR-09),
    actions that had the file beside the one that wrote are to be run again, and from then
    on each gets a copy of its own. A change after which size, time and mode are as they were
    is not seen, nor who made one: an action that writes to a file that is not among its own
    inputs, by a path out of its input root. Hidden changes need isolation of the runner.

    The index is in memory, made anew from the directory at each start.
    """

    def __init__(self, files: CacheFiles, store: BlobStore, *, max_bytes: int) -> None:
        self._files = files
        self._store = store
        self._max_bytes = max_bytes
        #: What is on disk, the least recently used first.
        self._kept: OrderedDict[InputFile, None] = OrderedDict()
        self._used_bytes = 0
        #: How many actions use a file; reserved and counted here from before it is on disk.
        self._pins: Counter[InputFile] = Counter()
        self._pinned_bytes = 0
        self._unpinned = asyncio.Condition()
        self._sharing = Sharing()
        #: Files on their way in or out, each with an event for its end, good or bad.
        self._coming: dict[InputFile, asyncio.Event] = {}
        self._transfers = asyncio.Semaphore(_MAX_TRANSFERS)
        self._hits = 0
        self._misses = 0

    def __repr__(self) -> str:
        return f"<InputCache {len(self._kept)} files, {self._used_bytes} of {self._max_bytes} bytes>"

    async def open(self) -> None:
        """Take over what an earlier process left."""
        for file in await in_thread(self._files.open):
            self._kept[file] = None
            self._used_bytes += room_of(file)
        await self._evict()

    def path(self, file: InputFile) -> str:
        """Return where a file lies that :meth:`holding` holds."""
        return self._files.path(file)

    def is_private(self, file: InputFile) -> bool:
        """Return whether to copy *file*, as actions have changed it, in place of linking to it; from any thread."""
        return self._sharing.is_private(file)

    def statistics(self) -> CacheStatistics:
        return CacheStatistics(
            files=len(self._kept),
            used_bytes=self._used_bytes,
            max_bytes=self._max_bytes,
            pinned_files=len(self._pins),
            hits=self._hits,
            misses=self._misses,
        )

    @asynccontextmanager
    async def holding(self, wanted: Collection[InputFile]) -> AsyncIterator[None]:
        """Have all of *wanted* on disk while the block runs, which is all that anybody does with them.

        Raises:
            MissingBlobs: naming all that the CAS does not hold.
            FailedPrecondition: they are more than the cache may ever hold.
            Unavailable: one was changed while another action had it as well; whatever came of the block,
                an error too, may be due to that.
        """
        await self._pin(wanted)
        try:
            await self._check(wanted)
            await self._fetch(wanted)
            async with self._watching(wanted):
                yield
        finally:
            await self._unpin(wanted)

    @asynccontextmanager
    async def _watching(self, wanted: Collection[InputFile]) -> AsyncIterator[None]:
        begun = self._sharing.begin(wanted)
        suspect: list[InputFile] = []
        try:
            try:
                yield
            finally:
                suspect = await self._let_go(wanted, begun)
        except (GridwrightError, OSError) as failure:
            if suspect:
                raise _untrusted(suspect) from failure
            raise
        if suspect:
            raise _untrusted(suspect)

    async def _let_go(self, wanted: Collection[InputFile], begun: int) -> list[InputFile]:
        try:
            await self._drop_changed(wanted)
        finally:
            suspect = self._sharing.end(wanted, begun)
        return suspect

    async def _pin(self, wanted: Collection[InputFile]) -> None:
        """Reserve room for all or none, so that two large actions wait for each other in turn, not crosswise.

        The wait ends with other actions, which have a timeout.
        """
        total_bytes = sum(map(room_of, wanted))
        if total_bytes > self._max_bytes:
            # No retry would help: to clients RESOURCE_EXHAUSTED would say that one may (checklist ERR-21).
            raise FailedPrecondition(
                f"the inputs need {total_bytes} bytes, this worker's cache may hold {self._max_bytes} "
                "(worker.cache_max_bytes)"
            )
        while self._pinned_bytes + self._new_bytes(wanted) > self._max_bytes:
            async with self._unpinned:
                await self._unpinned.wait()
        for file in wanted:
            self._pins[file] += 1
            if self._pins[file] == 1:
                self._pinned_bytes += room_of(file)
            if file in self._kept:
                self._kept.move_to_end(file)

    def _new_bytes(self, wanted: Collection[InputFile]) -> int:
        return sum(room_of(file) for file in wanted if file not in self._pins)

    async def _unpin(self, wanted: Collection[InputFile]) -> None:
        for file in wanted:
            self._pins[file] -= 1
            if not self._pins[file]:
                del self._pins[file]
                self._pinned_bytes -= room_of(file)
        async with self._unpinned:
            self._unpinned.notify_all()

    async def _check(self, wanted: Collection[InputFile]) -> None:
        hits = sum(file in self._kept for file in wanted)
        self._hits += hits
        self._misses += len(wanted) - hits
        await self._drop_changed(wanted)

    async def _drop_changed(self, files: Collection[InputFile]) -> None:
        """Drop those files that are no longer what they were."""
        present = [file for file in files if file in self._kept]
        if len(present) <= _FEW:
            changed = self._files.changed(present)
        else:
            changed = await in_thread(self._files.changed, present)
            # Meanwhile another action may have dropped one, and it may be here again.
            changed = self._files.changed([file for file in changed if file in self._kept])
        if changed:
            log.info("inputs_changed", files=len(changed), one=str(changed[0].digest))
            self._sharing.changed(changed)
            await self._remove(changed)

    async def _fetch(self, wanted: Collection[InputFile]) -> None:
        """Bring what is absent; what another action is bringing already is waited for."""
        while absent := [file for file in wanted if file not in self._kept]:
            mine = [file for file in absent if file not in self._coming]
            if mine:
                await self._bring(mine)
            elif coming := self._coming.get(absent[0]):
                # If it fails over there, or is given up, the next turn makes it ours.
                await coming.wait()

    async def _bring(self, files: list[InputFile]) -> None:
        with self._busy_with(files):
            await self._evict()
            missing = [digest for lost in await all_of(self._transfers_of(files)) for digest in lost]
        if missing:
            raise MissingBlobs(missing)

    @contextmanager
    def _busy_with(self, files: Collection[InputFile]) -> Iterator[None]:
        """Keep others from fetching *files* while the block runs."""
        end = asyncio.Event()
        self._coming |= dict.fromkeys(files, end)
        try:
            yield
        finally:
            end.set()
            for file in files:
                # One that came early can have been changed, and be on its way again.
                if self._coming.get(file) is end:
                    del self._coming[file]

    def _transfers_of(self, files: Iterable[InputFile]) -> Iterator[Coroutine[Any, Any, list[Digest]]]:
        variants: dict[Digest, list[InputFile]] = {}
        for file in files:
            variants.setdefault(file.digest, []).append(file)
        for batch in batches(digest for digest in variants if digest.size_bytes <= SMALL_BYTES):
            yield self._bring_batch({digest: variants[digest] for digest in batch})
        for digest, wanted in variants.items():
            if digest.size_bytes > SMALL_BYTES:
                yield self._bring_large(digest, wanted)

    async def _bring_batch(self, wanted: Mapping[Digest, list[InputFile]]) -> list[Digest]:
        """Bring small blobs; return those that are missing."""
        blobs: dict[InputFile, bytes] = {
            file: b"" for one in wanted if one == one.function.empty for file in wanted[one]
        }
        missing: list[Digest] = []
        async with self._transfers:
            asked = [digest for digest in wanted if digest != digest.function.empty]
            for digest, found in (await self._store.get_many(asked) if asked else {}).items():
                if isinstance(found, BlobNotFound):
                    missing.append(digest)
                elif isinstance(found, GridwrightError):
                    raise found
                else:
                    blobs |= dict.fromkeys(wanted[digest], found)
            try:
                await in_thread(self._files.write, blobs)
            except BaseException:
                # Those that were written are there, and take room.
                lost = set(self._files.changed(list(blobs)))
                for file in blobs.keys() - lost:
                    self._keep(file)
                raise
        for file in blobs:
            self._keep(file)
        return missing

    async def _bring_large(self, digest: Digest, wanted: list[InputFile]) -> list[Digest]:
        """Bring a large blob; return it if it is missing."""
        first, *others = wanted
        hasher = digest.function.new()
        async with self._transfers:
            with self._files.writing() as incoming:
                try:
                    async with aclosing(self._store.get(digest)) as chunks:  # type: ignore[type-var]
                        async for chunk in chunks:
                            await in_thread(_both, hasher.update, incoming.append, chunk)
                except BlobNotFound:
                    return [digest]
                if hasher.hexdigest() != digest.hash or incoming.size_bytes != digest.size_bytes:
                    raise InternalError(f"the CAS sent other bytes than those of blob {digest}")
                incoming.keep_as(first)
            try:
                for other in others:
                    await in_thread(self._files.copy, first, other)
                    self._keep(other)
            finally:
                # Not before: an action that links to it may change what is being copied.
                self._keep(first)
        return []

    def _keep(self, file: InputFile) -> None:
        self._kept[file] = None
        self._used_bytes += room_of(file)

    def _forget(self, file: InputFile) -> None:
        if file in self._kept:
            del self._kept[file]
            self._used_bytes -= room_of(file)

    async def _evict(self) -> None:
        """Make room for what is pinned and not here yet."""
        expected_bytes = sum(room_of(file) for file in self._pins if file not in self._kept)
        doomed: list[InputFile] = []
        excess_bytes = self._used_bytes + expected_bytes - self._max_bytes
        for file in self._kept:
            if excess_bytes <= 0:
                break
            if file not in self._pins:
                doomed.append(file)
                excess_bytes -= room_of(file)
        if doomed:
            await self._remove(doomed)

    async def _remove(self, files: Collection[InputFile]) -> None:
        """Forget *files*; none is downloaded again before it is gone, or the new one would be removed."""
        for file in files:
            self._forget(file)
        with self._busy_with(files):
            await in_thread(self._files.remove, files)


def room_of(file: InputFile) -> int:
    """Return the bytes that a file takes on disk: whole blocks, and its inode."""
    return (file.digest.size_bytes + 4095) // 4096 * 4096 + 256


def _untrusted(files: list[InputFile]) -> Unavailable:
    return Unavailable(
        "an input was changed by an action that ran beside this one; "
        f"run again, it gets a copy of its own: {files[0].digest}"
    )


def _both(first: Callable[[bytes], object], second: Callable[[bytes], object], chunk: bytes) -> None:
    first(chunk)
    second(chunk)
