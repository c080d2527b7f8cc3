"""Who takes how much of the store's directory, so that it never takes more than it may."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import lmdb

from gridwright.clock import Clock
from gridwright.errors import ResourceExhausted
from gridwright_cas.stores.segments.eviction import USUAL_TOUCH_SECONDS, touch_seconds
from gridwright_cas.stores.segments.index import MAX_ROWS, Index
from gridwright_cas.stores.segments.index_size import IndexFile, IndexSize
from gridwright_cas.stores.segments.stats import SegmentStats

#: Whoever has no owner is there to stay.
KEPT = 0
_CHARGE = struct.Struct("<QQ")
_NUMBER_BYTES = 8
#: Followed by the first byte of the holders' names: what holders of this sort take together.
_USED = b"used "
_SORTS = (b"S", b"L", b"P", b"Q")
_WANTED = b"wanted"
_REFUSING_UNTIL = b"refusing until"
#: Directories, lock files, and LMDB's lock table.
_FIXED_BYTES = 192 * 1024
#: How often somebody who waits for room asks once more: it may be another process that makes it.
_ASK_SECONDS = 0.02
_RETRY_SECONDS = 1.0
#: The part of the store that the index may grow to: a half, which blobs of 70 bytes need.
_INDEX_SHARE = 2
#: From this part of the store on, an index that would be smaller as a compact copy is worth the copying: a quarter ...
_OVERGROWN_SHARE = 4
#: ... and by so much: an eighth.
_SAVED_SHARE = 8


def segment_holder(segment: int) -> bytes:
    """Return under which name a segment takes room."""
    return b"S" + segment.to_bytes(8, "big")


def large_holder(file_id: int) -> bytes:
    """Return under which name a large file takes room."""
    return b"L" + file_id.to_bytes(8, "big")


def partial_holder(name: str) -> bytes:
    """Return under which name a partial upload takes room."""
    return b"P" + name.encode()


class RoomSize(NamedTuple):
    """How much room there is."""

    #: The most that the directory may take, as ``du`` says it.
    max_bytes: int
    segment_bytes: int

    @property
    def held_back_bytes(self) -> int:
        """Two segments: one for the survivors of eviction, one for what the index grows by as a segment fills."""
        return 2 * self.segment_bytes + _FIXED_BYTES

    @property
    def max_index_bytes(self) -> int:
        """What LMDB's file may grow to; where it needs more, blobs go."""
        return self.max_bytes // _INDEX_SHARE

    @property
    def spare_index_bytes(self) -> int:
        """As long as the index may grow by so much, which is as much as is freed at once, rows need not go."""
        return 3 * self.segment_bytes

    def is_overgrown(self, index: IndexSize) -> bool:
        """Whether the index takes room that blobs should have, and a compact copy would take less."""
        if index.file_bytes <= self.max_bytes // _OVERGROWN_SHARE:
            return False
        return index.free_bytes > index.file_bytes // _SAVED_SHARE or index.needed_bytes() > self.max_index_bytes


class Charge(NamedTuple):
    """What one holder takes."""

    size_bytes: int
    #: The process that is writing it; KEPT when it is there to stay.
    owner: int


class Room:
    """The account of a directory that several processes fill: who takes how many bytes of it.

    It is kept in LMDB beside the rows, so that a row and what its file takes change
    together. Room is *taken* before bytes are written, *settled* in the transaction that
    makes them a blob, *dropped* when their file is gone. A process that dies leaves charges
    behind which were never settled; the evictor finds them by their owner.

    ``du`` also counts LMDB's own file, which never shrinks while it is open. So it is looked at, what the
    next rows will add to it is reckoned before they are written, and it may not grow beyond its share:
    where rows of tiny blobs are the larger part of a store, blobs go because of their rows.

    Args:
        index_file: LMDB's data file.
        owner: the number of this process among those that use the directory, 1 or more.
        wait_seconds: how long an upload waits for room before it is refused.
    """

    def __init__(
        self,
        index: Index,
        index_file: str,
        size: RoomSize,
        *,
        owner: int,
        clock: Clock,
        stats: SegmentStats,
        wait_seconds: float = 10.0,
    ) -> None:
        self._index = index
        self._index_file = IndexFile(index, index_file)
        self._charges = index.table(b"charges")
        self._counters = index.counters
        self.size = size
        self.owner = owner
        self._clock = clock
        self._stats = stats
        self.wait_seconds = wait_seconds
        self._freed = threading.Condition()
        #: Rows of this process that are on their way into the index.
        self._expected_rows = 0
        #: Set when somebody in this process wants room.
        self.wanted = threading.Event()
        #: A stored touch is rewritten when it is older than this.
        self.touch_seconds = USUAL_TOUCH_SECONDS

    def __repr__(self) -> str:
        return f"<Room {self.used_bytes} of {self.size.max_bytes} bytes>"

    @property
    def used_bytes(self) -> int:
        """What the directory takes, what was taken and not yet written included."""
        with self._index.reading() as txn:
            return self._used(txn) + self._index_file.size(txn).file_bytes

    @property
    def free_bytes(self) -> int:
        """What can be taken without evicting; less than nothing when the index has grown."""
        with self._index.reading() as txn:
            return self._free(txn)

    def index_size(self) -> IndexSize:
        """How large LMDB's file is."""
        with self._index.reading() as txn:
            return self._index_file.size(txn)

    def take(self, holder: bytes, size_bytes: int, *, owner: int | None = None) -> None:
        """Let *holder* take so much more, waiting for the evictor if need be: not for the event loop.

        Raises:
            ResourceExhausted: nothing could be evicted in time.
        """
        if size_bytes > self.size.max_bytes - self.size.held_back_bytes:
            self._stats.refused_uploads += 1
            raise ResourceExhausted(f"{size_bytes} bytes do not fit into a store of {self.size.max_bytes}")
        self._wait_until(lambda: self.try_take(holder, size_bytes, owner=owner))

    def expect_rows(self, count: int) -> None:
        """Let the index grow by so many rows, waiting for the evictor if need be; ``rows_came`` is to follow.

        Raises:
            ResourceExhausted: nothing could be evicted in time.
        """
        self._wait_until(lambda: self._try_expect_rows(count))
        with self._freed:
            self._expected_rows += count

    def rows_came(self, count: int) -> None:
        """Note that so many rows that were expected are in the index, or will not come."""
        with self._freed:
            self._expected_rows -= count

    def try_take(self, holder: bytes, size_bytes: int, *, owner: int | None = None, survivors: bool = False) -> bool:
        """Let *holder* take so much more if there is room now; *survivors* may use what is held back for them.

        Where a lower ``max_bytes`` than before has made the store too full already, survivors find room as well:
        eviction brings it below its bound, and in the right order only if it may copy.
        """
        with self._index.writing() as txn:
            used_bytes = self._used(txn) + self._index_file.size(txn).file_bytes
            self._adjust_touches(txn, used_bytes)
            if survivors:
                is_too_full = 0 <= self.size.max_bytes - used_bytes < size_bytes + _FIXED_BYTES
            else:
                is_too_full = self._free(txn) < size_bytes
            if is_too_full:
                self._want(txn, size_bytes)
                return False
            before = self.charge(txn, holder)
            owner = self.owner if owner is None else owner
            self._put(txn, holder, Charge(before.size_bytes + size_bytes, owner), before)
        return True

    def settle(self, txn: lmdb.Transaction[bytes], holder: bytes, size_bytes: int) -> None:
        """Let *holder* take exactly so much, for good; what it took beyond that is free."""
        self._put(txn, holder, Charge(size_bytes, KEPT), self.charge(txn, holder))

    def charge_found(self, txn: lmdb.Transaction[bytes], holder: bytes, size_bytes: int) -> None:
        """Let *holder*, whose file is there already, take so much, whether or not there is room; it is not settled."""
        self._put(txn, holder, Charge(size_bytes, self.owner), self.charge(txn, holder))

    def drop(self, txn: lmdb.Transaction[bytes], holder: bytes) -> int:
        """Let *holder* take nothing: its file is gone. Return what it took."""
        before = self.charge(txn, holder)
        txn.delete(holder, db=self._charges)
        self._count(txn, holder, -before.size_bytes)
        return before.size_bytes

    def hand_over(self, txn: lmdb.Transaction[bytes], holder: bytes, successor: bytes, *, cost_bytes: int) -> None:
        """Let *successor*, which is this process's, take what *holder* took, and *cost_bytes* of it only."""
        self.drop(txn, holder)
        self._put(txn, successor, Charge(cost_bytes, self.owner), Charge(0, KEPT))

    def give_back(self, holder: bytes) -> None:
        """Like :meth:`drop`, in a transaction of its own."""
        with self._index.writing() as txn:
            self.drop(txn, holder)
        self.announce()

    def charges(self, txn: lmdb.Transaction[bytes], prefix: bytes) -> Iterator[tuple[bytes, Charge]]:
        """Yield the holders whose names begin with *prefix*, with what they take."""
        with txn.cursor(db=self._charges) as cursor:
            if cursor.set_range(prefix):
                for holder, value in cursor:
                    if not holder.startswith(prefix):
                        return
                    yield holder, Charge(*_CHARGE.unpack(value))

    def used_by(self, txn: lmdb.Transaction[bytes], sort: bytes) -> int:
        """Return what segments (``S``), large files (``L``), partial uploads (``P``) or bad bytes (``Q``) take."""
        return self._number(txn, _USED + sort)

    def is_taken(self, holder: bytes) -> bool:
        """Whether *holder* takes anything."""
        with self._index.reading() as txn:
            return txn.get(holder, db=self._charges) is not None

    def announce(self) -> None:
        """Wake those in this process who wait for room."""
        with self._freed:
            self._freed.notify_all()

    def wanted_bytes(self) -> int:
        """Return the largest piece that somebody, in whichever process, could not take."""
        with self._index.reading() as txn:
            return self._number(txn, _WANTED)

    def forget_wish(self) -> None:
        """Forget what was wanted."""
        with self._index.writing() as txn:
            txn.delete(_WANTED, db=self._counters)
        self.announce()

    def refuse_until(self, now: float, seconds: float) -> None:
        """Refuse, in all processes, whoever finds no room before *now* + *seconds*: nothing may go earlier."""
        with self._index.writing() as txn:
            self._put_number(txn, _REFUSING_UNTIL, int((now + seconds) * 1000))
        self.announce()

    def refuse_no_more(self) -> None:
        """Let whoever finds no room wait for it again."""
        if self._refusing_until():
            with self._index.writing() as txn:
                txn.delete(_REFUSING_UNTIL, db=self._counters)

    def _adjust_touches(self, txn: lmdb.Transaction[bytes], used_bytes: int) -> None:
        oldest = self._index.segments.oldest(txn)
        if oldest is None or used_bytes < self.size.max_bytes // 2:
            self.touch_seconds = USUAL_TOUCH_SECONDS
        else:
            self.touch_seconds = touch_seconds(oldest.created_ms, int(self._clock.now() * 1000))

    def _wait_until(self, succeeds: Callable[[], bool]) -> None:
        give_up = time.monotonic() + self.wait_seconds
        while not succeeds():
            refusing_seconds = self._refusing_until() - self._clock.now()
            if refusing_seconds > 0 or time.monotonic() >= give_up:
                self._stats.refused_uploads += 1
                raise ResourceExhausted(
                    self._why_full(refusing_seconds), retry_after_seconds=max(_RETRY_SECONDS, refusing_seconds)
                )
            self.wanted.set()
            with self._freed:
                self._freed.wait(_ASK_SECONDS)

    def _why_full(self, refusing_seconds: float) -> str:
        if refusing_seconds > 0:
            return "the store is full, and what is in it was used too lately to go"
        index = self.index_size()
        if self.size.is_overgrown(index):
            return (
                f"the index of the store takes {index.file_bytes} of its {self.size.max_bytes} bytes: restart all"
                " processes that use it, and the first one makes the index as small as it can be; or raise max_bytes"
            )
        return "the store is full and could not make room in time"

    def _try_expect_rows(self, count: int) -> bool:
        """Whether there is room for so many rows, what is held back for the index included."""
        with self._index.reading() as txn:
            index = self._index_file.size(txn)
            rows = self._expected_rows + count
            needed_bytes = index.needed_bytes(rows)
            left_bytes = self.size.max_bytes - self.size.segment_bytes - _FIXED_BYTES - self._used(txn)
            if needed_bytes <= self.size.max_index_bytes and max(index.file_bytes, needed_bytes) <= left_bytes:
                return True
        with self._index.writing() as txn:
            self._want(txn, needed_bytes - index.needed_bytes())
        return False

    def _free(self, txn: lmdb.Transaction[bytes]) -> int:
        index = self._index_file.size(txn)
        # The same in all processes, or one would wait for room that another one thinks is there.
        needed_bytes = index.needed_bytes(MAX_ROWS)
        usable_bytes = self.size.max_bytes - self.size.held_back_bytes
        free_bytes = usable_bytes - self._used(txn) - max(index.file_bytes, needed_bytes)
        index_bytes = self.size.max_index_bytes - needed_bytes
        return free_bytes if index_bytes >= self.size.spare_index_bytes else min(free_bytes, index_bytes)

    def _want(self, txn: lmdb.Transaction[bytes], size_bytes: int) -> None:
        """Let the evictor, in whichever process, know."""
        if size_bytes > self._number(txn, _WANTED):
            self._put_number(txn, _WANTED, size_bytes)

    def _refusing_until(self) -> float:
        with self._index.reading() as txn:
            return self._number(txn, _REFUSING_UNTIL) / 1000

    def _used(self, txn: lmdb.Transaction[bytes]) -> int:
        return sum(self.used_by(txn, sort) for sort in _SORTS)

    def charge(self, txn: lmdb.Transaction[bytes], holder: bytes) -> Charge:
        """Return what *holder* takes."""
        value = txn.get(holder, db=self._charges)
        return Charge(*_CHARGE.unpack(value)) if value is not None else Charge(0, KEPT)

    def _put(self, txn: lmdb.Transaction[bytes], holder: bytes, charge: Charge, before: Charge) -> None:
        if charge == before:
            return
        txn.put(holder, _CHARGE.pack(*charge), db=self._charges)
        self._count(txn, holder, charge.size_bytes - before.size_bytes)

    def _count(self, txn: lmdb.Transaction[bytes], holder: bytes, size_bytes: int) -> None:
        if size_bytes:
            self._put_number(txn, _USED + holder[:1], max(0, self.used_by(txn, holder[:1]) + size_bytes))

    def _number(self, txn: lmdb.Transaction[bytes], name: bytes) -> int:
        return int.from_bytes(txn.get(name, db=self._counters) or b"", "big")

    def _put_number(self, txn: lmdb.Transaction[bytes], name: bytes, number: int) -> None:
        txn.put(name, number.to_bytes(_NUMBER_BYTES, "big"), db=self._counters)
