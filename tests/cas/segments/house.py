"""The parts of a segment store without its event loop and threads, for tests of who keeps house."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from gridwright.blobs.eviction import EvictionPolicy
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import BlobNotFound
from gridwright.testing.clock import FakeClock
from gridwright_cas.stores.direct_io import BufferPool
from gridwright_cas.stores.segments.disk import Disk, SystemDisk
from gridwright_cas.stores.segments.eviction import Retention
from gridwright_cas.stores.segments.evictor import Evictor
from gridwright_cas.stores.segments.index import Index
from gridwright_cas.stores.segments.key import key_of
from gridwright_cas.stores.segments.large_files import KeptFile, LargeFiles
from gridwright_cas.stores.segments.leftovers import Leftovers
from gridwright_cas.stores.segments.owners import Owner
from gridwright_cas.stores.segments.partial_uploads import PartialUploads
from gridwright_cas.stores.segments.parts import Parts
from gridwright_cas.stores.segments.quarantine import Quarantine, Rot
from gridwright_cas.stores.segments.record import LargeFileRef, payload_of, record_size
from gridwright_cas.stores.segments.removal_log import RemovalLog
from gridwright_cas.stores.segments.remover import Remover
from gridwright_cas.stores.segments.room import Room, RoomSize
from gridwright_cas.stores.segments.scrubber import Scrubber
from gridwright_cas.stores.segments.segment_file import SegmentDirectory
from gridwright_cas.stores.segments.segment_writer import SegmentWriter, Writes
from gridwright_cas.stores.segments.stats import SegmentStats
from gridwright_cas.stores.segments.survivors import Survivors

SHA256 = DigestFunction.SHA256
MIB = 1024 * 1024
_POLICY = EvictionPolicy(max_bytes=16 * MIB)
_RETENTION = Retention()


class _AtOnce(threading.Event):
    """A housekeeper that makes room while who wants it stands by."""

    def __init__(self, make_room: Callable[[], None]) -> None:
        super().__init__()
        self._make_room = make_room

    def set(self) -> None:
        self._make_room()


class House:
    """One process's view of a directory; several of them may share one in different processes only."""

    def __init__(
        self,
        root: Path,
        clock: FakeClock,
        *,
        policy: EvictionPolicy = _POLICY,
        retention: Retention = _RETENTION,
        disk: Disk | None = None,
        evicts: bool = True,
        wait_seconds: float = 0.2,
    ) -> None:
        self.root = root
        self.clock = clock
        self.disk = disk or SystemDisk()
        root.mkdir(exist_ok=True)
        self.index = Index.open(root / "index", self.disk, durable=False)
        directory = SegmentDirectory(root, self.disk)
        directory.make()
        self.owner = Owner.register(self.index, root / "locks")
        self.stats = SegmentStats()
        size = RoomSize(policy.max_bytes, policy.max_bytes // 64)
        self.room = Room(
            self.index,
            str(root / "index" / "data.mdb"),
            size,
            owner=self.owner.number,
            clock=clock,
            stats=self.stats,
            wait_seconds=wait_seconds,
        )
        self.large = LargeFiles(str(root / "large"), self.disk, self.room, BufferPool(), clock, durable=False)
        self.removals = RemovalLog(self.index, clock, self.stats, max_bytes=policy.max_bytes // 16)
        self.parts = Parts(root, self.index, directory, self.large, self.room, self.removals, clock, self.stats)
        self.in_use: set[bytes] = set()
        self.survivors = Survivors(self.parts)
        self.remover = Remover(self.parts, self.survivors, self.in_use.__contains__)
        self.evictor = Evictor(self.parts, self.remover, policy, retention)
        self.rotten: list[Rot] = []
        self.quarantine = Quarantine(self.parts, self.remover, self.rotten.append)
        self.scrubber = Scrubber(self.parts, self.quarantine)
        self.leftovers = Leftovers(self.parts, self.remover)
        self.partials = PartialUploads(root, self.index, self.large, clock, max_bytes=policy.max_bytes // 4)
        self.writer = self._new_writer()
        if evicts:
            self.room.wanted = _AtOnce(self.evictor.make_room)

    def close(self) -> None:
        self.scrubber.close()
        self.survivors.close()
        self.writer.close()
        self.index.close()
        self.owner.close()

    def put(self, *blobs: bytes) -> list[Digest]:
        """Keep small blobs in the open segment, evicting as the housekeeper would."""
        digests = [SHA256.digest(blob) for blob in blobs]
        writes = Writes([(key_of(digest), blob) for digest, blob in zip(digests, blobs, strict=True)])
        self.evictor.make_room()
        self.writer.commit(self.writer.append(writes))
        return digests

    def put_random(self, count: int, size: int = 1000) -> list[Digest]:
        return self.put(*(os.urandom(size) for _ in range(count)))

    def put_large(self, blob: bytes) -> Digest:
        """Keep a blob as a large file."""
        digest = SHA256.digest(blob)
        self.evictor.make_room()
        kept = self._upload(digest, blob)
        self.writer.commit(
            self.writer.append(Writes(large=[(key_of(digest), LargeFileRef(kept.file_id, kept.stored_bytes))]))
        )
        return digest

    def fill(self, times: float, size: int = 4000) -> list[Digest]:
        """Write so many times what the store may hold, a second for every batch; return the digests in their order."""
        written: list[Digest] = []
        for _ in range(int(times * self.room.size.max_bytes / size / 50)):
            self.clock.advance(1)
            written += self.put_random(50, size)
        return written

    def touch(self, *digests: Digest) -> None:
        with self.index.writing() as txn:
            self.index.touch(txn, map(key_of, digests), self.parts.now_ms())

    def seal(self) -> None:
        """Let the next blob begin another segment."""
        self.writer.close()
        self.writer = self._new_writer()

    def get(self, digest: Digest) -> bytes:
        """Read a blob, checked."""
        row = self.index.row_of(key_of(digest))
        if row is None:
            raise BlobNotFound(digest)
        if row.is_large:
            file = self.large.open(row.offset, digest)
            try:
                return b"".join(file.blocks())
            finally:
                file.close()
        data = (self.root / "segments" / str(row.segment)).read_bytes()
        size = record_size(key_of(digest), row.stored_bytes)
        return payload_of(data[row.offset : row.offset + size], 0, key_of(digest), row.stored_bytes)

    def kept(self, digests: Sequence[Digest]) -> set[Digest]:
        """Return those of *digests* that have a row."""
        return {digest for digest in digests if self.index.row_of(key_of(digest))}

    def disk_bytes(self) -> int:
        """Return what ``du`` says."""
        paths = [self.root, *self.root.rglob("*")]
        return sum(path.stat().st_blocks * 512 for path in paths)

    def scrub(self) -> None:
        """Scrub for a whole round."""
        rounds = self.stats.scrub_rounds
        while self.stats.scrub_rounds == rounds:
            self.scrubber.step()

    def _upload(self, digest: Digest, blob: bytes) -> KeptFile:
        upload = self.large.begin(digest)
        try:
            upload.write([blob])
            return upload.finish()
        finally:
            upload.close()

    def _new_writer(self) -> SegmentWriter:
        return SegmentWriter(
            self.index, self.parts.segments, self.room, self.clock,
            segment_bytes=self.room.size.segment_bytes, durable=False,
        )  # fmt: skip
