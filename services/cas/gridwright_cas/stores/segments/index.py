"""Which blob is where: the LMDB environment that all processes of a directory share."""

from __future__ import annotations

import errno
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import lmdb

from gridwright.errors import ConfigurationError, GridwrightError, ResourceExhausted, Unavailable
from gridwright.lmdb_file import is_cut_short
from gridwright_cas.stores.segments.disk import Disk
from gridwright_cas.stores.segments.eviction import FUTURE_MS
from gridwright_cas.stores.segments.index_gate import IndexUse, at_the_gate
from gridwright_cas.stores.segments.record import record_size
from gridwright_cas.stores.segments.row import (
    Row,
    pack_row,
    touched_before,
    unpack_row,
)
from gridwright_cas.stores.segments.segment_table import SegmentTable
from gridwright_cas.stores.segments.writer_lock import WriterLock

#: The writer lock is shared by processes, so nobody may hold it for more rows than this.
MAX_ROWS = 1_000
#: Address space, not disk: to grow a map that others have open is not safe.
_MAP_BYTES = 2**40
_MAX_READERS = 1_024
_MAX_TABLES = 24
#: Where all rows must be looked at, so many in one read transaction.
_SWEPT_ROWS = 10_000
DATA_FILE = "data.mdb"
_FORMAT = b"gridwright segments 1"
#: What LMDB says once a page that makes a transaction valid could not be written, and when pages are wrong.
_FATAL = (lmdb.PanicError, lmdb.CorruptedError, lmdb.PageNotFoundError)
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Group(NamedTuple):
    """What one append has brought into a segment."""

    segment: int
    #: Where the segment ends now.
    end: int
    #: Key and packed row of each blob whose record is in the segment.
    blobs: Sequence[tuple[bytes, bytes]]
    #: How many bytes the records of *blobs* take, and when one of them was last used.
    blob_bytes: int
    newest_touch_ms: int
    #: Key and row of each large file that a record in the segment announces.
    large: Sequence[tuple[bytes, Row]]

    @property
    def row_count(self) -> int:
        return len(self.blobs) + len(self.large)


class Taken(NamedTuple):
    """What of a group did not come into the index, because another was quicker."""

    #: Keys that had rows already, and keep them.
    keys: set[bytes]
    #: The ids of large files that are nobody's.
    files: set[int]


class Index:
    """Rows, segments and counters, in one LMDB environment per process and directory.

    Everything here is synchronous, and a read transaction never outlives a call. Methods that
    change something take the write transaction of ``writing()``, so that a caller decides what
    changes together; at most ``MAX_ROWS`` rows in each.

    The last committed transaction may be undone, whole, by a power cut (``metasync=False``);
    see ``sync``.

    Tables: ``rows`` (key of a digest → Row), ``segments`` (see ``SegmentTable``), ``large_by_touch``
    (touch in ms 8, key → file id 8, stored bytes 8; all big-endian), ``counters``. Others have their own:
    see ``table``.
    """

    def __init__(self, environment: lmdb.Environment, use: IndexUse, writer_lock: WriterLock) -> None:
        self.environment = environment
        self.use = use
        self.writer_lock = writer_lock
        #: What has gone wrong with LMDB so that this process can use it no more.
        self.fatal: str | None = None
        self._is_closed = False
        self.rows = self.table(b"rows")
        self.large_by_touch = self.table(b"large_by_touch")
        self.counters = self.table(b"counters")
        self.segments = SegmentTable(self.table(b"segments"), self.counters)

    @classmethod
    def open(cls, path: Path, disk: Disk, *, durable: bool = True) -> Index:
        """Open the index in the directory *path*, which is made if need be; the caller is not at its gate.

        One that is not *durable* may be spoilt, as a whole, by a power cut: nothing for a store, also where
        that need not keep what it has acknowledged.

        Raises:
            ConfigurationError: it cannot be used, or is none of ours.
        """
        try:
            disk.make_directory(str(path))
            with at_the_gate(path):
                return cls.open_at_the_gate(path, disk, durable=durable)
        except (OSError, GridwrightError) as error:
            raise ConfigurationError(f"cannot use the index in {path}: {error}") from None

    @classmethod
    def open_at_the_gate(cls, path: Path, disk: Disk, *, durable: bool = True) -> Index:
        """Like ``open``, for who is at the gate of the directory, which is there."""
        try:
            if is_cut_short(path / DATA_FILE):
                raise Unavailable(f"{DATA_FILE} was cut short")
            with index_errors():
                index = cls._opened(path, durable=durable)
            disk.sync_directory(str(path))
            disk.sync_directory(str(path.parent))
        except (OSError, GridwrightError) as error:
            raise ConfigurationError(
                f"cannot use the index in {path}: {error}. If it is damaged, end all that use it and remove {path}: "
                "it is then made again from the segments, which takes as long as reading them"
            ) from None
        return index

    @classmethod
    def _opened(cls, path: Path, *, durable: bool) -> Index:
        with ExitStack() as unless_opened:
            use = IndexUse.begin(path)
            unless_opened.callback(use.end)
            environment = cls._environment(path, durable=durable)
            unless_opened.callback(environment.close)
            # After LMDB, which refuses to be opened twice in one process: see there.
            writer_lock = WriterLock(path)
            unless_opened.callback(writer_lock.close)
            index = cls(environment, use, writer_lock)
            index.check_readers()
            with index.writing() as txn:
                if not txn.put(b"format", _FORMAT, overwrite=False, db=index.counters):
                    found = txn.get(b"format", db=index.counters)
                    if found != _FORMAT:
                        raise ConfigurationError(f"the index in {path} has the format {found!r}, not {_FORMAT!r}")
            index.sync()
            unless_opened.pop_all()
        return index

    @staticmethod
    def _environment(path: Path, *, durable: bool) -> lmdb.Environment:
        return lmdb.open(
            str(path),
            map_size=_MAP_BYTES,
            max_readers=_MAX_READERS,
            max_dbs=_MAX_TABLES,
            max_spare_txns=8,
            metasync=False,
            sync=durable,
            meminit=False,
            mode=0o600,
        )

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self.environment.close()
        self.writer_lock.close()
        self.use.end()

    def table(self, name: bytes) -> lmdb._Database:
        """Return a table, which is made if need be; LMDB's lock is taken for that, as for any change.

        Raises:
            Unavailable: as ``writing``.
        """
        with self.writer_lock.held(), index_errors():
            return self.environment.open_db(name)

    @contextmanager
    def reading(self) -> Iterator[lmdb.Transaction[bytes]]:
        """A read transaction over ``rows``; end it before anything is awaited."""
        try:
            with self.environment.begin(db=self.rows, buffers=False) as txn:
                yield txn
        except lmdb.Error as error:
            raise self._told(error) from error

    @contextmanager
    def writing(self) -> Iterator[lmdb.Transaction[bytes]]:
        """A write transaction over ``rows``, committed at the end of the block; it may wait for other processes.

        Raises:
            ResourceExhausted: the disk is full; nothing has changed.
            Unavailable: the disk fails, or another process stands still while it writes; nothing has changed.
        """
        with self.writer_lock.held():
            try:
                with self.environment.begin(db=self.rows, write=True, buffers=False) as txn:
                    yield txn
            except lmdb.Error as error:
                raise self._told(error) from error

    def sync(self) -> None:
        """See to it that no power cut undoes what has been committed until now: to be called before files go."""
        try:
            self.environment.sync(True)
        except lmdb.Error as error:
            raise self._told(error) from error

    def check_readers(self) -> None:
        """Forget readers that were killed, whose pages would never be used again; to be called every minute."""
        with index_errors():
            self.environment.reader_check()

    def _told(self, error: lmdb.Error) -> GridwrightError:
        if isinstance(error, _FATAL):
            self.fatal = str(error)
        return index_error(error)

    def values_of(self, keys: Iterable[bytes]) -> list[bytes | None]:
        """Return the packed rows of *keys*, at about 1 µs each.

        Not for threads while the index is in memory: each look-up gives up the interpreter's lock for a
        moment, and a thread beside a busy event loop must wait to get it back. A thousand random keys took
        0.8 to 1.4 ms here and 14 to 18 ms in such a thread (medians; worst 6 to 13 and 59 to 90 ms, on a
        loaded machine). What a cold index costs the event loop was not measured.
        """
        with self.reading() as txn:
            get = txn.get
            return [get(key) for key in keys]

    def row_of(self, key: bytes) -> Row | None:
        with self.reading() as txn:
            value = txn.get(key)
        return unpack_row(value) if value is not None else None

    def add(self, txn: lmdb.Transaction[bytes], group: Group) -> Taken:
        """Add the rows of what was appended, move the replay offset, and return what was there already."""
        taken = Taken(set(), set())
        live_bytes, live_count = group.blob_bytes, len(group.blobs)
        with txn.cursor() as cursor:
            _, added = cursor.putmulti(group.blobs, overwrite=False)
        if added < len(group.blobs):
            for key, value in group.blobs:
                if txn.get(key) != value:
                    taken.keys.add(key)
                    live_bytes -= record_size(key, unpack_row(value).stored_bytes)
                    live_count -= 1
        for key, row in group.large:
            if txn.put(key, pack_row(row), overwrite=False):
                txn.put(*_large_entry(key, row), db=self.large_by_touch)
            elif txn.get(key) != pack_row(row):
                taken.keys.add(key)
                taken.files.add(row.offset)
        self.segments.note_large(txn, group.segment, len(group.large))
        newest_ms = group.newest_touch_ms if live_count else 0
        self.segments.change(txn, group.segment, live_bytes, live_count, touch_ms=newest_ms, end=group.end)
        return taken

    def touch(self, txn: lmdb.Transaction[bytes], keys: Iterable[bytes], now_ms: int) -> None:
        """Note that these blobs were used now; absent ones stay absent.

        A touch goes back only where the one before was by a clock that has been set back since.
        """
        touched_segments: set[int] = set()
        now, future = touched_before(now_ms), touched_before(now_ms + FUTURE_MS)
        for key in keys:
            value = txn.get(key)
            if value is None or now <= value < future:
                continue
            row = unpack_row(value)
            new = row._replace(touched_ms=now_ms)
            txn.put(key, pack_row(new))
            if row.is_large:
                txn.delete(_large_entry(key, row)[0], db=self.large_by_touch)
                txn.put(*_large_entry(key, new), db=self.large_by_touch)
            else:
                touched_segments.add(row.segment)
        for segment in touched_segments:
            self.segments.change(txn, segment, 0, 0, touch_ms=now_ms)

    def remove(self, txn: lmdb.Transaction[bytes], rows: Iterable[tuple[bytes, Row]]) -> list[bytes]:
        """Remove each row that still names the place given; return the keys of those that were removed."""
        found: list[tuple[bytes, Row]] = []
        for key, row in rows:
            value = txn.get(key)
            if value is not None and row.is_same_place(current := unpack_row(value)):
                found.append((key, current))
        self.delete(txn, found)
        return [key for key, _ in found]

    def delete(self, txn: lmdb.Transaction[bytes], rows: Iterable[tuple[bytes, Row]]) -> None:
        """Remove these rows, which are as this transaction sees them.

        Unless it puts them back, the caller adds to the removal log in this transaction: ``FreshKeys`` relies on it.
        """
        left: Counter[int] = Counter()
        left_bytes: Counter[int] = Counter()
        delete = txn.delete
        for key, row in sorted(rows):
            delete(key)
            if row.segment:
                left[row.segment] += 1
                left_bytes[row.segment] += record_size(key, row.stored_bytes)
            else:
                delete(large_position(key, row), db=self.large_by_touch)
        for segment, count in left.items():
            self.segments.change(txn, segment, -left_bytes[segment], -count)

    def move(self, txn: lmdb.Transaction[bytes], moves: Iterable[tuple[bytes, Row, Row]]) -> list[bytes]:
        """Let each row that still names the old place name the new one, in a segment; return the keys of these."""
        found: list[tuple[bytes, Row, Row]] = []
        for key, old, new in moves:
            value = txn.get(key)
            if value is not None and old.is_same_place(current := unpack_row(value)):
                found.append((key, current, new._replace(touched_ms=current.touched_ms)))
        self.delete(txn, [(key, current) for key, current, _ in found])
        newcomers: dict[int, list[tuple[bytes, Row]]] = {}
        for key, _, new in found:
            txn.put(key, pack_row(new))
            newcomers.setdefault(new.segment, []).append((key, new))
        for segment, rows in newcomers.items():
            size_bytes = sum([record_size(key, row.stored_bytes) for key, row in rows])
            newest_ms = max([row.touched_ms for _, row in rows])
            self.segments.change(txn, segment, size_bytes, len(rows), touch_ms=newest_ms)
        return [key for key, _, _ in found]

    def oldest_large(self, txn: lmdb.Transaction[bytes], count: int, *, start: bytes = b"") -> list[tuple[bytes, Row]]:
        """Return the keys and rows of up to *count* large files, the one that was not used for longest first.

        *start* is where to begin: ``large_position`` of a row, or something behind it.
        """
        with txn.cursor(db=self.large_by_touch) as cursor:
            if not cursor.set_range(start):
                return []
            return [_large_row(entry, value) for entry, value in itertools.islice(cursor, count)]

    def rows_in(self, segment: int) -> Iterator[list[tuple[bytes, Row]]]:
        """Yield, in portions, the rows that name a segment, by looking at every row there is: seconds for a million."""
        start = b""
        while True:
            found: list[tuple[bytes, Row]] = []
            with self.reading() as txn, txn.cursor() as cursor:
                if not cursor.set_range(start):
                    return
                for key, value in itertools.islice(cursor, _SWEPT_ROWS):
                    start = key + b"\0"
                    if (row := unpack_row(value)).segment == segment:
                        found.append((key, row))
            yield found


def index_error(error: lmdb.Error) -> GridwrightError:
    """Return what LMDB says in words of our family; an index that fails is never absence."""
    if isinstance(error, lmdb.MapFullError):
        return ResourceExhausted("the index of the CAS has reached its size of 1 TiB")
    if error.code in _FULL:
        return ResourceExhausted(f"the disk of the CAS is full ({error}); free some space, or lower max_bytes")
    return Unavailable(f"the index of the CAS does not answer: {error}")


@contextmanager
def index_errors() -> Iterator[None]:
    """Raise what LMDB raises in words of our family."""
    try:
        yield
    except lmdb.Error as error:
        raise index_error(error) from error


def _large_row(entry: bytes, value: bytes) -> tuple[bytes, Row]:
    touched_ms, file_id, stored_bytes = (int.from_bytes(part, "big") for part in (entry[:8], value[:8], value[8:]))
    return entry[8:], Row(touched_ms, 0, file_id, stored_bytes)


def large_position(key: bytes, row: Row) -> bytes:
    """Return where a large file is in the order of last use."""
    return _large_entry(key, row)[0]


def _large_entry(key: bytes, row: Row) -> tuple[bytes, bytes]:
    return row.touched_ms.to_bytes(8, "big") + key, row.offset.to_bytes(8, "big") + row.stored_bytes.to_bytes(8, "big")
