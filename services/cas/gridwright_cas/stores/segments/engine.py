"""The parts of the segment engine, put together for one directory."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple, Self

from gridwright.blobs.eviction import EvictionPolicy
from gridwright.clock import Clock
from gridwright.errors import ConfigurationError, GridwrightError
from gridwright_cas.stores.direct_io import BufferPool
from gridwright_cas.stores.segments.compact_copy import (
    adopt_compact_copy,
    discard_compact_copy,
    write_compact_copy,
)
from gridwright_cas.stores.segments.disk import Disk, SystemDisk
from gridwright_cas.stores.segments.eviction import Retention
from gridwright_cas.stores.segments.evictor import Evictor
from gridwright_cas.stores.segments.file_system import Fitness, file_system_of, fitness_of
from gridwright_cas.stores.segments.housekeeper import Chores, Housekeeper
from gridwright_cas.stores.segments.index import Index
from gridwright_cas.stores.segments.index_gate import at_the_gate
from gridwright_cas.stores.segments.large_files import LargeFiles
from gridwright_cas.stores.segments.leftovers import Leftovers
from gridwright_cas.stores.segments.lost_index import note_lost_segments
from gridwright_cas.stores.segments.owners import Owner
from gridwright_cas.stores.segments.partial_uploads import PartialUploads
from gridwright_cas.stores.segments.parts import Parts
from gridwright_cas.stores.segments.quarantine import Quarantine, Rot
from gridwright_cas.stores.segments.recovery import Recovery
from gridwright_cas.stores.segments.removal_log import RemovalLog
from gridwright_cas.stores.segments.remover import Remover
from gridwright_cas.stores.segments.room import Room, RoomSize
from gridwright_cas.stores.segments.row import Row
from gridwright_cas.stores.segments.scrubber import Scrubber
from gridwright_cas.stores.segments.segment_file import SegmentDirectory
from gridwright_cas.stores.segments.segment_reader import SegmentReader
from gridwright_cas.stores.segments.segment_writer import SegmentWriter
from gridwright_cas.stores.segments.stats import SegmentStats
from gridwright_cas.stores.segments.survivors import Survivors

_MAX_SEGMENT_BYTES = 256 * 1024 * 1024
_SEGMENTS = 64
#: The part of the store that uploads which broke off may take: a quarter.
_PARTIALS = 4
#: The part of the store that the list of what went may take.
_REMOVALS = 16
#: So many findings wait to be told; a disk that rots as a whole need not be told blob by blob.
_ROTTEN = 20
_KEPT = b"settings"


class SegmentSettings(NamedTuple):
    """What an operator can say about a segment store."""

    #: ``max_bytes`` is needed.
    policy: EvictionPolicy
    durable: bool = True
    #: How long blobs are kept after their last use, where that is possible.
    min_retention_seconds: float = 3 * 3600.0
    #: Refuse uploads rather than evict earlier than that.
    strict_retention: bool = False
    #: 0: what is kept is not read again in the background.
    scrub_bytes_per_second: int = 0

    @property
    def segment_bytes(self) -> int:
        return min(_MAX_SEGMENT_BYTES, self.policy.max_bytes // _SEGMENTS)

    def keep_in(self, index: Index) -> None:
        """Note them in the index, for those who open the directory without an operator's settings at hand."""
        document = json.dumps({**self._asdict(), "policy": self.policy._asdict()}).encode()
        with index.writing() as txn:
            if txn.get(_KEPT, db=index.counters) != document:
                txn.put(_KEPT, document, db=index.counters)

    @classmethod
    def kept_in(cls, index: Index) -> Self | None:
        """Return those with which the directory was opened last, or None if it never was."""
        with index.reading() as txn:
            document = txn.get(_KEPT, db=index.counters)
        if document is None:
            return None
        settings = json.loads(document)
        return cls(**{**settings, "policy": EvictionPolicy(**settings["policy"])})


class Engine:
    """Everything synchronous of one store; ``SegmentStore`` brings it to the event loop.

    The directory has ``index/``, ``segments/``, ``large/``, ``partial/``, ``quarantine/`` and ``locks/``.
    Several processes of one machine may use it together.
    """

    def __init__(
        self,
        path: Path,
        index: Index,
        owner: Owner,
        clock: Clock,
        settings: SegmentSettings,
        disk: Disk,
        stats: SegmentStats,
    ) -> None:
        self.path = path
        self.index = index
        self.clock = clock
        self.settings = settings
        self.stats = stats
        self.directory = SegmentDirectory(path, disk)
        self.directory.make()
        self._owner = owner
        segment_bytes = settings.segment_bytes
        self.room = Room(
            index,
            str(path / "index" / "data.mdb"),
            RoomSize(settings.policy.max_bytes, segment_bytes),
            owner=self._owner.number,
            clock=clock,
            stats=self.stats,
        )
        self.large_files = LargeFiles(
            str(path / "large"), disk, self.room, BufferPool(), clock, durable=settings.durable
        )
        self.removal_log = RemovalLog(index, clock, self.stats, max_bytes=settings.policy.max_bytes // _REMOVALS)
        self.reader = SegmentReader(self.directory)
        self.parts = Parts(
            path, index, self.directory, self.large_files, self.room, self.removal_log, clock, self.stats
        )
        self.writer = SegmentWriter(
            index, self.directory, self.room, clock, segment_bytes=segment_bytes, durable=settings.durable
        )
        self.recovery = Recovery(index, self.directory, self.room, clock, durable=settings.durable)
        self.partials = PartialUploads(
            path, index, self.large_files, clock, max_bytes=settings.policy.max_bytes // _PARTIALS
        )
        #: What was found rotten lately, for who tells an operator to take away.
        self.rotten: deque[Rot] = deque(maxlen=_ROTTEN)
        self._quarantine = Quarantine(self.parts, Remover(self.parts, Survivors(self.parts)), self.rotten.append)
        self._housekeeper: Housekeeper | None = None

    @classmethod
    def open(
        cls,
        path: Path,
        clock: Clock,
        settings: SegmentSettings,
        disk: Disk | None = None,
        *,
        may_shrink_index: bool = False,
    ) -> Self:
        """Open the directory, which is made if need be, and bring its index up to date.

        Args:
            may_shrink_index: an index that has grown too large is made as small as it can be, if no other process
                has it open; where it is too large even so, the oldest blobs go.

        Raises:
            ConfigurationError: it cannot be used.
        """
        disk = disk or SystemDisk()
        if settings.policy.max_bytes <= 0:
            raise ConfigurationError(f"the segment store in {path} needs eviction_policy.max_bytes")
        try:
            new = [directory for directory in path.parents if not directory.exists()]
            disk.make_directory(str(path))
            for directory in (path, *new):
                disk.sync_directory(str(directory.parent))
            _check_file_system(path)
            disk.make_directory(str(path / "index"))
            with ExitStack() as unless_opened:
                with at_the_gate(path / "index"):
                    engine = cls._opened(path, clock, settings, disk, SegmentStats())
                unless_opened.callback(engine.close)
                note_lost_segments(engine.parts)
                engine.recovery.run()
                settings.keep_in(engine.index)
                unless_opened.pop_all()
            if may_shrink_index and engine.room.size.is_overgrown(engine.room.index_size()):
                engine = engine._with_small_index()
        except (OSError, GridwrightError) as error:
            raise ConfigurationError(f"cannot keep blobs in {path}: {error}") from None
        return engine

    @classmethod
    def _opened(cls, path: Path, clock: Clock, settings: SegmentSettings, disk: Disk, stats: SegmentStats) -> Self:
        """Open the directory for who is at the gate of its index."""
        with ExitStack() as unless_opened:
            discard_compact_copy(path / "index", disk)  # one that a crash has left
            index = Index.open_at_the_gate(path / "index", disk)
            unless_opened.callback(index.close)
            owner = Owner.register(index, path / "locks")
            unless_opened.callback(owner.close)
            engine = cls(path, index, owner, clock, settings, disk, stats)
            unless_opened.pop_all()
        return engine

    def _with_small_index(self) -> Self:
        """Return this directory with an index that is as small as it can be; or as it is, where that cannot be done."""
        path, disk = self.path / "index", self.directory.disk
        with at_the_gate(path):
            if not self.index.use.is_sole():
                return self
            retention = Retention(self.settings.min_retention_seconds, self.settings.strict_retention)
            survivors = Survivors(self.parts)
            evictor = Evictor(self.parts, Remover(self.parts, survivors), self.settings.policy, retention)
            try:
                try:
                    evictor.make_room_for_copy()
                finally:
                    survivors.close()
                write_compact_copy(self.index, disk)
            except (OSError, GridwrightError):
                with suppress(OSError):
                    discard_compact_copy(path, disk)
                return self
            self.close()
            adopt_compact_copy(path, disk)
            return self._opened(self.path, self.clock, self.settings, disk, self.stats)

    def close(self) -> None:
        """Seal what this process wrote, and let go of everything; nobody may be reading or writing."""
        if self._housekeeper is not None:
            self._housekeeper.stop()
        self.writer.close()
        self.reader.close()
        self.index.close()
        self._owner.close()

    @property
    def is_on_doubtful_file_system(self) -> bool:
        """Whether nobody but the operator can know that processes may share the directory."""
        return fitness_of(file_system_of(self.path)) is Fitness.UNKNOWN

    def trouble(self) -> str | None:
        """Return why uploads fail just now, as far as is known, or None; it may wait for a moment to find out."""
        return self.index.fatal or self.index.writer_lock.trouble()

    def maintain(self) -> None:
        """Clean up after processes that have died; to be called every minute.

        Raises:
            Unavailable, ResourceExhausted: the disk fails; try again.
        """
        self.index.check_readers()
        self.recovery.run()

    def start_housekeeping(self, in_use: Callable[[bytes], bool], on_removal: Callable[[], None]) -> None:
        """Evict, scrub and clear up from now on, unless another process does.

        Args:
            in_use: whether a blob was used just now and the index does not know.
            on_removal: called, on another thread, when there may be something in the removal log.
        """
        settings, parts = self.settings, self.parts
        survivors = Survivors(parts)
        remover = Remover(parts, survivors, in_use)
        retention = Retention(settings.min_retention_seconds, settings.strict_retention)
        chores = Chores(
            Evictor(parts, remover, settings.policy, retention),
            Scrubber(parts, self._quarantine),
            Leftovers(parts, remover),
            self.partials,
            self._quarantine,
            survivors,
        )
        self._housekeeper = Housekeeper(
            parts, chores, scrub_bytes_per_second=settings.scrub_bytes_per_second, on_removal=on_removal
        )
        self._housekeeper.start()

    def quarantine(self, key: bytes, row: Row) -> None:
        """Remove a blob that is not what was written.

        Raises:
            Unavailable, ResourceExhausted: the disk fails.
        """
        self._quarantine.take(key, row)


def _check_file_system(path: Path) -> None:
    """Refuse a directory on a file system that several machines may share; see ``file_system``."""
    kind = file_system_of(path)
    if fitness_of(kind) is Fitness.NETWORK:
        raise ConfigurationError(
            f"{path} is on a network file system ({kind}), where an index can be spoilt: write a content_path on a disk"
            " of this machine, or let the CAS run on the machine that has the disk"
        )
