"""Results in a directory, in LMDB: a B+ tree in a memory-mapped file.

Theory of operation. Two tables: ``results`` maps a key (instance, digest) to the time of last
use and the result; ``by_use`` holds time of last use and key, in order, so its first row is the
next to go. Reads are inline: a lookup takes less than a microsecond, a thread would cost fifty.
Writes collect while the one writer thread is busy, and go in one transaction, after whose
sync to disk all of them are acknowledged: a sync costs the same for one as for a thousand.
The map is fixed, large and sparse, since growing it invalidates what other threads have open;
``max_bytes`` is enforced by counting the pages of the two tables.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Collection, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Self

import lmdb

from gridwright.clock import Clock
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import ResourceExhausted, Unavailable
from gridwright_actioncache.results.grouped_changes import Change, GroupedChanges
from gridwright_actioncache.results.lmdb_environment import open_environment
from gridwright_actioncache.results.store import PAGE_RESULTS, ResultStore

#: Evicting more rows than this in one transaction would keep another process, and our own next group, waiting.
_ROWS_PER_TRANSACTION = 1_000
_GROUP_BYTES = 64 * 1024 * 1024
#: Last use is noted when the noted one is older than this, so that reading seldom means writing.
_TOUCH_AFTER_MS = 600_000
_MAX_TOUCHES = 10_000
_KEYS_READ_INLINE = 64
_READERS = 4
#: How often dead readers of the directory are cleared away (their pages are not used again before), and touches kept.
_UPKEEP_SECONDS = 60.0
#: A time of last use, in milliseconds since the epoch; big-endian, so that the table is in order of time.
_TIME_BYTES = 8
#: In a key: what stands for the instance, and the size of the action.
_PREFIX_BYTES = 32
_SIZE_BYTES = 8


class LmdbStore(ResultStore):
    """Keeps results in a directory and drops the least recently used beyond *max_bytes*.

    What was acknowledged survives the process, however it ends. A power cut may undo the last
    group, whose actions are then built again, and tears nothing (LMDB's ``metasync=False``).
    Several processes of one host may share the directory, each opening it once, after its last
    fork; network file systems do not serve.
    """

    def __init__(self, environment: lmdb.Environment, *, max_bytes: int, clock: Clock) -> None:
        self._environment = environment
        self._results = environment.open_db(b"results")
        self._by_use = environment.open_db(b"by_use")
        self._max_bytes = max_bytes
        self._clock = clock
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="results-writer")
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="results-reader")
        self._changes = GroupedChanges(self._write, cost_of=int, max_group_bytes=min(_GROUP_BYTES, max_bytes // 8))
        self._touched: set[bytes] = set()

    @classmethod
    @asynccontextmanager
    async def open(cls, directory: Path, *, max_bytes: int, clock: Clock) -> AsyncIterator[Self]:
        """Open the store in *directory*, which is made if need be, while the block runs.

        Raises:
            ConfigurationError: the directory cannot be used.
        """
        environment = await open_environment(directory)
        store = cls(environment, max_bytes=max_bytes, clock=clock)
        upkeep = asyncio.create_task(store._upkeep(), name="upkeep of results")
        try:
            yield store
        finally:
            upkeep.cancel()
            await asyncio.wait([upkeep])
            await store._drain()
            environment.close()

    def __repr__(self) -> str:
        return f"<LmdbStore {self._environment.path()}, at most {self._max_bytes} bytes>"

    async def get_many(self, instance: str, action_digests: Collection[Digest]) -> Mapping[Digest, bytes]:
        keys = {digest: _key(instance, digest) for digest in action_digests}
        if len(keys) > _KEYS_READ_INLINE:
            found, stale = await asyncio.get_running_loop().run_in_executor(self._readers, self._read, keys)
        else:
            found, stale = self._read(keys)
        if len(self._touched) < _MAX_TOUCHES:
            self._touched.update(stale)
        return found

    async def put(self, instance: str, action_digest: Digest, result: bytes) -> None:
        if len(result) > self._max_bytes // 8:
            raise ResourceExhausted(
                f"a result of {len(result)} bytes is more than an eighth of this store's {self._max_bytes}"
            )
        await self._changes.make(instance, {action_digest: result})

    async def remove(self, instance: str, action_digests: Collection[Digest]) -> None:
        await self._changes.make(instance, dict.fromkeys(action_digests))

    async def walk(self, instance: str) -> AsyncIterator[Mapping[Digest, bytes]]:
        loop = asyncio.get_running_loop()
        prefix = _instance_prefix(instance)
        start: bytes | None = prefix
        while start is not None:
            # A transaction for each page: one that stayed open would keep pages that others free from being used.
            page, start = await loop.run_in_executor(self._readers, self._read_page, prefix, start)
            if page:
                yield page

    def used_bytes(self) -> int:
        """Return how much of ``max_bytes`` is in use."""
        with self._environment.begin() as transaction:
            return self._pages_bytes(transaction)

    def _read(self, keys: Mapping[Digest, bytes]) -> tuple[dict[Digest, bytes], list[bytes]]:
        """Return what is there, and those of its keys whose last use should be noted. May run in a thread."""
        found: dict[Digest, bytes] = {}
        stale: list[bytes] = []
        stale_before = self._now() - _TOUCH_AFTER_MS
        try:
            with self._environment.begin(db=self._results) as transaction:
                for digest, key in keys.items():
                    row = transaction.get(key)
                    if row is None:
                        continue
                    found[digest] = row[_TIME_BYTES:]
                    if int.from_bytes(row[:_TIME_BYTES]) < stale_before:
                        stale.append(key)
        except lmdb.Error as error:
            raise Unavailable(f"results cannot be read: {error}") from error
        return found, stale

    def _read_page(self, prefix: bytes, start: bytes) -> tuple[dict[Digest, bytes], bytes | None]:
        """Return the results from the key *start* on, and where the next page begins, if there is one."""
        page: dict[Digest, bytes] = {}
        try:
            with self._environment.begin(db=self._results) as transaction, transaction.cursor() as cursor:
                more = cursor.set_range(start)
                while more and cursor.key().startswith(prefix):
                    key = bytes(cursor.key())
                    if len(page) == PAGE_RESULTS:
                        return page, key
                    page[_digest_of(key)] = bytes(cursor.value()[_TIME_BYTES:])
                    more = cursor.next()
        except lmdb.Error as error:
            raise Unavailable(f"results cannot be read: {error}") from error
        return page, None

    async def _write(self, group: Sequence[Change]) -> None:
        touched, self._touched = self._touched, set()
        more_to_evict = await self._in_transaction(group, touched)
        for change in group:
            change.tell(None)
        while more_to_evict:
            more_to_evict = await self._in_transaction([], set())

    async def _in_transaction(self, group: Sequence[Change], touched: Set[bytes]) -> bool:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._writer, self._commit, group, touched)
        except (lmdb.MapFullError, lmdb.DiskError) as error:
            raise ResourceExhausted(f"no room for more results: {error}") from error
        except lmdb.Error as error:
            raise Unavailable(f"results cannot be written: {error}") from error

    def _commit(self, group: Sequence[Change], touched: Set[bytes]) -> bool:
        """Write one group; return whether there is more to evict than fits in a transaction. Runs in the writer."""
        now = self._now().to_bytes(_TIME_BYTES)
        with self._environment.begin(write=True) as transaction:
            for change in group:
                key = _key(change.instance, change.digest)
                if change.result is None:
                    self._remove(transaction, key)
                else:
                    self._replace(transaction, key, now, change.result)
            for key in touched:
                row = transaction.get(key, db=self._results)
                if row is not None:
                    self._replace(transaction, key, now, row[_TIME_BYTES:])
            return self._evict(transaction)

    def _remove(self, transaction: lmdb.Transaction, key: bytes) -> None:
        old = transaction.pop(key, db=self._results)
        if old is not None:
            transaction.delete(bytes(old[:_TIME_BYTES]) + key, db=self._by_use)

    def _replace(self, transaction: lmdb.Transaction, key: bytes, now: bytes, result: bytes) -> None:
        old = transaction.replace(key, now + result, db=self._results)
        if old is not None:
            transaction.delete(bytes(old[:_TIME_BYTES]) + key, db=self._by_use)
        transaction.put(now + key, b"", db=self._by_use)

    def _evict(self, transaction: lmdb.Transaction) -> bool:
        # A transaction writes changed pages anew before the old ones are free: an eighth is left for that.
        limit = self._max_bytes - self._max_bytes // 8
        cursor = transaction.cursor(db=self._by_use)
        for _ in range(_ROWS_PER_TRANSACTION):
            if self._pages_bytes(transaction) <= limit or not cursor.first():
                return False
            transaction.delete(cursor.key()[_TIME_BYTES:], db=self._results)
            cursor.delete()
        return True

    def _pages_bytes(self, transaction: lmdb.Transaction) -> int:
        pages = 0
        page_bytes = 0
        for table in (self._results, self._by_use):
            stat = transaction.stat(table)
            pages += stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
            page_bytes = stat["psize"]
        return pages * page_bytes

    async def _upkeep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            # What is wrong with the directory, readers and writers say to those who can hear it.
            with suppress(lmdb.Error):
                await loop.run_in_executor(self._writer, self._environment.reader_check)
            await asyncio.sleep(_UPKEEP_SECONDS)
            if self._touched:
                self._changes.wake()

    async def _drain(self) -> None:
        if self._touched:
            self._changes.wake()
        await self._changes.drain()
        self._writer.shutdown()
        self._readers.shutdown()

    def _now(self) -> int:
        return int(self._clock.now() * 1000)


@lru_cache(maxsize=1024)
def _instance_prefix(instance: str) -> bytes:
    # LMDB's keys have at most 511 bytes and instance names any number; SHA-256 keeps them as surely apart as blobs.
    return hashlib.sha256(instance.encode()).digest()


def _key(instance: str, digest: Digest) -> bytes:
    return b"".join(
        (
            _instance_prefix(instance),
            digest.function.to_bytes(1),
            bytes.fromhex(digest.hash),
            digest.size_bytes.to_bytes(_SIZE_BYTES),
        )
    )


def _digest_of(key: bytes) -> Digest:
    function = key[_PREFIX_BYTES]
    hash_, size = key[_PREFIX_BYTES + 1 : -_SIZE_BYTES], key[-_SIZE_BYTES:]
    return Digest(DigestFunction(function), hash_.hex(), int.from_bytes(size))
