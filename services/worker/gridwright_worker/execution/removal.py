"""Removing what actions leave, whatever it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from uuid import uuid4

_ASIDE = "unremovable-"
#: Far below PATH_MAX: an action can nest directories deeper than any path, or any stack, can follow.
_LONG_PATH = 1024


def remove(path: str, aside: str) -> None:
    """Remove the file or directory at *path*.

    What cannot be removed, a file made immutable say, is moved into the directory *aside*,
    on the same file system: it must not be seen by the next action, and must not end the slot
    either.
    """
    if os.path.isdir(path) and not os.path.islink(path):
        _removing(lambda unlock: _remove_directory(path, aside, unlock=unlock), path, aside)
    else:
        _removing(lambda _: os.unlink(path), path, aside)


def empty(path: str, aside: str) -> None:
    """Empty the directory at *path*, which stays: making it again costs more than a look into it."""

    def remove_entries(unlock: bool) -> None:
        os.chmod(path, 0o755)
        _remove_entries(path, aside, unlock=unlock)

    _removing(remove_entries, path, aside)


def _removing(work: Callable[[bool], object], path: str, aside: str) -> None:
    try:
        work(False)
    except PermissionError:
        try:
            work(True)
        except OSError:
            if not os.path.basename(path).startswith(_ASIDE):
                _move(path, aside)


def _remove_directory(path: str, aside: str, *, unlock: bool) -> None:
    _remove_entries(path, aside, unlock=unlock)
    os.rmdir(path)


def _remove_entries(path: str, aside: str, *, unlock: bool) -> None:
    """Remove all that is in the directory at *path*.

    Args:
        unlock: give back to the owner what an action took away: directories that cannot be read or written.
    """
    found = [path]
    for directory in found:
        if unlock:
            os.chmod(directory, 0o700)
        with os.scandir(directory) as entries:
            for entry in list(entries):
                if not entry.is_dir(follow_symlinks=False):
                    os.unlink(entry.path)
                elif len(entry.path) < _LONG_PATH:
                    found.append(entry.path)
                else:
                    if unlock:
                        os.chmod(entry.path, 0o700)  # a directory that moves has its ".." written
                    found.append(_move(entry.path, aside))
    for directory in reversed(found[1:]):
        os.rmdir(directory)


def _move(path: str, aside: str) -> str:
    target = os.path.join(aside, f"{_ASIDE}{uuid4().hex}")
    os.rename(path, target)
    return target
