"""From an input tree and a cache of its files to an input root on disk."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from gridwright.errors import InvalidRequest
from gridwright_worker.execution.inputs.tree import FileEntry, Folder, InputFile, InputTree

#: A hard link is impossible: the inode has 65,000 already, or the file system makes none.
_NO_LINK = frozenset({errno.EMLINK, errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP})

Link = Callable[[str, str], None]


class Stager:
    """Builds input roots; all of it is work on files, to be called in a thread.

    Files are hard links into the cache, read-only. That stops no action that means to write:
    all run as one user, who may change the mode back, or as root, who need not. What is
    changed in place is changed for all actions that have the file; the cache looks at it
    before and after each of them, and what was changed once is copied from then on. This
    sees a change by the file's size, time and mode, and no more: one that puts all three
    back is not seen. Hidden changes need isolation of the runner.

    Args:
        locate: where the cache keeps a file.
        is_private: whether each action gets its own copy of a file.
        link: makes a hard link, ``os.link``.
    """

    def __init__(
        self, locate: Callable[[InputFile], str], is_private: Callable[[InputFile], bool], link: Link = os.link
    ) -> None:
        self._locate = locate
        self._is_private = is_private
        self._link = link

    def stage(self, tree: InputTree, root: Path) -> None:
        """Build *tree* in *root*, an empty directory.

        Names in a folder are unique, so no path of the tree leads through a symlink of it (checklist SYM-05).
        """
        adorned: list[tuple[str, Folder]] = []
        for path, folder in tree.walk():
            directory = f"{root}/{path}" if path else str(root)
            if path:
                os.mkdir(directory)
            for file in folder.files:
                self._place(file, f"{directory}/{file.name}")
            for symlink in folder.symlinks:
                target = f"{directory}/{symlink.name}"
                os.symlink(symlink.target, target)
                if symlink.mtime_ns is not None:
                    os.utime(target, ns=(symlink.mtime_ns, symlink.mtime_ns), follow_symlinks=False)
            if folder.properties:
                adorned.append((directory, folder))
        # Children first, when nothing more is made in a directory whose time is set.
        for directory, folder in reversed(adorned):
            assert folder.properties is not None
            if folder.properties.mode is not None:
                os.chmod(directory, folder.properties.mode | 0o700)
            if folder.properties.mtime_ns is not None:
                os.utime(directory, ns=(folder.properties.mtime_ns, folder.properties.mtime_ns))

    def _place(self, file: FileEntry, target: str) -> None:
        source = self._locate(file.content)
        if file.properties is None and not self._is_private(file.content):
            try:
                self._link(source, target)
                return
            except OSError as failure:
                if failure.errno not in _NO_LINK:
                    raise
        shutil.copyfile(source, target)
        mode, mtime_ns = os.stat(source).st_mode & 0o777, os.stat(source).st_mtime_ns
        if file.properties:
            mode = mode if file.properties.mode is None else file.properties.mode
            mtime_ns = mtime_ns if file.properties.mtime_ns is None else file.properties.mtime_ns
        os.utime(target, ns=(mtime_ns, mtime_ns))
        os.chmod(target, mode)


def make_parents(root: Path, locations: set[str]) -> None:
    """Make the directories *locations*, given from *root*, and those above them (checklist OUT-01).

    Raises:
        InvalidRequest: a file is in the way, or a symlink of the inputs leads out of the input root.
    """
    for location in sorted(locations):
        if not stays_within(root, location):
            raise InvalidRequest(f"the output directory {location!r} lies behind a symlink that leaves the input root")
        try:
            _make_directories(str(root), location)
        except (FileExistsError, NotADirectoryError):
            raise InvalidRequest(f"the output directory {location!r} cannot be made: an input file is there") from None


def _make_directories(root: str, location: str) -> None:
    """Make *location* and those above it; unlike ``os.makedirs`` without recursion, as an output may lie deep."""
    path = root
    for segment in location.split("/"):
        path = f"{path}/{segment}"
        try:
            os.mkdir(path)
        except FileExistsError:
            if not os.path.isdir(path):
                raise


def stays_within(root: Path, location: str) -> bool:
    """Return whether *location*, given from *root*, is in it with all symlinks on the way followed."""
    path = str(root)
    for segment in location.split("/") if location else ():
        path = f"{path}/{segment}"
        if os.path.islink(path):
            real_root = os.path.realpath(root)
            return os.path.commonpath([os.path.realpath(root / location), real_root]) == real_root
    return True
