"""The files of the input cache on disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from gridwright.digest import Digest, DigestFunction
from gridwright.errors import InternalError
from gridwright_worker.execution.inputs.tree import InputFile

#: All inputs are of this time, whenever they were fetched: archives made of them are the same everywhere.
_MTIME_NS = 1_262_304_000 * 10**9  # 2010-01-01, as other workers have it
_MODES = {False: 0o444, True: 0o555}
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class CacheFiles:
    """A directory of files named for what they hold, complete by the time they have their name.

    Nothing is synced to disk, for a cache may be lost. What a crash of the machine leaves
    may be incomplete without looking so, therefore nothing is taken over from before a boot.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._temporary = directory / "tmp"

    def open(self) -> list[InputFile]:
        """Make the directory ready; return what it holds, the least recently linked to first."""
        boot = _BOOT_ID.read_text().strip()
        mark = self._directory / "boot"
        if not mark.exists() or mark.read_text() != boot:
            shutil.rmtree(self._directory, ignore_errors=True)
        shutil.rmtree(self._temporary, ignore_errors=True)
        self._temporary.mkdir(parents=True)
        for number in range(256):
            (self._directory / f"{number:02x}").mkdir(exist_ok=True)
        mark.write_text(boot)
        found: list[tuple[int, InputFile]] = []
        for number in range(256):
            with os.scandir(self._directory / f"{number:02x}") as entries:
                for entry in entries:
                    # Making or removing a hard link changes the ctime: a use leaves its mark by itself.
                    if (file := _parse(entry.name)) and _is_intact(entry.path, file):
                        found.append((entry.stat(follow_symlinks=False).st_ctime_ns, file))
                    else:
                        os.unlink(entry.path)
        return [file for _, file in sorted(found, key=lambda one: one[0])]

    def path(self, file: InputFile) -> str:
        """Return where *file* lies, or would."""
        digest = file.digest
        suffix = "x" if file.is_executable else ""
        name = f"{digest.function.name.lower()}-{digest.hash}-{digest.size_bytes}{suffix}"
        return f"{self._directory}/{digest.hash[:2]}/{name}"

    def changed(self, files: Collection[InputFile]) -> list[InputFile]:
        """Return those of *files* that are no longer as they were written."""
        return [file for file in files if not _is_intact(self.path(file), file)]

    def write(self, blobs: Mapping[InputFile, bytes]) -> None:
        """Keep small blobs.

        Raises:
            InternalError: bytes are not those of their digest.
        """
        for file, blob in blobs.items():
            digest = file.digest
            if digest.function.digest(blob) != digest:
                raise InternalError(f"the CAS sent other bytes than those of blob {digest}")
            with self.writing() as incoming:
                incoming.append(blob)
                incoming.keep_as(file)

    def copy(self, source: InputFile, target: InputFile) -> None:
        """Keep *target*, which differs from *source* in its executable bit."""
        path = self._temporary / uuid4().hex
        shutil.copyfile(self.path(source), path)
        _seal(path, self.path(target), target)

    def remove(self, files: Collection[InputFile]) -> None:
        """Remove *files*; actions that have links to them keep those."""
        for file in files:
            Path(self.path(file)).unlink(missing_ok=True)

    @contextmanager
    def writing(self) -> Iterator[Incoming]:
        """Write a file piece by piece; what is not kept by the end of the block is gone."""
        path = self._temporary / uuid4().hex
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            yield Incoming(descriptor, path, self)
        finally:
            os.close(descriptor)
            path.unlink(missing_ok=True)


class Incoming:
    """A file that is being written; made by :meth:`CacheFiles.writing`."""

    def __init__(self, descriptor: int, path: Path, files: CacheFiles) -> None:
        self.size_bytes = 0
        self._descriptor = descriptor
        self._path = path
        self._files = files

    def append(self, chunk: bytes) -> None:
        view = memoryview(chunk)
        while view:
            written = os.write(self._descriptor, view)
            self.size_bytes += written
            view = view[written:]

    def keep_as(self, file: InputFile) -> None:
        """Give the file, which is complete, its name."""
        _seal(self._path, self._files.path(file), file)


def _seal(path: Path, target: str, file: InputFile) -> None:
    os.utime(path, ns=(_MTIME_NS, _MTIME_NS))
    os.chmod(path, _MODES[file.is_executable])
    os.rename(path, target)


def _is_intact(path: str, file: InputFile) -> bool:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return False
    return (
        found.st_size == file.digest.size_bytes
        and found.st_mtime_ns == _MTIME_NS
        and found.st_mode & 0o7777 == _MODES[file.is_executable]
    )


def _parse(name: str) -> InputFile | None:
    match name.split("-"):
        case [function, hash_, size]:
            pass
        case _:
            return None
    is_executable = size.endswith("x")
    digits = size.removesuffix("x")
    if function.upper() not in DigestFunction.__members__ or not digits.isdecimal():
        return None
    return InputFile(Digest(DigestFunction[function.upper()], hash_, int(digits)), is_executable)
