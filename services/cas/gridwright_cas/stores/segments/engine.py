"""The parts of the segment engine, put together for one directory."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, Self

from gridwright.blobs.eviction import EvictionPolicy
from gridwright.clock import Clock
from gridwright.errors import ConfigurationError, GridwrightError
from gridwright_cas.stores.direct_io import BufferPool
from gridwright_cas.stores.segments.disk import Disk, SystemDisk
from gridwright_cas.stores.segments.eviction import Retention
from gridwright_cas.stores.segments.evictor import Evictor
from gridwright_cas.stores.segments.housekeeper import Chores, Housekeeper
from gridwright_cas.stores.segments.index import Index
from gridwright_cas.stores.segments.large_files import LargeFiles
from gridwright_cas.stores.segments.leftovers import Leftovers
from gridwright_cas.stores.segments.lost_index import note_lost_segments
from gridwright_cas.stores.segments.owners import Owner
from gridwright_cas.stores.segments.partial_uploads import PartialUploads
from gridwright_cas.stores.segments.parts import Parts
from gridwright_cas.stores.segments.quarantine import Quarantine
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
        self, path: Path, index: Index, owner: Owner, clock: Clock, settings: SegmentSettings, disk: Disk
    ) -> None:
        self.path = path
        self.index = index
        self.clock = clock
        self.settings = settings
        self.stats = SegmentStats()
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
        self.removal_log = RemovalLog(index, clock, self.stats)
        self.reader = SegmentReader(self.directory)
        self.parts = Parts(
            path, index, self.directory, self.large_files, self.room, self.removal_log, clock, self.stats
        )
        self.writer = SegmentWriter(
            index, self.directory, self.room, clock, segment_bytes=segment_bytes, durable=settings.durable
        )
        self.partials = PartialUploads(
            path, index, self.large_files, clock, max_bytes=settings.policy.max_bytes // _PARTIALS
        )
        self._quarantine = Quarantine(self.parts, Remover(self.parts, Survivors(self.parts)))
        self._housekeeper: Housekeeper | None = None

    @classmethod
    def open(cls, path: Path, clock: Clock, settings: SegmentSettings, disk: Disk | None = None) -> Self:
        """Open the directory, which is made if need be, and bring its index up to date.

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
            with ExitStack() as opened:
                index = Index.open(path / "index", disk)
                opened.callback(index.close)
                owner = Owner.register(index, path / "locks")
                opened.callback(owner.close)
                engine = cls(path, index, owner, clock, settings, disk)
                note_lost_segments(engine.parts)
                engine.writer.recover()
                settings.keep_in(index)
                opened.pop_all()
        except (OSError, GridwrightError) as error:
            raise ConfigurationError(f"cannot keep blobs in {path}: {error}") from None
        return engine

    def close(self) -> None:
        """Seal what this process wrote, and let go of everything; nobody may be reading or writing."""
        if self._housekeeper is not None:
            self._housekeeper.stop()
        self.writer.close()
        self.reader.close()
        self.index.close()
        self._owner.close()

    def maintain(self) -> None:
        """Clean up after processes that have died; to be called every minute.

        Raises:
            Unavailable, ResourceExhausted: the disk fails; try again.
        """
        self.index.check_readers()
        self.writer.recover()

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
