"""The directory where a local grid keeps everything that it keeps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gridwright.errors import ConfigurationError
from gridwright.file_lock import try_lock


class DataDirectory:
    """One grid's directory: its state, its sockets, and the notes of who runs in it."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other `gridwright up` out while the block runs; the directory is made first.

        Raises:
            ConfigurationError: another one is in, or the directory cannot be made.
        """
        try:
            (self.path / "run").mkdir(parents=True, exist_ok=True)
            lock = try_lock(self.path / "run" / "up.lock")
        except OSError as error:
            raise ConfigurationError(
                f"cannot use the data directory {self.path}: {error.strerror}; choose another with --data"
            ) from None
        if lock is None:
            owner = (self.path / "run" / "up.lock").read_text(errors="replace").strip()
            raise ConfigurationError(
                f"another `gridwright up` (pid {owner}) uses {self.path}:"
                " stop it, or choose another directory with --data"
            )
        try:
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(lock)

    def write(self, name: str, text: str) -> None:
        """Write a file, whole or not at all."""
        target = self.path / name
        draft = target.with_name(f"{target.name}.new")
        draft.write_text(text)
        draft.replace(target)

    def note_pid(self, service: str, pid: int) -> None:
        """Note which process *service* is, for people and for the next `gridwright up`."""
        self.write(f"run/{service}.pid", f"{pid}\n")

    def forget_pid(self, service: str) -> None:
        """Note that *service* does not run."""
        self._pid_file(service).unlink(missing_ok=True)

    def noted_pid(self, service: str) -> int | None:
        """Return the pid that was noted last, of a process that may be long gone."""
        try:
            return int(self._pid_file(service).read_text())
        except (FileNotFoundError, ValueError):
            return None

    def _pid_file(self, service: str) -> Path:
        return self.path / "run" / f"{service}.pid"
