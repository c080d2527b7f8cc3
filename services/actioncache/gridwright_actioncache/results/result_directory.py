"""Results as files of one directory: synchronous, called from threads."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import lru_cache, partial
from pathlib import Path
from struct import Struct
from typing import NamedTuple
from urllib.parse import quote

from gridwright.digest import Digest, DigestFunction
from gridwright.errors import ConfigurationError
from gridwright.file_lock import try_lock

#: What a file begins with, and the CRC-32 of the rest, the result.
_HEADER = Struct("<4sI")
_MAGIC = b"GWR1"
_FILE_NAME = re.compile(r"([0-9a-f]+)-(0|[1-9][0-9]{0,18})")
_FOLDER_NAME = re.compile(r".{0,100}-[0-9a-f]{32}")
_BLOCK_BYTES = 4096
_SYNCERS = 8
_FUNCTIONS = {function.name.lower(): function for function in DigestFunction}


class ResultKey(NamedTuple):
    """What a result is filed under."""

    #: Stands for the instance, see :func:`folder_of`.
    folder: str
    digest: Digest


class FoundFile(NamedTuple):
    """A file that was there when the directory was opened."""

    key: ResultKey
    cost_bytes: int
    #: Seconds since the epoch.
    used_at: float


@lru_cache(maxsize=1024)
def folder_of(instance: str) -> str:
    """Return the name of the instance's folder, which tells something to people as well."""
    # A name may have at most 255 bytes, and an instance's any number; SHA-256 keeps them as surely apart as blobs.
    return f"{quote(instance, safe='')[:100]}-{hashlib.sha256(instance.encode()).hexdigest()[:32]}"


def cost_of(size_bytes: int) -> int:
    """Return how much disk the file of a result of *size_bytes* takes, in whole blocks, so that ``du`` agrees."""
    return -(-(size_bytes + _HEADER.size) // _BLOCK_BYTES) * _BLOCK_BYTES


class ResultDirectory:
    """A directory tree ``<instance>/<function>/<hash>-<size>``, where hash and size are the action's.

    A result is written to the temporary directory, synchronised, and renamed into place, so
    whoever reads sees the old one or the new one, also after ``kill -9`` or a power cut. Its
    file begins with a checksum: bytes that have rotted are not found.

    One process at a time uses a directory, held by a file lock.

    Args:
        durable: whether files and folders are synchronised.
        locks: closed in the end.
    """

    def __init__(self, path: Path, temp_path: Path, locks: ExitStack, *, durable: bool) -> None:
        self.path = path
        self._root = str(path)
        self._temp = str(temp_path)
        self._locks = locks
        self._durable = durable
        self._serial = itertools.count()
        self._syncers = ThreadPoolExecutor(_SYNCERS, thread_name_prefix="results-syncer")

    @classmethod
    def open(cls, path: Path, *, temp_path: Path, durable: bool) -> ResultDirectory:
        """Lock the directory and remove what a dead process left half done.

        Raises:
            ConfigurationError: the directory cannot be used, or another process uses it.
        """
        try:
            with ExitStack() as locks:
                for directory in (path, temp_path):
                    directory.mkdir(parents=True, exist_ok=True)
                    lock = try_lock(directory / "lock")
                    if lock is None:
                        raise ConfigurationError(
                            f"another process keeps its results in {directory}; give each its own path"
                        )
                    locks.callback(os.close, lock)
                if path.stat().st_dev != temp_path.stat().st_dev:
                    raise ConfigurationError(
                        f"{temp_path} is not on the file system of {path}, so no file can be moved"
                    )
                for leftover in os.scandir(temp_path):
                    if leftover.name.startswith("new-"):
                        os.unlink(leftover.path)
                return cls(path, temp_path, locks.pop_all(), durable=durable)
        except OSError as error:
            raise ConfigurationError(f"cannot keep results in {path}: {error}") from None

    def close(self) -> None:
        """Let another process have the directory."""
        self._syncers.shutdown()
        self._locks.close()

    def scan(self) -> Iterator[FoundFile]:
        """Yield what is there; files that are none of ours are passed over."""
        for folder in os.scandir(self._root):
            if not _FOLDER_NAME.fullmatch(folder.name) or not folder.is_dir(follow_symlinks=False):
                continue
            for key, file in self._files_in(folder.name):
                stat = file.stat(follow_symlinks=False)
                yield FoundFile(key, cost_of(stat.st_size - _HEADER.size), stat.st_mtime)

    def keys_in(self, folder: str) -> list[ResultKey]:
        """Return what is there of one instance, see :func:`folder_of`.

        Raises:
            OSError: the disk does not answer.
        """
        return [key for key, _ in self._files_in(folder)]

    def _files_in(self, folder: str) -> Iterator[tuple[ResultKey, os.DirEntry[str]]]:
        for name, function in _FUNCTIONS.items():
            with suppress(FileNotFoundError):
                for file in os.scandir(f"{self._root}/{folder}/{name}"):
                    match = _FILE_NAME.fullmatch(file.name)
                    if match is not None and len(match[1]) == function.hash_length:
                        yield ResultKey(folder, Digest(function, match[1], int(match[2]))), file

    def holds(self, key: ResultKey) -> bool:
        """Return whether there is a file."""
        return os.path.exists(self._path_of(key))

    def read_many(self, keys: Iterable[ResultKey]) -> dict[Digest, bytes | None]:
        """Return the results that are there; None stands for a file that is no result any more.

        Raises:
            OSError: the disk does not answer.
        """
        found: dict[Digest, bytes | None] = {}
        for key in keys:
            with suppress(FileNotFoundError):
                found[key.digest] = _result_in(_content(self._path_of(key)))
        return found

    def keep_many(self, results: Mapping[ResultKey, bytes], now: float) -> dict[ResultKey, OSError]:
        """Keep each of *results*, used *now*, in place of what was there; return why some could not be kept.

        Of those that were only not synchronised the new one is there nevertheless.
        """
        paths = {key: f"{self._temp}/new-{next(self._serial)}" for key in results}
        write = partial(self._write, now=now)
        # Where each waits for the disk they wait together, for one flush of its journal.
        outcomes = (self._syncers.map if self._durable else map)(write, paths.values(), results.values())
        failed = {key: error for key, error in zip(results, outcomes, strict=True) if error}
        written = {key: path for key, path in paths.items() if key not in failed}
        folders: dict[str, list[ResultKey]] = {}
        for key, path in written.items():
            target = self._path_of(key)
            try:
                self._rename(path, target)
                folders.setdefault(os.path.dirname(target), []).append(key)
            except OSError as error:
                failed[key] = error
                _unlink(path)
        for folder, keys in folders.items():
            try:
                self._sync_directory(folder)
            except OSError as error:
                failed |= dict.fromkeys(keys, error)
        return failed

    def remove_many(self, keys: Iterable[ResultKey]) -> None:
        """Remove those of *keys* that are there.

        Raises:
            OSError: the disk does not answer.
        """
        for key in keys:
            _unlink(self._path_of(key))

    def sync(self, keys: Collection[ResultKey]) -> None:
        """Bring to the disk that *keys* were removed.

        Raises:
            OSError: the disk does not answer.
        """
        for folder in {os.path.dirname(self._path_of(key)) for key in keys}:
            with suppress(FileNotFoundError):
                self._sync_directory(folder)

    def note_used(self, used: Mapping[ResultKey, float]) -> None:
        """Write down, as modification times, when results were used, for the order after a restart."""
        for key, now in used.items():
            # Evicted meanwhile; or the disk is failing, which those who read or write will hear.
            with suppress(OSError):
                os.utime(self._path_of(key), (now, now))

    def _path_of(self, key: ResultKey) -> str:
        folder, digest = key
        return f"{self._root}/{folder}/{digest.function.name.lower()}/{digest.hash}-{digest.size_bytes}"

    def _write(self, path: str, result: bytes, now: float) -> OSError | None:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                left = memoryview(_HEADER.pack(_MAGIC, zlib.crc32(result)) + result)
                while left:
                    left = left[os.write(descriptor, left) :]
                os.utime(descriptor, (now, now))
                if self._durable:
                    os.fdatasync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            _unlink(path)
            return error
        return None

    def _rename(self, path: str, target: str) -> None:
        try:
            os.rename(path, target)
        except FileNotFoundError:
            folder = os.path.dirname(target)
            os.makedirs(folder, exist_ok=True)
            for above in (os.path.dirname(folder), self._root):
                self._sync_directory(above)
            os.rename(path, target)

    def _sync_directory(self, path: str) -> None:
        if not self._durable:
            return
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _content(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    finally:
        os.close(descriptor)


def _result_in(content: bytes) -> bytes | None:
    if len(content) < _HEADER.size:
        return None
    magic, checksum = _HEADER.unpack_from(content)
    result = content[_HEADER.size :]
    return result if magic == _MAGIC and checksum == zlib.crc32(result) else None


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)
