"""A disk whose power can be cut."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from gridwright_cas.stores.segments.disk import Buffer, Disk, SystemDisk
from tests.cas.segments.lmdb_power_cut import DATA_FILE, last_commit, without_last_commit
from tests.cas.segments.power_cut import Cut, Directory, File, Truncation, Write

#: LMDB's table of readers, and locks, which hold nothing once the machine was off.
_READERS_FILE = "lock.mdb"
_LOCKS = ".lock"

_disks: weakref.WeakSet[VolatileDisk] = weakref.WeakSet()


class VolatileDisk(Disk):
    """Works on the real directory *root*, and knows what of it would outlast a power cut.

    ``cut_power`` leaves the directory alone and writes what a machine would find after the
    cut to another one; so the store above goes on, and a test may cut the power in the
    middle of anything: before call number n, from ``before_change``.

    Of LMDB's data file, which does not come through here, a cut may undo the last transaction,
    unless ``environment_synced`` was called after it; the file is there once its directory
    was synchronised. One that was put in its place came through here, and is a file like
    others until LMDB commits to it. Locks hold nothing, and are gone.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._system = SystemDisk()
        self._lock = threading.RLock()
        self._top = _loaded(root)
        self._files: dict[int, File] = {}
        #: LMDB's data files whose names are durable, and the last transaction of each that cannot be undone.
        self._environments = {file: _last_commit(file) for file in root.rglob(DATA_FILE)}
        self._replaced: dict[Path, _Replaced] = {}
        #: Called with the operation and the path before anything changes.
        self.before_change: Callable[[str, str], None] = lambda operation, path: None
        _disks.add(self)

    @staticmethod
    def all() -> list[VolatileDisk]:
        """Return all disks that are in use."""
        return list(_disks)

    def cut_power(self, target: Path, cut: Cut) -> None:
        """Write what a machine would find after a power cut at this moment to the directory *target*."""
        with self._lock:
            self._write_after(cut, self._top, self._root, target)

    def environment_synced(self, path: Path) -> None:
        """Note that the LMDB environment in the directory *path* was synchronised."""
        with self._lock:
            if path / DATA_FILE in self._environments:
                self._environments[path / DATA_FILE] = _last_commit(path / DATA_FILE)

    def fail_sync(self, fd: int) -> None:
        """Forget what was to be synchronised, as the kernel does when the disk reports an error."""
        with self._lock:
            self._files[fd].fail_sync()

    def open(self, path: str, flags: int, mode: int = 0o600) -> int:
        changes = bool(flags & (os.O_CREAT | os.O_TRUNC))
        if changes:
            self.before_change("open", path)
        with self._lock:
            fd = self._system.open(path, flags, mode)
            parent, name = self._parent(path)
            file = parent.names.get(name)
            if not isinstance(file, File):
                file = File()
                parent.change({name: file})
            elif flags & os.O_TRUNC:
                file.change(Truncation(0))
            self._files[fd] = file
            return fd

    def close(self, fd: int) -> None:
        with self._lock:
            del self._files[fd]
            self._system.close(fd)

    def write(self, fd: int, buffers: Sequence[Buffer], offset: int) -> None:
        self.before_change("write", "")
        with self._lock:
            # Copied first: a buffer may be one that is used again.
            self._files[fd].change(Write(offset, b"".join(buffers)))
            self._system.write(fd, buffers, offset)

    def read(self, fd: int, size: int, offset: int) -> bytes:
        return self._system.read(fd, size, offset)

    def size(self, fd: int) -> int:
        return self._system.size(fd)

    def truncate(self, fd: int, size: int) -> None:
        self.before_change("truncate", "")
        with self._lock:
            self._system.truncate(fd, size)
            self._files[fd].change(Truncation(size))

    def sync(self, fd: int) -> None:
        self.before_change("sync", "")
        with self._lock:
            self._files[fd].sync()

    def sync_directory(self, path: str) -> None:
        self.before_change("sync_directory", path)
        with self._lock:
            self._directory(path).sync()
            if (environment := Path(path) / DATA_FILE).exists():
                self._environments.setdefault(environment, 0)

    def rename(self, old: str, new: str) -> None:
        self.before_change("rename", old)
        with self._lock:
            if (environment := Path(new)) in self._environments:
                self._replace(environment, Path(old))
            self._system.rename(old, new)
            (source, old_name), (target, new_name) = self._parent(old), self._parent(new)
            node = source.names[old_name]
            if source is target:
                source.change({old_name: None, new_name: node})
            else:
                target.change({new_name: node})
                source.change({old_name: None})

    def unlink(self, path: str) -> None:
        self.before_change("unlink", path)
        with self._lock:
            self._system.unlink(path)
            parent, name = self._parent(path)
            if name in parent.names:
                parent.change({name: None})

    def make_directory(self, path: str) -> None:
        self.before_change("make_directory", path)
        with self._lock:
            self._system.make_directory(path)
            directory = self._top
            for name in Path(path).relative_to(self._root).parts:
                if name not in directory.names:
                    directory.change({name: Directory()})
                below = directory.names[name]
                assert isinstance(below, Directory)
                directory = below

    def list_directory(self, path: str) -> list[str]:
        return self._system.list_directory(path)

    def _replace(self, environment: Path, copy: Path) -> None:
        """A data file gets another one's name: until that is durable a cut brings the old one back."""
        directory, name = self._parent(str(environment))
        directory.names[name] = before = File(_environment(environment))
        directory.make_durable({name: before})
        parent, copy_name = self._parent(str(copy))
        file = parent.names[copy_name]
        assert isinstance(file, File)
        committed = _last_commit(copy)
        self._replaced[environment] = _Replaced(file, committed, self._environments[environment])
        self._environments[environment] = committed

    def _parent(self, path: str) -> tuple[Directory, str]:
        directory, name = os.path.split(path)
        return self._directory(directory), name

    def _directory(self, path: str) -> Directory:
        directory = self._top
        for name in Path(path).relative_to(self._root).parts:
            below = directory.names.get(name)
            if not isinstance(below, Directory):
                raise FileNotFoundError(f"{path} was not made through this disk")
            directory = below
        return directory

    def _write_after(self, cut: Cut, directory: Directory, source: Path, target: Path) -> None:
        target.mkdir(exist_ok=True)
        names = directory.after(cut)
        for name, node in names.items():
            if isinstance(node, Directory):
                self._write_after(cut, node, source / name, target / name)
            else:
                (target / name).write_bytes(node.after(cut))
        environment = source / DATA_FILE
        durable_commit = self._environments.get(environment)
        if durable_commit is None:
            return
        data = _environment(environment)
        if (replaced := self._replaced.get(environment)) is not None:
            if names.get(DATA_FILE) is not replaced.by:
                data, durable_commit = (target / DATA_FILE).read_bytes(), replaced.durable_commit
            elif last_commit(data) == replaced.first_commit:
                return  # written above, as a file to which LMDB has not committed
        undo = cut.undo_last_commit and last_commit(data) > durable_commit
        (target / DATA_FILE).write_bytes(without_last_commit(data) if undo else data)


class _Replaced(NamedTuple):
    """An LMDB data file that another one was put in the place of."""

    by: File
    #: The last transaction in the new file before LMDB opened it.
    first_commit: int
    #: The last transaction of the old one that cannot be undone.
    durable_commit: int


def _loaded(path: Path) -> Directory:
    """Return the directory at *path* as one that is durable."""
    directory = Directory()
    for below in path.iterdir():
        if below.is_dir():
            directory.change({below.name: _loaded(below)})
        elif below.name not in (DATA_FILE, _READERS_FILE) and below.suffix != _LOCKS:
            directory.change({below.name: File(below.read_bytes())})
    directory.sync()
    return directory


def _environment(path: Path) -> bytes:
    """Return LMDB's data file as it was at one moment, or as good as: nothing was committed while it was read.

    What an unfinished transaction has written is in pages that neither of the two last states uses.
    """
    while True:
        data = path.read_bytes()
        if last_commit(data) == _last_commit(path):
            return data


def _last_commit(environment: Path) -> int:
    return last_commit(environment.read_bytes())
