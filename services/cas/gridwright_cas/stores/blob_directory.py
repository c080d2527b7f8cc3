"""Blobs as files of one directory: synchronous, called from threads."""

from __future__ import annotations

import errno
import itertools
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from gridwright.digest import Digest, DigestFunction
from gridwright.errors import (
    BlobNotFound,
    ConfigurationError,
    DigestMismatch,
    GridwrightError,
    InternalError,
    ResourceExhausted,
    Unavailable,
)
from gridwright.file_lock import try_lock
from gridwright_cas.stores.blob_index import BlobIndex, cost_of
from gridwright_cas.stores.direct_io import BufferPool
from gridwright_cas.stores.new_file import NewFile, open_new

_FILE_NAME = re.compile(r"([0-9a-f]+)-(0|[1-9][0-9]{0,18})")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
#: So many files of one batch are open at the same time: far below the usual limit of 1,024 per process.
_GROUP = 64


class BlobDirectory:
    """A directory tree ``<function>/<first two digits>/<hash>-<size>``, and the index of what is in it.

    A blob is written to ``tmp/``, synchronised, and renamed into place, so whatever has its
    name is whole, also after ``kill -9`` or a power cut. (A power cut may take back, whole,
    what was uploaded in the last seconds: the directory itself is not synchronised.)

    One process at a time uses a directory, held by a file lock. Files change together with
    the index, under ``_lock``; see ``BlobIndex`` for what may be asked without it.

    Args:
        durable: whether files are synchronised before they get their name.
    """

    def __init__(self, path: Path, index: BlobIndex, lock_file: int, *, durable: bool) -> None:
        self.index = index
        self.path = path
        self._root = str(path)
        self._lock_file = lock_file
        self.durable = durable
        self._lock = threading.Lock()
        self._serial = itertools.count()
        self.buffers = BufferPool()

    @classmethod
    def open(cls, path: Path, *, max_bytes: int, durable: bool) -> BlobDirectory:
        """Lock the directory, remove what a dead process left half done, and index the rest.

        Raises:
            ConfigurationError: the directory cannot be used, or another process uses it.
        """
        try:
            (path / "tmp").mkdir(parents=True, exist_ok=True)
            lock_file = try_lock(path / "lock")
        except OSError as error:
            raise ConfigurationError(f"cannot keep blobs in {path}: {error.strerror}") from None
        if lock_file is None:
            raise ConfigurationError(f"another process keeps its blobs in {path}; give each its own path")
        try:
            for leftover in os.scandir(path / "tmp"):
                os.unlink(leftover.path)
            used_at = dict(sorted(_scan(path), key=lambda found: found[1]))
        except OSError as error:
            os.close(lock_file)
            raise ConfigurationError(f"cannot read the blobs in {path}: {error}") from None
        directory = cls(path, BlobIndex(max_bytes, used_at), lock_file, durable=durable)
        directory._unlink(directory.index.overflow())
        return directory

    def close(self) -> None:
        """Let another process have the directory."""
        os.close(self._lock_file)

    def open_blob(self, digest: Digest) -> int:
        """Return a file descriptor to read the blob by; it stays good when the blob is evicted.

        Raises:
            BlobNotFound: it is not there, or its file is not of the right size any more.
        """
        with disk_errors():
            try:
                descriptor = os.open(self._path_of(digest), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                self._forget(digest)
                raise BlobNotFound(digest) from None
            if os.fstat(descriptor).st_size != digest.size_bytes:
                os.close(descriptor)
                self._forget(digest)
                raise BlobNotFound(digest)
            return descriptor

    def read_many(self, digests: Iterable[Digest]) -> dict[Digest, bytes | GridwrightError]:
        """Return each blob's bytes, or why they cannot be had."""
        found: dict[Digest, bytes | GridwrightError] = {}
        for digest in digests:
            try:
                descriptor = self.open_blob(digest)
                try:
                    with disk_errors():
                        blob = os.pread(descriptor, digest.size_bytes, 0)
                finally:
                    os.close(descriptor)
                found[digest] = blob if len(blob) == digest.size_bytes else BlobNotFound(digest)
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

    def begin(self, digest: Digest) -> Upload:
        """Return an upload of *digest*; nothing is on the disk before its first bytes."""
        return Upload(self, digest, f"{self._root}/tmp/{next(self._serial)}")

    def reserve(self, cost_bytes: int) -> None:
        """Set room aside, and evict for it."""
        with self._lock:
            victims = self.index.reserve(cost_bytes)
            try:
                self._unlink(victims)
            except OSError:
                self.index.release(cost_bytes)
                raise

    def release(self, cost_bytes: int) -> None:
        """Give back room that was set aside."""
        with self._lock:
            self.index.release(cost_bytes)

    def publish(self, digest: Digest, path: str, now: float) -> None:
        """Give the temporary file at *path* its name; its room is the blob's from now on."""
        target = self._path_of(digest)
        with self._lock:
            try:
                os.rename(path, target)
            except FileNotFoundError:
                os.makedirs(os.path.dirname(target), exist_ok=True)
                os.rename(path, target)
            self.index.release(cost_of(digest.size_bytes))
            self.index.add(digest, now)

    def write_touches(self) -> None:
        """Write down, as modification times, when blobs were used, for the order after a restart."""
        with self._lock:
            touches = self.index.take_touches()
        for digest, now in touches.items():
            try:
                os.utime(self._path_of(digest), (now, now))
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
                    upload = self.begin(digest)
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

    def _path_of(self, digest: Digest) -> str:
        return f"{self._root}/{digest.function.name.lower()}/{digest.hash[:2]}/{digest.hash}-{digest.size_bytes}"

    def _forget(self, digest: Digest) -> None:
        """Drop a blob whose file is gone or of the wrong size, unless it has come back meanwhile."""
        path = self._path_of(digest)
        with self._lock:
            try:
                if os.stat(path).st_size == digest.size_bytes:
                    return
                os.unlink(path)
            except FileNotFoundError:
                pass
            self.index.remove(digest)

    def _unlink(self, victims: Sequence[Digest]) -> None:
        for digest in victims:
            try:
                os.unlink(self._path_of(digest))
            except FileNotFoundError:
                continue


class Upload:
    """A blob being written: a temporary file that becomes the blob, or goes.

    Its methods run in threads, one at a time whatever happens to the task that called them:
    ``close`` waits for a write that a cancelled task left behind, and a write that comes
    after it does nothing.
    """

    def __init__(self, directory: BlobDirectory, digest: Digest, path: str) -> None:
        self.digest = digest
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
            self._directory.reserve(cost_of(end) - cost_of(self._written_bytes))
            self._written_bytes = end
            self._file.write(pieces)

    def finish(self, now: float) -> None:
        """Make it the blob.

        Raises:
            DigestMismatch: it has another size than its digest.
        """
        with self._lock, disk_errors():
            if self._closed or self._file is None:
                return
            if self._written_bytes != self.digest.size_bytes:
                raise DigestMismatch(f"{self._written_bytes} bytes came for blob {self.digest}")
            self._file.complete(durable=self._directory.durable)
            self._directory.publish(self.digest, self._path, now)
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


@contextmanager
def disk_errors() -> Iterator[None]:
    """Tell what the operating system says in words of our family; a failing disk is never absence."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise ResourceExhausted(
                f"the disk of the CAS is full ({error.strerror}); free some space, or lower max_bytes"
            ) from error
        if error.errno in (errno.ENAMETOOLONG, errno.EINVAL):
            raise InternalError(f"the file system of the CAS refuses a blob: {error.strerror}") from error
        raise Unavailable(f"the disk of the CAS does not answer: {error.strerror}") from error


def _scan(root: Path) -> Iterator[tuple[Digest, float]]:
    """Yield each blob and when it was last used; remove files that a power cut left with another size."""
    for function in DigestFunction:
        if not (top := root / function.name.lower()).is_dir():
            continue
        for shard in filter(os.DirEntry.is_dir, os.scandir(top)):
            for file in os.scandir(shard.path):
                name = _FILE_NAME.fullmatch(file.name)
                if name is None or len(name[1]) != function.hash_length or name[1][:2] != shard.name:
                    continue
                found = file.stat(follow_symlinks=False)
                if found.st_size == int(name[2]):
                    yield Digest(function, name[1], found.st_size), found.st_mtime
                else:
                    os.unlink(file.path)
