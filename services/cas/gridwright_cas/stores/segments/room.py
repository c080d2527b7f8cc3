"""Who takes how much of the store's directory, so that it never takes more than it may."""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

import lmdb

from gridwright.clock import Clock
from gridwright.errors import ResourceExhausted
from gridwright_cas.stores.disk_errors import disk_errors
from gridwright_cas.stores.segments.eviction import USUAL_TOUCH_SECONDS, touch_seconds
from gridwright_cas.stores.segments.index import Index
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

    ``du`` also counts LMDB's own file, which is looked at, not guessed.

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
        self._index_file = index_file
        self._charges = index.environment.open_db(b"charges")
        self._counters = index.counters
        self.size = size
        self.owner = owner
        self._clock = clock
        self._stats = stats
        self._wait_seconds = wait_seconds
        self._freed = threading.Condition()
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
            return self._used(txn) + self._index_bytes()

    @property
    def free_bytes(self) -> int:
        """What can be taken without evicting; less than nothing when the index has grown."""
        return self.size.max_bytes - self.size.held_back_bytes - self.used_bytes

    def take(self, holder: bytes, size_bytes: int, *, owner: int | None = None) -> None:
        """Let *holder* take so much more, waiting for the evictor if need be: not for the event loop.

        Raises:
            ResourceExhausted: nothing could be evicted in time.
        """
        if size_bytes > self.size.max_bytes - self.size.held_back_bytes:
            self._stats.refused_uploads += 1
            raise ResourceExhausted(f"{size_bytes} bytes do not fit into a store of {self.size.max_bytes}")
        give_up = time.monotonic() + self._wait_seconds
        while not self.try_take(holder, size_bytes, owner=owner):
            refusing_seconds = self._refusing_until() - self._clock.now()
            if refusing_seconds > 0 or time.monotonic() >= give_up:
                self._stats.refused_uploads += 1
                raise ResourceExhausted(
                    "the store is full, and what is in it was used too lately to go"
                    if refusing_seconds > 0
                    else "the store is full and could not make room in time",
                    retry_after_seconds=max(_RETRY_SECONDS, refusing_seconds),
                )
            self.wanted.set()
            with self._freed:
                self._freed.wait(_ASK_SECONDS)

    def try_take(self, holder: bytes, size_bytes: int, *, owner: int | None = None, survivors: bool = False) -> bool:
        """Let *holder* take so much more if there is room now; *survivors* may use what is held back for them.

        Where a lower ``max_bytes`` than before has made the store too full already, survivors find room as well:
        eviction brings it below its bound, and in the right order only if it may copy.
        """
        with self._index.writing() as txn:
            used_bytes = self._used(txn) + self._index_bytes()
            self._adjust_touches(txn, used_bytes)
            held_back = _FIXED_BYTES if survivors else self.size.held_back_bytes
            is_too_full = used_bytes + size_bytes > self.size.max_bytes - held_back
            if is_too_full and not (survivors and used_bytes > self.size.max_bytes):
                if size_bytes > self._number(txn, _WANTED):
                    self._put_number(txn, _WANTED, size_bytes)
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

    def _refusing_until(self) -> float:
        with self._index.reading() as txn:
            return self._number(txn, _REFUSING_UNTIL) / 1000

    def _index_bytes(self) -> int:
        with disk_errors():
            return os.stat(self._index_file).st_blocks * 512

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
