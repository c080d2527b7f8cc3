"""Blobs as files of one directory: synchronous, called from threads."""

from __future__ import annotations

import itertools
import os
import re
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from gridwright.blobs.eviction import EvictionPolicy
from gridwright.digest import Digest, DigestFunction
from gridwright.errors import (
    BlobNotFound,
    ConfigurationError,
    GridwrightError,
    ResourceExhausted,
)
from gridwright.file_lock import try_lock
from gridwright_cas.stores.blob_index import BlobIndex, HeldBlob, cost_of
from gridwright_cas.stores.direct_io import BufferPool
from gridwright_cas.stores.disk_errors import disk_errors
from gridwright_cas.stores.new_file import NewFile, open_new

#: A hash, a size, and how much is stored if that is not the size.
_FILE_NAME = re.compile(r"([0-9a-f]+)-(0|[1-9][0-9]{0,18})(?:\.(0|[1-9][0-9]{0,18}))?")
_UPLOAD_NAME = re.compile(r"[0-9]+")
#: So many files of one batch are open at the same time: far below the usual limit of 1,024 per process.
_GROUP = 64


class BlobDirectory:
    """A directory tree ``<function>/<first two digits>/<hash>-<size>``, and the index of what is in it.

    Where other bytes than the blob's are kept under its digest, compressed ones say, their
    number follows after a dot.

    A blob is written to ``tmp/``, synchronised, and renamed into place, so whatever has its
    name is whole, also after ``kill -9`` or a power cut. (A power cut may take back, whole,
    what was uploaded in the last seconds: the directory itself is not synchronised.)

    One process at a time uses a directory, held by a file lock. Files change together with
    the index, under ``_lock``; see ``BlobIndex`` for what may be asked without it.

    Args:
        temp_path: where uploads are written, in place of ``tmp/``.
        locks: the descriptors of the locks on the directories, to be closed with this.
        durable: whether files are synchronised before they get their name.
    """

    def __init__(self, path: Path, temp_path: Path, index: BlobIndex, locks: Collection[int], *, durable: bool) -> None:
        self.index = index
        self.path = path
        #: Told, in any thread, which blobs went.
        self.on_removal: Callable[[Collection[Digest]], object] = _nobody_listens
        self._root = str(path)
        self._temp = str(temp_path)
        self._locks = locks
        self.durable = durable
        self._lock = threading.Lock()
        self._serial = itertools.count()
        self.buffers = BufferPool()

    @classmethod
    def open(
        cls, path: Path, policy: EvictionPolicy, now: float, *, temp_path: Path | None = None, durable: bool = True
    ) -> BlobDirectory:
        """Lock the directory, remove what a dead process left half done, and index the rest.

        Raises:
            ConfigurationError: the directory cannot be used, or another process uses it.
        """
        temp = temp_path or path / "tmp"
        locks: list[int] = []
        try:
            for own in filter(None, (path, temp_path)):
                locks.append(_lock(own))
            temp.mkdir(exist_ok=True)
            if path.stat().st_dev != temp.stat().st_dev:
                raise ConfigurationError(f"{temp} is not on the file system of {path}; leave temp_path out")
            for leftover in os.scandir(temp):
                if _UPLOAD_NAME.fullmatch(leftover.name):
                    os.unlink(leftover.path)
            held = sorted(_scan(path), key=lambda blob: blob.used_at)
        except OSError as error:
            _close_all(locks)
            raise ConfigurationError(f"cannot read the blobs in {path}: {error}") from None
        except ConfigurationError:
            _close_all(locks)
            raise
        directory = cls(path, temp, BlobIndex(policy, held), locks, durable=durable)
        directory.expire(now)
        return directory

    def close(self) -> None:
        """Let another process have the directory."""
        _close_all(self._locks)

    def open_blob(self, digest: Digest) -> tuple[int, int]:
        """Return a file descriptor to read the blob by, which stays good when the blob is evicted, and what it holds.

        Raises:
            BlobNotFound: it is not there, or its file is not of the right size any more.
        """
        stored_bytes = self.index.stored_bytes(digest)
        with disk_errors():
            try:
                descriptor = os.open(self._path_of(digest, stored_bytes), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                self._forget(digest)
                raise BlobNotFound(digest) from None
            if os.fstat(descriptor).st_size != stored_bytes:
                os.close(descriptor)
                self._forget(digest)
                raise BlobNotFound(digest)
            return descriptor, stored_bytes

    def read_many(self, digests: Iterable[Digest]) -> dict[Digest, bytes | GridwrightError]:
        """Return each blob's bytes, or why they cannot be had."""
        found: dict[Digest, bytes | GridwrightError] = {}
        for digest in digests:
            try:
                descriptor, stored_bytes = self.open_blob(digest)
                try:
                    with disk_errors():
                        blob = os.pread(descriptor, stored_bytes, 0)
                finally:
                    os.close(descriptor)
                found[digest] = blob if len(blob) == stored_bytes else BlobNotFound(digest)
            except GridwrightError as error:
                found[digest] = error
        return found

    def keep_many(self, blobs: Mapping[Digest, bytes], now: float) -> dict[Digest, GridwrightError | None]:
        """Keep small blobs; return for each why it could not be kept, or None."""
        kept: dict[Digest, GridwrightError | None] = {}
        digests = list(blobs)
        for start in range(0, len(digests), _GROUP):
            kept |= self._keep_group({digest: blobs[digest] for digest in digests[start : start + _GROUP]}, now)
        return kept

    def begin(self, digest: Digest, now: float) -> Upload:
        """Return an upload of *digest*; nothing is on the disk before its first bytes."""
        return Upload(self, digest, f"{self._temp}/{next(self._serial)}", now)

    def expire(self, now: float) -> None:
        """Let go of what was not used for too long, and of what is too much.

        Raises:
            OSError: a file cannot be removed.
        """
        with self._lock:
            victims = self.index.evict(now)
            self._unlink(victims)
        self._announce(victims)

    def reserve(self, cost_bytes: int, now: float) -> None:
        """Set room aside, and evict for it."""
        with self._lock:
            victims = self.index.reserve(cost_bytes, now)
            try:
                self._unlink(victims)
            except OSError:
                self.index.release(cost_bytes)
                raise
        self._announce(victims)

    def release(self, cost_bytes: int) -> None:
        """Give back room that was set aside."""
        with self._lock:
            self.index.release(cost_bytes)

    def publish(self, digest: Digest, path: str, stored_bytes: int, now: float) -> None:
        """Give the temporary file at *path* its name; its room is the blob's from now on."""
        target = self._path_of(digest, stored_bytes)
        with self._lock:
            before = self.index.stored_bytes(digest) if digest in self.index else stored_bytes
            try:
                os.rename(path, target)
            except FileNotFoundError:
                os.makedirs(os.path.dirname(target), exist_ok=True)
                os.rename(path, target)
            if before != stored_bytes:
                self._unlink({digest: before})
            self.index.release(cost_of(stored_bytes))
            self.index.add(digest, stored_bytes, now)
            victims = self.index.evict(now)
            self._unlink(victims)
        self._announce(victims)

    def write_touches(self) -> None:
        """Write down, as modification times, when blobs were used, for the order after a restart."""
        with self._lock:
            touches = self.index.take_touches()
        for digest, now in touches.items():
            try:
                os.utime(self._path_of(digest, self.index.stored_bytes(digest)), (now, now))
            except OSError:
                # Evicted meanwhile; or the disk is failing, which those who read or write will hear.
                continue

    def _keep_group(self, blobs: Mapping[Digest, bytes], now: float) -> dict[Digest, GridwrightError | None]:
        """Write all, then synchronise all: the first synchronisation takes most of the others with it."""
        kept: dict[Digest, GridwrightError | None] = {}
        uploads: list[Upload] = []
        try:
            for digest, blob in blobs.items():
                kept[digest] = None
                if self.index.touch(digest, now):
                    continue
                try:
                    upload = self.begin(digest, now)
                    uploads.append(upload)
                    upload.write([blob])
                except GridwrightError as error:
                    kept[digest] = error
            for upload in uploads:
                if kept[upload.digest] is None:
                    try:
                        upload.finish(now)
                    except GridwrightError as error:
                        kept[upload.digest] = error
        finally:
            for upload in uploads:
                upload.close()
        return kept

    def _path_of(self, digest: Digest, stored_bytes: int) -> str:
        path = f"{self._root}/{digest.function.name.lower()}/{digest.hash[:2]}/{digest.hash}-{digest.size_bytes}"
        return path if stored_bytes == digest.size_bytes else f"{path}.{stored_bytes}"

    def _forget(self, digest: Digest) -> None:
        """Drop a blob whose file is gone or of the wrong size, unless it has come back meanwhile."""
        with self._lock:
            stored_bytes = self.index.stored_bytes(digest)
            path = self._path_of(digest, stored_bytes)
            try:
                if os.stat(path).st_size == stored_bytes:
                    return
                os.unlink(path)
            except FileNotFoundError:
                pass
            was_held = self.index.remove(digest)
        if was_held:
            self._announce([digest])

    def _announce(self, gone: Collection[Digest]) -> None:
        if gone:
            self.on_removal(gone)

    def _unlink(self, victims: Mapping[Digest, int]) -> None:
        for digest, stored_bytes in victims.items():
            try:
                os.unlink(self._path_of(digest, stored_bytes))
            except FileNotFoundError:
                continue


class Upload:
    """A blob being written: a temporary file that becomes the blob, or goes.

    Its methods run in threads, one at a time whatever happens to the task that called them:
    ``close`` waits for a write that a cancelled task left behind, and a write that comes
    after it does nothing.
    """

    def __init__(self, directory: BlobDirectory, digest: Digest, path: str, begun_at: float) -> None:
        self.digest = digest
        self._begun_at = begun_at
        self._directory = directory
        self._path = path
        self._file: NewFile | None = None
        self._written_bytes = 0
        self._published = False
        self._closed = False
        self._lock = threading.Lock()

    def write(self, pieces: Sequence[bytes]) -> None:
        """Append *pieces*, making room as they come.

        Raises:
            ResourceExhausted: there is no room.
        """
        with self._lock, disk_errors():
            if self._closed:
                return
            if self._file is None:
                self._file = open_new(self._path, self.digest.size_bytes, self._directory.buffers)
            end = self._written_bytes + sum(map(len, pieces))
            if 0 < self._directory.index.policy.max_bytes < end:
                raise ResourceExhausted(f"the bytes that came for blob {self.digest} are more than the store may hold")
            self._directory.reserve(cost_of(end) - cost_of(self._written_bytes), self._begun_at)
            self._written_bytes = end
            self._file.write(pieces)

    def finish(self, now: float) -> None:
        """Make it the blob."""
        with self._lock, disk_errors():
            if self._closed or self._file is None:
                return
            self._file.complete(durable=self._directory.durable)
            self._directory.publish(self.digest, self._path, self._written_bytes, now)
            self._published = True

    def close(self) -> None:
        """Close the file, and remove it unless it has become the blob."""
        with self._lock, disk_errors():
            if self._closed:
                return
            self._closed = True
            if self._file is None:
                return
            self._file.close()
            if not self._published:
                self._directory.release(cost_of(self._written_bytes))
                os.unlink(self._path)


def _nobody_listens(gone: Collection[Digest]) -> None:
    """What is announced before there is anybody to hear it."""


def _lock(path: Path) -> int:
    """Make the directory, and lock it.

    Raises:
        ConfigurationError: it cannot be used, or another process uses it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = try_lock(path / "lock")
    except OSError as error:
        raise ConfigurationError(f"cannot keep blobs in {path}: {error.strerror}") from None
    if lock is None:
        raise ConfigurationError(f"another process keeps its blobs in {path}; give each its own path")
    return lock


def _close_all(locks: Iterable[int]) -> None:
    for lock in locks:
        os.close(lock)


def _scan(root: Path) -> Iterator[HeldBlob]:
    """Yield each blob; remove files that a power cut left with another size."""
    for function in DigestFunction:
        if not (top := root / function.name.lower()).is_dir():
            continue
        for shard in filter(os.DirEntry.is_dir, os.scandir(top)):
            for file in os.scandir(shard.path):
                name = _FILE_NAME.fullmatch(file.name)
                if name is None or len(name[1]) != function.hash_length or name[1][:2] != shard.name:
                    continue
                found = file.stat(follow_symlinks=False)
                if found.st_size == int(name[3] or name[2]):
                    yield HeldBlob(Digest(function, name[1], int(name[2])), found.st_size, found.st_mtime)
                else:
                    os.unlink(file.path)
